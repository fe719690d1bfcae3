"""Unwraps a network, freezes it for one explanation and restores its state.

Not thread-safe: the flags belong to the network, so explain each network in one thread at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from ssgcam.errors import SsgcamError, first_line

IN_INFERENCE_MODE = (
    "the network was built inside torch.inference_mode(), so nothing can be differentiated through "
    "it; build or load it outside"
)


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


def placed(images: Tensor, network: nn.Module) -> Tensor:
    """Images on the device and in the number format of the network's parameters."""
    first = next(iter(network.parameters()), None)
    return images if first is None else images.to(first)


@contextmanager
def explaining(network: nn.Module) -> Iterator[None]:
    """Eval mode and frozen parameters for the block; afterwards every flag is as it was.

    Inside, inference mode is off and compiled modules run as plain Python. The flags are set one by
    one, as ``network.eval()`` may run a user's own ``train`` method. Blocks may be nested. Not
    thread-safe: use a network in one thread at a time.

    Args:
        network: Without wrappers, see :func:`unwrap`.

    Raises:
        SsgcamError: If the network takes no hooks or has no gradients: it is TorchScript, was built in
            inference mode or is quantized.
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise SsgcamError(
            "a TorchScript network takes no hooks; explain the Python network it was made from"
        )
    parameters = list(network.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if any(parameter.is_inference() for parameter in trained):  # the flag could not be restored
        raise SsgcamError(IN_INFERENCE_MODE)
    if any(not (p.is_floating_point() or p.is_complex()) for p in parameters):
        raise SsgcamError(
            "the network has integer (quantized) parameters, so it has no gradients; explain "
            "the floating-point network it was made from"
        )
    in_training = [module for module in network.modules() if module.training]
    # nothing can be compiled before torch._dynamo is loaded, which takes seconds
    compiled = "torch._dynamo" in sys.modules
    eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    with torch.inference_mode(False), eager:
        try:
            for module in in_training:
                module.training = False
            for parameter in trained:
                parameter.requires_grad = False
            yield
        finally:
            for module in in_training:
                module.training = True
            for parameter in trained:
                parameter.requires_grad = True


@contextmanager
def rephrased_if(part: str, sentence: str) -> Iterator[None]:
    """Turn a RuntimeError of PyTorch that holds this part into an SsgcamError with this sentence.

    ``{}`` in the sentence stands for PyTorch's own first line.
    """
    try:
        yield
    except RuntimeError as error:
        if part not in str(error):
            raise
        raise SsgcamError(sentence.format(first_line(error))) from error
