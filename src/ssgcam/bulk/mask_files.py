"""How are masks stored? Indexed PNG in PASCAL VOC's colors, overlays, and COCO's JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssgcam.data.masks import read_raw_mask
from ssgcam.data.rle import encode
from ssgcam.files import write_json

Labels = NDArray[np.uint8]
OPACITY = 0.55


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
    """A photo with its mask over it; the background stays as it is.

    Args:
        photo: RGB.
        labels: ``[H, W]`` of its size.

    Returns:
        RGB.
    """
    opacity = Image.fromarray((labels > 0).astype(np.uint8) * round(255 * OPACITY))
    return Image.composite(indexed(labels).convert("RGB"), photo, opacity)


def write_coco(path: Path, masks: Iterable[tuple[str, Path]], names: Sequence[str]) -> None:
    """Write a set of masks as one COCO file of annotations, whole or not at all.

    One annotation for each image and class with a pixel, its mask as compressed RLE.

    Args:
        path: The file, ``.json``.
        masks: For each image its name and its mask file, with 0 for background.
        names: Of the classes; ``names[k]`` is value and category k + 1.

    Raises:
        SsgcamError: If a mask can't be read or the file not written.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, file) in enumerate(masks, 1):
        labels = read_raw_mask(file)
        height, width = labels.shape
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for value in np.unique(labels[labels > 0]).tolist():
            mask = labels == value
            rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
            left, top = int(columns[0]), int(rows[0])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": value,
                    "iscrowd": 0,
                    "area": int(mask.sum()),
                    "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
                    "segmentation": encode(mask),
                }
            )
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(names)]
    write_json(path, {"categories": categories, "images": images, "annotations": annotations})
