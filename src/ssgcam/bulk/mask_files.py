"""How are masks stored? Indexed PNG in PASCAL VOC's colors, and overlays."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Labels = NDArray[np.uint8]
OPACITY = 0.55
BORDER = (255, 255, 255)


@cache
def voc_colors() -> tuple[tuple[int, int, int], ...]:
    """PASCAL VOC's 256 colors.

    The rule of its development kit: of the label's bits, from the lowest, the first, fourth and
    seventh are the highest bits of red, the second, fifth and eighth those of green, the third and
    sixth those of blue. So neighboring labels get colors far apart.

    Example:
        >>> voc_colors()[:4], voc_colors()[255]
        (((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)), (224, 224, 192))
    """
    labels = np.arange(256)
    colors = np.zeros((256, 3), dtype=int)
    for bit in range(8):
        colors[:, bit % 3] |= (labels >> bit & 1) << (7 - bit // 3)
    return tuple((int(red), int(green), int(blue)) for red, green, blue in colors)


def indexed(labels: Labels) -> Image.Image:
    """A mask ``[H, W]`` as a picture of mode P: the values are the labels, shown in VOC's colors."""
    picture = Image.fromarray(labels)
    picture.putpalette(bytes(np.array(voc_colors(), dtype=np.uint8)))
    return picture


def mask_overlay(photo: Image.Image, labels: Labels) -> Image.Image:
    """A photo with its mask over it, each object with a white border inside; the background stays.

    Args:
        photo: RGB.
        labels: ``[H, W]`` of its size.

    Returns:
        RGB.
    """
    opacity = Image.fromarray((labels > 0).astype(np.uint8) * round(255 * OPACITY))
    picture = Image.composite(indexed(labels).convert("RGB"), photo, opacity)
    width = 1 + 2 * max(1, max(labels.shape) // 400)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (width, width))
    borders = (cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, cross) > 0) & (labels > 0)
    picture.paste(BORDER, mask=Image.fromarray(borders))
    return picture
