"""Capture: the activations and gradients of a full backward pass, and a network left as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models as tv

from helpers.backward import check_equals_full_backward, count_forwards
from helpers.networks import Small, small_vgg, state_of
from ssgcam import CAM, SSGCAM
from ssgcam.core.capture import Target, capture
from ssgcam.core.layers import auto_layers
from ssgcam.errors import SsgcamError

RESNET_BLOCKS = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (tv.resnet18, [*RESNET_BLOCKS, "layer1", "layer4", "layer2.0.conv1", "layer2.0.downsample"]),
        (tv.densenet121, ["features.denseblock1", "features.denseblock3", "features.norm5", "features"]),
        (small_vgg, ["features.0", "features.1", "features.5", "features.6", "features.9"]),
        (tv.squeezenet1_1, ["features.3.expand1x1", "features.3.expand3x3", "features.12"]),
        (tv.mobilenet_v3_small, ["features.1", "features.3.block.1", "features.12"]),
    ],
    ids=["resnet18 chained", "densenet121", "vgg in-place", "squeezenet branches", "mobilenet"],
)  # fmt: skip
def test_gradients_are_those_of_a_full_backward(
    build: Callable[..., nn.Module], names: list[str]
) -> None:
    network = build()
    network.train()
    check_equals_full_backward(network, torch.randn(2, 3, 64, 64), names)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_batch_sizes(count: int) -> None:
    images = torch.randn(count, 3, 12, 12)
    check_equals_full_backward(Small(), images, ["conv1", "norm1", "act1", "conv2", "act2"])


def test_images_of_a_batch_do_not_mix() -> None:
    network, images = Small(), torch.randn(3, 3, 12, 12)
    whole = capture(network, images, ["act1"])
    together = whole.gradients(whole.output[:, 1].sum())["act1"]
    for index in range(3):
        alone = capture(network, images[index : index + 1], ["act1"])
        gradient = alone.gradients(alone.output[:, 1].sum())["act1"]
        torch.testing.assert_close(gradient[0], together[index])


class Branches(nn.Module):
    """Two parallel branches, one of which is cut off from the output."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 1)
        self.right = nn.Conv2d(3, 4, 3, padding=1)
        self.cut = nn.Conv2d(3, 4, 1)
        self.unused = nn.Conv2d(3, 4, 1)
        self.fc = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.left(images).relu() * self.right(images).sigmoid()
        x = x + self.cut(images).detach()
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def test_parallel_branches() -> None:
    check_equals_full_backward(Branches(), torch.randn(2, 3, 8, 8), ["left", "right"])


class WithoutGradients(Branches):
    def __init__(self, mode: Any) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        with self.mode():
            return super().forward(x)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("layers", ["auto", ["left"]])
def test_a_network_that_switches_gradients_off_gets_one_sentence(mode: Any, layers: Any) -> None:
    with pytest.raises(SsgcamError, match="switches gradients off where it makes layer"):
        CAM(WithoutGradients(mode), layers)(torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize("names", [["cut"], ["left", "cut"]])
def test_a_layer_in_no_path_to_the_output(names: list[str]) -> None:
    network = Branches()
    captured = capture(network, torch.randn(1, 3, 8, 8), names)
    with pytest.raises(SsgcamError, match="does not depend on layer 'cut'"):
        captured.gradients(captured.output[:, 0].sum())


def test_a_layer_that_is_not_called() -> None:
    network = Branches()
    before = state_of(network)
    with pytest.raises(SsgcamError, match="layer 'unused' is not called"):
        capture(network, torch.randn(1, 3, 8, 8), ["unused"])
    assert state_of(network) == before


class Shared(nn.Module):
    """One activation module that fires three times."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.act = nn.ReLU(inplace=inplace)
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = self.act(conv(x))
        logits: Tensor = self.fc(F.avg_pool2d(x, 2).square().mean((2, 3)))
        return logits


@pytest.mark.parametrize("inplace", [False, True])
def test_calls_of_a_shared_module(inplace: bool) -> None:
    network, images = Shared(inplace), torch.randn(2, 3, 8, 8)
    network.convs[0].bias.data += 1
    captured = capture(network, images, ["act@1", "act@3", "act@2:in", "convs.1"])
    found = captured.gradients(captured.output[:, 0].sum())
    a1 = network.convs[0](images).relu()
    before2 = network.convs[1](a1)
    a3 = network.convs[2](before2.relu()).relu()
    loss = network.fc(F.avg_pool2d(a3, 2).square().mean((2, 3)))[:, 0].sum()
    wanted = torch.autograd.grad(loss, [a1, a3, before2, before2])
    for name, tensor, gradient in zip(found, (a1, a3, before2, before2), wanted, strict=True):
        assert torch.equal(captured.activations[name], tensor)
        assert torch.equal(found[name], gradient)


def test_a_bare_name_that_fires_several_times_lists_the_spellings() -> None:
    network, images = Shared(False), torch.randn(1, 3, 8, 8)
    with pytest.raises(SsgcamError, match=r"'act' is called 3 times.*'act@1', 'act@2', 'act@3'"):
        capture(network, images, ["act"])
    with pytest.raises(SsgcamError, match=r"'act@1:in', 'act@2:in'"):
        capture(network, images, ["act:in"])
    with pytest.raises(SsgcamError, match="'act@4' doesn't exist"):
        capture(network, images, ["act@4"])


@pytest.mark.parametrize(
    ("spelling", "parsed"),
    [
        ("layer4", ("layer4", None, False)),
        ("layer4:in", ("layer4", None, True)),
        ("relu@12", ("relu", 12, False)),
        ("a.b@3:in", ("a.b", 3, True)),
        ("odd@name", ("odd@name", None, False)),
        ("relu@0", ("relu@0", None, False)),
    ],
)
def test_spellings(spelling: str, parsed: tuple[str, int | None, bool]) -> None:
    target = Target.parse(spelling)
    assert (target.module, target.call, target.is_input) == parsed


def test_no_graph_is_kept_below_the_first_target() -> None:
    captured = capture(Small(), torch.randn(2, 3, 12, 12), ["act1", "act2"])
    assert captured.activations["act1"].is_leaf
    assert captured.activations["act1"].grad_fn is None
    assert captured.activations["act2"].grad_fn is not None


def test_the_input_of_a_layer() -> None:
    network, images = Small(), torch.randn(2, 3, 12, 12)
    captured = capture(network, images, ["act1:in", "norm1", "conv1:in"])
    found = captured.gradients(captured.output[:, 2].sum())
    assert torch.equal(captured.activations["act1:in"], captured.activations["norm1"])
    assert torch.equal(found["act1:in"], found["norm1"])
    assert torch.equal(captured.activations["conv1:in"], images)
    leaf = images.clone().requires_grad_()
    wanted = torch.autograd.grad(copy.deepcopy(network).eval()(leaf)[:, 2].sum(), leaf)[0]
    assert torch.equal(found["conv1:in"], wanted)


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Small()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(images=x)
        return logits


def test_an_input_given_by_keyword_is_refused() -> None:
    network = ByKeyword()
    before = state_of(network)
    with pytest.raises(SsgcamError, match="gets its input by keyword"):
        capture(network, torch.randn(1, 3, 12, 12), ["inner:in"])
    assert state_of(network) == before


class Tuples(nn.Module):
    """A layer that gives a tuple, one that gives whole numbers, and a tuple at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.numbers = nn.Identity()
        self.inner = Small()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, where = self.pool(x)
        self.numbers(where)
        return self.inner(x), x


def test_layers_that_give_no_single_tensor_are_refused() -> None:
    network, images = Tuples(), torch.rand(1, 3, 24, 24)
    before = state_of(network)
    with pytest.raises(SsgcamError, match="'pool' gives a tuple"):
        capture(network, images, ["pool"])
    with pytest.raises(SsgcamError, match=r"'numbers' gives a torch\.int64"):
        capture(network, images, ["numbers"])
    assert state_of(network) == before


def test_a_network_that_returns_a_tuple() -> None:
    network, images = Tuples(), torch.rand(1, 3, 24, 24)
    first = CAM(network, ["inner.act2"])(images, 1)
    found = CAM(network, ["inner.act2"], target=lambda output: output[0][:, 1])(images)
    pooled = F.max_pool2d(images, 2)
    wanted = CAM(network.inner, ["act2"])(pooled, 1).layer_maps["act2"]
    assert torch.equal(found.layer_maps["inner.act2"], wanted)
    assert torch.equal(first.layer_maps["inner.act2"], wanted)


class Alias(nn.Module):
    """Holds an alias of the target's storage and writes to it after the hook has seen it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.same = nn.Identity()
        self.fc = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        y = self.same(x.view(len(x), 4, -1) if self.how == "view" else x)
        with torch.no_grad():
            x.detach().zero_() if self.how == "detached" else x.mul_(0)
        logits: Tensor = self.fc(y.reshape(len(x), 4, -1).square().mean(2))
        return logits


@pytest.mark.parametrize("how", ["same", "view", "detached"])
def test_a_layer_that_is_written_to_through_an_alias_is_refused(how: str) -> None:
    network, images = Alias(how), torch.randn(2, 3, 6, 6)
    with pytest.raises(SsgcamError, match="'same' gives a tensor that the network writes to"):
        capture(network, images, ["same"])


class InPlace(nn.Module):
    """Every layer is followed by an operation that writes to its output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv2(self.conv1(images).relu_()).relu_()
        logits: Tensor = self.fc(x.square().mean((2, 3)))
        return logits


@pytest.mark.parametrize("names", [["conv1"], ["conv2"], ["conv1", "conv2"], ["conv1", "fc:in"]])
def test_in_place_operations_do_not_change_what_was_kept(names: list[str]) -> None:
    network, images = InPlace(), torch.randn(2, 3, 6, 6)
    calls = count_forwards(network.conv1)
    captured = [capture(network, images, names) for _ in range(2)]
    assert calls == [2]
    for one in captured:
        gradients = one.gradients(one.output[:, 0].sum())
        x = network.conv1(images).detach().requires_grad_()
        y = network.conv2(x.relu())
        z = y.relu().square().mean((2, 3))
        wanted = dict(zip(["conv1", "conv2", "fc:in"], [x, y, z], strict=True))
        tensors = [wanted[name] for name in names]
        expected = torch.autograd.grad(network.fc(z)[:, 0].sum(), tensors)
        for name, tensor, gradient in zip(names, tensors, expected, strict=True):
            torch.testing.assert_close(one.activations[name], tensor)
            torch.testing.assert_close(gradients[name], gradient)


@pytest.mark.parametrize(
    ("layers", "most"),
    [(["layer4"], 1.02), (["layer1", "layer2", "layer3", "layer4"], 1.90)],
    ids=["last layer", "layers 1 to 4"],
)
def test_flops_of_resnet50(layers: list[str], most: float) -> None:
    network, images = tv.resnet50().eval(), torch.rand(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    forward = counter.get_total_flops()
    calls = count_forwards(network)
    cam = SSGCAM(network, layers)
    with FlopCounterMode(display=False) as counter:
        cam(images)
    assert calls == [1]
    assert 1 < counter.get_total_flops() / forward <= most


def test_auto_layers_are_traced_once() -> None:
    network, images = Small(), torch.rand(2, 3, 32, 32)
    cam = SSGCAM(network)
    cam(images)
    calls = count_forwards(network)
    cam(images)
    assert calls == [1]
    assert cam.layers(images) == auto_layers(network, images)
