"""Reads a set whose classes and boxes are in one JSON or CSV file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ssgcam.data.classes import number_classes
from ssgcam.data.collect import Collector, Edges, Layout, Missing
from ssgcam.data.sample import SampleSet
from ssgcam.errors import SsgcamError

TABLES = ("boxes.json", "boxes.csv", "labels.csv")
LAYOUTS = tuple(Layout("boxes", (table, "images")) for table in TABLES)


def read_boxes(
    root: Path,
    table: str | None = None,
    images: str = "images",
    edges: Edges = "inclusive",
    class_names: Sequence[str] | None = None,
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
        class_names: Names of the classes; default: the numbers, or the table's names sorted.
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
    names, index = number_classes(labels, class_names, first_label, source)
    for image, records in entries.items():
        boxes = [(box, index.get(entry.label)) for entry in records for box in entry.boxes]
        indices = [index[entry.label] for entry in records if entry.label is not None]
        group = next((entry.group for entry in records if entry.group), "")
        form = "width_height" if records[0].by_size else edges
        collector.add(image, source, boxes, form, indices, size=records[0].size, group=group)
    return collector.finish("boxes", names)
