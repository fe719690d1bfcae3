"""Readers of data sets: `read_samples` recognizes a layout and returns a `SampleSet`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssgcam.data import boxes, coco, cub, ilsvrc, pairs, voc, wsol
from ssgcam.data.boxes import read_boxes
from ssgcam.data.classes import match_classes
from ssgcam.data.coco import read_coco
from ssgcam.data.collect import check_folder
from ssgcam.data.cub import read_cub
from ssgcam.data.folders import class_folders, read_class_folders, read_images
from ssgcam.data.ilsvrc import read_ilsvrc
from ssgcam.data.masks import with_box_masks
from ssgcam.data.pairs import read_pairs
from ssgcam.data.sample import IGNORE, Box, Mask, MaskSource, Sample, SampleSet
from ssgcam.data.voc import read_voc
from ssgcam.data.wsol import read_wsol
from ssgcam.errors import SsgcamError
from ssgcam.images import images_below

__all__ = [
    "IGNORE",
    "READERS",
    "Box",
    "Mask",
    "MaskSource",
    "Sample",
    "SampleSet",
    "match_classes",
    "read_boxes",
    "read_class_folders",
    "read_coco",
    "read_cub",
    "read_ilsvrc",
    "read_images",
    "read_pairs",
    "read_samples",
    "read_voc",
    "read_wsol",
    "with_box_masks",
]

#: Kind -> reader.
READERS: dict[str, Callable[..., SampleSet]] = {
    "voc": read_voc,
    "coco": read_coco,
    "cub": read_cub,
    "ilsvrc": read_ilsvrc,
    "wsol": read_wsol,
    "pairs": read_pairs,
    "boxes": read_boxes,
    "classes": read_class_folders,
    "images": read_images,
}
_LAYOUTS = (
    *(voc.LAYOUT, coco.LAYOUT, cub.LAYOUT, ilsvrc.LAYOUT, wsol.LAYOUT),
    *(pairs.LAYOUT, *boxes.LAYOUTS),
)


def read_samples(root: str | Path, kind: str = "auto", **options: Any) -> SampleSet:
    """Read a data set.

    Args:
        root: Its folder.
        kind: A key of `READERS`, or ``"auto"``: told by the files in the folder. Where no
            published layout fits, two or more subfolders with images are classes, and anything
            else with images is a set of images without labels.
        **options: Options of the reader, such as ``split="val"``.

    Returns:
        The set.

    Raises:
        SsgcamError: If the layout is not recognized, an option is unknown, or the data are wrong.
    """
    root = Path(root).expanduser()
    check_folder(root)
    if kind == "auto":
        kind = _recognize(root)
    if kind not in READERS:
        raise SsgcamError(f"data set kind '{kind}' is unknown; use one of: {', '.join(READERS)}")
    known = list(inspect.signature(READERS[kind]).parameters)[1:]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise SsgcamError(
            f"a '{kind}' set has no option '{unknown[0]}'; it has: {', '.join(known) or 'none'}"
        )
    return READERS[kind](root, **options)


def _recognize(root: Path) -> str:
    for layout in _LAYOUTS:
        if layout.find(root):
            return layout.kind
    for layout in _LAYOUTS:
        if any(root.glob(layout.signs[0])):
            layout.locate(root)  # says what is missing beside it
    if len(class_folders(root)) > 1:
        return "classes"
    if images_below(root):
        return "images"
    expected = "; ".join(f"{layout.kind}: {', '.join(layout.signs[:2])}" for layout in _LAYOUTS)
    raise SsgcamError(
        f"'{root}' is no data set that is known: none of these is in it ({expected}) and no image; "
        "name the folder that holds them"
    )
