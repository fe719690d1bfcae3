"""Tables with a header: which image has which class, group and boxes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssgcam.data.text import read_json, read_text, whole
from ssgcam.errors import SsgcamError
from ssgcam.images import images_below

# What a column may be called. Capitals, spaces, hyphens and underscores make no difference.
_IMAGE = ("image", "imageid", "imagename", "file", "filename", "name", "path", "id")
_LABEL = ("label", "class", "classlabel", "classindex", "classname")
_GROUP = ("group", "patient", "patientid", "field", "slide", "subject")
_BOX = (
    ("x0", "xmin", "left"),
    ("y0", "ymin", "top"),
    ("x1", "xmax", "right"),
    ("y1", "ymax", "bottom"),
)


@dataclass(frozen=True)
class Record:
    """One entry of a table: an image, or one box of it.

    Attributes:
        image: The image as the table names it.
        label: Its class as the table gives it (number, name, empty or None).
        boxes: Corners as the table gives them.
        group: Its group, or empty.
        size: Width and height as the table gives them, or None.
    """

    image: str
    label: Any = None
    boxes: tuple[Sequence[Any], ...] = ()
    group: str = ""
    size: tuple[int, int] | None = None


def read_table(path: Path) -> list[Record]:
    """Read a CSV file with a header, or a JSON list of objects.

    CSV: a column for the image; optional ones for the class, the group and the four corners
    (``x0, y0, x1, y1`` or ``xmin, ymin, xmax, ymax``); a line for each box, or without corners for
    an image that has none. JSON: a list of ``{"image", "label", "boxes": [[x0, y0, x1, y1], ...]}``
    with optional ``group``, ``width`` and ``height``.

    Args:
        path: The file; its ending tells which.

    Returns:
        The entries in order.

    Raises:
        SsgcamError: If the file is missing, damaged, or has no column for the image.
    """
    return _from_json(path) if path.suffix.lower() == ".json" else _from_csv(path)


def _from_json(path: Path) -> list[Record]:
    entries = read_json(path)
    hint = 'it must be a list of {"image", "label", "boxes": [[x0, y0, x1, y1], ...]}'
    if not isinstance(entries, list):
        raise SsgcamError(f"'{path}' holds no list; {hint}")
    records = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            raise SsgcamError(f"entry {number} of '{path}' names no image; {hint}")
        boxes = entry.get("boxes") or []
        if not isinstance(boxes, list) or not all(isinstance(box, list) for box in boxes):
            raise SsgcamError(f"entry {number} of '{path}' has boxes that are no lists; {hint}")
        size = None
        if entry.get("width") is not None and entry.get("height") is not None:
            where = f"the size of entry {number} of '{path}'"
            size = whole(entry["width"], where), whole(entry["height"], where)
        group = entry.get("group")
        records.append(
            Record(
                entry["image"],
                entry.get("label"),
                tuple(map(tuple, boxes)),
                "" if group is None else str(group),
                size,
            )
        )
    return records


def _from_csv(path: Path) -> list[Record]:
    lines = csv.DictReader(io.StringIO(read_text(path), newline=""), skipinitialspace=True)
    columns = {_plain(name): name for name in lines.fieldnames or () if name}

    def column(names: tuple[str, ...]) -> str | None:
        return next((columns[name] for name in names if name in columns), None)

    image, label, group = column(_IMAGE), column(_LABEL), column(_GROUP)
    corners = [column(names) for names in _BOX]
    if image is None:
        raise SsgcamError(
            f"the header of '{path}' has no column for the image ({', '.join(columns.values())}); "
            "call it 'image'"
        )
    if None in corners and any(corners):
        raise SsgcamError(f"the header of '{path}' lacks a corner; boxes need x0, y0, x1 and y1")
    records = []
    for line in lines:
        cells = [(line.get(name) or "").strip() for name in corners if name]
        records.append(
            Record(
                (line[image] or "").strip(),
                (line[label] or "").strip() if label else None,
                (tuple(cells),) if any(cells) else (),
                (line[group] or "").strip() if group else "",
            )
        )
    return records


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


class Classes:
    """Turns the classes of a table into indices.

    Whole numbers are indices (less `first`); names are sorted, unless `names` gives their order.

    Args:
        labels: All classes of the table; None and empty text mean no class.
        names: The names in the order of their indices, or None.
        first: The number that stands for the first class.
        source: The table, for messages.

    Raises:
        SsgcamError: If a class is neither a number nor among `names`.
    """

    def __init__(
        self, labels: Sequence[Any], names: Sequence[str] | None, first: int, source: Path
    ) -> None:
        given = [label for label in labels if label is not None and label != ""]
        self._numeric = all(_is_number(label) for label in given)
        self._first = first
        if names is not None:
            self.names = tuple(names)
        elif self._numeric:
            last = max((int(float(label)) for label in given), default=first - 1)
            self.names = tuple(str(number) for number in range(first, last + 1))
        else:
            self.names = tuple(sorted({str(label) for label in given}))
        unknown = sorted({str(label) for label in given} - set(self.names))
        if not self._numeric and unknown:
            raise SsgcamError(
                f"'{source}' has the class '{unknown[0]}', which is not among class_names; add it"
            )

    def index(self, label: Any) -> int | None:
        """Return a class's index, or None for no class."""
        if label is None or label == "":
            return None
        return int(float(label)) - self._first if self._numeric else self.names.index(str(label))


def _is_number(label: Any) -> bool:
    if isinstance(label, str):
        return label.removeprefix("-").isdecimal()
    return isinstance(label, int) and not isinstance(label, bool)


class ImageIndex:
    """Finds a folder's images by what tables call them: path, path without ending, or number.

    Args:
        folder: The folder with the images, searched with its subfolders.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_stem: dict[str, Path] | None = None

    def find(self, name: str) -> Path:
        """Return the file that a table means.

        ``cat.jpg`` is ``folder/cat.jpg``; ``cat`` is the only image of that stem; ``7`` is also
        the image numbered ``007``. A file that does not exist is returned as named.
        """
        path = self.folder / name
        if path.is_file():
            return path
        if self._by_stem is None:
            self._by_stem = {}
            for image in images_below(self.folder):
                stem = image.relative_to(self.folder).with_suffix("").as_posix()
                self._by_stem.setdefault(stem, image)
                if stem.isdecimal():
                    self._by_stem.setdefault(str(int(stem)), image)
        return self._by_stem.get(name, path)
