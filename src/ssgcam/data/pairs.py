"""Sets of images beside masks in a second folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ssgcam.data.collect import Collector, Layout, Missing, check_entries
from ssgcam.data.masks import FileMask, mapped, read_raw_mask, value_table
from ssgcam.data.sample import IGNORE, Sample, SampleSet
from ssgcam.data.tables import Classes, ImageIndex, Record, read_table
from ssgcam.errors import SsgcamError
from ssgcam.images import images_below

LAYOUT = Layout("pairs", "image and mask", ("masks", "images"))
_TABLES = ("labels.csv", "groups.csv")


def read_pairs(
    root: Path,
    images: str = "images",
    masks: str = "masks",
    mask_suffix: str = "",
    values: Mapping[int, int] | None = None,
    void: int | None = None,
    class_names: Sequence[str] | None = None,
    first_label: int = 0,
    missing: Missing = "error",
) -> SampleSet:
    """Read a folder of images beside a folder of masks with the same names (endings aside).

    What the values stored in the masks mean:

    - `values` says it for each, such as ``{255: 1, 127: 255}``; 0 is background unless said.
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
        mask_suffix: What a mask's stem has after its image's, such as ``"_mask"``.
        values: Stored value to mask value: 0 background, 1 to 254 classes, 255 ignore.
        void: A stored value to ignore.
        class_names: Names of the classes: of the table's if it has any, else of the masks'.
        first_label: The number of the first class in the table.
        missing: ``"error"``, or ``"skip"`` to leave out and count images without a mask, and
            images in a table that don't exist.

    Returns:
        Samples sorted by path.

    Raises:
        SsgcamError: If a folder or a mask is missing, a mask is of another size than its image, or
            its values are not known.
    """
    check_entries(root, LAYOUT.title, (images, masks))
    collector = Collector(root, missing, stored=False)
    masks_of = {_stem(path, root / masks): path for path in images_below(root / masks)}
    found: dict[Path, tuple[FileMask, list[int]]] = {}
    for image in images_below(root / images):
        stem = _stem(image, root / images) + mask_suffix
        path = masks_of.get(stem, root / masks / f"{stem}.png")
        if collector.present(path, listed_in=root / images):
            raw = read_raw_mask(path)
            frame = collector.frame(image, (raw.shape[1], raw.shape[0]), path)
            mask = FileMask(path, orientation=frame.orientation)
            found[image] = mask, np.unique(raw).tolist()

    table = _value_table(values, void, [value for _, stored in found.values() for value in stored])
    if table is None:
        raise SsgcamError(
            f"the masks in '{root / masks}' have the value 255 beside other classes; say void=255 "
            "if it is to be ignored, or what each value means with values={...}"
        )
    records = _read_tables(collector, ImageIndex(root / images))
    labels = [record.label for record in records.values()]
    classes = Classes(labels, class_names, first_label, root / _TABLES[0])
    tabled = any(label not in (None, "") for label in labels)
    mask_names = _mask_names(table, None if tabled else class_names)
    for image, (mask, stored) in found.items():
        record = records.get(image, Record(image.name, None))
        if tabled:
            index = classes.index(record.label)
            label_indices = () if index is None else (index,)
        else:
            present = set(mapped(np.array(stored), table, mask.path).tolist()) - {0, IGNORE}
            label_indices = tuple(value - 1 for value in sorted(present))
        collector.samples.append(
            Sample(
                collector.name(image),
                image,
                label_indices,
                group=record.group,
                mask=FileMask(mask.path, table, orientation=mask.orientation),
            )
        )
    return collector.finish(LAYOUT.kind, classes.names if tabled else mask_names, mask_names)


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _value_table(
    values: Mapping[int, int] | None, void: int | None, stored: Iterable[int]
) -> tuple[tuple[int, int], ...] | None:
    ignored = {} if void is None else {void: IGNORE}
    if values is not None:
        return value_table({**values, **ignored})
    classes = set(stored) - {0} - set(ignored)
    if classes == {255}:
        return value_table({255: 1, **ignored})
    if 255 in classes:
        return None
    return value_table({**{value: value for value in classes}, **ignored})


def _read_tables(collector: Collector, index: ImageIndex) -> dict[Path, Record]:
    records: dict[Path, Record] = {}
    for table in (collector.root / name for name in _TABLES):
        if not table.is_file():
            continue
        for record in read_table(table):
            image = index.find(record.image)
            if collector.present(image, listed_in=table):
                before = records.get(image, record)
                label = before.label if record.label in (None, "") else record.label
                group = record.group or before.group
                records[image] = Record(record.image, label, group=group)
    return records


def _mask_names(
    table: tuple[tuple[int, int], ...], chosen: Sequence[str] | None
) -> tuple[str, ...]:
    count = max((value for _, value in table if value != IGNORE), default=0)
    if chosen is None:
        return ("object",) if count <= 1 else tuple(str(value + 1) for value in range(count))
    if len(chosen) < count:
        raise SsgcamError(
            f"the masks have {count} classes but class_names has {len(chosen)}; name them all"
        )
    return tuple(chosen)
