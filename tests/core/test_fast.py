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
from ssgcam.core.fast import FastCopy, folded
from ssgcam.core.rounding import RoundedBackward
from ssgcam.core.settings import Precision
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
@pytest.mark.parametrize(("precision", "least"), [("fast", 0.999), ("bfloat16", 0.9)])
def test_maps_are_nearly_the_same(
    network: nn.Module, images: Tensor, method: str, precision: Precision, least: float
) -> None:
    exact = CAM(network, LAYERS, method)(images)
    fast = CAM(network, LAYERS, method, precision=precision)(images, exact.classes)
    assert min(correlations(exact.maps, fast.maps)) >= least
    assert fast.logits is not None
    assert fast.logits.dtype == torch.float32
    torch.testing.assert_close(fast.logits, exact.logits, atol=0.05, rtol=0.05)
    assert not torch.equal(fast.maps, exact.maps)  # or the copy was not used


@pytest.mark.parametrize("precision", ["fast", "bfloat16"])
@pytest.mark.parametrize("training", [False, True])
def test_the_network_stays_as_it_came(
    network: nn.Module, images: Tensor, precision: Precision, training: bool
) -> None:
    network.train(training)
    before = state_of(network)
    cam = CAM(network, "auto", precision=precision)
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
    fast = CAM(network, ["layer4.0.conv1"], precision="fast")(images)
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
    found = CAM(network, ["act"], "layer_cam", precision="fast")(images)
    wanted = CAM(network, ["act"], "layer_cam")(images)
    torch.testing.assert_close(found.maps, wanted.maps, atol=0.02, rtol=0)


def test_changed_weights_are_noticed(network: nn.Module, images: Tensor) -> None:
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    cam = SSGCAM(network, LAYERS, precision="fast")
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
    fast = FastCopy(network, "fast")
    first = fast(images, LAYERS)
    assert fast(images, LAYERS) is first
    assert fast(images, ["layer4"]) is not first


def test_rounded_backward_is_the_gradient_to_three_digits() -> None:
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2).requires_grad_(False)
    fc = nn.Linear(6, 3).requires_grad_(False)
    x = torch.randn(2, 4, 9, 11, requires_grad=True)

    def gradient() -> Tensor:
        return torch.autograd.grad(fc(conv(x).relu().mean((2, 3)))[:, 1].sum(), x)[0]

    wanted = gradient()
    with RoundedBackward():
        output = fc(conv(x).relu().mean((2, 3)))
    found = torch.autograd.grad(output[:, 1].sum(), x)[0]
    assert torch.equal(output, fc(conv(x).relu().mean((2, 3))))  # the forward pass is not rounded
    assert 0 < float((found - wanted).abs().amax() / wanted.abs().amax()) < 0.01


def test_a_depthwise_convolution_is_not_rounded() -> None:
    conv = nn.Conv2d(4, 8, 3, groups=4).requires_grad_(False)
    x = torch.randn(2, 4, 9, 11, requires_grad=True)
    weights = torch.randn(2, 8, 7, 9)
    with RoundedBackward():
        output = conv(x)
    (found,) = torch.autograd.grad((output * weights).sum(), x)
    (wanted,) = torch.autograd.grad((conv(x) * weights).sum(), x)
    assert torch.equal(found, wanted)


def test_rounding_starts_at_the_first_target(network: nn.Module, images: Tensor) -> None:
    class Depth(nn.Module):
        """Passes its input on and notes how many modes are active."""

        def forward(self, x: Tensor) -> Tensor:
            depths.append(torch._C._len_torch_function_stack())
            return x

    depths: list[int] = []
    watched = nn.Sequential(Depth(), nn.Conv2d(3, 4, 3), nn.ReLU(), Depth(), nn.Flatten())
    cam = CAM(watched, ["2"], precision="fast")
    cam(images)
    depths.clear()
    cam(images)
    assert depths == [0, 1]
    assert torch._C._len_torch_function_stack() == 0


@pytest.mark.parametrize("method", ["shapley_cam", "score_cam", "eigen_cam"])
def test_other_methods(network: nn.Module, images: Tensor, method: str) -> None:
    layer = "layer1" if method == "score_cam" else "layer4"  # a pass for each channel
    exact = CAM(network, [layer], method)(images[:1])
    fast = CAM(network, [layer], method, precision="fast")(images[:1])
    torch.testing.assert_close(fast.maps, exact.maps, atol=0.01, rtol=0)


def test_vision_transformer() -> None:
    torch.manual_seed(0)
    network = tv.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(network.heads.head.weight)
    images = torch.randn(2, 3, 32, 32)
    exact, fast = (CAM(network, precision=p)(images) for p in ("exact", "fast"))
    torch.testing.assert_close(fast.maps, exact.maps, atol=0.05, rtol=0)


def test_a_network_that_cannot_be_copied(images: Tensor) -> None:
    network: Any = tv.resnet18(weights=None)
    network.lock = threading.Lock()
    with pytest.raises(SsgcamError, match="use precision='exact'"):
        CAM(network, ["layer4"], precision="fast")(images)


def test_an_unknown_precision(network: nn.Module) -> None:
    wrong: Any = "double"
    with pytest.raises(SsgcamError, match="precision is 'double'; choose one of exact, fast"):
        CAM(network, precision=wrong)
