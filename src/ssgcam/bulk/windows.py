"""Which windows cover a large image, and how are the values in them averaged?

A pixel's value is ``sum_w g_w v_w / sum_w g_w`` over the windows ``w`` that contain it. The weight
``g_w`` is a pyramid, the product of a tent along each axis: 1 at the window's first and last pixel and
growing by 1 for each pixel inwards. So a window counts most in its middle, where objects are whole, and
its border leaves no seam.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ssgcam.core.settings import check_range
from ssgcam.errors import SsgcamError

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Windows:
    """Square windows that cover an image.

    Attributes:
        side: In pixels of the image; where the image is smaller, a window is as wide or as high as
            the image.
        overlap: Fraction of its side that a window overlaps the next, 0 to 0.9; more where the last
            one is moved back to end at the border.
    """

    side: int
    overlap: float = 0.5

    def __post_init__(self) -> None:
        """Check every value."""
        if self.side < 8:
            raise SsgcamError(f"a window of {self.side} pixels is too small; give at least 8")
        check_range("overlap", self.overlap, 0, 0.9)

    def boxes(self, height: int, width: int) -> Iterator[Box]:
        """Left, top, right and bottom (exclusive) of each window, row by row."""
        for top in self._starts(height):
            for left in self._starts(width):
                yield left, top, min(left + self.side, width), min(top + self.side, height)

    def _starts(self, length: int) -> list[int]:
        """Evenly spaced, the first at 0, the last one's end at ``length``."""
        room = length - self.side
        if room <= 0:
            return [0]
        step = max(1, int(self.side * (1 - self.overlap)))
        count = -(-room // step)
        return [round(index * room / count) for index in range(count + 1)]


def window_weight(height: int, width: int) -> Tensor:
    """The weight of a window's pixels, ``[height, width]``.

    Example:
        >>> window_weight(1, 5)
        tensor([[1., 2., 3., 2., 1.]])
    """
    rising = [torch.arange(1.0, side + 1) for side in (height, width)]
    rows, columns = (torch.minimum(each, each.flip(0)) for each in rising)
    return rows[:, None] * columns
