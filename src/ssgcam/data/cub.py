"""Reads CUB-200-2011 (birds)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ssgcam.data.collect import Collector, Layout, Missing
from ssgcam.data.masks import FileMask
from ssgcam.data.sample import SampleSet
from ssgcam.data.tables import rows, whole
from ssgcam.errors import SsgcamError

_LISTS = {
    "train_test_split.txt": "image_id is_training_image",
    "image_class_labels.txt": "image_id class_id",
    "bounding_boxes.txt": "image_id x y width height",
}
LAYOUT = Layout("cub", ("images.txt", "images", *_LISTS, "classes.txt"), ("CUB_200_2011",))
# The masks average five annotators in steps of 51: from 128 on, at least three agree.
_MAJORITY = {value: int(value >= 128) for value in range(256)}
_SPLITS = {"train": ("1",), "test": ("0",), "all": ("0", "1")}


def read_cub(
    root: Path, split: Literal["train", "test", "all"] = "test", missing: Missing = "error"
) -> SampleSet:
    """Read CUB-200-2011.

    A published box is x, y, width and height; x and y are counted from 0 here, and the last pixel
    is x + width - 1. (The WSOL metadata of the same birds say x + width, one pixel more.) If the
    segmentations, a separate archive, are in the root or beside it, they become masks: 1 where at
    least three of five annotators marked the bird.

    Args:
        root: ``CUB_200_2011``, or the folder that holds it.
        split: ``"test"``, ``"train"`` or ``"all"``.
        missing: ``"error"``, or ``"skip"`` to leave out and count images of which a file is
            missing.

    Returns:
        Samples in the order of ``images.txt``, with one label and one box each.

    Raises:
        SsgcamError: If the root, a list, an image or a mask is wrong or missing.
    """
    base = LAYOUT.locate(root)
    if split not in _SPLITS:
        raise SsgcamError(f"--split {split} is unknown; use test, train or all")
    source = base / "images.txt"
    collector = Collector(base, missing)
    tables = {
        name: {number: cells for number, *cells in rows(base / name, columns)}
        for name, columns in _LISTS.items()
    }
    names = [name for _, name in rows(base / "classes.txt", "class_id class_name")]
    folders = (base / "segmentations", base.parent / "segmentations")
    masks = next((folder for folder in folders if folder.is_dir()), None)
    for number, name in rows(source, "image_id image_name"):
        lacking = next((table for table, found in tables.items() if number not in found), None)
        if lacking:
            raise SsgcamError(
                f"image {number} of '{source}' is not in '{base / lacking}'; fetch the list again"
            )
        (member,), (label,), box = (table[number] for table in tables.values())
        if member not in _SPLITS[split]:
            continue
        image = base / "images" / name
        path = (masks / name).with_suffix(".png") if masks else image
        if collector.present(image, path, listed_in=source):
            index = whole(label, f"the class of image {number} of '{source}'") - 1
            collector.add(
                image,
                base / "bounding_boxes.txt",
                [(box, index)],
                "width_height",
                mask=FileMask(path, _MAJORITY) if masks else None,
            )
    return collector.finish("cub", names, ("object",) if masks else ())
