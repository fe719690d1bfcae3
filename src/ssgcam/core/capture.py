"""One forward pass that keeps the activations of any number of target layers, differentiably.

This is the only owner of hooks that change what a network computes (others only look on). Parameters
are frozen for the pass, so the graph starts at the first target layer: a backward pass then costs no
parameter gradients and nothing below that layer is kept in memory. The network is as it was before
the function returns or raises (see ``core.network``), and no ``.grad`` field is written.

A target is spelled ``name`` (a module's output), ``name:in`` (its first input) or ``name@k`` (its
k-th call, from 1, of a module that is called several times); ``name@k:in`` combines both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.hooks import RemovableHandle

from ssgcam.core.network import (
    explaining,
    made_in_inference_mode,
    outside_inference_mode,
    unwrap,
)
from ssgcam.errors import SsgcamError


@dataclass(frozen=True)
class Target:
    """A place in the network, parsed from its spelling."""

    spelling: str
    module: str
    call: int | None
    is_input: bool

    @classmethod
    def parse(cls, spelling: str) -> Target:
        """Parse ``name``, ``name:in``, ``name@k`` or ``name@k:in``."""
        match = re.fullmatch(r"(?P<name>.*?)(@(?P<call>[1-9]\d*))?(?P<input>:in)?", spelling)
        assert match is not None  # every part is optional
        call = match["call"]
        return cls(spelling, match["name"], int(call) if call else None, bool(match["input"]))


@dataclass(frozen=True)
class Captured:
    """What one forward pass left.

    Attributes:
        output: The network's output, with the graph back to the activations.
        activations: Target spelling -> tensor as the network made it, with the graph between them.
        disabled: The targets that the network made with gradients switched off.
        network: Without its wrappers. A network with gradient checkpointing runs again in the
            backward pass, and has to be in :func:`explaining` then, too.
    """

    output: Any
    activations: dict[str, Tensor]
    network: nn.Module
    disabled: frozenset[str] = frozenset()

    def gradients(
        self, score: Tensor, *, retain_graph: bool = False, create_graph: bool = False
    ) -> dict[str, Tensor]:
        """Differentiate a scalar with respect to every activation, in one backward pass.

        Args:
            score: A scalar, such as the sum over the batch of the class scores. In eval mode the
                images don't mix, so its gradient is each image's own.
            retain_graph: Keep the graph for another call.
            create_graph: Make the gradients differentiable themselves.

        Returns:
            Target spelling -> gradient, of the activation's shape.

        Raises:
            SsgcamError: If the score does not depend on a target.
        """
        names = list(self.activations)
        if not score.requires_grad:
            raise self._unused(names[0])
        try:
            with explaining(self.network):
                found = torch.autograd.grad(
                    score,
                    [self.activations[name] for name in names],
                    retain_graph=retain_graph or create_graph,
                    create_graph=create_graph,
                    allow_unused=True,
                )
        except RuntimeError as error:
            if "torch.utils.checkpoint" not in str(error):
                raise
            raise SsgcamError(
                "the network recomputes a target layer in the backward pass (gradient checkpointing); "
                "switch that off to explain it"
            ) from error
        gradients = {}
        for name, gradient in zip(names, found, strict=True):
            if gradient is None:
                raise self._unused(name)
            gradients[name] = gradient
        return gradients

    def _unused(self, name: str) -> SsgcamError:
        if name in self.disabled:
            return SsgcamError(
                f"the network switches gradients off where it makes layer '{name}' (torch.no_grad or "
                "inference_mode in its forward); remove that to explain it"
            )
        return SsgcamError(
            f"the score does not depend on layer '{name}' (it is in no path to the output, or the "
            "network detaches or recomputes it); choose another layer"
        )


def capture(
    network: nn.Module, images: Tensor, targets: Sequence[str], *, double_backward: bool = False
) -> Captured:
    """Run the network once and keep the activations of the targets.

    Args:
        network: Any module; compiled and data-parallel wrappers are looked through.
        images: The network's input, ``[N, C, H, W]``.
        targets: Spellings, see the top of this module. An empty sequence only runs the network.
        double_backward: Prepare for a second derivative (attention by its plain formula).

    Returns:
        The output and the activations, with a graph between them.

    Raises:
        SsgcamError: If a target doesn't exist, is not called, is called several times without a
            call number, or gives no floating-point tensor; or if the network can't be
            differentiated.
    """
    network = unwrap(network)
    kept: dict[str, tuple[Tensor, int, bool]] = {}
    attention = sdpa_kernel(SDPBackend.MATH) if double_backward else nullcontext()
    with explaining(network), torch.enable_grad(), attention, ExitStack() as handles:
        hooks = [_Hook(Target.parse(name), partial(_keep, kept, name)) for name in targets]
        for hook in hooks:
            handles.enter_context(hook.register(network))
        try:
            output = network(outside_inference_mode(images))
        except RuntimeError as error:
            if "Inference tensors cannot be saved" in str(error):
                raise made_in_inference_mode() from error
            raise
    for hook in hooks:
        hook.check_calls()
    for name, (tensor, version, _) in kept.items():
        if version_of(tensor) != version:
            raise SsgcamError(
                f"layer '{name}' gives a tensor that the network writes to through another name; "
                "target the layer after it"
            )
    disabled = frozenset(name for name, (*_, enabled) in kept.items() if not enabled)
    return Captured(output, {name: kept[name][0] for name in targets}, network, disabled)


def run_with_replacement(network: nn.Module, images: Tensor, target: str, value: Tensor) -> Any:
    """The network's output, without a graph, where a layer's tensor is replaced.

    The layers before it run for one image. A network that takes the number of images from its input,
    such as EfficientNet-Lite, fails then and runs again for ``B`` copies of the image.

    Args:
        network: Without wrappers.
        images: The network's input, ``[1, C, H, W]``.
        target: Spelling of the layer.
        value: What the layers after it get instead, ``[B, ...]``.

    Returns:
        As of ``B`` images.
    """

    def run(given: Tensor) -> Any:
        with _Hook(Target.parse(target), lambda _: value).register(network):
            return network(given)

    with explaining(network), torch.no_grad():
        value, images = outside_inference_mode(value), outside_inference_mode(images)
        try:
            return run(images)
        except RuntimeError:
            return run(images.expand(len(value), *images.shape[1:]))


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written to; PyTorch does not count that of inference tensors."""
    return 0 if tensor.is_inference() else tensor._version


def _keep(kept: dict[str, tuple[Tensor, int, bool]], name: str, value: Any) -> Tensor:
    """Note the tensor with its version and give the network one to go on with."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = type(value).__name__ if not isinstance(value, Tensor) else str(value.dtype)
        raise SsgcamError(
            f"layer '{name}' gives a {kind}, not one floating-point tensor; choose a layer inside or "
            "after it"
        )
    tensor: Tensor = value if value.requires_grad else value.detach().requires_grad_()
    kept[name] = tensor, version_of(tensor), torch.is_grad_enabled()
    return tensor.clone()  # the network may write to it: an in-place ReLU, say


class _Hook:
    """Replaces the tensor of one target by ``act`` of it and counts the calls of its module."""

    def __init__(self, target: Target, act: Callable[[Any], Any]) -> None:
        self.target = target
        self.act = act
        self.calls = 0

    def register(self, network: nn.Module) -> RemovableHandle:
        try:
            module = network.get_submodule(self.target.module)
        except AttributeError as error:
            raise SsgcamError(f"the network has no layer '{self.target.module}'") from error
        if self.target.is_input:
            return module.register_forward_pre_hook(self._on_input)
        return module.register_forward_hook(lambda module, inputs, output: self._value(output))

    def _on_input(self, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        if not inputs:
            name = self.target.module
            raise SsgcamError(
                f"layer '{name}' gets its input by keyword, so '{name}:in' can't be taken; "
                "target the layer before it"
            )
        return (self._value(inputs[0]), *inputs[1:])

    def _value(self, value: Any) -> Any:
        self.calls += 1
        return self.act(value) if self.target.call in (None, self.calls) else value

    def check_calls(self) -> None:
        target, calls = self.target, self.calls
        if calls == 0:
            raise SsgcamError(
                f"layer '{target.module}' is not called in the forward pass; choose another"
            )
        if target.call is None and calls > 1:
            suffix = ":in" if target.is_input else ""
            ways = ", ".join(f"'{target.module}@{k}{suffix}'" for k in range(1, min(calls, 6) + 1))
            raise SsgcamError(
                f"layer '{target.spelling}' is called {calls} times; say which call: {ways}"
                + (", ..." if calls > 6 else "")
            )
        if target.call is not None and target.call > calls:
            raise SsgcamError(
                f"layer '{target.module}' is called {calls} times, so '{target.spelling}' "
                "doesn't exist"
            )
