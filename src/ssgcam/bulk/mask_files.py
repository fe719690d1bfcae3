"""Masks as files: indexed PNG in PASCAL VOC's colors, overlays, and COCO's JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssgcam.data.masks import read_raw_mask
from ssgcam.data.rle import encode
from ssgcam.files import written_whole
from ssgcam.threads import ahead

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
    picture.putpalette(_palette())
    return picture


def mask_overlay(photo: Image.Image, labels: Labels) -> Image.Image:
    """A photo with its mask over it; the background stays as it is.

    Args:
        photo: RGB.
        labels: ``[H, W]`` of its size.

    Returns:
        RGB.
    """
    colored = indexed(labels).convert("RGB")
    opacity = Image.fromarray((labels > 0).astype(np.uint8) * round(255 * OPACITY))
    return Image.composite(colored, photo, opacity)


def write_coco(
    path: Path, masks: Iterable[tuple[str, Path]], names: Sequence[str], workers: int | None = None
) -> None:
    """Write a set of masks as one COCO file of annotations, whole or not at all.

    One annotation for each image and class with a pixel, its mask as compressed RLE. It is written
    as a stream, so that memory does not grow with the number of masks.

    Args:
        path: The file, ``.json``.
        masks: For each image its name and its mask file, with 0 for background.
        names: Of the classes; ``names[k]`` is value and category k + 1.
        workers: Threads that read masks.

    Raises:
        SsgcamError: If a mask can't be read or the file not written.
    """
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(names)]
    with (
        written_whole(path) as temporary,
        temporary.open("w", encoding="utf-8") as images,
        TemporaryFile("w+", encoding="utf-8") as annotations,
    ):
        images.write(f'{{"categories": {json.dumps(categories, ensure_ascii=False)}, "images": [')
        count = 0
        described = ahead(_describe, enumerate(masks, 1), window=64, workers=workers)
        for number, (image, found) in enumerate(described):
            images.write(("" if number == 0 else ",") + "\n" + json.dumps(image))
            for annotation in found:
                count += 1
                annotations.write("" if count == 1 else ",")
                annotations.write("\n" + json.dumps({"id": count, **annotation}))
        annotations.seek(0)
        images.write('\n], "annotations": [')
        shutil.copyfileobj(annotations, images)
        images.write("\n]}\n")


def _describe(
    numbered: tuple[int, tuple[str, Path]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    number, (name, path) = numbered
    labels = read_raw_mask(path)
    height, width = labels.shape
    image = {"id": number, "file_name": name, "width": width, "height": height}
    annotations = []
    for value in np.unique(labels[labels > 0]).tolist():
        mask = labels == value
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        left, top = int(columns[0]), int(rows[0])
        annotations.append(
            {
                "image_id": number,
                "category_id": value,
                "iscrowd": 0,
                "area": int(mask.sum()),
                "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
                "segmentation": encode(mask),
            }
        )
    return image, annotations


@cache
def _palette() -> bytes:
    return bytes(part for color in voc_colors() for part in color)
