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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ssgcam.core.network import (
    IN_INFERENCE_MODE,
    explaining,
    outside_inference_mode,
    rephrased_if,
    unwrap,
)
from ssgcam.errors import SsgcamError


@dataclass(frozen=True)
class Target:
    """A place in the network, parsed from its spelling."""

    module: str
    call: int | None
    is_input: bool

    @classmethod
    def parse(cls, spelling: str) -> Target:
        """Parse ``name``, ``name:in``, ``name@k`` or ``name@k:in``."""
        match = re.fullmatch(r"(?P<name>.*?)(@(?P<call>[1-9]\d*))?(?P<input>:in)?", spelling)
        assert match is not None  # every part is optional
        call = match["call"]
        return cls(match["name"], int(call) if call else None, bool(match["input"]))


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

        Call it inside :func:`ssgcam.core.network.explaining` for the captured network.

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
        if not score.requires_grad:
            raise self._unused(next(iter(self.activations)))
        with rephrased_if(
            "torch.utils.checkpoint",
            "the network recomputes a target layer in the backward pass (gradient checkpointing); "
            "switch that off to explain it",
        ):
            found = torch.autograd.grad(
                score,
                list(self.activations.values()),
                retain_graph=retain_graph or create_graph,
                create_graph=create_graph,
                allow_unused=True,
            )
        gradients = dict(zip(self.activations, found, strict=True))
        for name, gradient in gradients.items():
            if gradient is None:
                raise self._unused(name)
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

    def keep(name: str, value: Any) -> Tensor:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise SsgcamError(
                f"layer '{name}' gives a {kind}, not one floating-point tensor; choose a layer inside "
                "or after it"
            )
        tensor: Tensor = value if value.requires_grad else value.detach().requires_grad_()
        kept[name] = tensor, version_of(tensor), torch.is_grad_enabled()
        return tensor.clone()  # the network may write to it: an in-place ReLU, say

    attention = sdpa_kernel(SDPBackend.MATH) if double_backward else nullcontext()
    with explaining(network), torch.enable_grad(), attention, ExitStack() as changes:
        for name in targets:
            changes.enter_context(_changed(network, name, partial(keep, name)))
        with rephrased_if("Inference tensors cannot be saved", IN_INFERENCE_MODE):
            output = network(outside_inference_mode(images))
    for name, (tensor, version, _) in kept.items():
        if version_of(tensor) != version:
            raise SsgcamError(
                f"layer '{name}' gives a tensor that the network writes to through another name; "
                "target the layer after it"
            )
    disabled = frozenset(name for name, (*_, enabled) in kept.items() if not enabled)
    return Captured(output, {name: kept[name][0] for name in targets}, network, disabled)


def run_with_replacement(network: nn.Module, images: Tensor, target: str, value: Tensor) -> Any:
    """The network's output where a layer's tensor is replaced; call it inside ``explaining``.

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
        with _changed(network, target, lambda _: value):
            return network(given)

    try:
        return run(images)
    except RuntimeError:
        return run(images.expand(len(value), *images.shape[1:]))


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written to; PyTorch does not count that of inference tensors."""
    return 0 if tensor.is_inference() else tensor._version


@contextmanager
def _changed(network: nn.Module, spelling: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """Inside the block the tensor of one target is replaced by ``change`` of it.

    Raises:
        SsgcamError: If the target doesn't exist or is not called in the block as it is spelled.
    """
    target, calls = Target.parse(spelling), 0
    try:
        module = network.get_submodule(target.module)
    except AttributeError as error:
        raise SsgcamError(f"the network has no layer '{target.module}'") from error

    def on_value(value: Any) -> Any:
        nonlocal calls
        calls += 1
        return change(value) if target.call in (None, calls) else value

    def on_input(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        if not inputs:
            raise SsgcamError(
                f"layer '{target.module}' gets its input by keyword, so '{target.module}:in' can't be "
                "taken; target the layer before it"
            )
        return (on_value(inputs[0]), *inputs[1:])

    def on_output(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        return on_value(output)

    with (
        module.register_forward_pre_hook(on_input)
        if target.is_input
        else module.register_forward_hook(on_output)
    ):
        yield
    if calls == 0:
        raise SsgcamError(
            f"layer '{target.module}' is not called in the forward pass; choose another"
        )
    if target.call is None and calls > 1:
        suffix = ":in" if target.is_input else ""
        ways = ", ".join(f"'{target.module}@{k}{suffix}'" for k in range(1, min(calls, 6) + 1))
        raise SsgcamError(
            f"layer '{spelling}' is called {calls} times; say which call: {ways}"
            + ", ..." * (calls > 6)
        )
    if target.call is not None and target.call > calls:
        raise SsgcamError(
            f"layer '{target.module}' is called {calls} times, so '{spelling}' doesn't exist"
        )
