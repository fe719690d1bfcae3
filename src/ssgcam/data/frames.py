"""Which pixels an annotation speaks of: those of the file as stored, or of the upright image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ssgcam.data.sample import Box
from ssgcam.errors import SsgcamError
from ssgcam.images import image_header

T = TypeVar("T", bound=np.generic)

# EXIF orientation -> how stored pixels become upright: swap the axes, then flip x, then flip y.
_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


@dataclass(frozen=True)
class Frame:
    """The pixels that an image's annotation counts, and how they lie in the upright image.

    Attributes:
        size: Width and height in the annotation's pixels.
        orientation: The EXIF orientation that turns them upright, 1 to 8 (1: they are upright).
    """

    size: tuple[int, int]
    orientation: int = 1

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the image as `ssgcam.images.read_image` gives it."""
        width, height = self.size
        return (height, width) if _TURNS[self.orientation][0] else (width, height)

    def box(self, box: Box) -> Box:
        """Turn a box (inclusive corners) upright."""
        x0, y0, x1, y1 = box
        swap, flip_x, flip_y = _TURNS[self.orientation]
        width, height = self.upright_size
        if swap:
            x0, y0, x1, y1 = y0, x0, y1, x1
        if flip_x:
            x0, x1 = width - 1 - x1, width - 1 - x0
        if flip_y:
            y0, y1 = height - 1 - y1, height - 1 - y0
        return x0, y0, x1, y1


def turned(array: NDArray[T], orientation: int) -> NDArray[T]:
    """Turn an array of stored pixels, ``[H, W]``, upright by an EXIF orientation, 1 to 8."""
    swap, flip_x, flip_y = _TURNS[orientation]
    array = array.T if swap else array
    return array[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def image_frame(
    image: Path,
    declared: tuple[int, int] | None = None,
    declared_by: Path | None = None,
    stored: bool = False,
) -> Frame:
    """Find out which pixels of an image its annotation counts.

    The size that the annotation declares decides. Where it does not (none declared, a turn by 180
    degrees, a square), `stored` does: public sets were annotated on the pixels as stored, while
    today's tools show images upright.

    Args:
        image: The image file.
        declared: Width and height that the annotation declares, if it does.
        declared_by: The file that declares it, for the message.
        stored: Whether to take the pixels as stored where the size does not decide.

    Returns:
        The frame.

    Raises:
        SsgcamError: If the image can't be read, or is of another size than declared.
    """
    width, height, orientation = image_header(image)
    as_stored = Frame((width, height), orientation)
    upright = Frame(as_stored.upright_size)
    likely, other = (as_stored, upright) if stored else (upright, as_stored)
    if declared is None or declared == likely.size:
        return likely
    if declared == other.size:
        return other
    raise SsgcamError(
        f"'{image}' is {upright.size[0]}x{upright.size[1]} pixels but '{declared_by}' is for an "
        f"image of {declared[0]}x{declared[1]}; use the files that belong together"
    )
