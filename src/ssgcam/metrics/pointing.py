"""Does the map peak on the object? The pointing game.

Zhang et al. 2018, "Top-down Neural Attention by Excitation Backprop" (IJCV). The number is the mean over
classes: :func:`ssgcam.metrics.mean_of_ratios` of :func:`ssgcam.metrics.parts_by_class`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from ssgcam.metrics.checks import check, check_count, check_maps
from ssgcam.metrics.perturbation import fit_maps

TOLERANCE = 15.0


def near_object(mask: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Where a maximum counts as a hit of the pointing game.

    Args:
        mask: ``[H, W]`` at the original size, non-zero on the object.
        tolerance: Euclidean distance in pixels (15 in the paper).

    Returns:
        ``[H, W]`` bool on the CPU.

    Raises:
        SsgcamError: If the mask is empty, or the image's shorter side is less than five times the
            tolerance (64-pixel images: nearly everything would be a hit).
    """
    check(mask.ndim == 2 and mask.any(), "a mask of the pointing game is empty or not [H, W]")
    check(
        min(mask.shape) >= 5 * tolerance,
        f"an image of {mask.shape[0]} x {mask.shape[1]} pixels is too small for the pointing "
        f"game at {tolerance:g} pixels; leave it out or lower the tolerance",
    )
    return torch.from_numpy(distance_transform_edt((mask == 0).cpu().numpy()) <= tolerance)


def peak_hits(maps: Tensor, near: Sequence[Tensor] | Tensor) -> Tensor:
    """Is the map's maximum within the tolerance of the object?

    In the original image's pixels: the map is resized to the mask. Where several pixels tie for the
    maximum the answer is the share of them that hit, the expectation of a fair draw; so a map that is
    constant, or holds a value that isn't finite, scores what chance scores.

    Args:
        maps: ``[N, h, w]``.
        near: For each image ``[H, W]`` bool at the original size (:func:`near_object`).

    Returns:
        ``[N]`` float64 in [0, 1].

    Raises:
        SsgcamError: If the counts differ or ``maps`` isn't ``[N, h, w]``.
    """
    check_maps(maps)
    check_count(len(maps), "maps", near, "masks")
    hits = []
    for scores, region in zip(maps.detach(), near, strict=True):
        full = fit_maps(scores[None], *region.shape)[0].cpu()
        ties = torch.isclose(full, full.max(), rtol=1e-6, atol=0.0)  # resizing rounds
        hits.append(region[ties].double().mean())
    return torch.stack(hits)
