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
    """Eval mode, frozen parameters and attention that is fast with them until the stack is left.

    In one walk: after a pass nothing of the network's Python objects is in the processor's cache, so
    that each is looked at once, and only what changes is set.
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise SsgcamError(
            "a TorchScript network takes no hooks; explain the Python network it was made from"
        )
    in_training: list[nn.Module] = []
    trained: list[nn.Parameter] = []
    stack.callback(_restore, in_training, trained)
    seen: set[nn.Module] = set()
    has_fast_path: set[nn.Module | None] = set()
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
        if isinstance(module, nn.TransformerEncoderLayer):
            has_fast_path.add(module._modules.get("self_attn"))  # which a hook would switch off
        elif isinstance(module, nn.MultiheadAttention) and module not in has_fast_path:
            stack.callback(module.register_forward_pre_hook(_laid_out_by_token).remove)
        for parameter in module._parameters.values():
            if parameter is None:
                continue
            _check_differentiable(parameter)
            if parameter.requires_grad:
                trained.append(parameter)
                parameter.requires_grad = False
        for buffer in module._buffers.values():
            if buffer is not None and buffer.is_inference():
                raise _inference()


def _laid_out_by_token(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """The same tokens, in memory as the attention takes them: token by token, not image by image.

    It turns them, and PyTorch multiplies a turned tensor by a frozen weight image by image, which takes
    longer than this copy: see ViT-B/16 in docs/benchmarks/speed.md. The numbers are the same.
    """
    tokens = inputs[0] if inputs else None
    attends_to_itself = len(inputs) >= 3 and inputs[1] is tokens and inputs[2] is tokens
    if not (module.batch_first and attends_to_itself and isinstance(tokens, Tensor)):
        return None
    if tokens.ndim != 3 or not tokens.requires_grad:
        return None
    laid_out = tokens.transpose(0, 1).contiguous().transpose(0, 1)
    return (laid_out, laid_out, laid_out, *inputs[3:])


def _check_differentiable(parameter: nn.Parameter) -> None:
    if parameter.is_inference():
        raise _inference()
    if not parameter.is_floating_point():
        raise SsgcamError(
            "the network has integer (quantised) parameters, so it has no gradients; explain the "
            "floating-point network it was made from"
        )


def _inference() -> SsgcamError:
    return SsgcamError(
        "the network was built inside torch.inference_mode(), so nothing can be differentiated "
        "through it; build or load it outside"
    )


def _restore(in_training: Sequence[nn.Module], trained: Sequence[nn.Parameter]) -> None:
    for module in in_training:
        module.training = True
    for parameter in trained:
        parameter.requires_grad = True
