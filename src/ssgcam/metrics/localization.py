"""Is the object found at one fixed threshold, and named? GT-known, Top-1 and Top-5 Loc.

The customary numbers of weakly supervised localization (Russakovsky et al. 2015, IJCV, for the
localization error; Choe et al. 2020, CVPR, for GT-known). MaxBoxAcc is the fairer one: it doesn't
hang on the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssgcam.errors import SsgcamError
from ssgcam.metrics.boxes import best_ious, scores_and_truth
from ssgcam.metrics.checks import check_count
from ssgcam.metrics.parts import Parts
from ssgcam.metrics.preparation import SIZE


def localization_hits(
    maps: Tensor,
    boxes: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    logits: Tensor,
    labels: Tensor,
    tau: float = 0.15,
    size: int = SIZE,
) -> Tensor:
    """GT-known, Top-1 and Top-5 Loc of each image at one fixed threshold.

    GT-known: the box of the largest contour above ``int(tau * max)`` of the ground-truth class's
    map has an IoU of at least .5 with one of its boxes. Top-k: and the class is among the k highest
    logits (all of them where there are fewer than k classes).

    Args:
        maps: ``[N, h, w]``, the map of the ground-truth class.
        boxes: For each image ``[K, 4]``, inclusive, in the original image's pixels.
        sizes: For each image its original (height, width).
        logits: ``[N, classes]``.
        labels: ``[N]`` int64, the ground-truth class.
        tau: The stated threshold as a share of the map's maximum.
        size: The side at which everything is compared.

    Returns:
        Parts ``[N, 3]`` bool: GT-known, Top-1, Top-5.

    Raises:
        SsgcamError: If counts differ, tau is outside [0, 1), or a box is missing or malformed.
    """
    if not 0 <= tau < 1:
        raise SsgcamError(f"tau is {tau}; pass a share of the map's maximum in [0, 1)")
    check_count(len(maps), "maps", logits, "rows of logits")
    check_count(len(maps), "maps", labels, "labels")
    at = torch.tensor([tau], dtype=torch.float64)
    known = torch.tensor(
        [
            bool(best_ious(score, truth, at)[0, 0] >= 0.5)
            for score, truth in zip(*scores_and_truth(maps, boxes, sizes, size), strict=True)
        ]
    )
    top = logits.detach().topk(min(5, logits.shape[1]), dim=1).indices
    right = (top == labels.to(top.device)[:, None]).cpu()
    return torch.stack([known, known & right[:, 0], known & right.any(1)], 1)


@dataclass(frozen=True, eq=False)
class LocalizationResult:
    """What :class:`LocalizationAccuracy` found; accuracies in [0, 1]."""

    n: int
    tau: float
    gt_known: float
    top1: float
    top5: float
    parts: Tensor
    """:func:`localization_hits` of every image, for the bootstrap."""


class LocalizationAccuracy:
    """GT-known, Top-1 and Top-5 Loc at a stated fixed threshold over any number of batches."""

    def __init__(self, tau: float = 0.15, size: int = SIZE) -> None:
        self.tau, self.size = tau, size
        self._parts = Parts()

    def update(
        self,
        maps: Tensor,
        boxes: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        logits: Tensor,
        labels: Tensor,
    ) -> None:
        """Score one batch; arguments as for :func:`localization_hits`."""
        rows = localization_hits(maps, boxes, sizes, logits, labels, self.tau, self.size)
        self._parts.add(rows)

    def compute(self) -> LocalizationResult:
        """The result so far.

        Raises:
            SsgcamError: If nothing was scored.
        """
        parts = self._parts.stacked()
        known, top1, top5 = parts.double().mean(0).tolist()
        return LocalizationResult(len(parts), self.tau, known, top1, top5, parts)
