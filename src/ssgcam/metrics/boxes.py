"""Does the box drawn around a map's highlight fit the object? MaxBoxAcc and MaxBoxAccV2.

Definitions: Choe et al. 2020, "Evaluating Weakly Supervised Object Localization Methods Right"
(CVPR), and its reference code, which fixes what the paper leaves open: truncation to ``uint8``,
OpenCV's contours, the +1 in the IoU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ssgcam.metrics.checks import check_count
from ssgcam.metrics.parts import Parts
from ssgcam.metrics.preparation import SIZE, prepare_maps, quantize, scale_boxes

TAUS = torch.arange(1000, dtype=torch.float64) / 1000
DELTAS = (0.3, 0.5, 0.7)


def contour_boxes(score: Tensor, threshold: int) -> tuple[Tensor, int]:
    """Boxes of the contours of ``score > threshold``.

    ``cv2.findContours`` with ``RETR_TREE`` and ``CHAIN_APPROX_SIMPLE``: 8-connected, and a hole is
    a contour too. A box is (x, y, min(x + w, W - 1), min(y + h, H - 1)), one pixel past the contour
    as in the reference code.

    Args:
        score: ``[H, W]`` uint8.
        threshold: In 0..255.

    Returns:
        ``[K, 4]`` int64 in OpenCV's order and the index of the one whose ``cv2.contourArea`` is
        largest (the first of equals). Without a contour: ``[[0, 0, 0, 0]]`` and 0.
    """
    boxes, largest = _contour_boxes(score.cpu().numpy(), threshold)
    return torch.tensor(boxes), largest


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of inclusive boxes: a side is ``x1 - x0 + 1`` pixels long.

    Args:
        first: ``[M, 4]``.
        second: ``[K, 4]``.

    Returns:
        ``[M, K]`` float64 in [0, 1].
    """
    a, b = first.double()[:, None], second.double()[None]
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]) + 1
    shared = sides.clamp(min=0).prod(-1)
    area_a, area_b = ((c[..., 2:] - c[..., :2] + 1).prod(-1) for c in (a, b))
    return shared / (area_a + area_b - shared)


def best_ious(score: Tensor, truth: Tensor, taus: Tensor | None = None) -> Tensor:
    """The best IoU with any ground-truth box at every threshold.

    The mask for tau is ``score > int(tau * max(score))``. Thresholds between the same two gray
    values give the same mask, so at most 256 masks are traced for 1000 taus; nothing is
    approximated.

    Args:
        score: ``[H, W]`` uint8.
        truth: ``[K, 4]`` inclusive boxes on the same grid.
        taus: ``[T]`` float64 in [0, 1); None takes 0, .001, ..., .999.

    Returns:
        ``[2, T]`` float64: row 0 takes the box of the largest contour, row 1 the best of all.
    """
    array = score.cpu().numpy()
    taus = TAUS if taus is None else taus
    grays = torch.unique(score.cpu().flatten())
    below = torch.searchsorted(grays.long(), (taus * int(grays[-1])).long(), right=True)
    below, which = torch.unique(below, return_inverse=True)
    boxes: list[list[int]] = []
    owners: list[int] = []
    largest: list[int] = []
    for owner, count in enumerate(below.tolist()):
        found, index = _contour_boxes(array, int(grays[count - 1]) if count else 0)
        largest.append(len(boxes) + index)
        boxes += found
        owners += [owner] * len(found)
    best = box_iou(torch.tensor(boxes), truth.cpu()).amax(1)
    any_box = torch.zeros(len(below), dtype=torch.float64)
    any_box.scatter_reduce_(0, torch.tensor(owners), best, "amax")
    return torch.stack([best[largest], any_box])[:, which]


def scores_and_truth(
    maps: Tensor, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]], size: int
) -> tuple[Tensor, list[Tensor]]:
    """Maps as ``[N, size, size]`` uint8 and each image's ground truth on the same grid."""
    check_count(len(maps), "maps", boxes, "lists of boxes")
    check_count(len(maps), "maps", sizes, "image sizes")
    truth = [
        scale_boxes(b, height, width, size) for b, (height, width) in zip(boxes, sizes, strict=True)
    ]
    return quantize(prepare_maps(maps, size)).cpu(), truth


def box_hits(
    maps: Tensor, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]], size: int = SIZE
) -> Tensor:
    """For each image and threshold: is the best IoU large enough?

    Args:
        maps: ``[N, h, w]``, the map of the class whose boxes are given, any range.
        boxes: For each image ``[K, 4]``, inclusive, in the original image's pixels.
        sizes: For each image its original (height, width).
        size: The side at which everything is compared.

    Returns:
        Parts ``[N, 4, 1000]`` bool over tau = 0, .001, ..., .999. Row 0: the largest contour's box
        at IoU .5 (MaxBoxAcc). Rows 1 to 3: any contour's box at .3, .5, .7 (MaxBoxAccV2).

    Raises:
        SsgcamError: If the counts differ, or an image has no or a malformed box.
    """
    rows = []
    for score, truth in zip(*scores_and_truth(maps, boxes, sizes, size), strict=True):
        largest, any_box = best_ious(score, truth)
        rows.append(torch.stack([largest >= 0.5, *(any_box >= delta for delta in DELTAS)]))
    return torch.stack(rows)


def max_box_acc(mean_hits: Tensor) -> Tensor:
    """MaxBoxAcc = max over tau of BoxAcc(tau), ONE tau for the whole set.

    Args:
        mean_hits: ``[..., 4, 1000]``, the mean of :func:`box_hits` over images.

    Returns:
        ``[...]`` in [0, 1].
    """
    return mean_hits[..., 0, :].amax(-1)


def max_box_acc_v2(mean_hits: Tensor) -> Tensor:
    """MaxBoxAccV2 = mean over delta in {.3, .5, .7} of max over tau of BoxAccV2(tau, delta).

    Args:
        mean_hits: ``[..., 4, 1000]``, the mean of :func:`box_hits` over images.

    Returns:
        ``[...]`` in [0, 1].
    """
    return mean_hits[..., 1:, :].amax(-1).mean(-1)


@dataclass(frozen=True, eq=False)
class BoxAccuracyResult:
    """What :class:`BoxAccuracy` found; accuracies in [0, 1]; tau is a share of the maximum."""

    n: int
    max_box_acc: float
    tau: float
    max_box_acc_v2: float
    v2_by_delta: dict[float, float]
    v2_tau_by_delta: dict[float, float]
    curve: Tensor
    """BoxAcc(tau), ``[1000]``."""
    parts: Tensor
    """:func:`box_hits` of every image, for the bootstrap."""


class BoxAccuracy:
    """MaxBoxAcc and MaxBoxAccV2 over any number of batches (4 kB are kept per image)."""

    def __init__(self, size: int = SIZE) -> None:
        self.size = size
        self._parts = Parts()

    def update(
        self, maps: Tensor, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> None:
        """Score one batch; arguments as for :func:`box_hits`."""
        self._parts.add(box_hits(maps, boxes, sizes, self.size))

    def compute(self) -> BoxAccuracyResult:
        """The result so far.

        Raises:
            SsgcamError: If nothing was scored.
        """
        parts = self._parts.stacked()
        hits = parts.double().mean(0)
        best, at = hits.max(-1)
        return BoxAccuracyResult(
            n=len(parts),
            max_box_acc=float(max_box_acc(hits)),
            tau=float(TAUS[at[0]]),
            max_box_acc_v2=float(max_box_acc_v2(hits)),
            v2_by_delta=dict(zip(DELTAS, best[1:].tolist(), strict=True)),
            v2_tau_by_delta=dict(zip(DELTAS, TAUS[at[1:]].tolist(), strict=True)),
            curve=hits[0],
            parts=parts,
        )


def _contour_boxes(score: np.ndarray[Any, Any], threshold: int) -> tuple[list[list[int]], int]:
    height, width = score.shape
    mask = (score > threshold).view(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return [[0, 0, 0, 0]], 0
    boxes = []
    for x, y, w, h in map(cv2.boundingRect, contours):
        boxes.append([x, y, min(x + w, width - 1), min(y + h, height - 1)])
    return boxes, int(np.argmax([cv2.contourArea(contour) for contour in contours]))
