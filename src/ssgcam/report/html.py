"""How does a run become one HTML file that can be sent? Warnings, tables, plots, pictures, settings.

The file needs no other file and no network: pictures and plots are embedded, and so are the style and
the script that sorts tables and opens pictures. A hundred pictures take less than 5 MB.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from ssgcam.errors import SsgcamError
from ssgcam.files import write_text
from ssgcam.report.notebook import data_url, jpeg
from ssgcam.report.tables import TableCell, cell_texts
from ssgcam.version import versions

#: Bytes that all pictures of a report may take together, before they are encoded as text.
PICTURE_BYTES = 3_300_000
#: Longer side of a picture and JPEG quality, from the best to the smallest.
PICTURE_SIZES = ((1800, 82), (720, 82), (560, 75), (420, 70), (320, 60), (240, 50), (160, 40))

#: A number with its interval, such as ``0.8 [0.7, 0.9]`` or ``+0.1 (-0.2 to 0.4)``.
NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?)(?: [\[(].*)?$")


@dataclass(frozen=True)
class Table:
    """A table that the reader can sort by any column.

    Attributes:
        title: Heading.
        columns: Names of the columns.
        rows: Cells; numbers, also with an interval behind them ("0.8 [0.7, 0.9]"), are aligned and sorted
            as such, None is an empty cell. A column of floats has as many decimals as it needs, at
            most three.
        note: A sentence below the heading.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[TableCell]]
    note: str = ""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that opens when it is clicked.

    Attributes:
        image: Any size; it is embedded at the size that the file's limit allows.
        title: First line below it.
        caption: Further text below it.
    """

    image: Image.Image
    title: str
    caption: str = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures in a grid, in the order given; the attributes are as of :class:`Table`."""

    title: str
    pictures: Sequence[Picture]
    note: str = ""


@dataclass(frozen=True, eq=False)
class Plot:
    """Charts in one row: Matplotlib figures, embedded as vector graphics."""

    title: str
    figures: Sequence[Figure]
    note: str = ""


@dataclass(frozen=True)
class Text:
    """Paragraphs under a heading."""

    title: str
    paragraphs: Sequence[str]


Section = Table | Gallery | Plot | Text


def write_html(
    path: str | Path,
    title: str,
    sections: Sequence[Section],
    *,
    summary: Sequence[str] = (),
    warnings: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write a report as one HTML file, whole or not at all; it ends with the software's versions.

    Tables without rows, galleries without pictures and columns without a value are left out.

    Args:
        path: The file, ``.html``.
        title: Of the report.
        sections: Tables, galleries, plots and texts, in their order.
        summary: Sentences at the top.
        warnings: Sentences shown before everything else.
        settings: What the results depend on; JSON values, nested.

    Raises:
        SsgcamError: If the file's name doesn't end in .html or it can't be written.

    Example:
        >>> import tempfile
        >>> table = Table("Scores", ["image", "IoU"], [["a.png", 0.5]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_html(Path(folder) / "report.html", "A report", [table])
    """
    check_report(path)
    sections = [shown for section in sections if (shown := _filled(section))]
    pictures = [p for s in sections if isinstance(s, Gallery) for p in s.pictures]
    encoded = dict(zip(map(id, pictures), _jpegs([p.image for p in pictures]), strict=True))
    environment = Environment(
        loader=PackageLoader("ssgcam.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "texts": cell_texts, "key": _key, "jpeg": lambda p: encoded[id(p)], "svg": _svg,
    }  # fmt: skip
    text = environment.get_template("report.html.jinja").render(
        title=title,
        sections=[(type(section).__name__.lower(), section) for section in sections],
        summary=summary,
        warnings=warnings,
        settings=json.dumps(settings, indent=2, default=str) if settings else "",
        versions=versions(),
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
    write_text(Path(path), text)


def check_report(path: str | Path | None) -> None:
    """Refuse the name of a report that does not end in .html; for the start of a long run.

    Raises:
        SsgcamError: If it doesn't.
    """
    if path is not None and Path(path).suffix not in (".html", ".htm"):
        raise SsgcamError(f"the report '{path}' does not end in .html; give --report NAME.html")


def _jpegs(images: Sequence[Image.Image]) -> list[str]:
    """Pictures as data addresses, all of the largest size with which they fit in the limit."""
    encoded: list[bytes] = []
    for side, quality in PICTURE_SIZES:
        encoded = [jpeg(image, side, quality) for image in images]
        if sum(map(len, encoded)) <= PICTURE_BYTES:
            break
    return [data_url("jpeg", each) for each in encoded]


def _svg(figure: Figure) -> str:
    stream = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    return data_url("svg+xml", stream.getvalue())


def _filled(section: Section) -> Section | None:
    """A section without its empty columns; None if nothing is left."""
    if isinstance(section, Gallery):
        return section if section.pictures else None
    if not isinstance(section, Table):
        return section
    kept = [
        k for k in range(len(section.columns)) if any(r[k] not in (None, "") for r in section.rows)
    ]
    columns = [section.columns[k] for k in kept]
    rows = [[row[k] for k in kept] for row in section.rows]
    return replace(section, columns=columns, rows=rows) if kept else None


def _key(value: TableCell) -> float | None:
    """The number that a cell is sorted by; None: it is sorted as text."""
    if isinstance(value, str):
        found = NUMBER.match(value)
        return float(found[1]) if found else None
    return None if value is None or math.isnan(value) else value
