"""Overlapping windows over a large image, and the weighted average of what was seen in them.

A pixel's value is ``sum_w g_w v_w / sum_w g_w`` over the windows ``w`` that hold it. The weight ``g_w``
is a pyramid, the product of a tent along each axis: 1 at the window's first and last pixel and growing
by 1 for each pixel inwards. So a window counts most in its middle, where an object is whole, and its
border leaves no seam. The windows lie on a grid, so the sum of the weights is a product as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ssgcam.core.settings import check_range
from ssgcam.errors import SsgcamError


@dataclass(frozen=True)
class Windows:
    """Square windows that cover an image.

    Attributes:
        side: In pixels of the image; where the image is smaller, a window is as wide or as high as
            the image.
        overlap: Share of its side that a window has in common with the next, 0 to 0.9; more where
            the last one is moved back to end at the border.
    """

    side: int
    overlap: float = 0.5

    def __post_init__(self) -> None:
        """Check every value."""
        if self.side < 8:
            raise SsgcamError(f"a window of {self.side} pixels is too small; give at least 8")
        check_range("overlap", self.overlap, 0, 0.9)

    def boxes(self, height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
        """Left, top, right and bottom (exclusive) of each window, row by row."""
        for top in self._starts(height):
            for left in self._starts(width):
                yield left, top, min(left + self.side, width), min(top + self.side, height)

    def average(self, height: int, width: int) -> Average:
        """Where the values of an image's windows are added up."""
        rows = self._weights(height)
        columns = self._weights(width)
        return Average(rows, columns, torch.zeros(height, width))

    def _starts(self, length: int) -> list[int]:
        """Evenly spaced, the first at 0, the last one's end at ``length``."""
        room = length - self.side
        if room <= 0:
            return [0]
        step = max(1, int(self.side * (1 - self.overlap)))
        count = -(-room // step)
        return [round(index * room / count) for index in range(count + 1)]

    def _weights(self, length: int) -> Tensor:
        """Sum of the tents along an axis, ``[length]``."""
        total = torch.zeros(length)
        window = tent(min(self.side, length))
        for start in self._starts(length):
            total[start : start + len(window)] += window
        return total


@dataclass(frozen=True, eq=False)
class Average:
    """The weighted average over windows, in the making.

    Attributes:
        rows: Sum of the weights along the rows, ``[H]``.
        columns: Sum of the weights along the columns, ``[W]``.
        total: Weighted sum of the values so far, ``[H, W]``.
    """

    rows: Tensor
    columns: Tensor
    total: Tensor = field(repr=False)

    def add(self, box: tuple[int, int, int, int], values: Tensor) -> None:
        """Add a window's values ``[h, w]``; a window that is not added counts as zeros."""
        left, top, right, bottom = box
        weighted = values * tent(bottom - top)[:, None] * tent(right - left)
        self.total[top:bottom, left:right] += weighted

    def finished(self) -> Tensor:
        """The average, ``[H, W]``. To be called once: the sum is divided in place."""
        return self.total.div_(self.rows[:, None]).div_(self.columns)


def tent(length: int) -> Tensor:
    """Weights along an axis: 1 at both ends, growing by 1 inwards.

    Example:
        >>> tent(5)
        tensor([1., 2., 3., 2., 1.])
    """
    rising = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(rising, rising.flip(0))
