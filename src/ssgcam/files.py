"""Reads and writes text, JSON and arrays, and writes pictures.

Files are written whole or not at all: to a temporary name beside the target, which is then renamed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from ssgcam.errors import SsgcamError, rephrased

#: Names of temporary files.
TEMPORARY = re.compile(r"\.[0-9a-f]{32}(\.[^.]*)?")


def expanded(path: str | Path) -> Path:
    """A path with ``~`` as the home folder; ``~name`` of an unknown user stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # Path.expanduser raises RuntimeError


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        SsgcamError: If it is missing or not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise SsgcamError(f"there is no file '{path}'; check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SsgcamError(f"'{path}' can't be read as UTF-8 text; save it again") from error


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file without blanks at their ends; empty ones are left out."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        SsgcamError: If it is missing or not JSON; it names the line.
    """
    with rephrased(f"'{path}' is not JSON", "export it again", ValueError, RecursionError):
        return json.loads(read_text(path))


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path; rename it to ``path`` if the block succeeds.

    Any number of threads and processes may write at once, also the same file: the last one wins.

    Args:
        path: The file to write. Missing parent folders are made.

    Yields:
        The temporary path to write to. It has the same suffix as ``path``.

    Raises:
        SsgcamError: If the folder can't be made or written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid4().hex}{path.suffix}")
    with rephrased(
        f"can't write '{path}'", "choose another output folder", OSError, RuntimeError
    ):  # torch.save raises the latter
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path, *, below: bool = True) -> None:
    """Remove the temporary files that killed processes left in a folder and, if ``below``, under it.

    No other run may write there. The files are those of :func:`written_whole`.
    """
    for path in folder.rglob(".*") if below else folder.glob(".*"):
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    r"""Write UTF-8 text whole or not at all.

    A byte of a file name that is not UTF-8 is written as ``\udcff`` or the like, which JSON reads back.
    """
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN and infinity become ``null`` (JSON has neither)."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_png(path: Path, image: Image.Image) -> None:
    """Write a picture as PNG whole or not at all; see :func:`written_whole`."""
    encoded = BytesIO()  # given a file, Pillow writes it in many small pieces
    image.save(encoded, format="PNG")
    with written_whole(path) as temporary:
        temporary.write_bytes(encoded.getbuffer())


def write_array(path: Path, array: np.ndarray[Any, Any]) -> None:
    """Write an array as ``.npy`` whole or not at all; see :func:`written_whole`."""
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, array)


def read_array(path: Path) -> np.ndarray[Any, Any]:
    """Map a ``.npy`` file of numbers to memory, copied on write; pickled objects are refused.

    Raises:
        SsgcamError: If it is not a whole file of that kind.
    """
    with rephrased(f"'{path}' is not a NumPy array of numbers", "save it again", Exception):
        array: np.ndarray[Any, Any] = np.lib.format.open_memmap(path, mode="c")  # type: ignore[no-untyped-call]
        if array.dtype.kind not in "biuf":
            raise TypeError(f"it holds {array.dtype}")
        return array


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
