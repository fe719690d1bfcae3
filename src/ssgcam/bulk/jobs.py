"""The images of a run, in order: in a temporary file, so that memory does not grow with their number."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

#: Size in bytes and time of the last change in ns of an image file; None where there is none.
Stamp = tuple[int, int] | None
#: What an earlier run made of an image.
State = Literal["finished", "failed"]


@dataclass(frozen=True, slots=True)
class Job:
    """An image to work on.

    Attributes:
        name: Distinct in a run: the path below the folder that was named, with ``/``.
        path: Its file.
    """

    name: str
    path: Path

    def stamp(self) -> Stamp:
        """What tells whether the file has changed."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns


class Jobs:
    """The images of a run in order, and what was made of each before.

    They are in a database of SQLite's that is private to this object: a temporary file, of which a
    few megabytes at most are in memory. It is to be used in the thread that made it.

    Args:
        jobs: With distinct names.

    Example:
        >>> jobs = Jobs(Job(name, Path(name)) for name in ("a.jpg", "b.jpg", "c.jpg"))
        >>> len(jobs), "b.jpg" in jobs, [job.name for job in jobs]
        (3, True, ['a.jpg', 'b.jpg', 'c.jpg'])
    """

    def __init__(self, jobs: Iterable[Job] = ()) -> None:
        self._table = private_database()
        self._table.execute(
            "CREATE TABLE jobs (number INTEGER PRIMARY KEY, name BLOB UNIQUE, path BLOB, "
            "state TEXT, due INTEGER)"
        )
        self._table.executemany(
            "INSERT INTO jobs (number, name, path) VALUES (?, ?, ?)",
            ((n, os.fsencode(job.name), os.fsencode(job.path)) for n, job in enumerate(jobs)),
        )

    def __len__(self) -> int:
        """How many there are."""
        (count,) = self._table.execute("SELECT count(*) FROM jobs").fetchone()
        return int(count)

    def __iter__(self) -> Iterator[Job]:
        """All of them, in order."""
        for name, path in self._table.execute("SELECT name, path FROM jobs ORDER BY number"):
            yield _job(name, path)

    def __contains__(self, name: str) -> bool:
        """Whether there is one of this name."""
        return self.get(name) is not None

    def get(self, name: str) -> Job | None:
        """The one of this name, if there is one."""
        key = os.fsencode(name)
        found = self._table.execute("SELECT path FROM jobs WHERE name = ?", (key,)).fetchone()
        return None if found is None else _job(key, *found)

    def plan(self, states: Iterable[tuple[str, State]], at_once: int) -> Due:
        """Choose what is due: whole groups, but of one without a gap only what has failed.

        Args:
            states: Names, and what became of each before; of a name's states the last one counts.
            at_once: Jobs in a group; groups are cut from the whole list.

        Returns:
            What is due, until the next call.
        """
        self._table.execute("UPDATE jobs SET state = NULL")
        for name, state in states:
            self._table.execute(
                "UPDATE jobs SET state = ? WHERE name = ?", (state, os.fsencode(name))
            )
        self._table.execute(
            "UPDATE jobs SET due = state IS NOT 'finished' OR number / :size IN "
            "(SELECT number / :size FROM jobs WHERE state IS NULL)",
            {"size": at_once},
        )
        return Due(self._table, at_once)


@dataclass(frozen=True)
class Due:
    """The groups of jobs that are to be done; they can be gone through any number of times.

    Attributes:
        table: Of :class:`Jobs`.
        at_once: Jobs in a whole group.
    """

    table: sqlite3.Connection
    at_once: int

    def __iter__(self) -> Iterator[list[Job]]:
        """The groups, in order."""
        rows = self.table.execute(
            "SELECT number / ?, name, path FROM jobs WHERE due ORDER BY number", (self.at_once,)
        )
        for _, group in groupby(rows, lambda row: row[0]):
            yield [_job(name, path) for _, name, path in group]

    def __contains__(self, name: str) -> bool:
        """Whether the job of this name is due."""
        rows = self.table.execute("SELECT due FROM jobs WHERE name = ?", (os.fsencode(name),))
        return any(due for (due,) in rows)

    @property
    def jobs(self) -> int:
        """How many jobs are due."""
        (count,) = self.table.execute("SELECT count(*) FROM jobs WHERE due").fetchone()
        return int(count)


def private_database() -> sqlite3.Connection:
    """An empty database in a temporary file that nobody else sees; gone when it is let go."""
    return sqlite3.connect("")


def _job(name: bytes, path: bytes) -> Job:
    return Job(os.fsdecode(name), Path(os.fsdecode(path)))
