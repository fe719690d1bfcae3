"""The methods that grad-cam, torchcam and captum offer too: equal where those are right.

Maps are compared as each library gives them, at layer resolution and scaled by their maximum. Where
a library differs, a test measures by how much; docs/methods.md lists these differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as tv

from helpers.networks import Small
from ssgcam import CAM
from ssgcam.core.methods import METHODS, eigen_cam
from ssgcam.core.signals import Signal

CLASSES = [3, 7]
LAYERS = ["layer2", "layer3", "layer4"]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    network = tv.resnet18(num_classes=10).eval()
    for module in network.modules():  # batch norm as after training, not the identity
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return network


@pytest.fixture(scope="module")
def images() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 64, 64)


def scaled(maps: Any) -> np.ndarray:
    array = np.asarray(maps, dtype=np.float64)
    assert (array.max((1, 2)) > 0).all()
    return array / array.max((1, 2), keepdims=True)


def ours(method: str, network: nn.Module, images: Tensor, layer: str) -> np.ndarray:
    return scaled(CAM(network, [layer], method)(images, CLASSES).layer_maps[layer])


def grad_cam_library(
    name: str, network: nn.Module, images: Tensor, layers: Sequence[str], size: bool = False
) -> np.ndarray:
    """A map of the library ``grad-cam``, before its resizing and min-max scaling if not ``size``."""
    library = pytest.importorskip("pytorch_grad_cam")
    targets = [library.utils.model_targets.ClassifierOutputTarget(c) for c in CLASSES]
    modules = [network.get_submodule(layer) for layer in layers]
    with getattr(library, name)(model=network, target_layers=modules) as cam:
        if size:
            return np.asarray(cam(images, targets))
        kept: list[np.ndarray] = []
        image_of = cam.get_cam_image

        def keep(*arguments: Any) -> np.ndarray:
            kept.append(np.asarray(image_of(*arguments)))
            return kept[-1]

        cam.get_cam_image = keep
        cam(images, targets)
    return kept[0]


def torchcam_library(name: str, network: nn.Module, images: Tensor, layer: str) -> np.ndarray:
    library = pytest.importorskip("torchcam.methods")
    with getattr(library, name)(network, layer) as cam:
        logits = network(images.clone())
        maps = (
            cam(CLASSES, logits, normalized=False)
            if name != "ScoreCAM"
            else cam(CLASSES, normalized=False)
        )
    return np.asarray(maps[0].detach())


GRAD_CAM_NAMES = {
    "grad_cam": "GradCAM",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "grad_cam_elementwise": "GradCAMElementWise",
    "xgrad_cam": "XGradCAM",
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method", GRAD_CAM_NAMES)
def test_equal_to_grad_cam(method: str, layer: str, network: nn.Module, images: Tensor) -> None:
    # XGrad-CAM divides by sum(A) + 1e-7 there, by sum(A) here
    theirs = grad_cam_library(GRAD_CAM_NAMES[method], network, images, [layer])
    np.testing.assert_allclose(
        ours(method, network, images, layer), scaled(np.maximum(theirs, 0)), atol=1e-5
    )


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("method", "name"),
    [("grad_cam", "GradCAM"), ("layer_cam", "LayerCAM"), ("xgrad_cam", "XGradCAM")],
)
def test_equal_to_torchcam(
    method: str, name: str, layer: str, network: nn.Module, images: Tensor
) -> None:
    theirs = torchcam_library(name, network, images, layer)
    np.testing.assert_allclose(ours(method, network, images, layer), scaled(theirs), atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_equal_to_captum(layer: str, network: nn.Module, images: Tensor) -> None:
    attr = pytest.importorskip("captum.attr")
    found = attr.LayerGradCam(network, network.get_submodule(layer)).attribute(
        images, torch.tensor(CLASSES), relu_attributions=True
    )
    np.testing.assert_allclose(
        ours("grad_cam", network, images, layer), scaled(found[:, 0].detach()), atol=1e-5
    )


class Curved(nn.Module):
    """A network whose logits bend with the activation, so that ShapleyCAM isn't Grad-CAM."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 5, stride=4), nn.SiLU())
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.SiLU())
        self.fc = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.body(self.stem(images)).mean((2, 3)).square())
        return logits


def test_shapley_cam_is_equal_to_grad_cam_s(images: Tensor) -> None:
    torch.manual_seed(2)
    network = Curved().eval()
    network.fc.weight.data *= 100
    found = ours("shapley_cam", network, images, "stem")
    theirs = grad_cam_library("ShapleyCAM", network, images, ["stem"])
    np.testing.assert_allclose(found, scaled(np.maximum(theirs, 0)), atol=1e-5)
    first_order = ours("grad_cam", network, images, "stem")
    assert np.abs(found - first_order).max() > 0.01


def test_shapley_cam_behind_relu_is_grad_cam(network: nn.Module, images: Tensor) -> None:
    """The Hessian of a logit is zero there, in grad-cam's ShapleyCAM as well."""
    found = ours("shapley_cam", network, images, "layer3")
    np.testing.assert_allclose(found, ours("grad_cam", network, images, "layer3"), atol=1e-6)
    theirs = grad_cam_library("ShapleyCAM", network, images, ["layer3"])
    np.testing.assert_allclose(found, scaled(np.maximum(theirs, 0)), atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_eigen_cam_of_centered_activations_is_equal_to_grad_cam_s_up_to_sign(
    layer: str, network: nn.Module, images: Tensor
) -> None:
    theirs = grad_cam_library("EigenCAM", network, images, [layer])
    found = CAM(network, [layer], "eigen_cam")
    signals, _ = found.signals(images, torch.tensor(CLASSES))
    activation = signals[layer].activation
    centered = eigen_cam(Signal(activation - activation.mean((2, 3), keepdim=True))).numpy()
    plain = eigen_cam(Signal(activation)).numpy()
    for n in range(2):
        one, other = np.maximum(theirs[n], 0), np.maximum(-theirs[n], 0)
        nearest = min((one, other), key=lambda m: float(np.abs(m - centered[n]).max()))
        np.testing.assert_allclose(
            centered[n] / centered[n].max(), nearest / nearest.max(), atol=1e-4
        )
        # the paper's own map is not centered, and is another one
        assert np.abs(plain[n] / plain[n].max() - nearest / nearest.max()).max() > 0.1


def test_the_sign_of_grad_cam_s_eigen_cam_is_arbitrary() -> None:
    """Measured over random layers: it is the opposite of the activations' for about a half."""
    projection = pytest.importorskip("pytorch_grad_cam.utils.svd_on_activations").get_2d_projection
    torch.manual_seed(0)
    activations = torch.randn(40, 8, 6, 6).relu() + 2 * torch.rand(40, 1, 6, 6)
    theirs = projection(activations.numpy())
    summed = activations.sum(1).numpy()
    summed = summed - summed.mean((1, 2), keepdims=True)
    agree = ((theirs * summed).sum((1, 2)) > 0).mean()
    assert 0 < agree < 1
    centered = activations - activations.mean((2, 3), keepdim=True)
    found = eigen_cam(Signal(centered)).numpy()
    assert ((found * summed).sum((1, 2)) > 0).all()


def masked_by_hand(
    network: nn.Module, images: Tensor, layer: str, masks_of: Callable[[Tensor], Tensor]
) -> np.ndarray:
    """Score-CAM for any way to make masks ``[C, H, W]`` of one image's activation ``[C, h, w]``."""
    signals, _ = CAM(network, [layer], "score_cam").signals(images, torch.tensor(CLASSES))
    maps = []
    for activation, image, target in zip(signals[layer].activation, images, CLASSES, strict=True):
        with torch.no_grad():
            scores = network(image * masks_of(activation)[:, None])[:, target]
        maps.append(torch.einsum("c,chw->hw", scores.softmax(0), activation).clamp_min(0))
    return scaled(torch.stack(maps))


def stretched(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low + 1e-8)


def upsampled(maps: Tensor, align: bool = False) -> Tensor:
    return F.interpolate(maps[None], (64, 64), mode="bilinear", align_corners=align)[0]


def test_score_cam_by_hand() -> None:
    torch.manual_seed(3)
    small = Small(10).eval()
    small.fc.weight.data *= 10
    small_images = torch.rand(2, 3, 64, 64)
    found = ours("score_cam", small, small_images, "act2")
    by_hand = masked_by_hand(small, small_images, "act2", lambda a: stretched(upsampled(a)))
    np.testing.assert_allclose(found, by_hand, atol=1e-5)
    # grad-cam upsamples with aligned corners
    theirs = grad_cam_library("ScoreCAM", small, small_images, ["act2"])
    aligned = masked_by_hand(
        small, small_images, "act2", lambda a: stretched(upsampled(a, align=True))
    )
    np.testing.assert_allclose(scaled(np.maximum(theirs, 0)), aligned, atol=1e-5)
    assert 1e-4 < np.abs(found - aligned).max() < 0.1
    # torchcam scales before it upsamples, the paper after
    theirs = torchcam_library("ScoreCAM", small, small_images, "act2")
    early = masked_by_hand(small, small_images, "act2", lambda a: upsampled(stretched(a)))
    np.testing.assert_allclose(scaled(theirs), early, atol=1e-5)
    assert 1e-4 < np.abs(found - early).max() < 0.1


# Grad-CAM++: both libraries leave out the authors' normalization of alpha


def parts(network: nn.Module, images: Tensor, layer: str) -> tuple[np.ndarray, np.ndarray]:
    signals, _ = CAM(network, [layer], "grad_cam").signals(images, torch.tensor(CLASSES))
    signal = signals[layer]
    assert signal.first is not None
    return signal.activation.numpy().astype(np.float64), signal.first.numpy().astype(np.float64)


def weighted(weights: np.ndarray, activation: np.ndarray) -> np.ndarray:
    return np.maximum((weights[:, :, None, None] * activation).sum(1), 0)


def test_grad_cam_s_plus_plus_is_not_normalized_and_has_an_absolute_epsilon(
    network: nn.Module, images: Tensor
) -> None:
    a, g = parts(network, images, "layer2")
    theirs = grad_cam_library("GradCAMPlusPlus", network, images, ["layer2"])
    # what it computes
    below = 2 * g**2 + a.sum((2, 3), keepdims=True) * g**3 + 1e-6
    alpha = np.where(g != 0, g**2 / below, 0)
    same = weighted((alpha * np.maximum(g, 0)).sum((2, 3)), a)
    np.testing.assert_allclose(scaled(np.maximum(theirs, 0)), scaled(same), atol=1e-4)
    # what the authors' program computes: the same without epsilon, alpha divided by its sum
    below = 2 * g**2 + a.sum((2, 3), keepdims=True) * g**3
    alpha = np.where(g > 0, g**2 / np.where(below == 0, 1, below), 0)
    total = alpha.sum((2, 3), keepdims=True)
    alpha = alpha / np.where(total == 0, 1, total)
    authors = scaled(weighted((alpha * np.maximum(g, 0)).sum((2, 3)), a))
    found = ours("grad_cam_plus_plus", network, images, "layer2")
    np.testing.assert_allclose(found, authors, atol=1e-5)
    assert np.abs(found - scaled(np.maximum(theirs, 0))).max() > 0.01


def test_grad_cam_s_epsilon_decides_where_gradients_are_small(
    network: nn.Module, images: Tensor
) -> None:
    """g^2 below its 1e-6: alpha becomes g^2 / 1e-6, and the map that of the sum of relu(g)^3."""
    small = Dimmed(network, 1e-4)
    theirs = scaled(
        np.maximum(grad_cam_library("GradCAMPlusPlus", small, images, ["inner.layer2"]), 0)
    )
    a, g = parts(network, images, "layer2")
    cubes = scaled(weighted((np.maximum(g, 0) ** 3).sum((2, 3)), a))
    np.testing.assert_allclose(theirs, cubes, atol=1e-2)
    full = scaled(np.maximum(grad_cam_library("GradCAMPlusPlus", network, images, ["layer2"]), 0))
    assert np.abs(theirs - full).max() > 0.01


class Dimmed(nn.Module):
    """The same network with every logit divided by a constant: an explanation should not change."""

    def __init__(self, inner: nn.Module, factor: float) -> None:
        super().__init__()
        self.inner = inner
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images) * self.factor
        return logits


def test_torchcam_s_plus_plus_is_the_sum_of_cubes(network: nn.Module, images: Tensor) -> None:
    """Its division edits a copy, so the weights are sum(g^2 relu(g))."""
    a, g = parts(network, images, "layer2")
    theirs = scaled(torchcam_library("GradCAMpp", network, images, "layer2"))
    cubes = scaled(weighted((np.maximum(g, 0) ** 3).sum((2, 3)), a))
    np.testing.assert_allclose(theirs, cubes, atol=1e-5)
    assert np.abs(theirs - ours("grad_cam_plus_plus", network, images, "layer2")).max() > 0.01


# what the libraries do after the map


def test_grad_cam_subtracts_the_minimum(network: nn.Module, images: Tensor) -> None:
    """Its maps reach zero even where every cell has evidence; ours are divided by the maximum."""
    theirs = grad_cam_library("LayerCAM", network, images, ["layer4"], size=True)
    raw = ours("layer_cam", network, images, "layer4")
    assert raw.min() > 0.01
    assert theirs.min() == 0
    low = raw.min((1, 2), keepdims=True)
    stretched = torch.from_numpy((raw - low) / (1 - low))[None].float()
    # cv2's bilinear resizing is interpolate's without aligned corners
    resized = F.interpolate(stretched, (64, 64), mode="bilinear")[0]
    resized = resized / resized.amax((1, 2), keepdim=True)
    np.testing.assert_allclose(theirs, resized.numpy(), atol=1e-4)


def test_torchcam_s_fusion_squashes_the_last_layer_too(network: nn.Module, images: Tensor) -> None:
    """tanh(2 x) of every layer, the deepest as well, which LayerCAM leaves as it is."""
    methods = pytest.importorskip("torchcam.methods")
    with methods.LayerCAM(network, ["layer3", "layer4"]) as cam:
        logits = network(images)
        maps = cam(CLASSES, logits, normalized=False)
        maps = [m / m.amax((1, 2), keepdim=True) for m in maps]
        theirs = cam.fuse_cams(maps, (64, 64))
    squashed = [F.interpolate(torch.tanh(2 * m)[None], (64, 64), mode="bilinear")[0] for m in maps]
    np.testing.assert_allclose(theirs.detach(), torch.maximum(*squashed).detach(), atol=1e-5)
    fused = CAM(network, ["layer3", "layer4"], "layer_cam", fusion="layer_cam")(images, CLASSES)
    assert np.abs(scaled(theirs.detach()) - fused.maps.numpy()).max() > 0.01


def test_grad_cam_changes_the_network(network: nn.Module, images: Tensor) -> None:
    """It leaves it in eval mode and fills every ``.grad``; ours leaves it as it was."""
    library = pytest.importorskip("pytorch_grad_cam")
    small = tv.resnet18(num_classes=10).train()
    CAM(small, ["layer4"], "grad_cam")(images, CLASSES)
    assert small.training
    assert all(parameter.grad is None for parameter in small.parameters())
    targets = [library.utils.model_targets.ClassifierOutputTarget(c) for c in CLASSES]
    with library.GradCAM(model=small, target_layers=[small.layer4]) as cam:
        cam(images, targets)
    assert not small.training
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_the_list_of_compared_methods_is_complete() -> None:
    compared = {*GRAD_CAM_NAMES, "grad_cam_plus_plus", "shapley_cam", "eigen_cam", "score_cam"}
    rivals = {"finer_cam", "refine_cam", "smoothed_hires_cam", "recipro_cam"}  # test_rivals
    assert set(METHODS) == {
        *compared, *rivals, "ssg_cam", "discriminate", "localize", "activation_sum"
    }  # fmt: skip
