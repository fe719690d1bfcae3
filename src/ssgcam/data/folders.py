"""Reads folders of images: with a table, beside masks, with a subfolder for each class, or alone."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from ssgcam.data.classes import number_classes
from ssgcam.data.collect import Collector, Edges, Layout, Missing
from ssgcam.data.masks import FileMask, map_values, read_raw_mask
from ssgcam.data.sample import IGNORE, LAST_VALUE, Sample, SampleSet
from ssgcam.errors import SsgcamError
from ssgcam.images import images_below


def read_images(root: Path) -> SampleSet:
    """Read a folder of images without labels.

    Args:
        root: The folder; its subfolders are searched too.

    Returns:
        Samples without labels, boxes or masks, sorted by path.

    Raises:
        SsgcamError: If there is no image in it.
    """
    images = images_below(root)
    samples = [Sample(image.relative_to(root).as_posix(), image) for image in images]
    return Collector(root, samples=samples).finish("images", ())


def class_folders(root: Path) -> dict[str, list[Path]]:
    """List the images of each visible subfolder that has any, by the subfolder's name, sorted."""
    folders = sorted(
        path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    found = {folder.name: images_below(folder) for folder in folders}
    return {name: images for name, images in found.items() if images}


def read_class_folders(root: Path) -> SampleSet:
    """Read a folder with one subfolder of images for each class.

    Args:
        root: The folder with the class folders.

    Returns:
        Samples with one label each, sorted by path; classes are sorted by name.

    Raises:
        SsgcamError: If there is no class folder with images.
    """
    folders = class_folders(root)
    if not folders:
        raise SsgcamError(
            f"'{root}' has no class folders: '{root / '<class>' / '<image>'}' is missing; put the "
            "images of each class in a folder of its own"
        )
    samples = [
        Sample(image.relative_to(root).as_posix(), image, (label,))
        for label, images in enumerate(folders.values())
        for image in images
    ]
    return Collector(root, samples=samples).finish("classes", list(folders))


TABLES = ("boxes.json", "boxes.csv", "labels.csv")
TABLE_LAYOUTS = tuple(Layout("boxes", (table, "images")) for table in TABLES)


def read_boxes(
    root: Path,
    table: str | None = None,
    images: str = "images",
    edges: Edges = "inclusive",
    first_label: int = 0,
    missing: Missing = "error",
) -> SampleSet:
    """Read images with the classes, groups and boxes of a table (see `read_table`).

    The lines of one image are put together: an image has the classes of all its lines. An image
    with a box that has no class gets no ``box_labels``. Coordinates count from pixel 0.

    Args:
        root: The folder that holds the images' folder and the table.
        table: The table, relative to the root; default: the first of ``boxes.json``,
            ``boxes.csv`` and ``labels.csv`` that is there.
        images: The folder that image names are relative to, relative to the root.
        edges: Whether x1 and y1 are the last pixels of a box (``"inclusive"``), one past it
            (``"exclusive"``), or width and height (``"width_height"``, the default where a CSV file
            has such columns).
        first_label: The number of the first class, where the table has numbers.
        missing: ``"error"``, or ``"skip"`` to leave out and count images that don't exist.

    Returns:
        Samples in the table's order.

    Raises:
        SsgcamError: If the table or an image is missing, or an entry is wrong.
    """
    if edges not in get_args(Edges):
        raise SsgcamError(f"--edges {edges} is unknown; use one of: {', '.join(get_args(Edges))}")
    table = table or next((name for name in TABLES if (root / name).is_file()), TABLES[0])
    Layout("boxes", (table, images)).locate(root)
    source = root / table
    collector = Collector(root, missing, stored=False)
    entries = collector.read_tables(root / images, source)
    labels = [record.label for records in entries.values() for record in records]
    names, index = number_classes(labels, first_label, source)
    for image, records in entries.items():
        boxes = [(box, index.get(entry.label)) for entry in records for box in entry.boxes]
        indices = [index[entry.label] for entry in records if entry.label is not None]
        group = next((entry.group for entry in records if entry.group), "")
        forms = {entry.by_size for entry in records if entry.boxes}
        if len(forms) > 1:
            raise SsgcamError(
                f"'{source}' gives some boxes of '{image.name}' by corners and some by width and "
                "height; give all in one form"
            )
        form: Edges = "width_height" if True in forms else edges
        collector.add(image, source, boxes, form, indices, size=records[0].size, group=group)
    return collector.finish("boxes", names)


PAIRS = Layout("pairs", ("masks", "images"))
_TABLES = ("labels.csv", "groups.csv")
# What a mask's stem may have after its image's.
_SUFFIXES = ("", "_mask", "-mask", "_masks", "_segmentation", "_seg", "_label", "_labels", "_gt")


def read_pairs(
    root: Path,
    images: str = "images",
    masks: str = "masks",
    mask_suffix: str | None = None,
    mask_values: Mapping[int, int] | None = None,
    void: int | None = None,
    class_names: Sequence[str] | None = None,
    first_label: int = 0,
    missing: Missing = "error",
) -> SampleSet:
    """Read a folder of images beside a folder of masks with the same names (endings aside).

    Masks are pictures or ``.npy`` arrays (see `read_raw_mask`).

    What the values stored in the masks mean:

    - `mask_values` says it for each, such as ``{255: 1, 127: 255}``; 0 is background unless said.
    - Otherwise, `void` aside: nothing but 0 and 255 in the whole set is a binary mask, 255 being
      the object. Values up to 254 are classes as they are. 255 beside other classes is ambiguous
      and refused.

    ``labels.csv`` or ``groups.csv`` in the root, if there, gives image-level classes and groups
    (columns ``image``, ``label``, ``group``; see `ssgcam.data.tables.read_table`). Without classes
    in them, an image's labels are the classes in its mask: value k is class k - 1.

    Every mask is read once here, for its size and values. Masks without an image are left out.

    Args:
        root: The folder that holds both folders.
        images: The images' folder, relative to the root; its subfolders are searched too.
        masks: The masks' folder, relative to the root, with the same subfolders.
        mask_suffix: What a mask's stem has after its image's; default: nothing, ``_mask``,
            ``_segmentation``, ``_label`` or alike, whichever fits the most images.
        mask_values: Stored value to mask value: 0 background, 1 to 254 classes, 255 ignore.
        void: A stored value to ignore.
        class_names: Names of the masks' classes; default: their numbers.
        first_label: The number of the first class in the table.
        missing: ``"error"``, or ``"skip"`` to leave out and count images without a mask, and
            images in a table that don't exist.

    Returns:
        Samples sorted by path.

    Raises:
        SsgcamError: If a folder or a mask is missing, a mask is of another size than its image, or
            its values are not known.
    """
    Layout("pairs", (masks, images)).locate(root)
    collector = Collector(root, missing, stored=False)

    def stem(path: Path, folder: str) -> str:
        return path.relative_to(root / folder).with_suffix("").as_posix()

    files = [*images_below(root / masks), *sorted((root / masks).rglob("*.npy"))]
    paths = {stem(path, masks): path for path in files}
    names = {image: stem(image, images) for image in images_below(root / images)}
    if mask_suffix is None:
        matches = {end: sum(name + end in paths for name in names.values()) for end in _SUFFIXES}
        mask_suffix = max(matches, key=lambda end: matches[end])
    stored: dict[Path, tuple[Path, tuple[int, ...], list[int]]] = {}
    for image, name in names.items():
        path = paths.get(name + mask_suffix, root / masks / f"{name}{mask_suffix}.png")
        if collector.present(path, listed_in=root / images):
            raw = read_raw_mask(path)
            stored[image] = path, raw.shape, np.unique(raw).tolist()
    if any(path.suffix.lower() in (".jpg", ".jpeg") for path, *_ in stored.values()):
        warnings.warn(
            f"masks in '{root / masks}' are JPEG files, whose compression changes values: 128 and "
            "more is taken for the object, less for background",
            stacklevel=3,
        )

    if mask_values is None:
        classes = {value for *_, found in stored.values() for value in found} - {0, void}
        if 255 in classes and len(classes) > 1:
            raise SsgcamError(
                f"the masks in '{root / masks}' have the value 255 beside other classes; say "
                "--void 255 if it is to be ignored, or what each value means with --mask-values"
            )
        mask_values = {255: 1} if classes == {255} else {value: value for value in classes}
    values = {0: 0, **mask_values, **({} if void is None else {void: IGNORE})}
    for value, meaning in values.items():
        if not 0 <= meaning <= IGNORE:
            raise SsgcamError(
                f"--mask-values {value}:{meaning} is outside the mask values; map to 0 (background), "
                f"1 to {LAST_VALUE} (classes) or {IGNORE} (ignore)"
            )
    tables = [root / name for name in _TABLES if (root / name).is_file()]
    records = collector.read_tables(root / images, *tables)
    labels = [record.label for found in records.values() for record in found]
    from_table = any(label is not None for label in labels)
    count = max((value for value in values.values() if value != IGNORE), default=0)
    mask_names = ["object"] if count <= 1 else [str(value + 1) for value in range(count)]
    if class_names is not None:
        if len(class_names) < count:
            raise SsgcamError(
                f"the masks have {count} classes but class_names has {len(class_names)}; name them "
                "all"
            )
        mask_names = list(class_names)
    table_names, index = number_classes(labels, first_label, root / _TABLES[0])
    for image, (path, (height, width), found) in stored.items():
        entries = records.get(image, [])
        present = map_values(np.array(found), values, path).tolist()
        indices = [value - 1 for value in present if value not in (0, IGNORE)]
        if from_table:
            indices = [index[entry.label] for entry in entries if entry.label is not None]
        group = next((entry.group for entry in entries if entry.group), "")
        mask = FileMask(path, values)
        collector.add(image, path, labels=indices, mask=mask, size=(width, height), group=group)
    return collector.finish("pairs", table_names if from_table else mask_names, mask_names)
