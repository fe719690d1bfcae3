"""Turns boxes and masks from the pixels of a file as stored to those of the upright image."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ssgcam.data.sample import Box
from ssgcam.errors import SsgcamError
from ssgcam.images import image_header

T = TypeVar("T", bound=np.generic)

# Stored pixels become upright by swapping the axes (EXIF orientations 5 to 8), then flipping.
_FLIP_X = (2, 3, 6, 7)
_FLIP_Y = (3, 4, 7, 8)


def upright_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Turn a box of stored pixels upright.

    Args:
        box: Inclusive corners.
        size: Width and height of the stored pixels.
        orientation: The image's EXIF orientation, 1 to 8.

    Returns:
        Inclusive corners in the upright image.
    """
    x0, y0, x1, y1 = box
    width, height = size
    if orientation > 4:
        x0, y0, x1, y1, width, height = y0, x0, y1, x1, height, width
    if orientation in _FLIP_X:
        x0, x1 = width - 1 - x1, width - 1 - x0
    if orientation in _FLIP_Y:
        y0, y1 = height - 1 - y1, height - 1 - y0
    return x0, y0, x1, y1


def upright_array(array: NDArray[T], orientation: int) -> NDArray[T]:
    """Turn an array of stored pixels, ``[H, W]``, upright by an EXIF orientation, 1 to 8."""
    array = array.T if orientation > 4 else array
    return array[:: -1 if orientation in _FLIP_Y else 1, :: -1 if orientation in _FLIP_X else 1]


def upright_size(image: Path) -> tuple[int, int]:
    """Width and height of an image file after its EXIF orientation."""
    width, height, orientation = image_header(image)
    return (height, width) if orientation > 4 else (width, height)


def annotated_pixels(
    image: Path, declared: tuple[int, int] | None, declared_by: Path, stored: bool
) -> tuple[tuple[int, int], int]:
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
        Width and height of these pixels, and the EXIF orientation that turns them upright (1: they
        are upright).

    Raises:
        SsgcamError: If the image can't be read, or is of another size than declared.
    """
    width, height, orientation = image_header(image)
    upright = (height, width) if orientation > 4 else (width, height)
    found = [((width, height), orientation), (upright, 1)]
    for size, turn in found if stored else reversed(found):
        if declared in (None, size):
            return size, turn
    raise SsgcamError(
        f"'{image}' is {upright[0]}x{upright[1]} pixels but '{declared_by}' is for an image of "
        f"{'x'.join(map(str, declared or ()))}; use the files that belong together"
    )
