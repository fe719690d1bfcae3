"""Spatial Gaussian smoothing, edge-normalized, as two small matrix products."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

#: Cells of a map up to which both axes are smoothed in one product.
SMALL = 64


@lru_cache(maxsize=256)
def gaussian_matrix(
    cells: int, sigma: float, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Tensor:
    """Gaussian weights between the cells of one axis; every row sums to one.

    Row ``i`` holds ``exp(-(i - j)^2 / (2 sigma^2))`` over ``j``, divided by its sum: a Gaussian that
    is renormalized where it reaches past the edge. Weights that would make denormal numbers are zero
    (:func:`_normal`): in float32 those more than about 8 ``sigma`` away, in float64 26.

    Args:
        cells: Number of cells along the axis.
        sigma: Standard deviation in cells, above 0.
        dtype: Of the result.
        device: Of the result.

    Returns:
        ``[cells, cells]``. The tensor is shared between calls: don't write to it.
    """
    with torch.inference_mode(False):
        places = torch.arange(cells, dtype=torch.float64, device="cpu")
        weights = torch.exp(-0.5 * ((places[:, None] - places[None, :]) / sigma) ** 2)
        weights = weights / weights.sum(1, keepdim=True)
        return _normal(weights, 2, dtype).to(device)


@lru_cache(maxsize=256)
def smoothing_matrices(
    cells: int, sigma: float, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[Tensor, ...]:
    """:func:`gaussian_matrix` as a product of as few multiplications as possible.

    A Gaussian of variance ``sigma^2`` is one of variance ``sigma^2 / 2`` after another, and the first
    of the two needs to be known only on a coarse grid: with nodes ``s`` apart the product differs from
    the Gaussian by a relative ``2 exp(-(pi sigma / s)^2 / 2)`` at every cell (Poisson's summation
    formula). ``s`` and the margin beyond the edges are chosen so that this is below rounding. No entry
    is negative, so a signal without positive values stays one.

    Args:
        cells: As there.
        sigma: As there.
        dtype: As there.
        device: As there.

    Returns:
        ``[cells, nodes]`` and ``[nodes, cells]`` where that takes fewer multiplications, else
        ``[cells, cells]`` alone. Shared between calls: don't write to them.
    """
    epsilon = torch.finfo(dtype).eps
    step = sigma * math.pi / math.sqrt(2 * math.log(2 / epsilon))
    margin = sigma * math.sqrt(math.log(1 / epsilon) / 2)
    nodes = math.ceil((cells - 1 + 2 * margin) / step) + 1
    if nodes * (1 + nodes / cells) > 0.45 * cells:  # smaller products are less efficient
        return (gaussian_matrix(cells, sigma, dtype, device),)
    with torch.inference_mode(False):
        places = torch.arange(cells, dtype=torch.float64, device="cpu")
        grid = torch.arange(nodes, dtype=torch.float64, device="cpu") * step - margin
        spread = torch.exp(-(((places[:, None] - grid[None, :]) / sigma) ** 2))
        gathered = spread.T.contiguous()
        spread = spread / (spread @ gathered.sum(1))[:, None]
        return tuple(_normal(part, 1, dtype).to(device) for part in (spread, gathered))


def smooth(signal: Tensor, sigma: float) -> Tensor:
    """Smooth every channel of a signal in space: ``G_h @ x @ G_w.T``.

    Two dense products, on a CPU much faster than a separable depthwise convolution, and both along rows
    (:func:`_by_rows`): turning the maps in between costs less than a product along columns.
    Maps of at most 64 cells take one product with the Kronecker product of both matrices; wide Gaussians
    on large maps take :func:`smoothing_matrices`.

    Args:
        signal: ``[..., h, w]``.
        sigma: Standard deviation as a fraction of the shorter side, min(h, w); 0 changes nothing.

    Returns:
        The smoothed signal, same shape (its columns may be the faster axis in memory). A constant stays
        the same constant.

    Example:
        >>> smooth(torch.ones(1, 1, 4, 6), 0.2).allclose(torch.ones(1, 1, 4, 6))
        True
    """
    height, width = signal.shape[-2:]
    cells = sigma * min(height, width)
    if cells <= 0:
        return signal
    kind = signal.dtype, str(signal.device)
    small = height * width <= SMALL
    both = (_both_axes(height, width, cells, *kind),) if small else ()
    across = () if small else reversed(smoothing_matrices(width, cells, *kind))
    down = () if small else reversed(smoothing_matrices(height, cells, *kind))
    with full_precision(signal):
        if signal.ndim == 4 and signal.stride(1) == 1 and not signal.is_contiguous():
            moved = signal.permute(0, 2, 3, 1)  # channels last, as they are in memory
            for matrix in both:
                moved = (matrix @ moved.flatten(1, 2)).view(moved.shape)
            for matrix in across:
                moved = matrix @ moved
            for matrix in down:
                moved = (matrix @ moved.flatten(2)).view(len(signal), -1, width, signal.shape[1])
            return moved.permute(0, 3, 1, 2)
        for matrix in both:
            signal = _by_rows(signal.flatten(-2), matrix).view(signal.shape)
        for matrix in across:
            signal = _by_rows(signal, matrix)
        for matrix in down:
            signal = _by_rows(signal.mT, matrix).mT
        return signal


def _by_rows(signal: Tensor, matrix: Tensor) -> Tensor:
    """``signal @ matrix.T`` for ``[..., cells]`` and ``[n, cells]``.

    In float32 on an x86 processor as a 1x1 convolution with the cells as its channels: oneDNN uses
    vectors of 512 bits on every make, MKL on Intel's alone.
    """
    libraries = torch.backends.mkl, torch.backends.mkldnn
    both = all(library.is_available() for library in libraries)
    *outer, cells = signal.shape
    rows = math.prod(outer)
    if not (both and rows and signal.device.type == "cpu" and signal.dtype == torch.float32):
        return signal @ matrix.T
    images = math.gcd(rows, 16)  # from 16 on PyTorch takes oneDNN on a single thread as well
    pixels = signal.contiguous().view(images, 1, rows // images, cells).permute(0, 3, 1, 2)
    product = F.conv2d(pixels, matrix[:, :, None, None])
    return product.permute(0, 2, 3, 1).reshape(*outer, len(matrix))


def _normal(weights: Tensor, products: int, dtype: torch.dtype) -> Tensor:
    """In this number format, without weights so small that they make denormal numbers.

    A processor takes a hundred times as long for these. ``products`` such weights after one another
    leave a normal number of whatever is not below rounding beside the largest of a signal.
    """
    info = torch.finfo(dtype)
    least = min(info.tiny / info.eps, info.eps**4) ** (1 / products)
    return torch.where(weights < least, 0, weights).to(dtype)


@lru_cache(maxsize=256)
def _both_axes(height: int, width: int, sigma: float, dtype: torch.dtype, device: str) -> Tensor:
    rows = gaussian_matrix(height, sigma, dtype, device)
    return torch.kron(rows, gaussian_matrix(width, sigma, dtype, device))


def full_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """Matrix products keep the number format they are given, also inside the user's autocast."""
    kind = tensor.device.type
    if not torch.is_autocast_enabled(kind):
        return nullcontext()  # the other takes as long as a small map
    return torch.autocast(kind, enabled=False)
