"""A network's flags, modes, number formats and wrappers."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from helpers.backward import check_equals_full_backward
from helpers.networks import Small, state_of
from ssgcam import CAM, SSGCAM, TargetSettings
from ssgcam.core.capture import capture
from ssgcam.core.methods import METHODS
from ssgcam.core.network import explaining
from ssgcam.core.signals import Signal
from ssgcam.errors import SsgcamError


def test_frozen_parameters() -> None:
    network = Small().requires_grad_(False)
    network.conv2.weight.requires_grad_(True)
    check_equals_full_backward(network, torch.randn(2, 3, 12, 12), ["conv1", "act2"])


def test_training_mode_and_kept_gradients_survive() -> None:
    network = Small().train()
    network.norm1.eval()
    network(torch.randn(4, 3, 12, 12)).sum().backward()
    assert network.fc.weight.grad is not None
    check_equals_full_backward(network, torch.randn(2, 3, 12, 12), ["act1", "conv2"])


def maps_of(network: nn.Module, images: Tensor, **settings: Any) -> Tensor:
    return CAM(network, ["act1", "act2"], **settings)(images).maps


@pytest.mark.parametrize(
    "method", ["ssg_cam", "grad_cam", "shapley_cam", "score_cam", "eigen_cam", "auto"]
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_no_grad_and_inference_mode(mode: Callable[[], Any], method: str) -> None:
    network, images = Small().eval(), torch.rand(2, 3, 32, 32)

    def explain(images: Tensor) -> Tensor:
        if method == "auto":
            return SSGCAM(network)(images).maps
        return maps_of(network, images, method=method)

    wanted = explain(images)
    with mode():
        made_inside = images + 0
        assert made_inside.is_inference() == (mode is torch.inference_mode)
        found = explain(made_inside)
    assert torch.equal(found, wanted)
    assert torch.equal(explain(made_inside), wanted)  # and outside of it
    assert wanted.amax() == 1


@pytest.mark.parametrize("score", ["probability", "odds", "log_probability", "sigmoid"])
@pytest.mark.parametrize("second", ["squared", "hutchinson"])
def test_scores_inside_inference_mode(score: Any, second: Any) -> None:
    network, images = Small().eval(), torch.rand(2, 3, 12, 12)
    settings = TargetSettings(score, second, "absolute")
    wanted = maps_of(network, images, target=settings)
    with torch.inference_mode():
        assert torch.equal(maps_of(network, images + 0, target=settings), wanted)


def test_images_that_require_a_gradient_get_none() -> None:
    images = torch.rand(2, 3, 12, 12, requires_grad=True)
    maps = maps_of(Small(), images)
    assert not maps.requires_grad
    assert images.grad is None


@pytest.mark.parametrize("frozen", [True, False])
def test_a_network_built_in_inference_mode_is_refused(frozen: bool) -> None:
    with torch.inference_mode():
        network = Small().requires_grad_(not frozen)
    with pytest.raises(SsgcamError, match=r"built inside torch\.inference_mode"):
        capture(network, torch.rand(1, 3, 12, 12), ["act1"])
    assert all(parameter.requires_grad != frozen for parameter in network.parameters())


def test_buffers_made_in_inference_mode_are_refused_where_they_are_differentiated_through() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    with torch.inference_mode():
        network[2].running_mean = torch.zeros(4)
    images = torch.rand(1, 3, 12, 12)
    with pytest.raises(SsgcamError, match=r"built inside torch\.inference_mode"):
        capture(network, images, ["1"])
    assert capture(network, images, ["3"]).activations  # nothing is differentiated through them
    assert network.training


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_scripted_network_is_refused() -> None:
    scripted = torch.jit.trace(Small().eval(), torch.rand(1, 3, 12, 12))
    with pytest.raises(SsgcamError, match="TorchScript"):
        capture(scripted, torch.rand(1, 3, 12, 12), ["act1"])


def test_autocast() -> None:
    network, images = Small().eval(), torch.rand(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        captured = capture(network, images, ["act1", "act2"])
        assert captured.activations["act1"].dtype == torch.bfloat16
        maps = maps_of(network, images)
    assert maps.dtype == torch.float32
    assert torch.equal(maps.amax((1, 2)), torch.ones(2))
    assert (maps - maps_of(network, images)).abs().mean() < 0.02


def test_products_of_a_map_keep_their_precision_inside_autocast() -> None:
    signal = Signal(torch.rand(2, 5, 7, 7), torch.randn(2, 5, 7, 7), None, torch.randn(2, 5, 7, 7))
    for name, method in METHODS.items():
        if method.function is not None:
            wanted = method.function(signal)
            with torch.autocast("cpu", torch.bfloat16):
                assert torch.equal(method.function(signal), wanted), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_number_formats(dtype: torch.dtype) -> None:
    network, images = Small().eval(), torch.rand(2, 3, 32, 32)
    wanted = maps_of(network, images)
    found = maps_of(network.to(dtype), images.to(dtype))
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (found - wanted).abs().mean() < (0.02 if dtype == torch.bfloat16 else 0.003)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("how", ["torch.compile", "in place", "one layer"])
def test_compiled_networks(backend: str, how: str) -> None:
    network, images = Small().eval(), torch.rand(2, 3, 12, 12)
    wanted = maps_of(network, images)
    compiled: Any = copy.deepcopy(network)
    if how == "torch.compile":
        compiled = torch.compile(compiled, backend=backend)
    elif how == "in place":
        compiled.compile(backend=backend)
    else:
        compiled.conv2 = torch.compile(compiled.conv2, backend=backend)
    with torch.no_grad():
        compiled(images)  # compiled before it is explained
    before = state_of(compiled)
    assert torch.equal(maps_of(compiled, images), wanted)
    assert state_of(compiled) == before
    torch._dynamo.reset()


def test_data_parallel() -> None:
    network, images = Small(), torch.rand(2, 3, 12, 12)
    wrapped = nn.DataParallel(network)
    assert torch.equal(maps_of(wrapped, images), maps_of(network, images))
    by_module = CAM(wrapped, [network.act1, network.act2])
    assert torch.equal(by_module(images).maps, maps_of(network, images))


def test_module_objects_as_targets() -> None:
    network, images = Small(), torch.rand(2, 3, 12, 12)
    cam = CAM(network, [network.act1, "act2"])
    assert list(cam(images).layer_maps) == ["act1", "act2"]
    with pytest.raises(
        SsgcamError, match="the target layer Conv2d is not a module of this network"
    ):
        CAM(network, [nn.Conv2d(3, 3, 1)])


class Recomputing(nn.Module):
    """Gradient checkpointing: the inner pass runs again, without hooks, in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.stem = nn.Conv2d(3, 3, 1)
        self.inner = Small()

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        logits: Tensor = checkpoint(self.inner, x, use_reentrant=self.reentrant)
        return logits


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(("reentrant", "message"), [(False, "checkpointing"), (True, "recomputes")])
def test_checkpointed_networks_are_one_sentence(reentrant: bool, message: str) -> None:
    network, images = Recomputing(reentrant), torch.rand(2, 3, 12, 12)
    before = state_of(network)
    with pytest.raises(SsgcamError, match=message):
        CAM(network, ["stem", "inner.act2"] if reentrant else ["inner.act2"])(images)
    assert state_of(network) == before


@pytest.mark.parametrize("layers", [["stem"], ["stem", "inner.act2"]])
@pytest.mark.parametrize("method", ["ssg_cam", "grad_cam"])
def test_a_checkpointed_part_after_the_target(method: str, layers: list[str]) -> None:
    """It runs again in the backward pass: in eval mode, or batch norm would learn from it."""
    network, images = Recomputing(reentrant=False).train(), torch.rand(2, 3, 12, 12)
    before = state_of(network)
    found = CAM(network, layers, method)(images, 1)
    assert state_of(network) == before
    plain = nn.Sequential(OrderedDict(stem=network.stem, inner=network.inner))
    assert torch.equal(found.maps, CAM(plain, layers, method)(images, 1).maps)
    assert found.evidence.all()


class Breaks(nn.Module):
    """A network that raises in its forward pass or in a user's hook."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Small()
        self.broken = False

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        if self.broken:
            raise RuntimeError("broken network")
        return logits


METHODS_THAT_CALL = ["ssg_cam", "shapley_cam", "score_cam"]


@pytest.mark.parametrize("method", METHODS_THAT_CALL)
@pytest.mark.parametrize("layers", [["inner.act1"], "auto"])
@pytest.mark.parametrize("where", ["network", "users hook", "target", "class"])
def test_a_call_that_raises_leaves_the_network_as_it_was(
    where: str, layers: Any, method: str
) -> None:
    network, images = Breaks().train(), torch.rand(2, 3, 32, 32)
    network.inner.conv1.weight.requires_grad_(False)
    network(images).sum().backward()
    if where == "users hook":
        network.inner.act2.register_forward_hook(_raise)
    network.broken = where == "network"
    before = state_of(network)
    settings: dict[str, Any] = {"target": _raise} if where == "target" else {}
    cam = CAM(network, layers, method, **settings)
    with pytest.raises((RuntimeError, SsgcamError)):
        cam(images, 99 if where == "class" else None)
    assert state_of(network) == before


def _raise(*_: Any) -> Any:
    raise RuntimeError("broken hook")


@pytest.mark.parametrize("layers", [["act1", "conv2"], "auto"])
@pytest.mark.parametrize("method", METHODS_THAT_CALL)
def test_a_call_that_returns_leaves_the_network_as_it_was(method: str, layers: Any) -> None:
    network, images = Small().train(), torch.rand(2, 3, 32, 32)
    before = state_of(network)
    CAM(network, layers, method)(images)
    assert state_of(network) == before


def test_nested_blocks_restore_the_flags() -> None:
    network = Small().train()
    network.conv1.weight.requires_grad_(False)
    before = state_of(network)
    with explaining(network):
        with explaining(network):
            pass
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert state_of(network) == before
    with explaining(network):  # and again
        assert not network.training


class OwnTrain(Small):
    """Counts calls of a ``train`` of its own, as networks with frozen parts have one."""

    calls = 0

    def train(self, mode: bool = True) -> OwnTrain:
        self.calls += 1
        super().train(mode)
        return self


def test_a_users_own_train_method_is_not_run() -> None:
    network = OwnTrain()
    calls = network.calls
    SSGCAM(network, ["act1"])(torch.rand(1, 3, 12, 12))
    assert network.calls == calls


class Filtering(nn.Module):
    """A filter with complex numbers, in the frequencies of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.filter = nn.Parameter(torch.randn(4, 6, 6, dtype=torch.complex64))

    def forward(self, images: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(self.stem(images)) * self.filter).real.mean((2, 3))


def test_complex_parameters_are_frozen_and_restored() -> None:
    network, images = Filtering(), torch.rand(2, 3, 6, 6)
    before = state_of(network)
    found = CAM(network, ["stem"], "hires_cam")(images, 1)
    assert state_of(network) == before
    assert network.filter.requires_grad
    kept: list[Tensor] = []
    network.stem.register_forward_hook(lambda module, inputs, output: kept.append(output))
    (gradient,) = torch.autograd.grad(network(images)[:, 1].sum(), kept)
    expected = (gradient * kept[0]).sum(1).clamp_min(0)
    torch.testing.assert_close(found.layer_maps["stem"], expected.detach())
