"""Sets of images beside a JSON or CSV file with their classes and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssgcam.data.collect import Collector, Edges, Layout, Missing, check_entries, check_folder
from ssgcam.data.sample import Sample, SampleSet
from ssgcam.data.tables import Classes, ImageIndex, Record, read_table
from ssgcam.errors import SsgcamError

TABLES = ("boxes.json", "boxes.csv", "labels.csv")
LAYOUTS = tuple(Layout("boxes", "image and table", (table, "images")) for table in TABLES)


def read_boxes(
    root: Path,
    table: str | None = None,
    images: str = "images",
    edges: Edges = "inclusive",
    class_names: Sequence[str] | None = None,
    first_label: int = 0,
    missing: Missing = "error",
) -> SampleSet:
    """Read images with the classes and boxes of a table (see `ssgcam.data.tables.read_table`).

    The lines of one image are put together: an image has the classes of all its lines. Boxes
    without a class have no entry in ``box_labels``. Coordinates count from pixel 0.

    Args:
        root: The folder that holds the images' folder and the table.
        table: The table, relative to the root; default: the first of ``boxes.json``,
            ``boxes.csv`` and ``labels.csv`` that is there.
        images: The images' folder, relative to the root.
        edges: Whether x1 and y1 are the last pixels of a box (``"inclusive"``) or one past it
            (``"exclusive"``).
        class_names: Names of the classes; default: the numbers, or the table's names sorted.
        first_label: The number of the first class, where the table has numbers.
        missing: ``"error"``, or ``"skip"`` to leave out and count images that don't exist.

    Returns:
        Samples in the table's order.

    Raises:
        SsgcamError: If the table or an image is missing, or an entry is wrong.
    """
    check_folder(root)
    if edges not in ("inclusive", "exclusive"):
        raise SsgcamError(f"edges='{edges}' is unknown; use 'inclusive' or 'exclusive'")
    if table is None:
        table = next((name for name in TABLES if (root / name).is_file()), TABLES[0])
    source = root / table
    check_entries(root, LAYOUTS[0].title, (table, images))
    collector = Collector(root, missing, stored=False)
    index = ImageIndex(root / images)
    entries: dict[Path, list[Record]] = {}
    for record in read_table(source):
        entries.setdefault(index.find(record.image), []).append(record)
    records = [record for of_image in entries.values() for record in of_image]
    classes = Classes([record.label for record in records], class_names, first_label, source)
    labeled = all(classes.index(record.label) is not None for record in records if record.boxes)
    for image, of_image in entries.items():
        if not collector.present(image, listed_in=source):
            continue
        frame = collector.frame(image, of_image[0].size, source)
        indices = [classes.index(record.label) for record in of_image]
        boxes, box_labels = collector.boxes(
            frame,
            [
                (corners, -1 if label is None else label)
                for record, label in zip(of_image, indices, strict=True)
                for corners in record.boxes
            ],
            edges,
            f"a box of '{of_image[0].image}' in '{source}'",
        )
        collector.samples.append(
            Sample(
                collector.name(image),
                image,
                tuple(sorted({label for label in indices if label is not None})),
                boxes,
                box_labels if labeled else (),
                next((record.group for record in of_image if record.group), ""),
            )
        )
    return collector.finish("boxes", classes.names)
