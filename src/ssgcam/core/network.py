"""The user's network: looked at without its wrappers, lent for a pass and given back as it was."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ssgcam.errors import SsgcamError


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel``."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(network, wrappers):
            network = network.module
        elif isinstance(getattr(network, "_orig_mod", None), nn.Module):
            network = network._orig_mod  # type: ignore[assignment]
        else:
            return network


def outside_inference_mode(tensor: Tensor) -> Tensor:
    """The tensor without a graph and usable in one; call it where inference mode is off."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


class _Loan:
    """Who explains a network now: one thread, which may do so in a block inside another."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.depth = 0


class _Eager:
    """Compiled modules run as plain Python, in the whole process while any thread is in the block."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.depth = 0
        self.stance = ExitStack()

    def __enter__(self) -> None:
        with self.lock:
            if not self.depth:
                self.stance.enter_context(torch.compiler.set_stance("force_eager"))
            self.depth += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.depth -= 1
            if not self.depth:
                self.stance.close()


_EAGER = _Eager()
_LOANS: WeakKeyDictionary[nn.Module, _Loan] = WeakKeyDictionary()
_LOANS_LOCK = threading.Lock()


@contextmanager
def explaining(network: nn.Module) -> Iterator[None]:
    """Eval mode and frozen parameters for the block; every flag as it was afterwards.

    Inside, inference mode is off and compiled modules run as plain Python. The flags are set one by
    one: ``network.eval()`` may run a user's own ``train`` method. A block inside another finds them set:
    a walk through a large network takes as long as a small map. Another thread waits for the network.

    Raises:
        SsgcamError: If the network takes no hooks or has no gradients: it is TorchScript, was built in
            inference mode or is quantised.
    """
    with _LOANS_LOCK:
        loan = _LOANS.setdefault(network, _Loan())
    with ExitStack() as stack:
        stack.enter_context(loan.lock)
        stack.enter_context(torch.inference_mode(False))
        if "torch._dynamo" in sys.modules:  # only then can anything in the network be compiled
            stack.enter_context(_EAGER)
        if not loan.depth:
            _freeze(network, stack)
        loan.depth += 1
        try:
            yield
        finally:
            loan.depth -= 1


def _freeze(network: nn.Module, stack: ExitStack) -> None:
    """Eval mode and frozen parameters until the stack is left."""
    modules = _modules(network)
    each = [parameter for module in modules for parameter in module._parameters.values()]
    parameters = [parameter for parameter in each if parameter is not None]
    _check_differentiable(network, modules, parameters)
    modes = [(module, module.training) for module in modules]
    flags = [(parameter, parameter.requires_grad) for parameter in parameters]
    stack.callback(_restore, modes, flags)
    for module, training in modes:
        if training:
            module.training = False
    for parameter, requires_grad in flags:
        if requires_grad:
            parameter.requires_grad_(False)


def _modules(network: nn.Module) -> list[nn.Module]:
    """What ``network.modules()`` gives, in another order and a third of the time."""
    found: dict[nn.Module, None] = {}
    left: list[nn.Module | None] = [network]
    while left:
        module = left.pop()
        if module is not None and module not in found:
            found[module] = None
            left.extend(module._modules.values())
    return list(found)


def _check_differentiable(
    network: nn.Module, modules: Sequence[nn.Module], parameters: Sequence[nn.Parameter]
) -> None:
    if isinstance(network, torch.jit.ScriptModule):
        raise SsgcamError(
            "a TorchScript network takes no hooks; explain the Python network it was made from"
        )
    buffers = [buffer for module in modules for buffer in module._buffers.values()]
    if any(tensor is not None and tensor.is_inference() for tensor in [*parameters, *buffers]):
        raise SsgcamError(
            "the network was built inside torch.inference_mode(), so nothing can be differentiated "
            "through it; build or load it outside"
        )
    if any(not tensor.is_floating_point() for tensor in parameters):
        raise SsgcamError(
            "the network has integer (quantised) parameters, so it has no gradients; explain the "
            "floating-point network it was made from"
        )


def _restore(
    modes: Sequence[tuple[nn.Module, bool]], flags: Sequence[tuple[nn.Parameter, bool]]
) -> None:
    """Set ``training`` and ``requires_grad``; looking first is faster than setting."""
    for module, training in modes:
        if module.training != training:
            module.training = training
    for parameter, requires_grad in flags:
        if parameter.requires_grad != requires_grad:
            parameter.requires_grad_(requires_grad)
