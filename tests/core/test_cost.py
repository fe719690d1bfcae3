"""What a call costs, counted and not timed: memory, passes, operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torchvision import models as tv

from ssgcam import CAM

VGG = [f"features.{index}" for index in (1, 3, 6, 8, 11, 13, 15, 18, 20, 22, 25, 27, 29)]
BLOCKS = [f"layer{stage}.{block}" for stage, n in enumerate((3, 4, 6, 3), 1) for block in range(n)]
MIB = 2**20


def peak_memory(call: Callable[[], Any]) -> int:
    """The most bytes that were allocated at once during a call, above the level before it."""
    call()  # what is made once only
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    level = peak = 0
    for event in profiler.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    return peak


def floor(network: nn.Module, images: Tensor, layers: list[str]) -> list[Tensor]:
    """One forward pass and one gradient with respect to the layers, nothing kept below the first."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kept.append(output if output.requires_grad else output.detach().requires_grad_())
        return kept[-1]

    handles = [network.get_submodule(name).register_forward_hook(keep) for name in layers]
    network.requires_grad_(False)
    output = network(images)
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(output.amax(1).sum(), kept)
    return [*kept, *gradients]


def test_the_peak_is_what_was_held() -> None:
    def call() -> None:
        one = torch.zeros(MIB)
        other = one + 1
        del one
        other = other + 1

    assert peak_memory(call) == pytest.approx(8 * MIB, rel=1e-3)


@pytest.mark.parametrize("method", ["ssg_cam", "layer_cam", "grad_cam", "grad_cam_plus_plus"])
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet34", ["layer4"]),
        ("resnet34", ["layer1", "layer2", "layer3", "layer4"]),
        ("resnet34", BLOCKS),
        ("vgg16", ["features.15", "features.22", "features.29"]),
        ("vgg16", VGG),
    ],
    ids=["last", "auto", "blocks", "VGG auto", "VGG ReLUs"],
)
def test_memory_above_the_floor(name: str, layers: list[str], method: str) -> None:
    """At most one copy of each target, eight of the largest and the maps."""
    torch.manual_seed(0)
    network = tv.get_model(name, weights=None, num_classes=10).eval()
    if name == "vgg16":
        network.classifier = nn.Linear(512 * 49, 10)  # its own has 120 million weights
    images = torch.randn(2, 3, 96, 96)
    sizes = [tensor.nbytes for tensor in floor(network, images, layers)]
    cam = CAM(network, layers, method)
    maps = cam(images)
    held = maps.maps.nbytes + sum(layer_map.nbytes for layer_map in maps.layer_maps.values())
    above = peak_memory(lambda: cam(images)) - peak_memory(lambda: floor(network, images, layers))
    assert above <= sum(sizes) / 2 + 8 * max(sizes) + held  # sizes holds gradients as well


def test_passes_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many layers: one forward pass and one backward pass."""
    network, images = tv.resnet34().eval(), torch.rand(1, 3, 64, 64)
    cam = CAM(network, BLOCKS)
    calls: list[str] = []
    network.register_forward_hook(lambda *_: calls.append("forward"))
    grad = torch.autograd.grad

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append("backward")
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    cam(images)
    assert calls == ["forward", "backward"]
