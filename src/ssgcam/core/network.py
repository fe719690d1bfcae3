"""The user's network: looked at without its wrappers, lent for a pass and given back as it was."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

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

    ``has_tokens``: whether it has layers that work on tokens, as far as is known.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.borrower: int | None = None
        self.has_tokens = False


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
    if isinstance(network, torch.jit.ScriptModule):
        raise SsgcamError(
            "a TorchScript network takes no hooks; explain the Python network it was made from"
        )
    with _LOANS_LOCK:
        loan = _LOANS.setdefault(network, _Loan())
    if loan.borrower == threading.get_ident():
        with torch.inference_mode(False):
            yield
        return
    # only with torch._dynamo loaded can anything in the network be compiled
    eager = _EAGER if "torch._dynamo" in sys.modules else nullcontext()
    with loan.lock, torch.inference_mode(False), eager:
        in_training: list[nn.Module] = []
        trained: list[nn.Parameter] = []
        loan.borrower = threading.get_ident()
        try:
            loan.has_tokens = _freeze(network, in_training, trained)
            yield
        finally:
            for module in in_training:
                module.training = True
            for parameter in trained:
                parameter.requires_grad = True
            loan.borrower = None


def forward_pass(network: nn.Module, images: Tensor) -> Any:
    """The output of a network that is lent; on a processor as ``core.products`` multiplies tokens."""
    loan = _LOANS.get(network)
    of_tokens = loan is not None and loan.has_tokens and images.device.type == "cpu"
    with TokenProducts() if of_tokens else nullcontext():
        return network(images)


def _freeze(network: nn.Module, in_training: list[nn.Module], trained: list[nn.Parameter]) -> bool:
    """Set eval mode and freeze parameters; whether any module works on tokens.

    In one walk: after a pass nothing of the network's Python objects is in the processor's cache, so
    that each is looked at once, and only what changes is set and noted in the two lists.
    """
    seen: set[nn.Module] = set()
    has_tokens = False
    left: list[nn.Module | None] = [network]
    while left:
        module = left.pop()
        if module is None or module in seen:
            continue
        seen.add(module)
        left.extend(module._modules.values())
        if module.training:
            in_training.append(module)
            module.training = False
        has_tokens = has_tokens or isinstance(module, _OF_TOKENS)
        for parameter in module._parameters.values():
            if parameter is None:
                continue
            if parameter.is_inference():
                raise _inference()
            if parameter.requires_grad:
                trained.append(parameter)
                parameter.requires_grad = False
            elif not (parameter.is_floating_point() or parameter.is_complex()):
                raise SsgcamError(
                    "the network has integer (quantised) parameters, so it has no gradients; explain "
                    "the floating-point network it was made from"
                )
        for buffer in module._buffers.values():
            if buffer is not None and buffer.is_inference():
                raise _inference()
    return has_tokens


_OF_TOKENS = (nn.MultiheadAttention, nn.LayerNorm)


def _inference() -> SsgcamError:
    return SsgcamError(
        "the network was built inside torch.inference_mode(), so nothing can be differentiated "
        "through it; build or load it outside"
    )
