"""A map in [0, 1] as colors: alone, or over its photo at the photo's own size.

The colors are matplotlib's ``inferno``: lightness grows evenly with the value, so that the order of
two values is read correctly, also in gray print and by color-blind readers. Everything is done in
8-bit pictures by Pillow, which takes 10 bytes for each pixel of the photo.
"""

from __future__ import annotations

import io
import textwrap
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from ssgcam.errors import SsgcamError
from ssgcam.preprocessing import Photo, as_photos

COLORS = "inferno"
OUTSIDE = (128, 128, 128)  # where a crop hides the photo from the network
STRENGTH = 0.85  # opacity of the largest value in an overlay
Box = tuple[int, int, int, int]


def heat_map(
    values: NDArray[Any] | Tensor, size: tuple[int, int], box: Box | None = None
) -> Image.Image:
    """A map as a picture.

    Args:
        values: ``[h, w]`` in [0, 1], array or tensor.
        size: Width and height of the picture, in pixels.
        box: Left, top, right and bottom of the part of the picture that the map covers; all of it
            if None. The rest is gray, which is no color of the scale.

    Returns:
        RGB.

    Raises:
        SsgcamError: If it is not one map.
    """
    box = box or (0, 0, *size)
    picture = Image.new("RGB", size, OUTSIDE)
    picture.paste(_colored(_levels(_one_map(values), box)), box[:2])
    return picture


def overlay(
    photo: Photo,
    values: NDArray[Any] | Tensor,
    box: Box | None = None,
    strength: float = STRENGTH,
) -> Image.Image:
    """A map over its photo: the photo in gray, so that every color is the map's.

    Opacity grows with the value, ``strength * value ** 0.75``: what the map leaves out stays plain.

    Args:
        photo: Any size; see :func:`ssgcam.preprocessing.as_photos`.
        values: ``[h, w]`` in [0, 1], array or tensor; all zeros (no evidence) give the photo
            back, in its colors.
        box: Left, top, right and bottom of the part of the photo that the map covers; all of it if
            None. The rest is darkened, and the border drawn.
        strength: Opacity of the value 1, in [0, 1].

    Returns:
        RGB, of the photo's size.

    Raises:
        SsgcamError: If it is not one photo and one map.
    """
    (photo,), values = as_photos(photo), _one_map(values)
    whole = (0, 0, *photo.size)
    box = box or whole
    picture = photo.convert("RGB")
    if np.any(values > 0):
        levels = _levels(values, box)
        opacity = 255 * strength * np.linspace(0, 1, 256) ** 0.75
        alpha = levels.point([round(value) for value in opacity])
        picture = ImageOps.grayscale(photo).convert("RGB")
        picture.paste(_colored(levels), box[:2], alpha)
    if box != whole:
        mask = Image.new("L", photo.size, 150)
        mask.paste(0, box)
        picture.paste((0, 0, 0), mask=mask)
        width = max(1, min(photo.size) // 200)
        ImageDraw.Draw(picture).rectangle(
            (box[0], box[1], box[2] - 1, box[3] - 1), outline="white", width=width
        )
    return picture


def noted(picture: Image.Image, text: str) -> Image.Image:
    """The picture with a line of text across its foot; a picture too small to read it stays plain."""
    size = max(11, min(picture.size) // 24)
    if picture.width < 12 * size or picture.height < 5 * size:
        return picture
    font = ImageFont.load_default(size)
    lines = textwrap.fill(text, int(picture.width / (0.58 * size)))
    drawing = ImageDraw.Draw(picture := picture.copy())
    left, top, _, bottom = drawing.multiline_textbbox((0, 0), lines, font=font)
    pad = size // 2
    foot = picture.height - int(bottom - top) - 2 * pad
    shade = Image.new("L", (picture.width, picture.height - foot), 190)
    picture.paste((0, 0, 0), (0, foot), mask=shade)
    drawing.multiline_text((pad - left, foot + pad - top), lines, fill="white", font=font)
    return picture


def legend() -> Image.Image:
    """The color scale with its end values, 480 x 60 pixels."""
    figure = Figure((4.8, 0.6), 100, layout="constrained")
    bar = figure.colorbar(
        ScalarMappable(cmap=COLORS), cax=figure.subplots(), orientation="horizontal", ticks=[0, 1]
    )
    bar.set_label("share of the map's largest value", labelpad=-12)
    return figure_picture(figure)


def figure_picture(figure: Figure) -> Image.Image:
    """A Matplotlib figure as a picture, RGB, in the figure's own resolution."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return Image.open(stream).convert("RGB")


def resized(values: NDArray[np.floating[Any]], size: tuple[int, int]) -> NDArray[np.float32]:
    """A map ``[h, w]`` at another width and height, bilinear (antialiased along with shrinking)."""
    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)


def _one_map(values: Tensor | NDArray[Any]) -> NDArray[Any]:
    """A map ``[h, w]`` or ``[1, h, w]``, a tensor or an array, as an array ``[h, w]``."""
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if array.ndim < 2 or array.shape[:-2] not in ((), (1,)):
        raise SsgcamError(f"a map has the shape {list(array.shape)}; give one map [h, w]")
    return array.reshape(array.shape[-2:])


def _levels(values: NDArray[np.floating[Any]], box: Box) -> Image.Image:
    """A map as 256 levels, mode L, of the size of a box."""
    size = (box[2] - box[0], box[3] - box[1])
    return Image.fromarray((resized(values, size).clip(0, 1) * 255 + 0.5).astype(np.uint8))


def _colored(levels: Image.Image) -> Image.Image:
    picture = levels.copy()
    colors: NDArray[np.uint8] = colormaps[COLORS](np.arange(256), bytes=True)
    picture.putpalette(colors[:, :3].tobytes())
    return picture.convert("RGB")
