"""Lists and tables in text files, with errors that name the file and the line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssgcam.errors import SsgcamError


def whole(text: Any, where: str) -> int:
    """Return a whole number given as text or number, or raise SsgcamError naming `where`."""
    try:
        number = float(text)
        if number == int(number):
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise SsgcamError(f"{where} is {text!r}; it must be a whole number")


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        SsgcamError: If it is missing or not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise SsgcamError(f"there is no file '{path}'; check the data set's root") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SsgcamError(f"'{path}' can't be read as UTF-8 text; save it again") from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        SsgcamError: If it is missing or not JSON; it names the line.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise SsgcamError(
            f"'{path}' is not JSON (line {error.lineno}: {error.msg}); export it again"
        ) from error


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
            raise SsgcamError(
                f"line {number} of '{path}' is {line.strip()!r}; it must have {count} values: "
                f"{columns}"
            )
        yield cells
