"""Why one class rather than another: the contrasts' derivatives, classes and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.networks import Small
from ssgcam import CAM
from ssgcam.core.capture import capture
from ssgcam.core.settings import TargetSettings
from ssgcam.core.target import Scalar, per_image
from ssgcam.errors import SsgcamError

METHODS = ["ssg_cam", "discriminate", "layer_cam", "grad_cam", "shapley_cam", "score_cam"]


@pytest.fixture
def network() -> Small:
    torch.manual_seed(0)
    return Small().eval().double()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 20, 20, dtype=torch.float64)


def one_other(z: Tensor) -> Tensor:
    return z[:, 1] - z[:, 2]


def rest(z: Tensor) -> Tensor:
    q = z[:, [0, 2]].detach().softmax(1)
    return z[:, 1] - 0.5 * (q * z[:, [0, 2]]).sum(1)


def similar(z: Tensor) -> Tensor:
    """With three classes the nearest are both others."""
    return z[:, 1] - (z[:, [0, 2]].softmax(1) * z[:, [0, 2]]).sum(1)


@pytest.mark.parametrize(
    ("against", "function"), [(2, one_other), ("rest", rest), ("similar", similar)]
)
@pytest.mark.parametrize("method", METHODS)
def test_contrast_is_the_function_it_stands_for(
    method: str, against: Any, function: Any, network: Small, images: Tensor
) -> None:
    found = CAM(network, ["act2"], method)(images, 1, against=against)
    wanted = CAM(network, ["act2"], method, target=function)(images)
    torch.testing.assert_close(found.layer_maps, wanted.layer_maps)
    assert found.classes.tolist() == [1, 1, 1]


def test_similar_classes_are_the_three_with_the_nearest_logits() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 9.0, 2.5, 4.5], [1.0, 5.0, 8.0, 0.5, 0.2, 7.0]])
    expected = []
    for row, own, nearest in zip(logits, (1, 2), ([4, 5, 2], [5, 1, 0]), strict=True):
        weights = row[nearest].exp() / row[nearest].exp().sum()
        expected.append(row[own] - (weights * row[nearest]).sum())
    scalar = Scalar(torch.tensor([1, 2]), TargetSettings("logit"), None, "similar")
    torch.testing.assert_close(scalar.number(logits), torch.stack(expected))


def test_contrast_of_each_image_and_of_several_classes(network: Small, images: Tensor) -> None:
    cam = CAM(network, ["act2"], "hires_cam")
    both = cam(images, [[0, 1]] * 3, against=[2, 2, 2]).maps
    torch.testing.assert_close(both[:, 0], cam(images, 0, against=2).maps)
    torch.testing.assert_close(both[:, 1], cam(images, 1, against=[2, 2, 2]).maps)
    mixed = cam(images, [0, 1, 2], against=torch.tensor([1, 2, 0])).maps
    torch.testing.assert_close(mixed[2], cam(images, 2, against=0).maps[2])


def test_one_backward_pass(network: Small, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: passes.append(1) or grad(*a, **k))
    CAM(network, ["act1", "act2"], "hires_cam")(images, 1, against="rest")
    assert len(passes) == 1


@pytest.mark.parametrize(
    ("settings", "classes", "against", "message"),
    [
        ({}, 1, 1, "compared with itself"),
        ({}, [0, 1, 2], [1, 1, 0], "compared with itself"),
        ({}, 1, 7, "class 7 is out of range"),
        ({}, 1, "all", "against is 'all'; choose one of rest, similar"),
        ({}, 1, [[0, 2]] * 3, "several classes"),
        ({"target": "odds"}, 1, 2, "subtracts logits"),
        ({"target": one_other}, None, "rest", "subtracts logits"),
    ],
)
def test_contrasts_that_do_not_fit(
    settings: dict[str, Any],
    classes: Any,
    against: Any,
    message: str,
    network: Small,
    images: Tensor,
) -> None:
    with pytest.raises(SsgcamError, match=message):
        CAM(network, ["act2"], **settings)(images, classes, against=against)


def test_target_function_of_one_image(network: Small, images: Tensor) -> None:
    target = per_image(lambda z: z[1] - z[2])
    torch.testing.assert_close(
        CAM(network, ["act2"], target=target)(images).maps,
        CAM(network, ["act2"], target=one_other)(images).maps,
    )
    output = {"out": torch.arange(6.0).view(2, 3), "aux": torch.zeros(2, 1)}
    found = per_image(lambda parts: parts["out"].sum() + parts["aux"])(output)
    assert found.tolist() == [3, 12]
    detections = [{"scores": torch.tensor([0.5, 0.25])}, {"scores": torch.tensor([1.0])}]
    found = per_image(lambda each: each["scores"].sum())(detections)
    assert found.tolist() == [0.75, 1]


def test_contrast_of_a_captured_pass_leaves_no_gradient(network: Small, images: Tensor) -> None:
    captured = capture(network, images, ["act2"])
    CAM(network, ["act2"])(images, 1, against="rest")
    assert all(parameter.grad is None for parameter in network.parameters())
    assert captured.activations["act2"].grad is None
