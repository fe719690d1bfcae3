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
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

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
    @lru_cache(maxsize=4096)
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
        network: Without its wrappers. A network with gradient checkpointing runs again in the
            backward pass, and has to be in :func:`explaining` then, too.
    """

    output: Any
    activations: dict[str, Tensor]
    network: nn.Module

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
            raise _unused(names[0])
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
                raise _unused(name)
            gradients[name] = gradient
        return gradients


def _unused(name: str) -> SsgcamError:
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
    parsed = [Target.parse(spelling) for spelling in targets]
    attention = sdpa_kernel(SDPBackend.MATH) if double_backward else nullcontext()
    with explaining(network), torch.enable_grad(), attention:
        images = outside_inference_mode(images)
        copies = _COPIES.setdefault(network, set())
        while True:
            recorder = _Recorder(parsed, copies)
            try:
                output = recorder.run(network, images)
            except RuntimeError as error:
                if "Inference tensors cannot be saved" in str(error):
                    raise made_in_inference_mode() from error
                if "leaf Variable that requires grad" not in str(error):
                    raise
                edited = recorder.leaves() - copies
                if not edited:
                    raise
            else:
                edited = recorder.edited()
                if not edited:
                    return Captured(output, recorder.activations(), network)
            copies |= edited


def run_with_replacement(network: nn.Module, images: Tensor, target: str, value: Tensor) -> Any:
    """The network's output, without a graph, where a layer's tensor is replaced.

    Args:
        network: Without wrappers.
        images: The network's input, ``[1, C, H, W]``.
        target: Spelling of the layer.
        value: What the layers after it get instead, ``[B, ...]``.

    Returns:
        As of ``B`` images.
    """
    place = Target.parse(target)
    module = network.get_submodule(place.module)
    calls = 0

    def replaced(inputs: tuple[Any, ...], output: Any) -> Any:
        nonlocal calls
        calls += 1
        if place.call not in (None, calls):
            return output
        return (value, *inputs[1:]) if place.is_input else value

    with explaining(network), torch.no_grad():
        value = outside_inference_mode(value)
        handle = (
            module.register_forward_pre_hook(lambda _, inputs: replaced(inputs, None))
            if place.is_input
            else module.register_forward_hook(lambda _, inputs, output: replaced(inputs, output))
        )
        with handle:
            return network(outside_inference_mode(images))


#: Network -> the targets that it writes to after they were made (an in-place ReLU, say), learned from
#: a first pass. These alone are copied: copies of all would cost time, and memory beyond the graph's.
_COPIES: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


class _Recorder:
    """Forward hooks for one pass; ``copies`` are the targets that somebody else writes to."""

    def __init__(self, targets: Sequence[Target], copies: set[str]) -> None:
        self.targets = targets
        self.copies = copies
        self.calls: dict[tuple[str, bool], int] = {}
        self.kept: dict[str, tuple[Tensor, int]] = {}

    def run(self, network: nn.Module, images: Tensor) -> Any:
        places: dict[tuple[str, bool], list[Target]] = {}
        for target in self.targets:
            places.setdefault((target.module, target.is_input), []).append(target)
        handles: list[RemovableHandle] = []
        try:
            for place, wanted in places.items():
                handles.append(self._watch(network, place, wanted))
            output = network(images)
        finally:
            for handle in handles:
                handle.remove()
        self._check_calls()
        return output

    def activations(self) -> dict[str, Tensor]:
        return {target.spelling: self.kept[target.spelling][0] for target in self.targets}

    def edited(self) -> set[str]:
        return {name for name, (tensor, version) in self.kept.items() if tensor._version != version}

    def leaves(self) -> set[str]:
        return {name for name, (tensor, _) in self.kept.items() if tensor.is_leaf}

    def _watch(
        self, network: nn.Module, place: tuple[str, bool], wanted: list[Target]
    ) -> RemovableHandle:
        name, is_input = place
        try:
            module = network.get_submodule(name)
        except AttributeError as error:
            raise SsgcamError(f"the network has no layer '{name}'") from error

        def on_output(module: nn.Module, inputs: Any, output: Any) -> Any:
            return self._keep(place, wanted, output)

        def on_input(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
            if not inputs:
                raise SsgcamError(
                    f"layer '{name}' gets its input by keyword, so '{name}:in' can't be taken; "
                    "target the layer before it"
                )
            return (self._keep(place, wanted, inputs[0]), *inputs[1:])

        if is_input:
            return module.register_forward_pre_hook(on_input)
        return module.register_forward_hook(on_output)

    def _keep(self, place: tuple[str, bool], wanted: list[Target], value: Any) -> Any:
        call = self.calls[place] = self.calls.get(place, 0) + 1
        fitting = [target.spelling for target in wanted if target.call in (None, call)]
        if not fitting:
            return value
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = type(value).__name__ if not isinstance(value, Tensor) else str(value.dtype)
            raise SsgcamError(
                f"layer '{fitting[0]}' gives a {kind}, not one floating-point tensor; "
                "choose a layer inside or after it"
            )
        copied = not self.copies.isdisjoint(fitting)
        if copied:
            value = value.clone()
        kept = value if value.requires_grad else value.detach().requires_grad_()
        for spelling in fitting:
            self.kept[spelling] = (kept, kept._version)
        if copied:
            return kept.clone()
        return kept.view_as(kept) if kept.is_leaf else kept  # PyTorch's hooks can't watch a leaf

    def _check_calls(self) -> None:
        for target in self.targets:
            calls = self.calls.get((target.module, target.is_input), 0)
            if calls == 0:
                raise SsgcamError(
                    f"layer '{target.module}' is not called in the forward pass; choose another"
                )
            if target.call is None and calls > 1:
                suffix = ":in" if target.is_input else ""
                ways = ", ".join(
                    f"'{target.module}@{k}{suffix}'" for k in range(1, min(calls, 6) + 1)
                )
                raise SsgcamError(
                    f"layer '{target.spelling}' is called {calls} times; say which call: {ways}"
                    + (", ..." if calls > 6 else "")
                )
            if target.call is not None and target.call > calls:
                raise SsgcamError(
                    f"layer '{target.module}' is called {calls} times, so '{target.spelling}' "
                    "doesn't exist"
                )
