"""Where a network runs."""

from __future__ import annotations

import torch

from ssgcam.errors import SsgcamError


def choose_device(name: str = "auto") -> torch.device:
    """A device by name.

    Args:
        name: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, ...; ``"auto"`` is the fastest there is.

    Raises:
        SsgcamError: If this machine or this build of PyTorch has no such device.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SsgcamError(
            f"device '{name}' is not available; give cpu, cuda, mps or auto"
        ) from error
