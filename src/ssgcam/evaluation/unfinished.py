"""What a run has added up so far, kept on disk until its results are, so that a killed run can go on.

The file holds sums of whole batches, and the same batches follow in the same order: the results are
those of a run that was not cut off, to the last bit. It is written to a temporary name and renamed. A
file of another network, of other images or settings, or of images that have changed since is not used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from ssgcam.files import written_whole

#: Seconds between two savings, at least, and how many times as long as the last one took.
EVERY = 30.0
SPARING = 20.0


def folder_of(out: Path, task: str) -> Path:
    """Where a task's sums are kept among its results."""
    return out / f".{task}"


class Unfinished:
    """The sums of one run.

    Args:
        path: Their file; None keeps nothing.
        identity: All that the sums depend on: a file of another identity isn't used.
        resume: Use what is there; else it is written over.
    """

    def __init__(self, path: Path | None, identity: str, resume: bool) -> None:
        self.path, self.identity, self.resume = path, identity, resume
        self._next = time.monotonic() + EVERY

    def load(self) -> dict[str, Any]:
        """What was saved last; empty if there is nothing of this run."""
        if self.path is None or not self.resume or not self.path.is_file():
            return {}
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception:  # whatever it is, it is no such file: torch.load fails in many ways
            return {}
        if not isinstance(content, dict) or content.get("identity") != self.identity:
            return {}
        state: dict[str, Any] = content["state"]
        return state

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save what ``state`` returns, if the last time is long enough ago.

        Args:
            state: Called if it is: tensors, numbers, texts, lists and dicts.

        Raises:
            SsgcamError: If the folder can't be written to.
        """
        if self.path is None or (began := time.monotonic()) < self._next:
            return
        with written_whole(self.path) as temporary:
            torch.save({"identity": self.identity, "state": state()}, temporary)
        now = time.monotonic()
        self._next = now + max(EVERY, SPARING * (now - began))


def digest(parts: Iterable[object]) -> str:
    """A hash of the parts' ``repr``: plain values and dataclasses of such."""
    found = sha256()
    for part in parts:
        found.update(f"{part!r}\n".encode())
    return found.hexdigest()


def stamps(parts: Iterable[object]) -> str:
    """A hash of the size and the time of the last change of every file that dataclasses name."""
    paths = (path for part in parts for path in _paths(part) if path.exists())
    return digest((path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths)


def _paths(value: object) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _paths(each)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _paths(getattr(value, field.name))
