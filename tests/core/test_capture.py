"""Capture: the activations and gradients of a full backward pass, and a network left as it was."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models as tv

from helpers.networks import Small, small_vgg, state_of
from ssgcam import CAM, SSGCAM, TargetSettings
from ssgcam.core.capture import Captured, Target, capture
from ssgcam.core.layers import auto_layers
from ssgcam.core.methods import METHODS
from ssgcam.core.network import explaining
from ssgcam.core.signals import Signal
from ssgcam.errors import SsgcamError


def full_backward(
    network: nn.Module, images: Tensor, names: Sequence[str], classes: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Activations and gradients by plain hooks and ``loss.backward()`` through the parameters too."""
    network = copy.deepcopy(network).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    modules = dict(network.named_modules())
    activations: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            activations[name] = output.detach().clone()
            output.register_hook(lambda g: gradients.__setitem__(name, g.clone()))

        return hook

    for name in names:
        modules[name].register_forward_hook(watch(name))
    logits = network(images)
    logits.gather(1, classes[:, None]).sum().backward()
    return activations, gradients, logits.detach()


def check_equals_full_backward(
    network: nn.Module, images: Tensor, names: Sequence[str]
) -> Captured:
    """Bit-equal, all targets from one forward and one backward pass; the network is untouched."""
    classes = torch.arange(len(images)) % 3
    activations, gradients, logits = full_backward(network, images, names, classes)
    before = state_of(network)
    captured = capture(network, images, names)
    found = captured.gradients(captured.output.gather(1, classes[:, None]).sum())
    assert torch.equal(captured.output, logits)
    assert list(found) == list(names)
    for name in names:
        assert torch.equal(captured.activations[name], activations[name]), name
        assert torch.equal(found[name], gradients[name]), name
        assert found[name].abs().sum() > 0
    assert state_of(network) == before
    return captured


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


def count_forwards(network: nn.Module) -> list[int]:
    calls = [0]

    def hook(*_: Any) -> None:
        calls[0] += 1

    network.register_forward_hook(hook)
    return calls


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


def test_auto_layers_are_traced_once() -> None:
    network, images = Small(), torch.rand(2, 3, 32, 32)
    cam = SSGCAM(network)
    cam(images)
    calls = count_forwards(network)
    cam(images)
    assert calls == [1]
    assert cam.layers(images) == auto_layers(network, images)
