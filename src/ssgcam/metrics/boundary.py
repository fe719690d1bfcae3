"""Does a mask's outline follow the object's? The boundary F-score.

Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?" (BMVC): precision
and recall of boundary pixels within 0.75 % of the image's diagonal.
"""

from __future__ import annotations

import math

import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor

from ssgcam.metrics.checks import check

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
    check(
        prediction.ndim == 2 and prediction.shape == truth.shape,
        f"masks of {list(prediction.shape)} and {list(truth.shape)} can't be compared; "
        "pass two [H, W] of one size",
    )
    check(tolerance >= 0, f"the boundary tolerance is {tolerance}; pass a share of the diagonal")
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


def boundary_parts(
    prediction: Tensor,
    truth: Tensor,
    classes: int,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """Boundary F-score of label masks: each class but background (0) against the rest.

    Args:
        prediction: ``[H, W]`` labels of one image.
        truth: ``[H, W]`` labels; 255 marks pixels that don't count.
        classes: Labels including background.
        tolerance: As a share of the image's diagonal.

    Returns:
        Parts ``[classes - 1, 2]`` float64: (F, 1), or (0, 0) where no boundary pixel of the class is
        counted. :func:`ssgcam.metrics.mean_of_ratios` of their mean is the mean over classes of the
        mean over the images that show the class.

    Raises:
        SsgcamError: As :func:`boundary_f_score`.
    """
    parts = torch.zeros(classes - 1, 2, dtype=torch.float64)
    occurring = {*torch.stack([prediction, truth]).flatten().tolist()} - {0, 255}
    for label in occurring:
        score = boundary_f_score(prediction == label, truth == label, truth == 255, tolerance)
        if not math.isnan(score):
            parts[label - 1] = torch.tensor([score, 1.0])
    return parts


def _share_near(pixels: Tensor, boundary: Tensor, reach: float) -> float:
    if not pixels.any():
        return 1.0
    distance = torch.from_numpy(distance_transform_edt(~boundary.numpy()))
    return float((distance[pixels] <= reach).double().mean())
