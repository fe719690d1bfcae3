"""The one pipeline from layer maps to a mask; CAM, recipe, cache and evaluation all call it.

layer map -> resize to the working size -> / max per image -> ^ gamma of that layer
-> weighted mean over layers -> / max -> threshold
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ssgcam.core.settings import Fusion, check_choice
from ssgcam.errors import SsgcamError


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``[N, h, w]`` or ``[N, C, h, w]`` to ``size``: bilinear, antialiased with shrinking."""
    if maps.shape[-2:] == tuple(size):
        return maps
    shrinks = size[0] < maps.shape[-2] or size[1] < maps.shape[-1]
    planes = maps if maps.ndim == 4 else maps[:, None]
    resized = F.interpolate(planes, size, mode="bilinear", align_corners=False, antialias=shrinks)
    return resized if maps.ndim == 4 else resized[:, 0]


def scale(maps: Tensor) -> Tensor:
    """Divide each map of ``[N, h, w]`` by its own maximum; a map without evidence stays zero."""
    largest = maps.amax((-2, -1), keepdim=True)
    return maps / torch.where(largest > 0, largest, 1)


def prepare(layer_map: Tensor, size: tuple[int, int], gamma: float) -> Tensor:
    """One layer's part of the pipeline, up to the fusion: ``[N, h, w]`` to ``[N, *size]`` in [0, 1]."""
    return scale(resize(layer_map, size)) ** gamma


def fuse(
    layer_maps: Sequence[Tensor],
    size: tuple[int, int],
    *,
    gammas: Sequence[float],
    weights: Sequence[float] | None = None,
    fusion: Fusion = "mean",
    scaled: bool = True,
) -> Tensor:
    """Fuse the maps of several layers.

    Args:
        layer_maps: Each ``[N, h, w]``, not negative, any resolution.
        size: Working height and width.
        gammas: A power for each layer, applied after scaling and before the fusion.
        weights: A weight for each layer; equal by default. They are divided by their sum.
        fusion: ``"mean"``, or ``"layer_cam"``: the largest of ``tanh(2 map)`` over layers, LayerCAM's
            own rule (Jiang et al. 2021, equations 8 and 9; here for every layer but the last), or
            ``"product"``, RefineCAM's rule (Domeniconi et al. 2026, arXiv 2605.14641).
        scaled: Divide the fused map by its maximum. Views of an image (flips, input scales) are
            averaged before this step.

    Returns:
        ``[N, *size]`` in [0, 1]; an image without evidence in any layer is all zeros.

    Raises:
        SsgcamError: If nothing is given or the weights can't be divided by their sum.
    """
    check_choice("fusion", fusion, Fusion)
    if not layer_maps:
        raise SsgcamError("no layer to fuse; choose at least one")
    weights = [1.0] * len(layer_maps) if weights is None else list(weights)
    fits = len(weights) == len(layer_maps) and min(weights) >= 0 and 0 < sum(weights) < math.inf
    if not fits:
        raise SsgcamError(
            f"layer weights are {weights} for {len(layer_maps)} layers; give one for each, none "
            "negative and not all zero"
        )
    if fusion != "mean" and len(set(weights)) > 1:
        raise SsgcamError(
            f"fusion='{fusion}' takes no layer weights; leave them out or choose fusion='mean'"
        )
    prepared = [prepare(each, size, g) for each, g in zip(layer_maps, gammas, strict=True)]
    if fusion == "mean":
        terms = [each * (w / sum(weights)) for each, w in zip(prepared, weights, strict=True)]
        fused = torch.stack(terms).sum(0)
    elif fusion == "product":
        fused = torch.stack(prepared).prod(0)
    else:
        fused = torch.stack([*(torch.tanh(2 * each) for each in prepared[:-1]), prepared[-1]])
        fused = fused.amax(0)
    return scale(fused) if scaled else fused


def threshold(maps: Tensor, value: float) -> Tensor:
    """Masks ``[N, h, w]``: where a map in [0, 1] reaches ``value`` and there is any evidence."""
    return maps >= value if value > 0 else maps > 0
