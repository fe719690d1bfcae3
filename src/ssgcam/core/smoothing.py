"""Spatial Gaussian smoothing, edge-normalized, as two small matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from ssgcam.core.numerics import full_precision


def gaussian_matrix(
    cells: int, sigma: float, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Tensor:
    """Gaussian weights between the cells of one axis; every row sums to one.

    Row ``i`` holds ``exp(-(i - j)^2 / (2 sigma^2))`` over ``j``, divided by its sum: a Gaussian that
    is renormalized where it reaches past the edge. Weights below ``eps^2`` are zero: they are below
    rounding, and denormal numbers are slow.

    Args:
        cells: Number of cells along the axis.
        sigma: Standard deviation in cells, above 0.
        dtype: Of the result.
        device: Of the result.

    Returns:
        ``[cells, cells]``.
    """
    places = torch.arange(cells, dtype=torch.float64, device="cpu")
    weights = torch.exp(-0.5 * ((places[:, None] - places[None, :]) / sigma) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    weights = torch.where(weights < torch.finfo(dtype).eps ** 2, 0, weights)
    return weights.to(dtype).to(device)


def smooth(signal: Tensor, sigma: float) -> Tensor:
    """Smooth every channel of a signal in space: ``G_h @ x @ G_w.T``.

    Args:
        signal: ``[..., h, w]``.
        sigma: Standard deviation as a fraction of the shorter side, min(h, w); 0 changes nothing.

    Returns:
        The smoothed signal, same shape. A constant stays the same constant.

    Example:
        >>> smooth(torch.ones(1, 1, 4, 6), 0.2).allclose(torch.ones(1, 1, 4, 6))
        True
    """
    height, width = signal.shape[-2:]
    cells = sigma * min(height, width)
    if cells <= 0:
        return signal
    down, across = (gaussian_matrix(n, cells, signal.dtype, signal.device) for n in (height, width))
    with full_precision(signal):
        return down @ (signal @ across.T)
