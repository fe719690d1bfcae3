"""Readers of data sets: `read_samples` recognizes a layout and returns a `SampleSet`."""

from __future__ import annotations

import csv
import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssgcam.data import annotated, folders, published
from ssgcam.data.classes import match_classes
from ssgcam.data.collect import check_folder, exists
from ssgcam.data.masks import with_box_masks
from ssgcam.data.sample import IGNORE, Box, Mask, MaskSource, Sample, SampleSet
from ssgcam.errors import SsgcamError, rephrased
from ssgcam.files import expanded
from ssgcam.images import images_below

__all__ = ["IGNORE", "READERS", "Box", "Mask", "MaskSource", "Sample", "SampleSet"]
__all__ += [
    "match_classes",
    "read_photos",
    "read_samples",
    "suggested_group_pattern",
    "with_box_masks",
]

#: Kind -> reader.
READERS: dict[str, Callable[..., SampleSet]] = {
    "voc": published.read_voc,
    "coco": annotated.read_coco,
    "cub": published.read_cub,
    "ilsvrc": published.read_ilsvrc,
    "wsol": published.read_wsol,
    "yolo": annotated.read_yolo,
    "geojson": annotated.read_geojson,
    "pairs": folders.read_pairs,
    "boxes": folders.read_boxes,
    "classes": folders.read_class_folders,
    "images": folders.read_images,
}
_LAYOUTS = (
    *(published.VOC, annotated.COCO, published.CUB, published.ILSVRC, published.WSOL),
    *(annotated.YOLO, annotated.GEOJSON, folders.PAIRS, *folders.TABLE_LAYOUTS),
)

# Names of folders that are no classes.
_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "photos", "pictures")
_MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "segmentations", "gt")


def read_samples(
    root: str | Path, kind: str = "auto", group_pattern: str | None = None, **options: Any
) -> SampleSet:
    """Read a data set.

    Args:
        root: Its folder; or a CSV file with a line for each image or box (see `read_table`), or a
            JSON file (COCO, or a list as `read_table` takes it), whose image names are relative to
            the file's folder.
        kind: A key of `READERS`, or ``"auto"``: recognized by the files in the folder. Where no
            published layout fits, two or more subfolders with images are classes, and anything
            else with images is a set of images without labels.
        group_pattern: A regular expression that is searched for in the name of each image file;
            what it matches (or its first parenthesis) is the image's group.
        **options: Options of the reader, such as ``split="val"``.

    Returns:
        The set.

    Raises:
        SsgcamError: If the layout is not recognized, an option is unknown, the data are wrong, or
            the group pattern does not fit.
    """
    root = expanded(root)
    if root.is_file() and root.suffix.lower() in (".csv", ".json"):
        if root.suffix.lower() == ".json" and annotated.is_coco_file(root):
            kind, options = "coco", {"annotations": root.name, **options}
        else:
            kind, options = "boxes", {"table": root.name, "images": ".", **options}
        root = root.parent
    check_folder(root)
    if kind == "auto":
        kind = _recognize(root)
    if kind not in READERS:
        raise SsgcamError(f"--kind {kind} is unknown; use one of: {', '.join(READERS)}")
    known = list(inspect.signature(READERS[kind]).parameters)[1:]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise SsgcamError(
            f"a '{kind}' set has no option '{unknown[0]}'; it has: {', '.join(known) or 'none'}"
        )
    wrong = (OSError, ValueError, OverflowError, RecursionError, csv.Error)
    with rephrased(
        f"the {kind} set in '{root}' can't be read", "check its lists and tables", *wrong
    ):
        found = READERS[kind](root, **options)
    return found if group_pattern is None else _with_groups(found, group_pattern)


def _recognize(root: Path) -> str:
    for layout in _LAYOUTS:
        if layout.find(root):
            return layout.kind
    if annotated.find_coco_files(root):
        return "coco"
    for layout in _LAYOUTS:
        if exists(root, layout.signs[0]):
            layout.locate(root)  # raises an error that names the missing part
    names = list(folders.class_folders(root))
    if len(names) > 1:
        masks = [name for name in names if name.lower() in _MASK_FOLDERS]
        images = [name for name in names if name.lower() in _IMAGE_FOLDERS]
        if masks and images:
            raise SsgcamError(
                f"'{root}' seems to hold images in '{images[0]}' and their masks in '{masks[0]}'; say "
                f"--kind pairs --images {images[0]} --masks {masks[0]}, or --kind classes if these are "
                "two classes"
            )
        return "classes"
    if images_below(root):
        return "images"
    expected = "; ".join(f"{layout.kind}: {', '.join(layout.signs[:2])}" for layout in _LAYOUTS)
    raise SsgcamError(
        f"'{root}' is no data set that is known: none of these is in it ({expected}) and no image; "
        "name the folder that holds them"
    )


def read_photos(
    photos: str | Path, labels: str | Path | None = None, masks: str | Path | None = None
) -> SampleSet:
    """Read photos with a table of their classes and a folder of their masks, wherever these lie.

    Args:
        photos: A folder of photos, or a data set of any known layout.
        labels: A CSV or JSON table, see ``data.tables.read_table``; its names are relative to ``photos``.
        masks: A folder of masks with the photos' names.

    Raises:
        SsgcamError: If a file is missing or wrong, see the readers.
    """
    if masks is not None:
        masked = read_samples(photos, "pairs", images=".", masks=str(expanded(masks).absolute()))
    if labels is None:
        return read_samples(photos) if masks is None else masked
    where = str(expanded(labels).absolute())
    table = read_samples(photos, "boxes", table=where, images=".", missing="skip")
    if masks is None:
        return table
    classes = {sample.image.resolve(): sample.labels for sample in table}
    samples = [
        replace(sample, labels=classes[sample.image.resolve()])
        for sample in masked
        if sample.image.resolve() in classes and sample.labels
    ]
    names = ("object",) if masked.mask_names != table.class_names else table.class_names
    return replace(masked, samples=tuple(samples), class_names=table.class_names, mask_names=names)


def suggested_group_pattern(samples: SampleSet) -> str | None:
    """A pattern for ``group_pattern``, if the names of several images begin alike.

    Returns:
        The part of the names before the first ``_`` or ``-``, if it has more values than there are
        classes and at most half as many as there are images; None otherwise, or where there are groups.
    """
    if any(sample.group for sample in samples):
        return None
    names = [sample.image.name for sample in samples]
    for separator in "_-":
        starts = {name.partition(separator)[0] for name in names}
        everywhere = all(separator in name for name in names)
        if everywhere and len(samples.class_names) < len(starts) <= len(names) / 2:
            return f"^([^{separator}]+){separator}"
    return None


def _with_groups(samples: SampleSet, group_pattern: str) -> SampleSet:
    """Take the group of each image from its file name."""
    if any(sample.group for sample in samples):
        raise SsgcamError(
            f"'{samples.root}' names groups in a table already; leave out --group-pattern"
        )
    start = f"--group-pattern '{group_pattern}'"
    with rephrased(f"{start} is not a regular expression", "correct it", re.error):
        pattern = re.compile(group_pattern)
    grouped = []
    for sample in samples:
        match = pattern.search(sample.image.name)
        group = match and match[1 if pattern.groups else 0]
        if not group:
            raise SsgcamError(
                f"{start} matches nothing in the name of '{sample.image}'; give one that fits every file"
            )
        grouped.append(replace(sample, group=group))
    return replace(samples, samples=tuple(grouped))
