"""Are masks displaced from the objects? The move of all masks that makes their IoU largest.

Outlines can be displaced (a tool's pointer, a slide that was scanned again), and so can the maps of a
network with strides. The IoU alone doesn't tell a displaced mask from a wrong one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.signal import correlate
from torch import Tensor

from ssgcam.metrics.checks import check


@dataclass(frozen=True)
class MaskOffset:
    """Where masks fit best.

    Attributes:
        right: How many pixels to move all masks to the right; negative: to the left.
        down: The same downwards.
        iou: Foreground IoU there, all pixels pooled, in [0, 1].
        in_place: Foreground IoU without a move.
    """

    right: int
    down: int
    iou: float
    in_place: float


def mask_offset(masks: Tensor, truth: Tensor, reach: int) -> MaskOffset:
    """The move that makes the foreground IoU of masks largest, of all up to ``reach`` pixels.

    All masks are moved alike; what leaves the image is lost and nothing comes in. Every move is
    counted exactly: the pixels shared with the truth are a correlation of two images.

    Args:
        masks: ``[N, H, W]`` bool.
        truth: ``[N, H, W]``: 1 object, 255 ignore, anything else background.
        reach: The largest move along each axis in pixels, 0 to ``min(H, W) - 1``.

    Returns:
        The best move (of equals the shortest, which is none at all where no move finds anything) and
        the foreground IoU with and without it; NaN where neither masks nor truth hold an object.

    Raises:
        SsgcamError: If there is no image, the shapes differ or the reach does not fit the image.

    Example:
        >>> truth = torch.zeros(1, 8, 8, dtype=torch.uint8)
        >>> truth[:, 2:5, 3:6] = 1
        >>> mask_offset((truth == 1).roll(-2, 2), truth, 3)
        MaskOffset(right=2, down=0, iou=1.0, in_place=0.2)
    """
    check(
        masks.ndim == 3 and masks.shape == truth.shape,
        f"masks {list(masks.shape)} and truth {list(truth.shape)} don't fit; pass [N, H, W] of both",
    )
    check(len(masks), "masks is an empty batch; pass at least one image")
    height, width = masks.shape[1:]
    check(
        0 <= reach < min(height, width),
        f"reach is {reach} for masks of {height}x{width}; pass 0 to {min(height, width) - 1}",
    )
    middle = [slice(side - 1 - reach, side + reach) for side in (height, width)]
    hit, predicted = np.zeros((2, 2 * reach + 1, 2 * reach + 1))
    for mask, labels in zip(masks.cpu().numpy(), truth.cpu().numpy(), strict=True):
        for total, kept in ((hit, labels == 1), (predicted, labels != 255)):
            shared = correlate(kept.astype(float), mask.astype(float), method="fft")
            total += shared[*middle].round()
    steps = torch.arange(-reach, reach + 1)
    union = predicted + int((truth == 1).sum()) - hit
    scores = torch.from_numpy(hit / np.where(union > 0, union, np.nan))
    length = steps[:, None] ** 2 + steps**2
    best = length.masked_fill(scores < scores.nan_to_num().max(), int(2 * reach**2 + 1)).argmin()
    row, column = divmod(int(best), len(steps))
    return MaskOffset(
        column - reach, row - reach, float(scores[row, column]), float(scores[reach, reach])
    )
