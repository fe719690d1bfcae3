"""Which units of a long run are finished? A file of JSON lines, so that a killed run can continue.

The first line holds the settings, and each other line one unit (an image):

    {"settings": {"threshold": 0.4}, "checksum": 52}
    {"unit": "a/1.jpg", "input": [48213, 1763768000000], "outputs": ["a/1.png"], "checksum": 201}
    {"unit": "a/2.jpg", "input": [0, 1763768000001], "error": "'a/2.jpg' is ...", "checksum": 17}

A line is appended when all output files of its unit are in place. A process that is killed leaves at
most an incomplete last line, which is ignored; a checksum (CRC-32) tells any other damaged line. With
other settings the file starts anew. A unit whose input has changed, or which lacks an output file, is
not finished.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ssgcam.errors import SsgcamError, rephrased
from ssgcam.files import written_whole

#: The file's name in a folder of outputs.
MANIFEST = "manifest.jsonl"

#: File names that are not UTF-8 are kept as the bytes that they are.
ERRORS = "surrogateescape"


@dataclass(frozen=True)
class Entry:
    """A unit that was worked on.

    Attributes:
        unit: Its name, unique in the run.
        input: A JSON value that changes when its input changes, such as :func:`file_stamp`.
        outputs: The files that were written, relative to the manifest's folder.
        facts: What else its line says; JSON values.
        error: One sentence if the unit failed, else empty.
    """

    unit: str
    input: Any = None
    outputs: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


class Manifest:
    """The manifest of one run.

    Args:
        path: The file, ``.jsonl``. Output files are relative to its folder.
        settings: Everything that the outputs depend on beside the inputs; JSON values, others are
            written as text.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._header = json.loads(json.dumps({"settings": settings}, default=str))
        self._stream: TextIO | None = None

    def entries(self) -> Iterator[Entry]:
        """The entries so far; none if the file is missing or has other settings.

        Raises:
            SsgcamError: If the file can't be read or a line other than the last is damaged.
        """
        lines = self.lines()
        header, own = (
            json.dumps(each, sort_keys=True) for each in (next(lines, None), self._header)
        )
        if header != own:  # as text, in which NaN equals NaN
            return
        for line in lines:
            yield Entry(
                unit=line.pop("unit", ""),
                input=line.pop("input", None),
                outputs=tuple(line.pop("outputs", ())),
                error=line.pop("error", ""),
                facts=line,
            )

    def different_settings(self) -> list[str]:
        """Names of the settings that differ from those in the file, such as ``method.name``.

        Returns:
            Empty if the file is missing or has the same settings.
        """
        header = next(self.lines(), None)
        if header is None:
            return []
        ours, theirs = (dict(_flat(each["settings"])) for each in (self._header, header))
        return sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))

    def is_current(self, entry: Entry, stamp: Any) -> bool:
        """Whether the entry's input is unchanged and all its output files exist.

        Args:
            entry: One of :meth:`entries`.
            stamp: The JSON value of the unit's input now.
        """
        folder = self.path.parent
        return bool(entry.input == stamp) and all((folder / f).is_file() for f in entry.outputs)

    @contextmanager
    def opened(self, keep: Callable[[Entry], bool]) -> Iterator[None]:
        """Rewrite the file with some of the entries, and let :meth:`add` append to it in the block.

        Args:
            keep: Whether an entry stays. The entries of units that are done again should not.

        Raises:
            SsgcamError: If the file can't be written.
        """
        with (
            written_whole(self.path) as temporary,
            temporary.open("w", encoding="utf-8", errors=ERRORS) as stream,
        ):
            stream.write(_text(self._header))
            stream.writelines(_line(entry) for entry in self.entries() if keep(entry))
        self._stream = self.path.open("a", encoding="utf-8", errors=ERRORS)
        try:
            yield
        finally:
            with suppress(OSError):  # what add could not write, which has been reported
                self._stream.close()

    def add(self, entry: Entry) -> None:
        """Append an entry and flush it; in the block of :meth:`opened`."""
        assert self._stream is not None
        with rephrased(f"can't write '{self.path}'", "run it again when there is space", OSError):
            self._stream.write(_line(entry))
            self._stream.flush()

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines of the file, whatever its settings; none if it is missing.

        Raises:
            SsgcamError: If the file can't be read or a line other than the last is damaged.
        """
        if not self.path.exists():
            return
        what, hint = f"'{self.path}' can't be read", "remove it to start anew"
        with (
            rephrased(what, hint, OSError),
            self.path.open(encoding="utf-8", errors=ERRORS) as stream,
        ):
            for number, line in enumerate(stream, 1):
                parsed = _parsed(line)
                if parsed is not None and (number > 1 or "settings" in parsed):
                    yield parsed
                elif line.endswith("\n"):
                    raise SsgcamError(f"line {number} of '{self.path}' is damaged; {hint}")


def _parsed(text: str) -> dict[str, Any] | None:
    """A line without its checksum; None if it is damaged."""
    line = None
    with suppress(ValueError, RecursionError):
        line = json.loads(text)
    if not isinstance(line, dict):
        return None
    found = line.pop("checksum", None)
    return line if found == checksum(line) else None


def _flat(settings: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(settings, (dict, list)):
        pairs = settings.items() if isinstance(settings, dict) else enumerate(settings)
        for key, value in pairs:
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, settings


def checksum(line: Mapping[str, Any]) -> int:
    """The CRC-32 of a line, without the checksum itself."""
    return zlib.crc32(json.dumps(line, sort_keys=True).encode())


def file_stamp(path: Path) -> list[int] | None:
    """Size in bytes and modification time in ns of a file; None if it is missing."""
    with suppress(OSError):
        found = path.stat()
        return [found.st_size, found.st_mtime_ns]
    return None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make an output folder and lock it against other runs, where the file system has locks.

    Raises:
        SsgcamError: If another run has locked it, or it can't be made.
    """
    what, hint = f"can't write to '{folder}'", "choose another output folder"
    with rephrased(what, hint, OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SsgcamError(
                f"another run is writing to '{folder}'; wait for it or choose another output folder"
            ) from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(lock)


def _line(entry: Entry) -> str:
    about = {"error": entry.error} if entry.error else {"outputs": entry.outputs, **entry.facts}
    return _text({"unit": entry.unit, "input": entry.input, **about})


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps({**line, "checksum": checksum(line)}, ensure_ascii=False) + "\n"
