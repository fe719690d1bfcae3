"""The user's network: looked at without its wrappers, lent for a pass and given back as it was."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ssgcam.core.pooling import pools_of, quick_pooling
from ssgcam.core.products import TokenProducts
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
    """Who explains a network now: one thread, which may do so in a block inside another.

    ``has_tokens``: whether it has layers that work on tokens; ``pools``: those that ``core.pooling`` can
    quicken. Both as they were when the network was explained for the first time.
    """

    def __init__(self, network: nn.Module) -> None:
        self.lock = threading.Lock()
        self.borrower: int | None = None
        self.has_tokens = any(isinstance(module, _OF_TOKENS) for module in network.modules())
        self.pools = pools_of(network)


_OF_TOKENS = (nn.MultiheadAttention, nn.LayerNorm)


class _Eager:
    """Compiled modules run as plain Python, in the whole process while any thread is in the block."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.depth = 0
        self.stance: AbstractContextManager[None] = nullcontext()

    def __enter__(self) -> None:
        with self.lock:
            if not self.depth:
                self.stance = torch.compiler.set_stance("force_eager")  # acts when made
            self.depth += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.depth -= 1
            if not self.depth:
                self.stance.__exit__(None, None, None)


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
            inference mode or is quantized.
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise SsgcamError(
            "a TorchScript network takes no hooks; explain the Python network it was made from"
        )
    with _LOANS_LOCK:
        loan = _LOANS.get(network)
        if loan is None:
            loan = _LOANS[network] = _Loan(network)
    if loan.borrower == threading.get_ident():
        with torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext():
            yield
        return
    # only with torch._dynamo loaded can anything in the network be compiled
    eager = _EAGER if "torch._dynamo" in sys.modules else nullcontext()
    with loan.lock, torch.inference_mode(False), eager:
        in_training: list[nn.Module] = []
        trained: list[nn.Parameter] = []
        loan.borrower = threading.get_ident()
        try:
            _freeze(network, in_training, trained)
            yield
        finally:
            for module in in_training:
                module.training = True
            for parameter in trained:
                parameter.requires_grad = True
            loan.borrower = None


def forward_pass(network: nn.Module, images: Tensor) -> Any:
    """The output of a network that is lent; on a processor with what is faster there.

    That is ``core.products`` for tokens and ``core.pooling``.
    """
    loan = _LOANS.get(network)
    if loan is None or images.device.type != "cpu":
        return network(images)
    with TokenProducts() if loan.has_tokens else nullcontext(), quick_pooling(loan.pools):
        return network(images)


def _freeze(network: nn.Module, in_training: list[nn.Module], trained: list[nn.Parameter]) -> None:
    """Set eval mode and freeze parameters.

    In one walk: after a pass nothing of the network's Python objects is in the processor's cache, so
    that each is looked at once, and only what changes is set and noted in the two lists.
    """
    found, seen = [network], {network}
    for module in found:
        if module.training:
            in_training.append(module)
            module.training = False
        for child in module._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                found.append(child)
        for parameter in module._parameters.values():
            if parameter is None:
                continue
            if parameter.requires_grad:
                if parameter.is_inference():  # it could not be given back
                    raise made_in_inference_mode()
                trained.append(parameter)
                parameter.requires_grad = False
            elif not (parameter.is_floating_point() or parameter.is_complex()):
                raise SsgcamError(
                    "the network has integer (quantized) parameters, so it has no gradients; explain "
                    "the floating-point network it was made from"
                )


def made_in_inference_mode() -> SsgcamError:
    """The sentence on a network that can't be differentiated for this reason."""
    return SsgcamError(
        "the network was built inside torch.inference_mode(), so nothing can be differentiated "
        "through it; build or load it outside"
    )
