"""What is done already: one line of JSON for each image, so that a run goes on where it was cut off.

    {"image": "a/1.jpg", "settings": "3f1c...", "stamp": [48213, 1763768000000], "outputs": [...]}
    {"image": "a/2.jpg", "settings": "3f1c...", "stamp": [0, 1763768000001], "error": "..."}

A line is appended and flushed when all outputs of its image are in place. What a killed process left
half-written is the last line at most, and it is dropped when the manifest is opened again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from ssgcam.bulk.jobs import Due, Jobs, Stamp, State
from ssgcam.errors import SsgcamError
from ssgcam.files import written_whole

#: File names that are not UTF-8 are kept as the bytes they are.
ERRORS = "surrogateescape"


@dataclass(frozen=True)
class Done:
    """What became of an image.

    Attributes:
        name: Of its job.
        stamp: Of its file, taken before it was read.
        outputs: The files that were written, relative to the manifest's folder.
        facts: What else its line says; values are JSON's.
        error: One sentence where nothing could be made of it, else empty.
    """

    name: str
    stamp: Stamp
    outputs: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Let no other run write to a folder meanwhile, where the file system has locks.

    Raises:
        SsgcamError: If another one does, or the folder can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SsgcamError(
            f"can't write to '{folder}' ({error.strerror}); choose another output folder"
        ) from error
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


class Manifest:
    """The file of these lines, for one run with one set of settings.

    Args:
        path: The file, ``.jsonl``; outputs are relative to its folder.
        settings: All that the outputs depend on beside the image; values are JSON's.

    Raises:
        SsgcamError: If the file can't be read or written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        canonical = json.dumps(settings, sort_keys=True, default=str)
        self.settings = sha256(canonical.encode()).hexdigest()[:16]
        self._stream: TextIO | None = None

    def unfinished(self, jobs: Jobs, at_once: int) -> Due:
        """The jobs still to do, in the groups that are computed together.

        Groups are cut from the whole list, and one that was cut off is done again as a whole: the
        last digit of a map may depend on what else was in its batch, so that only then the files
        are the same as those of a run that was not cut off. A group whose images are all done but
        for failed ones gives the failed ones another try.

        Args:
            jobs: All jobs of the run.
            at_once: Jobs in a group.

        Returns:
            Groups of at most ``at_once`` jobs; what the manifest said about them is taken out of it.
        """
        due = jobs.plan(self._states(jobs), at_once)
        if self.path.exists():
            self._drop(due)
        return due

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines so far, parsed; a last one that was cut off is left out."""
        try:
            with self.path.open(encoding="utf-8", errors=ERRORS) as stream:
                for number, line in enumerate(stream, 1):
                    try:
                        yield {"image": "", **json.loads(line)}
                    except (ValueError, TypeError) as error:
                        if line.endswith("\n"):
                            raise SsgcamError(
                                f"line {number} of '{self.path}' is damaged; remove the file to "
                                "start anew"
                            ) from error
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            raise SsgcamError(
                f"'{self.path}' can't be read ({error}); remove it to start anew"
            ) from error

    def add(self, done: Done) -> None:
        """Append a line and flush it."""
        assert self._stream is not None
        entry: dict[str, Any] = {
            "image": done.name,
            "settings": self.settings,
            "stamp": done.stamp,
            **({"error": done.error} if done.error else {"outputs": done.outputs, **done.facts}),
        }
        self._stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._stream.flush()

    def __enter__(self) -> Manifest:
        """Open it for :meth:`add`."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.path.open("a", encoding="utf-8", errors=ERRORS)
        except OSError as error:
            raise SsgcamError(
                f"can't write '{self.path}' ({error.strerror}); choose another output folder"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        assert self._stream is not None
        self._stream.close()

    def _states(self, jobs: Jobs) -> Iterator[tuple[str, State]]:
        """What the manifest says of jobs with these settings whose files are as they were."""
        for entry in self.lines():
            job = jobs.get(entry["image"])
            if job is None or entry.get("settings") != self.settings:
                continue
            stamp = job.stamp()
            if entry.get("stamp") != (None if stamp is None else list(stamp)):
                continue
            if "error" in entry:
                yield job.name, "failed"
            elif all((self.path.parent / output).is_file() for output in entry["outputs"]):
                yield job.name, "finished"

    def _drop(self, due: Due) -> None:
        with (
            written_whole(self.path) as temporary,
            temporary.open("w", encoding="utf-8", errors=ERRORS) as stream,
        ):
            for entry in self.lines():
                if entry["image"] not in due:
                    stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
