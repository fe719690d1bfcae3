"""Reads lists and tables in text files, with errors that name the file and the line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssgcam.errors import SsgcamError
from ssgcam.files import read_json, read_text
from ssgcam.images import images_below

# What a column may be called. Capitals, spaces, hyphens and underscores make no difference.
_IMAGE = ("image", "imageid", "imagename", "file", "filename", "name", "path", "id")
_LABEL = ("label", "class", "classlabel", "classindex", "classname")
_GROUP = ("group", "patient", "patientid", "field", "slide", "subject")
_SIDES = (("width", "w", "boxwidth"), ("height", "h", "boxheight"))
_BOX = (
    ("x0", "xmin", "left", "x"),
    ("y0", "ymin", "top", "y"),
    ("x1", "xmax", "right"),
    ("y1", "ymax", "bottom"),
)


class Record(NamedTuple):
    """One entry of a table: an image, or one box of it.

    Attributes:
        image: The image as the table names it.
        label: A class of it as the table gives it (a name, or digits), or None.
        boxes: Four numbers of each box as the table gives them.
        group: Its group, or empty.
        size: Width and height as the table gives them, or None.
        by_size: Whether the boxes are x, y, width, height.
    """

    image: str
    label: str | None = None
    boxes: tuple[Sequence[Any], ...] = ()
    group: str = ""
    size: tuple[int, int] | None = None
    by_size: bool = False


def read_table(path: Path) -> list[Record]:
    """Read a CSV file with a header, or a JSON list of objects.

    Both have a column (a key) for the image, and optional ones for the class and the group. Boxes
    are in the columns ``x0, y0, x1, y1`` (or ``xmin, ymin, xmax, ymax``) or ``x, y, width,
    height``, a line each; or, in JSON, in ``boxes``, a list of ``[x0, y0, x1, y1]``. Without a box
    in columns, ``width`` and ``height`` are the image's.

    Args:
        path: The file; its ending tells which.

    Returns:
        The entries in order; of an image without boxes whose label is a list such as ``a;b``, one
        for each class.

    Raises:
        SsgcamError: If the file is missing or damaged, or an entry names no image.
    """
    if path.suffix.lower() == ".json":
        hint = 'it must be a list of {"image", "label", "boxes": [[x0, y0, x1, y1], ...]}'
        entries = read_json(path)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise SsgcamError(f"'{path}' holds no list of objects; {hint}")
    else:
        hint = "its header must have a column 'image'"
        text = io.StringIO(read_text(path), newline="")
        entries = list(csv.DictReader(text, skipinitialspace=True))
    return [
        record
        for number, entry in enumerate(entries, start=1)
        for record in _records(entry, f"entry {number} of '{path}'", hint)
    ]


def _records(entry: Mapping[str, Any], where: str, hint: str) -> list[Record]:
    cells = {"".join(filter(str.isalnum, key.lower())): entry[key] for key in entry if key}

    def cell(names: Iterable[str]) -> Any:
        values = (cells.get(name) for name in names)
        stripped = (value.strip() if isinstance(value, str) else value for value in values)
        return next((value for value in stripped if value not in (None, "")), None)

    image, label, group = cell(_IMAGE), cell(_LABEL), cell(_GROUP)
    if not isinstance(image, str):
        raise SsgcamError(f"{where} names no image (it has: {', '.join(cells)}); {hint}")
    boxes = cells.get("boxes") or []
    if not isinstance(boxes, list) or not all(isinstance(box, list) for box in boxes):
        raise SsgcamError(f"{where} has boxes that are no lists; {hint}")
    box, sides = [cell(names) for names in _BOX], [cell(names) for names in _SIDES]
    by_size = box[2:] == [None, None] != box[:2]
    if by_size:
        box[2:] = sides
    size = None
    if box != [None] * 4:
        if None in box:
            raise SsgcamError(
                f"{where} lacks a part of its box; boxes need x0, y0, x1 and y1, or x, y, width "
                "and height"
            )
        boxes = [*boxes, box]
    elif None not in sides:
        width, height = (whole(side, f"the size of {where}") for side in sides)
        size = width, height
    parts = [None] if label is None else [str(label)]
    if label is not None and not boxes:
        parts = [part.strip() for part in str(label).split(";") if part.strip()]
    group = "" if group is None else str(group)
    return [Record(image, part, tuple(boxes), group, size, by_size) for part in parts]


def images_named(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Find a folder's images by what tables call them: path, path without ending, or number.

    ``cat.jpg`` is ``folder/cat.jpg``; ``cat`` is the only image of that stem; ``7`` is also the
    image numbered ``007``.

    Args:
        folder: The folder with the images, searched with its subfolders.
        names: What the tables call them.

    Returns:
        Name -> file. A file that does not exist is returned as named.
    """
    found = {name: folder / name for name in names}
    unknown = [name for name, path in found.items() if not path.is_file()]
    by_stem: dict[str, Path] = {}
    for image in images_below(folder) if unknown else ():
        stem = image.relative_to(folder).with_suffix("").as_posix()
        by_stem.setdefault(stem, image)
        if stem.isdecimal():
            by_stem.setdefault(str(int(stem)), image)
    return {**found, **{name: by_stem[name] for name in unknown if name in by_stem}}


def whole(text: Any, where: str) -> int:
    """Return a whole number given as text or number, or raise SsgcamError naming `where`."""
    wrong = SsgcamError(f"{where} is {text!r}; it must be a whole number")
    try:
        number = float(text)
    except (TypeError, ValueError, OverflowError) as error:
        raise wrong from error
    if not number.is_integer():
        raise wrong
    return int(number)


def rows(path: Path, columns: str, separator: str | None = None) -> Iterator[list[str]]:
    """Read a text table without a header, skipping empty lines.

    Args:
        path: The file.
        columns: Names of its columns, separated by spaces.
        separator: What separates the cells; None: spaces, and the last cell may hold spaces.

    Yields:
        The cells of each line.

    Raises:
        SsgcamError: If the file is missing or a line has another number of cells.
    """
    count = len(columns.split())
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split(separator, -1 if separator else count - 1)]
        if len(cells) != count:
            start = f"line {number} of '{path}' is {line.strip()!r}"
            raise SsgcamError(f"{start}; it must have {count} values: {columns}")
        yield cells
