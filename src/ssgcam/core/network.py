"""The user's network: looked at without its wrappers, lent for a pass and given back as it was."""

from __future__ import annotations

import sys
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


def check_differentiable(network: nn.Module) -> None:
    """Refuse a network that takes no hooks or has no gradients.

    Raises:
        SsgcamError: If it is TorchScript, was built in inference mode or is quantised.
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise SsgcamError(
            "a TorchScript network takes no hooks; explain the Python network it was made from"
        )
    modules = list(network.modules())
    parameters = _parameters(modules)
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


def outside_inference_mode(tensor: Tensor) -> Tensor:
    """The tensor without a graph and usable in one; call it where inference mode is off."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


@contextmanager
def explaining(network: nn.Module) -> Iterator[None]:
    """Eval mode and frozen parameters for the block; every flag as it was afterwards.

    Inside, inference mode is off and compiled modules run as plain Python. The flags are set one by
    one: ``network.eval()`` may run a user's own ``train`` method.
    """
    modules = list(network.modules())
    modes = [(module, module.training) for module in modules]
    frozen = [(parameter, parameter.requires_grad) for parameter in _parameters(modules)]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        if "torch._dynamo" in sys.modules:  # only then can anything in the network be compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(_set, modes, frozen)
        _set([(module, False) for module in modules], [(each, False) for each, _ in frozen])
        yield


def _set(
    modes: Sequence[tuple[nn.Module, bool]], frozen: Sequence[tuple[nn.Parameter, bool]]
) -> None:
    """Set ``training`` and ``requires_grad``; looking first is faster than setting."""
    for module, mode in modes:
        if module.training != mode:
            module.training = mode
    for parameter, flag in frozen:
        if parameter.requires_grad != flag:
            parameter.requires_grad_(flag)


def _parameters(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """Their own parameters; asking the network itself would walk through it once more."""
    return [each for module in modules for each in module._parameters.values() if each is not None]
