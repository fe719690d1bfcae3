"""Numbers scaled per image, so that no product or power leaves its number format."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """Without a graph, in float32, or float64 where the network is."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """``[N]`` values shaped to multiply an ``[N, ...]`` tensor."""
    return values.view(-1, *[1] * (like.ndim - 1)).to(like.dtype)


def peak(tensor: Tensor) -> Tensor:
    """The largest magnitude of each image, ``[N, 1, ...]``; 1 where all values are zero."""
    largest = tensor.abs().amax(tuple(range(1, tensor.ndim)), keepdim=True)
    return torch.where(largest == 0, 1, largest)


def unit(tensor: Tensor) -> Tensor:
    """In float32 or wider, divided by the largest magnitude of each image; zeros stay zeros."""
    return wide(tensor) / peak(wide(tensor))


def full_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """Matrix products keep the tensor's number format, also inside the user's autocast."""
    return torch.autocast(tensor.device.type, enabled=False)
