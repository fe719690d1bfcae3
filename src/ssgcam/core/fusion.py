"""The one pipeline from layer maps to a mask; CAM, recipe, cache and evaluation all call it.

layer map -> resize to the working size -> / max per image -> ^ gamma of that layer
-> weighted mean over layers -> / max -> threshold
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ssgcam.core.settings import Fusion, check_choice
from ssgcam.core.smoothing import full_precision
from ssgcam.errors import SsgcamError

#: A map whose longer side has no more cells than this is resized by matrix products.
SMALL_SIDE = 32


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps ``[N, h, w]`` to ``[N, *size]``: bilinear, antialiased along with shrinking.

    On a CPU small maps take two matrix products, which are faster than PyTorch's own function.
    """
    height, width = maps.shape[-2:]
    if (height, width) == tuple(size):
        return maps
    if max(height, width) > SMALL_SIDE or maps.device.type != "cpu":
        return _interpolated(maps, size)
    with full_precision(maps):
        columns = maps @ resizing_matrix(width, size[1], maps.dtype).T
        return resizing_matrix(height, size[0], maps.dtype) @ columns


@lru_cache(maxsize=256)
def resizing_matrix(cells: int, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """What :func:`resize` does to one axis: ``[size, cells]``, shared between calls."""
    with torch.inference_mode(False):
        units = torch.eye(cells, dtype=torch.float64, device="cpu")
        return _interpolated(units[None], (size, cells))[0].to(dtype)


def _interpolated(maps: Tensor, size: tuple[int, int]) -> Tensor:
    shrinks = size[0] < maps.shape[-2] or size[1] < maps.shape[-1]
    return F.interpolate(
        maps[:, None], size, mode="bilinear", align_corners=False, antialias=shrinks
    )[:, 0]


def scale(maps: Tensor) -> Tensor:
    """Divide each map of ``[N, h, w]`` by its own maximum; a map without evidence stays zero."""
    return maps / _largest(maps)


def prepare(layer_map: Tensor, size: tuple[int, int], gamma: float) -> Tensor:
    """One layer's part of the pipeline, up to the fusion: ``[N, h, w]`` to ``[N, *size]`` in [0, 1]."""
    resized = resize(layer_map, size)
    return power(scale(resized) if resized is layer_map else _scale_(resized), gamma)


def _scale_(maps: Tensor) -> Tensor:
    """:func:`scale` in place: a large new tensor takes as long as all else that is done to it."""
    return maps.div_(_largest(maps))


def _largest(maps: Tensor) -> Tensor:
    return F.threshold(maps.amax((-2, -1), keepdim=True), 0, 1)


def power(scaled: Tensor, gamma: float) -> Tensor:
    """Maps in [0, 1] to the power of gamma; 1 gives the very tensor."""
    if gamma == 1:
        return scaled
    return scaled.sqrt() if gamma == 0.5 else scaled.pow(gamma)


def combine(
    layer_maps: Sequence[Tensor],
    size: tuple[int, int],
    *,
    gammas: Sequence[float],
    weights: Sequence[float] | None = None,
    fusion: Fusion = "mean",
) -> Tensor:
    """Everything of :func:`fuse` but its last step, the scaling of the fused map.

    Several views of an image (flips, input scales) are averaged between this and the scaling.
    """
    check_choice("fusion", fusion, Fusion)
    if not layer_maps:
        raise SsgcamError("no layer to fuse; choose at least one")
    weights = [1.0] * len(layer_maps) if weights is None else list(weights)
    fits = len(weights) == len(layer_maps) and min(weights) >= 0 and 0 < sum(weights) < math.inf
    if not fits:
        raise SsgcamError(
            f"weights are {weights} for {len(layer_maps)} layers; give one for each, none negative "
            "and not all zero"
        )
    if fusion == "layer_cam" and len(set(weights)) > 1:
        raise SsgcamError(
            "fusion='layer_cam' takes the largest of the layers, so weights have no place in it; leave "
            "them out or choose fusion='mean'"
        )
    total = sum(weights)
    shares = [weight / total for weight in weights]
    if fusion == "layer_cam":
        fused = layer_maps[0].new_zeros(len(layer_maps[0]), *size)
        for index, (layer_map, gamma) in enumerate(zip(layer_maps, gammas, strict=True), 1):
            part = prepare(layer_map, size, gamma)
            part = torch.tanh(2 * part) if index < len(layer_maps) else part
            fused = torch.maximum(fused, part)
        return fused
    alike: dict[tuple[int, ...], list[tuple[Tensor, float]]] = {}
    others = []
    for layer_map, gamma, share in zip(layer_maps, gammas, shares, strict=True):
        height, width = layer_map.shape[-2:]
        much_enlarged = 2 * height < size[0] and 2 * width < size[1]
        if gamma == 1 and much_enlarged and layer_map.device.type == "cpu":
            alike.setdefault((height, width), []).append((layer_map, share))
        else:
            others.append((layer_map, gamma, share))
    fused = (
        _enlarged_sum([*alike.values()], size)
        if alike
        else layer_maps[0].new_zeros(len(layer_maps[0]), *size)
    )
    for layer_map, gamma, share in others:
        if gamma == 1:
            resized = resize(layer_map, size)
            fused.addcdiv_(resized, _largest(resized), value=share)  # scaled and added
        else:
            fused.add_(prepare(layer_map, size, gamma), alpha=share)
    return fused


def _enlarged_sum(groups: Sequence[list[tuple[Tensor, float]]], size: tuple[int, int]) -> Tensor:
    """The weighted sum of maps, each scaled as if it had been resized before.

    Each group is of one resolution. Resizing is linear, so that one is enough for all maps; the largest
    value of each is found in a few rows, see :func:`extreme_rows`.
    """
    heights, columns = [], []
    with full_precision(groups[0][0][0]):
        for layers in groups:
            maps = torch.stack([layer_map for layer_map, _ in layers], 1)
            height, width = maps.shape[-2:]
            widened = maps @ resizing_matrix(width, size[1], maps.dtype).T
            largest = _largest(extreme_rows(height, size[0], maps.dtype) @ widened)
            shares = [share for _, share in layers]
            if len(set(shares)) == 1:
                columns.append(widened.div_(largest).sum(1).mul_(shares[0]))
            else:
                weights = maps.new_tensor(shares)[:, None, None]
                columns.append(widened.div_(largest).mul_(weights).sum(1))
            heights.append(height)
        rows = _resizing_matrices(tuple(heights), size[0], columns[0].dtype)
        return rows @ torch.cat(columns, 1)


@lru_cache(maxsize=256)
def _resizing_matrices(cells: tuple[int, ...], size: int, dtype: torch.dtype) -> Tensor:
    """:func:`resizing_matrix` for each number of cells, side by side."""
    with torch.inference_mode(False):
        return torch.cat([resizing_matrix(height, size, dtype) for height in cells], 1)


@lru_cache(maxsize=256)
def extreme_rows(cells: int, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The rows of :func:`resizing_matrix` in which an enlarged map can be largest.

    Between the centers of two cells it is linear along an axis, so its largest value there is in the
    first or the last of the rows: at most two rows for each cell, however large the map.
    """
    with torch.inference_mode(False):
        places = (torch.arange(size, dtype=torch.float64, device="cpu") + 0.5) * cells / size - 0.5
        below = places.clamp(0, cells - 1).floor()
        first = torch.cat([below.new_ones(1), below.diff()]) != 0
        return resizing_matrix(cells, size, dtype)[first | first.roll(-1)]


def fuse(
    layer_maps: Sequence[Tensor],
    size: tuple[int, int],
    *,
    gammas: Sequence[float],
    weights: Sequence[float] | None = None,
    fusion: Fusion = "mean",
) -> Tensor:
    """Fuse the maps of several layers.

    Args:
        layer_maps: Each ``[N, h, w]``, not negative, any resolution.
        size: Working height and width.
        gammas: A power for each layer, applied after scaling and before the fusion.
        weights: A weight for each layer; equal by default. They are divided by their sum.
        fusion: ``"mean"``, or ``"layer_cam"``: the largest of ``tanh(2 map)`` over layers, LayerCAM's
            own rule (Jiang et al. 2021, equations 8 and 9; here for every layer but the last).

    Returns:
        ``[N, *size]`` in [0, 1]; an image without evidence in any layer is all zeros.

    Raises:
        SsgcamError: If nothing is given or the weights can't be divided by their sum.
    """
    return _scale_(combine(layer_maps, size, gammas=gammas, weights=weights, fusion=fusion))


def threshold(maps: Tensor, value: float) -> Tensor:
    """Masks ``[N, h, w]``: where a map in [0, 1] reaches ``value`` and there is any evidence."""
    return maps >= value if value > 0 else maps > 0
