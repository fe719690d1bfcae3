"""The faster copies: nearly the same maps, and a network that stays as it came."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torchvision import models as tv

from helpers.networks import state_of
from ssgcam import CAM, SSGCAM
from ssgcam.core.fast import Computation, folded
from ssgcam.errors import SsgcamError

LAYERS = ["layer2", "layer3", "layer4"]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """ResNet18 with batch-norm statistics that folding must not ignore."""
    torch.manual_seed(0)
    network = tv.resnet18(weights=None, num_classes=5)
    network.train()
    with torch.no_grad():
        network(torch.randn(8, 3, 64, 64) * 2 + 1)
    return network.eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def correlations(one: Tensor, other: Tensor) -> list[float]:
    pairs = zip(one.flatten(1).double(), other.flatten(1).double(), strict=True)
    return [float(spearmanr(a, b).statistic) for a, b in pairs]


@pytest.mark.parametrize("method", ["ssg_cam", "layer_cam", "grad_cam", "xgrad_cam"])
def test_maps_are_nearly_the_same(network: nn.Module, images: Tensor, method: str) -> None:
    exact = CAM(network, LAYERS, method)(images)
    cam = CAM(network, LAYERS, method, fast=True)
    fast = cam(images, exact.classes)
    assert cam.computation == "batch norms folded, channels last, own dtype"
    assert min(correlations(exact.maps, fast.maps)) >= 0.999
    assert fast.logits is not None
    assert fast.logits.dtype == torch.float32
    torch.testing.assert_close(fast.logits, exact.logits, atol=1e-3, rtol=1e-3)
    assert not torch.equal(fast.maps, exact.maps)  # or the copy was not used


@pytest.mark.parametrize("training", [False, True])
def test_network_is_not_changed(network: nn.Module, images: Tensor, training: bool) -> None:
    network.train(training)
    before = state_of(network)
    cam = CAM(network, "auto", fast=True)
    cam(images)
    cam(images)
    assert state_of(network) == before
    network.eval()


def test_batch_norms_are_folded_unless_a_target(network: nn.Module, images: Tensor) -> None:
    def norms(targets: list[str]) -> set[str]:
        modules = folded(network, images, targets).named_modules()
        return {name for name, module in modules if isinstance(module, nn.BatchNorm2d)}

    assert norms(["layer4"]) == set()
    assert norms(["layer4.0.bn1"]) == {"layer4.0.bn1"}
    assert norms(["layer4.0.conv1"]) == {"layer4.0.bn1"}
    assert norms(["layer4.0.bn2:in"]) == {"layer4.0.bn2"}


def test_a_convolution_that_is_a_target_keeps_its_meaning(
    network: nn.Module, images: Tensor
) -> None:
    exact = CAM(network, ["layer4.0.conv1"])(images)
    fast = CAM(network, ["layer4.0.conv1"], fast=True)(images)
    assert min(correlations(exact.maps, fast.maps)) > 0.999


class Twice(nn.Module):
    """Uses a convolution's output twice, once where no hook sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.norm.running_mean = torch.full((4,), 2.0)
        self.act = nn.ReLU()
        self.fc = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        logits: Tensor = self.fc(self.act(self.norm(x) + x).mean((2, 3)))
        return logits


def test_nothing_is_folded_where_that_would_change_the_network(images: Tensor) -> None:
    network = Twice().eval()
    assert isinstance(folded(network, images, ["act"]).get_submodule("norm"), nn.BatchNorm2d)
    found = CAM(network, ["act"], "layer_cam", fast=True)(images)
    wanted = CAM(network, ["act"], "layer_cam")(images)
    torch.testing.assert_close(found.maps, wanted.maps, atol=0.02, rtol=0)


def test_changed_weights_are_noticed(network: nn.Module, images: Tensor) -> None:
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    cam = SSGCAM(network, LAYERS, fast=True)
    before = cam(images).maps
    try:
        with torch.no_grad():
            network.get_submodule("layer1.0.conv1").weight.mul_(0.5)
            network.get_submodule("layer3.1.bn2").running_mean.sub_(0.2)
        found = cam(images)
        wanted = SSGCAM(network, LAYERS)(images)
        assert min(correlations(found.maps, wanted.maps)) > 0.999
        assert max(correlations(found.maps, before)) < 0.995
    finally:
        network.load_state_dict(state)


def test_the_copy_is_made_once(network: nn.Module, images: Tensor) -> None:
    fast = Computation(network, True)
    first = fast(images, LAYERS)
    assert fast(images, LAYERS) is first
    assert fast(images, ["layer4"]) is not first


@pytest.mark.parametrize("method", ["shapley_cam", "score_cam", "eigen_cam"])
def test_other_methods(network: nn.Module, images: Tensor, method: str) -> None:
    layer = "layer1" if method == "score_cam" else "layer4"  # a pass for each channel
    exact = CAM(network, [layer], method)(images[:1])
    fast = CAM(network, [layer], method, fast=True)(images[:1])
    torch.testing.assert_close(fast.maps, exact.maps, atol=0.01, rtol=0)


def test_vision_transformer() -> None:
    torch.manual_seed(0)
    network = tv.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(network.heads.head.weight)
    images = torch.randn(2, 3, 32, 32)
    exact, fast = (CAM(network, fast=fast)(images) for fast in (False, True))
    torch.testing.assert_close(fast.maps, exact.maps, atol=0.05, rtol=0)


def test_a_network_whose_train_returns_nothing(images: Tensor) -> None:
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> None:  # type: ignore[override]
            super().train(mode)

    network = Frozen(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    found = CAM(network, ["1"], "grad_cam", fast=True)(images)
    assert found.maps.shape == (4, 96, 96)


def test_a_network_that_cannot_be_copied(images: Tensor) -> None:
    network: Any = tv.resnet18(weights=None)
    network.lock = threading.Lock()
    with pytest.raises(SsgcamError, match="fast=True works on a copy"):
        CAM(network, ["layer4"], fast=True)(images)
