"""Gradients by PyTorch's own backward pass, and a counter of forward passes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch._dynamo.testing
from torch import Tensor, nn

from helpers.networks import state_of
from ssgcam.core.capture import Captured, capture


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


def count_forwards(network: nn.Module) -> list[int]:
    calls = [0]

    def hook(*_: Any) -> None:
        calls[0] += 1

    network.register_forward_hook(hook)
    return calls
