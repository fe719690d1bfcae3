"""Each image's numbers by their largest magnitude, so that no product or power leaves its format."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(tensor: Tensor) -> Tensor:
    """In float32 or wider, divided by the largest magnitude of each image; zeros stay zeros."""
    tensor = wide(tensor)
    return tensor / per_image(peak(tensor), tensor)


def unit_(tensor: Tensor) -> Tensor:
    """:func:`unit` in place, of a float32 or float64 tensor without a graph."""
    return tensor.div_(per_image(peak(tensor), tensor))


def wide(tensor: Tensor) -> Tensor:
    """Without a graph, in float32, or float64 where the network is."""
    tensor = tensor.detach() if tensor.requires_grad else tensor
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """``[N]`` values shaped to multiply an ``[N, ...]`` tensor."""
    return values.view(-1, *[1] * (like.ndim - 1)).to(like.dtype)


def peak(tensor: Tensor, empty: float = 1) -> Tensor:
    """The largest magnitude of each image, ``[N]``; ``empty`` where all is zero."""
    axes = tuple(range(1, tensor.ndim))
    found = torch.maximum(tensor.amax(axes), -tensor.amin(axes))  # no copy of absolute values
    return torch.where(found == 0, torch.full_like(found, empty), found)
