"""How well does a box around a map's highest pixels fit the object's box?

Geometry of boxes as in Choe et al. 2020, "Evaluating Weakly Supervised Object Localization Methods
Right" (CVPR), and its reference code. Boxes are ``(x0, y0, x1, y1)`` in pixels, INCLUSIVE on all sides.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision import ops

from ssgcam.metrics.checks import check

#: The side at which maps, masks and boxes are compared.
SIZE = 224
TAUS = torch.arange(1000, dtype=torch.float64) / 1000


def scale_boxes(boxes: Tensor, height: int, width: int, size: int = SIZE) -> Tensor:
    """Ground-truth corners of an image squashed to ``size`` x ``size``: ``int(x * size / width)``.

    Args:
        boxes: ``[K, 4]`` inclusive corners in the original image's pixels.
        height: The original image's height.
        width: The original image's width.
        size: Side of the squashed image.

    Returns:
        ``[K, 4]`` int64.

    Raises:
        SsgcamError: If there is no box, a side is not positive or a corner is out of order.
    """
    _check_boxes(boxes)
    check(
        height > 0 and width > 0,
        f"an image of {height} x {width} pixels has no area; pass (height, width)",
    )
    sides = torch.tensor([width, height, width, height], dtype=torch.float64)
    return (boxes.detach().cpu().double() * size / sides).long()


def fill_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """The mask of all pixels inside any of the boxes.

    Args:
        boxes: ``[K, 4]`` inclusive corners; what lies past the image's edge is left out.
        height: The mask's height.
        width: The mask's width.

    Returns:
        ``[height, width]`` bool on the boxes' device.

    Raises:
        SsgcamError: If there is no box or a corner is out of order.
    """
    _check_boxes(boxes)
    mask = torch.zeros(height, width, dtype=torch.bool, device=boxes.device)
    for x0, y0, x1, y1 in boxes.long().clamp(min=0).tolist():
        mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of inclusive boxes: a side is ``x1 - x0 + 1`` pixels long.

    Args:
        first: ``[M, 4]``.
        second: ``[K, 4]``.

    Returns:
        ``[M, K]`` float64 in [0, 1].
    """
    past = torch.tensor([0, 0, 1, 1], dtype=torch.float64, device=first.device)
    ious: Tensor = ops.box_iou(first + past, second + past)
    return ious


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
    height, width = score.shape
    mask = (score.cpu().numpy() > threshold).view(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return torch.zeros(1, 4, dtype=torch.int64), 0
    boxes = [
        [x, y, min(x + w, width - 1), min(y + h, height - 1)]
        for x, y, w, h in map(cv2.boundingRect, contours)
    ]
    return torch.tensor(boxes), int(np.argmax([cv2.contourArea(contour) for contour in contours]))


def best_ious(score: Tensor, truth: Tensor) -> Tensor:
    """The best IoU with any ground-truth box at every threshold tau = 0, .001, ..., .999.

    The mask for tau is ``score > int(tau * max(score))``; taus with the same integer share a mask.

    Args:
        score: ``[H, W]`` uint8.
        truth: ``[K, 4]`` inclusive boxes on the same grid.

    Returns:
        ``[2, 1000]`` float64: row 0 takes the box of the largest contour, row 1 the best of all.
    """
    limits = (TAUS * int(score.max())).long()
    limits, which = torch.unique(limits, return_inverse=True)
    found = [contour_boxes(score, limit) for limit in limits.tolist()]
    ious = box_iou(torch.cat([boxes for boxes, _ in found]), truth.cpu()).amax(1)
    of_limits = torch.split(ious, [len(boxes) for boxes, _ in found])
    columns = [
        torch.stack([own[largest], own.max()])
        for own, (_, largest) in zip(of_limits, found, strict=True)
    ]
    return torch.stack(columns, 1)[:, which]


def _check_boxes(boxes: Tensor) -> None:
    check(
        boxes.ndim == 2 and boxes.shape[1] == 4 and len(boxes),
        f"ground-truth boxes have shape {list(boxes.shape)}; pass [K, 4] with at least one box",
    )
    check(
        (boxes[:, :2] <= boxes[:, 2:]).all(),
        f"a box in {boxes.tolist()} ends before it starts; pass (x0, y0, x1, y1), inclusive",
    )
