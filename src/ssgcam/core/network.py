"""The user's network: looked at without its wrappers, lent for a pass and given back as it was."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

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


@contextmanager
def explaining(network: nn.Module) -> Iterator[None]:
    """Eval mode and frozen parameters for the block; every flag as it was afterwards.

    Inside, inference mode is off and compiled modules run as plain Python. The flags are set one by
    one: ``network.eval()`` may run a user's own ``train`` method. A block inside another of the same
    thread and network finds them set: a walk through a large network takes as long as a small map.

    Raises:
        SsgcamError: If the network takes no hooks or has no gradients: it is TorchScript, was built in
            inference mode or is quantised.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        if "torch._dynamo" in sys.modules:  # only then can anything in the network be compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if network not in _LENT.networks:
            modules = _modules(network)
            each = [parameter for module in modules for parameter in module._parameters.values()]
            parameters = [parameter for parameter in each if parameter is not None]
            _check_differentiable(network, modules, parameters)
            _LENT.networks.add(network)
            stack.callback(_LENT.networks.discard, network)
            modes = [(module, module.training) for module in modules]
            flags = [(parameter, parameter.requires_grad) for parameter in parameters]
            stack.callback(_restore, modes, flags)
            for module, training in modes:
                if training:
                    module.training = False
            for parameter, requires_grad in flags:
                if requires_grad:
                    parameter.requires_grad_(False)
        yield


class _Lent(threading.local):
    """The networks that this thread is explaining."""

    def __init__(self) -> None:
        self.networks: set[nn.Module] = set()


_LENT = _Lent()


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
