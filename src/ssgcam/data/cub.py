"""CUB-200-2011 (birds)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ssgcam.data.collect import Collector, Layout, Missing
from ssgcam.data.masks import FileMask
from ssgcam.data.sample import Sample, SampleSet
from ssgcam.data.text import rows, whole
from ssgcam.errors import SsgcamError

LAYOUT = Layout(
    "cub",
    "CUB-200-2011",
    (
        "images.txt",
        "images",
        "image_class_labels.txt",
        "train_test_split.txt",
        "bounding_boxes.txt",
        "classes.txt",
    ),
    ("CUB_200_2011",),
)
# The masks average five annotators in steps of 51: from here on, at least three agree.
_MAJORITY = 128
_SPLITS = {"train": ("1",), "test": ("0",), "all": ("0", "1")}


def read_cub(
    root: Path, split: Literal["train", "test", "all"] = "test", missing: Missing = "error"
) -> SampleSet:
    """Read CUB-200-2011.

    A published box is x, y, width and height; x and y are counted from 0 here, and the last pixel
    is x + width - 1. (The WSOL metadata of the same birds say x + width, one pixel more.) If the
    segmentations, a separate archive, are in the root or beside it, they become masks: 1 where at
    least three of five annotators saw the bird.

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
        raise SsgcamError(f"split '{split}' is unknown; use 'test', 'train' or 'all'")
    source = base / "images.txt"
    collector = Collector(base, missing)
    members = dict(rows(base / "train_test_split.txt", "image_id is_training_image"))
    labels = dict(rows(base / "image_class_labels.txt", "image_id class_id"))
    names = [name for _, name in rows(base / "classes.txt", "class_id class_name")]
    boxes = {
        number: corners
        for number, *corners in rows(base / "bounding_boxes.txt", "image_id x y width height")
    }
    folders = (base / "segmentations", base.parent / "segmentations")
    masks = next((folder for folder in folders if folder.is_dir()), None)
    for number, name in rows(source, "image_id image_name"):
        for table, what in (
            (members, "train_test_split"),
            (labels, "image_class_labels"),
            (boxes, "bounding_boxes"),
        ):
            if number not in table:
                raise SsgcamError(
                    f"image {number} of '{source}' is not in '{base / what}.txt'; fetch the list "
                    "again"
                )
        if members[number] not in _SPLITS[split]:
            continue
        image = base / "images" / name
        mask = (masks / name).with_suffix(".png") if masks else None
        if not collector.present(*((image, mask) if mask else (image,)), listed_in=source):
            continue
        frame = collector.frame(image)
        where = f"the box of image {number} in '{base / 'bounding_boxes.txt'}'"
        label = whole(labels[number], f"the class of image {number} of '{source}'") - 1
        x, y, width, height = (_number(text, where) for text in boxes[number])
        kept, box_labels = collector.boxes(
            frame, [((x, y, x + width, y + height), label)], "exclusive", where
        )
        file_mask = FileMask(mask, None, _MAJORITY, frame.orientation) if mask else None
        collector.samples.append(
            Sample(collector.name(image), image, (label,), kept, box_labels, mask=file_mask)
        )
    return collector.finish("cub", names, ("object",) if masks else ())


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise SsgcamError(f"{where} has {text!r}; it must be a number") from error
