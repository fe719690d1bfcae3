"""Does the map rank the object's pixels above the rest, and does it peak on it?

PxAP: Choe et al. 2020 (CVPR) and its reference code. Pointing game: Zhang et al. 2018, "Top-down
Neural Attention by Excitation Backprop" (IJCV).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from ssgcam.errors import SsgcamError
from ssgcam.metrics.checks import check_count, check_maps, double
from ssgcam.metrics.parts import Parts, mean_of_ratios, ratio
from ssgcam.metrics.perturbation import fit_maps
from ssgcam.metrics.preparation import SIZE, prepare_maps, resize_mask

SCORES = torch.arange(1001, dtype=torch.float64) / 1000


def score_histograms(
    maps: Tensor,
    masks: Sequence[Tensor] | Tensor,
    ignore: Sequence[Tensor] | Tensor | None = None,
    size: int = SIZE,
) -> Tensor:
    """Count each image's background and foreground pixels at each of 1001 scores.

    A pixel's score is the largest of 0, .001, ..., 1 that its prepared map value reaches. Masks are
    resized by nearest neighbor; pixels of ``ignore`` that aren't foreground are left out.

    Args:
        maps: ``[N, h, w]``, any range.
        masks: For each image ``[H, W]``, non-zero on the object. For PxAP-box, the filled boxes
            (:func:`ssgcam.metrics.fill_boxes`).
        ignore: For each image ``[H, W]``, non-zero where a pixel doesn't count.
        size: The side at which everything is compared.

    Returns:
        Parts ``[N, 2, 1001]`` int32: background, foreground.

    Raises:
        SsgcamError: If the counts differ or a mask isn't ``[H, W]``.
    """
    check_count(len(maps), "maps", masks, "masks")
    scores = double(prepare_maps(maps, size))
    device = scores.device
    foreground = torch.stack([resize_mask(mask, size).to(device) != 0 for mask in masks])
    counted = torch.ones_like(foreground)
    if ignore is not None:
        check_count(len(maps), "maps", ignore, "ignore masks")
        void = torch.stack([resize_mask(mask, size).to(device) != 0 for mask in ignore])
        counted = foreground | ~void
    score = torch.bucketize(scores, SCORES.to(device), right=True) - 1
    image = torch.arange(len(scores), device=device)[:, None, None]
    slots = ((image * 2 + foreground) * len(SCORES) + score)[counted]
    shape = (len(scores), 2, len(SCORES))
    return torch.bincount(slots, minlength=len(scores) * 2 * len(SCORES)).view(shape).int()


def pixel_curves(histogram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision, recall and IoU of ``score >= tau`` for tau = 0, .001, ..., 1.

    Args:
        histogram: ``[..., 2, 1001]``, sum or mean of :func:`score_histograms` over images.

    Returns:
        Three tensors ``[..., 1001]`` float64; NaN where the quotient is 0/0.
    """
    at_least = double(histogram).flip(-1).cumsum(-1).flip(-1)
    false_positive, true_positive = at_least.unbind(-2)
    positives = true_positive[..., :1]
    return (
        true_positive / (true_positive + false_positive),
        true_positive / positives,
        true_positive / (positives + false_positive),
    )


def pixel_average_precision(histogram: Tensor) -> Tensor:
    """PxAP = sum over falling tau of Prec(tau) * (Rec(tau) - Rec(previous tau)); 0/0 is skipped.

    Args:
        histogram: ``[..., 2, 1001]``, sum or mean of :func:`score_histograms` over images.

    Returns:
        ``[...]`` float64 in [0, 1]; NaN where there is no foreground pixel.
    """
    precision, _, _ = pixel_curves(histogram)
    foreground = double(histogram)[..., 1, :]
    gained_recall = foreground / foreground.sum(-1, keepdim=True)
    return torch.where(gained_recall == 0, 0.0, precision * gained_recall).sum(-1)


@dataclass(frozen=True, eq=False)
class PixelPrecisionResult:
    """What :class:`PixelPrecision` found, pooled over all pixels of the set."""

    name: str
    """``PxAP`` (masks) or ``PxAP-box`` (filled boxes)."""
    n: int
    value: float
    best_iou: float
    """The highest IoU at ONE threshold for the whole set."""
    best_tau: float
    precision: Tensor
    """``[1001]`` over tau = 0, .001, ..., 1, as are ``recall`` and ``iou``."""
    recall: Tensor
    iou: Tensor
    parts: Tensor
    """:func:`score_histograms` of every image, for the bootstrap."""


class PixelPrecision:
    """PxAP over any number of batches (8 kB are kept per image).

    Args:
        name: ``"PxAP"``, or ``"PxAP-box"`` where the masks are filled boxes.
        size: The side at which everything is compared.

    Raises:
        SsgcamError: If the name is another one.
    """

    def __init__(self, name: str = "PxAP", size: int = SIZE) -> None:
        if name not in ("PxAP", "PxAP-box"):
            raise SsgcamError(f"'{name}' isn't a pixel precision; pass 'PxAP' or 'PxAP-box'")
        self.name, self.size = name, size
        self._parts = Parts()

    def update(
        self,
        maps: Tensor,
        masks: Sequence[Tensor] | Tensor,
        ignore: Sequence[Tensor] | Tensor | None = None,
    ) -> None:
        """Score one batch; arguments as for :func:`score_histograms`."""
        self._parts.add(score_histograms(maps, masks, ignore, self.size))

    def compute(self) -> PixelPrecisionResult:
        """The result so far.

        Raises:
            SsgcamError: If nothing was scored or no pixel is foreground.
        """
        parts = self._parts.stacked()
        pooled = parts.sum(0, dtype=torch.int64)
        if not pooled[1].any():
            raise SsgcamError(
                f"{self.name} needs a foreground pixel; all {len(parts)} masks are empty"
            )
        precision, recall, iou = pixel_curves(pooled)
        best, at = iou.max(0)
        return PixelPrecisionResult(
            name=self.name,
            n=len(parts),
            value=float(pixel_average_precision(pooled)),
            best_iou=float(best),
            best_tau=float(SCORES[at]),
            precision=precision,
            recall=recall,
            iou=iou,
            parts=parts,
        )


def pointing_hits(
    maps: Tensor, masks: Sequence[Tensor] | Tensor, tolerance: float = 15.0
) -> Tensor:
    """Is the map's maximum within ``tolerance`` pixels of the object?

    In the original image's pixels: the map is resized to the mask
    (:func:`ssgcam.core.fusion.resize`). Where several pixels tie for the maximum the answer is the
    share of them that hit, the expectation of a fair draw; so a map that is constant, or holds a
    value that isn't finite, scores what chance scores.

    Args:
        maps: ``[N, h, w]``.
        masks: For each image ``[H, W]`` at the original size, non-zero on the object.
        tolerance: Euclidean distance in pixels (15 in the paper).

    Returns:
        ``[N]`` float64 in [0, 1].

    Raises:
        SsgcamError: If counts differ, a mask is empty, or an image's shorter side is less than five
            times the tolerance (64-pixel images: nearly everything would be a hit).
    """
    check_maps(maps)
    check_count(len(maps), "maps", masks, "masks")
    return peak_hits(maps, [near_object(mask, tolerance) for mask in masks])


def near_object(mask: Tensor, tolerance: float = 15.0) -> Tensor:
    """Where a maximum counts as a hit of the pointing game.

    Args:
        mask: ``[H, W]`` at the original size, non-zero on the object.
        tolerance: Euclidean distance in pixels.

    Returns:
        ``[H, W]`` bool on the CPU.

    Raises:
        SsgcamError: If the mask is empty, or the image too small for the tolerance.
    """
    if mask.ndim != 2 or not mask.any():
        raise SsgcamError("a mask of the pointing game is empty or not [H, W]")
    if min(mask.shape) < 5 * tolerance:
        raise SsgcamError(
            f"an image of {mask.shape[0]} x {mask.shape[1]} pixels is too small for the pointing "
            f"game at {tolerance:g} pixels; leave it out or lower the tolerance"
        )
    return torch.from_numpy(distance_transform_edt((mask == 0).cpu().numpy()) <= tolerance)


def peak_hits(maps: Tensor, near: Sequence[Tensor] | Tensor) -> Tensor:
    """The share of each map's largest pixels that lie in a region, as :func:`pointing_hits` says.

    Args:
        maps: ``[N, h, w]``.
        near: For each image ``[H, W]`` bool at the original size (:func:`near_object`).

    Returns:
        ``[N]`` float64 in [0, 1].
    """
    hits = []
    for scores, region in zip(maps.detach(), near, strict=True):
        full = fit_maps(scores[None], *region.shape)[0].cpu()
        hits.append(region[full == full.max()].double().mean())
    return torch.stack(hits)


@dataclass(frozen=True, eq=False)
class PointingResult:
    """What :class:`PointingGame` found."""

    n: int
    tolerance: float
    value: float
    """Mean over the classes that occur."""
    by_class: Tensor
    """``[classes]``; NaN for a class without images."""
    parts: Tensor
    """``[N, classes, 2]``: (hit, counted) of every image; ``mean_of_ratios`` is the statistic."""


class PointingGame:
    """The pointing game over any number of batches.

    Args:
        classes: How many classes there are; the score is the mean over those that occur.
        tolerance: Pixels of the original image.
    """

    def __init__(self, classes: int, tolerance: float = 15.0) -> None:
        self.classes, self.tolerance = classes, tolerance
        self._parts = Parts()

    def update(self, maps: Tensor, masks: Sequence[Tensor] | Tensor, labels: Tensor) -> None:
        """Score one batch: maps of the classes ``labels [N]``, masks of their objects.

        Raises:
            SsgcamError: As :func:`pointing_hits`, or if a label is outside 0..classes - 1.
        """
        check_count(len(maps), "maps", labels, "labels")
        labels = labels.cpu()
        if not bool(((labels >= 0) & (labels < self.classes)).all()):
            raise SsgcamError(f"labels {labels.tolist()} don't fit {self.classes} classes")
        hits = pointing_hits(maps, masks, self.tolerance)
        member = F.one_hot(labels.long(), self.classes).double()
        self._parts.add(torch.stack([member * hits[:, None], member], -1))

    def compute(self) -> PointingResult:
        """The result so far.

        Raises:
            SsgcamError: If nothing was scored.
        """
        parts = self._parts.stacked()
        total = parts.sum(0)
        return PointingResult(
            n=len(parts),
            tolerance=self.tolerance,
            value=float(mean_of_ratios(total)),
            by_class=ratio(total),
            parts=parts,
        )
