"""Scores and second-order signals, in float64 against the dense Hessian of each score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian

from helpers.derivatives import (
    CLASSES,
    DEFINITIONS,
    assert_proportional,
    dense,
    head,
    signals_of,
)
from helpers.networks import Small
from ssgcam import CAM, TargetSettings
from ssgcam.core.target import (
    Scalar,
    largest_mask,
    logits_and_classes,
    logits_of,
    mean_of_masks,
    probabilities_of,
)
from ssgcam.errors import SsgcamError


@pytest.mark.parametrize("score", [*DEFINITIONS, "logit"])
def test_value_has_the_derivatives_of_the_target(score: Any) -> None:
    network = head()
    logits = network(torch.randn(1, 3, 5, 5, dtype=torch.float64))[0].detach()
    settings = TargetSettings(score, sign="absolute", top_classes=CLASSES)
    one = torch.tensor([2])
    define = DEFINITIONS.get(score, lambda z, c: z[c])

    def ours(z: Tensor) -> Tensor:
        return Scalar(one, settings).value(z[None])[0]

    assert_proportional(jacobian(ours, logits), jacobian(lambda z: define(z, 2), logits))
    found, wanted = hessian(ours, logits), hessian(lambda z: define(z, 2), logits)
    if score == "logit":
        assert not found.any()
    else:
        # the same factor for both orders
        factor = jacobian(lambda z: define(z, 2), logits)[2] / jacobian(ours, logits)[2]
        torch.testing.assert_close(found * factor, wanted)


def test_mean_of_masks_pools_each_class_where_it_is_predicted() -> None:
    out = torch.tensor([[[[3.0, 1.0], [0.0, 5.0]], [[1.0, 2.0], [4.0, 0.0]], [[0.0] * 2] * 2]])
    expected = torch.tensor([[(3 + 5) / 2, (2 + 4) / 2, 0.0]])  # class 2 is predicted nowhere
    torch.testing.assert_close(mean_of_masks({"out": out}), expected)
    assert largest_mask({"out": out}).tolist() == [1]
    one = torch.tensor([[[[2.0, -4.0]]]])
    torch.testing.assert_close(mean_of_masks(one), torch.tensor([[2.0, 1.0]]))
    assert largest_mask(one).tolist() == [1]
    with pytest.raises(SsgcamError, match="takes the logits"):
        mean_of_masks(torch.rand(1, 3))


@pytest.mark.parametrize("method", ["ssg_cam", "grad_cam", "recipro_cam", "score_cam"])
def test_a_segmentation_network_is_explained_by_the_mean_of_its_mask(method: str) -> None:
    network, images = Segmenter(), torch.rand(2, 3, 6, 6)
    cam = CAM(network, ["features"], method, target="mean_of_mask")
    assert cam(images).classes.tolist() == [1, 1]
    found = cam(images, classes=0)
    assert found.maps.shape == (2, 6, 6)
    if method in ("ssg_cam", "grad_cam"):
        by_hand = CAM(network, ["features"], method, target=lambda out: mean_of_masks(out)[:, 0])
        torch.testing.assert_close(found.maps, by_hand(images).maps)


class Segmenter(nn.Module):
    """A map of class scores for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.last(self.features(images))}


def foreground(output: dict[str, Tensor]) -> Tensor:
    return output["out"][:, 1].relu().sum((1, 2))


def test_a_score_function_of_another_output() -> None:
    network = Segmenter().double()
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    anything = torch.zeros(2, dtype=torch.long)
    first, second = signals_of(
        network, images, anything, TargetSettings(), foreground, layer="features"
    )
    assert second is None
    features = network.features(images).detach()
    for index in range(2):

        def value(a: Tensor) -> Tensor:
            return foreground({"out": network.last(a[None])})[0]

        gradient, _ = dense(value, features[index])
        torch.testing.assert_close(first[index], gradient)
        # as exp(f): the second order is the square of the first
        _, diagonal = dense(lambda a: torch.exp(value(a) - value(a).detach()), features[index])
        torch.testing.assert_close(first[index] ** 2, diagonal)


@pytest.mark.parametrize("wrong", [
    lambda z: z.sum(), lambda z: z, lambda z: 3.0, lambda z: z[:1, 0],
])  # fmt: skip
def test_a_score_function_must_give_one_number_per_image(wrong: Callable[[Any], Any]) -> None:
    with pytest.raises(SsgcamError, match="one number for each of the 2 images"):
        CAM(Small(), ["act1"], target=wrong)(torch.rand(2, 3, 12, 12))


@dataclass
class Output:
    logits: torch.Tensor
    loss: None = None


def test_logits_are_found_in_what_frameworks_return() -> None:
    logits = torch.rand(2, 3)
    for output in (logits, (logits, None), [logits], Output(logits), {"logits": logits, "x": 1},
                   {"out": logits}, Output((logits, logits))):  # fmt: skip
        assert logits_of(output) is logits


def test_one_logit_becomes_two_classes_of_a_softmax() -> None:
    logit = torch.randn(4, 1, dtype=torch.float64)
    probabilities = logits_of(logit).softmax(1)
    torch.testing.assert_close(probabilities[:, 1], logit[:, 0].sigmoid())
    torch.testing.assert_close(probabilities[:, 0], 1 - logit[:, 0].sigmoid())


def test_outputs_that_are_not_logits() -> None:
    with pytest.raises(SsgcamError, match="returned a dict, not a tensor of logits"):
        logits_of({"boxes": torch.zeros(1, 3)})
    with pytest.raises(SsgcamError, match="returned a tuple, not a tensor of logits"):
        logits_of(())
    with pytest.raises(SsgcamError, match=r"shape \[1, 3, 4, 4\], not logits"):
        logits_of(torch.zeros(1, 3, 4, 4))


def test_the_log_odds_of_one_output_are_that_output() -> None:
    logit = torch.randn(3, 1, dtype=torch.float64)
    for index, sign in ((0, -1), (1, 1)):
        found = Scalar(torch.full((3,), index), TargetSettings("odds")).number(logit)
        torch.testing.assert_close(found, sign * logit[:, 0])


@pytest.mark.parametrize("wrong", [
    {"name": "softmax"}, {"second": "full"}, {"sign": "negative"}, {"top_classes": 1},
    {"probes": 0}, {"top_classes": float("nan")},
])  # fmt: skip
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(SsgcamError, match="target is" if "name" in wrong else next(iter(wrong))):
        TargetSettings(**wrong)


@pytest.mark.parametrize("numbers", [(3e38, 3e38), (-3e38, -3e38), (3e38, 3e38, -1.0)])
def test_finite_logits_may_have_a_sum_that_is_not(numbers: tuple[float, ...]) -> None:
    output = torch.tensor([numbers, [0.0] * len(numbers)])
    logits, classes = logits_and_classes(output, None, torch.zeros(2, 3, 4, 4), None)
    assert logits is not None
    assert torch.equal(logits, output)
    assert torch.equal(classes, output.argmax(1))


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_logits_that_cancel_are_refused_as_well(bad: float) -> None:
    output = torch.tensor([[0.0, 1.0], [bad, -bad]])
    with pytest.raises(SsgcamError, match="NaN or infinity for image 1"):
        logits_and_classes(output, None, torch.zeros(2, 3, 4, 4), None)


@pytest.mark.parametrize(
    ("method", "score"),
    [("shapley_cam", TargetSettings()), ("ssg_cam", TargetSettings("exp", "hutchinson"))],
)
def test_a_function_without_a_second_derivative_gets_a_sentence(
    method: str, score: TargetSettings
) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Hardsigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    explain = CAM(network, ["0"], method, target=score)
    with pytest.raises(SsgcamError, match=r"no second derivative of a function .*hardsigmoid"):
        explain(torch.rand(2, 3, 8, 8))


def test_two_logits_are_one_only_if_they_are_opposite_in_every_image():
    logits = torch.tensor([[2.0, -2.0], [1.0, 3.0]])
    assert torch.equal(probabilities_of(logits, "sigmoid"), logits.sigmoid())
    assert torch.equal(probabilities_of(logits[:1], "sigmoid"), logits[:1].softmax(1))
