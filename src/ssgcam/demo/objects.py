"""The demo's photos, which are in the scikit-image wheel, and the objects outlined in them by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssgcam.errors import require
from ssgcam.images import read_image

Polygon = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Outlined:
    """An object in a photo.

    Attributes:
        photo: File name in the data folder of scikit-image.
        index: The ImageNet class that names it, or comes nearest.
        name: What it is.
        note: What to know about the outline or the class.
        polygons: Its outline: x and y in pixels from the photo's upper left corner.
    """

    photo: str
    index: int
    name: str
    note: str
    polygons: tuple[Polygon, ...]

    @cached_property
    def image(self) -> Image.Image:
        """The photo, RGB."""
        return read_image(Path(require("skimage", "demo").data_dir) / self.photo)

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """``[H, W]``: whether the center of each pixel of the photo lies inside the outline."""
        draw = require("skimage.draw", "demo")
        shape = (self.image.height, self.image.width)
        inside = np.zeros(shape, bool)
        for polygon in self.polygons:
            rows_and_columns = (
                np.array(polygon)[:, ::-1] - 0.5
            )  # a pixel's center is a whole number
            inside |= draw.polygon2mask(shape, rows_and_columns)
        return inside


def outlined_objects() -> list[Outlined]:
    """The objects of ``outlines.json``."""
    text = resources.files("ssgcam.demo").joinpath("outlines.json").read_text("utf-8")
    return [
        Outlined(
            entry["photo"],
            entry["class"],
            entry["object"],
            entry["note"],
            tuple(tuple((x, y) for x, y in polygon) for polygon in entry["polygons"]),
        )
        for entry in json.loads(text)
    ]
