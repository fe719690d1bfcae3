"""Does a mask's outline follow the object's? The boundary F-score.

Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?" (BMVC): precision
and recall of boundary pixels within 0.75 % of the image's diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor

from ssgcam.errors import SsgcamError
from ssgcam.metrics.checks import check_count
from ssgcam.metrics.parts import Parts, mean_of_ratios, ratio

TOLERANCE = 0.0075


def mask_boundary(mask: Tensor) -> Tensor:
    """The pixels of a mask that have a 4-neighbor outside of it.

    The image's own edge is not an outline: a mask that is cut off by it has no boundary there.

    Args:
        mask: ``[H, W]`` bool.

    Returns:
        ``[H, W]`` bool on the CPU.
    """
    inside = mask.cpu().numpy() != 0
    return torch.from_numpy(inside & ~binary_erosion(inside, border_value=1))


def boundary_f_score(
    prediction: Tensor,
    truth: Tensor,
    ignore: Tensor | None = None,
    tolerance: float = TOLERANCE,
) -> float:
    """F = 2 P R / (P + R) of two masks' boundaries.

    P is the share of predicted boundary pixels within ``tolerance * sqrt(H^2 + W^2)`` (Euclidean,
    between pixel centers) of a true one, R the share of true ones within reach of a predicted one.
    Boundary pixels under ``ignore`` aren't counted in P or R, but others may be matched to them; a
    boundary wholly under ``ignore`` (PASCAL VOC voids a ring around each object) makes no mistake.

    Args:
        prediction: ``[H, W]`` bool.
        truth: ``[H, W]`` bool.
        ignore: ``[H, W]`` bool, or None.
        tolerance: As a share of the image's diagonal.

    Returns:
        A number in [0, 1]; 0 if one boundary is empty; NaN if no boundary pixel is counted.

    Raises:
        SsgcamError: If the masks aren't ``[H, W]`` of one size or the tolerance is negative.
    """
    if prediction.ndim != 2 or prediction.shape != truth.shape:
        raise SsgcamError(
            f"masks of {list(prediction.shape)} and {list(truth.shape)} can't be compared; "
            "pass two [H, W] of one size"
        )
    if tolerance < 0:
        raise SsgcamError(f"the boundary tolerance is {tolerance}; pass a share of the diagonal")
    reach = tolerance * float(torch.tensor(prediction.shape).double().norm())
    predicted, true = mask_boundary(prediction), mask_boundary(truth)
    counted = torch.ones_like(true) if ignore is None else ignore.cpu() == 0
    if not bool(((predicted | true) & counted).any()):
        return float("nan")
    if not (predicted.any() and true.any()):
        return 0.0
    precision = _share_near(predicted & counted, true, reach)
    recall = _share_near(true & counted, predicted, reach)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@dataclass(frozen=True, eq=False)
class BoundaryResult:
    """What :class:`BoundaryF` found."""

    n: int
    tolerance: float
    value: float
    """Mean over classes of the mean over the images that show the class."""
    by_class: Tensor
    """``[classes]`` without background; NaN for a class that no image shows."""
    parts: Tensor
    """``[N, classes, 2]``: (F, counted) of every image; ``mean_of_ratios`` is the statistic."""


class BoundaryF:
    """Boundary F-score of label masks: each class but background (0) against the rest.

    Args:
        classes: Labels including background.
        ignore: The label that marks pixels that don't count, or None.
        tolerance: As a share of the image's diagonal.
    """

    def __init__(
        self, classes: int, ignore: int | None = 255, tolerance: float = TOLERANCE
    ) -> None:
        self.classes, self.ignore, self.tolerance = classes, ignore, tolerance
        self._parts = Parts()

    def update(
        self, predictions: Sequence[Tensor] | Tensor, truths: Sequence[Tensor] | Tensor
    ) -> None:
        """Score one batch: for each image two ``[H, W]`` label masks of the same size.

        Raises:
            SsgcamError: As :func:`boundary_f_score`, or if the counts differ.
        """
        check_count(len(predictions), "predictions", truths, "truths")
        for prediction, truth in zip(predictions, truths, strict=True):
            void = None if self.ignore is None else truth == self.ignore
            scores = torch.tensor(
                [
                    boundary_f_score(prediction == label, truth == label, void, self.tolerance)
                    for label in range(1, self.classes)
                ],
                dtype=torch.float64,
            )
            self._parts.add(torch.stack([scores.nan_to_num(0.0), 1.0 * ~scores.isnan()], -1)[None])

    def compute(self) -> BoundaryResult:
        """The result so far.

        Raises:
            SsgcamError: If nothing was scored.
        """
        parts = self._parts.stacked()
        total = parts.sum(0)
        value = float(mean_of_ratios(total))
        return BoundaryResult(len(parts), self.tolerance, value, ratio(total), parts)


def _share_near(pixels: Tensor, boundary: Tensor, reach: float) -> float:
    if not pixels.any():
        return 1.0
    distance = torch.from_numpy(distance_transform_edt(~boundary.numpy()))
    return float((distance[pixels] <= reach).double().mean())
