"""Which images a run works on, and what each is called: its name decides where its outputs go."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from glob import has_magic
from pathlib import Path
from sqlite3 import Connection

from ssgcam.errors import SsgcamError
from ssgcam.images import find_images, images_of
from ssgcam.scale.jobs import Job, Jobs, private_database
from ssgcam.streaming import Failure


def name_jobs(patterns: Iterable[str | Path], out: Path) -> tuple[Jobs, list[Failure]]:
    """Name the images that files, folders and globs stand for; see ``ssgcam.images.find_images``.

    A name is the path below the folder that was named, below the part of a glob before its first
    wildcard, or below the folder that single files have in common. Images below ``out`` are not
    inputs. Sorting and comparing is done by a database in a temporary file: memory does not grow
    with the number of images.

    Args:
        patterns: Files, folders and globs.
        out: The folder of the outputs.

    Returns:
        The jobs, and the images whose name, endings aside, another image has.

    Raises:
        SsgcamError: If a pattern stands for no image, or all images are below ``out``.
    """
    given = [Path(pattern).expanduser() for pattern in patterns]
    if not given:
        find_images([])  # says what is wrong
    with closing(private_database()) as table:
        return _named(table, given, out)


def _named(table: Connection, patterns: Sequence[Path], out: Path) -> tuple[Jobs, list[Failure]]:
    columns = "(pattern INTEGER, place BLOB, real BLOB UNIQUE, name BLOB, stem BLOB, path BLOB)"
    table.execute(f"CREATE TABLE found {columns.replace(' UNIQUE', '')}")
    table.execute(f"CREATE TABLE kept {columns.replace('stem BLOB', 'stem BLOB UNIQUE')}")
    table.executemany(
        "INSERT INTO found VALUES (?, ?, ?, ?, ?, ?)", _rows(patterns, f"{out.resolve()}{os.sep}")
    )
    # of a file that was found twice, and of several with one stem, the first is kept
    table.execute("INSERT OR IGNORE INTO kept SELECT * FROM found ORDER BY pattern, place")
    jobs = Jobs(
        Job(os.fsdecode(name), Path(os.fsdecode(path)))
        for name, path in table.execute("SELECT name, path FROM kept ORDER BY pattern, place")
    )
    if not len(jobs):
        raise SsgcamError(f"all images are below the output folder '{out}'; choose another one")
    left_out = table.execute(
        "SELECT found.path, kept.path FROM found JOIN kept USING (stem) "
        "WHERE found.real NOT IN (SELECT real FROM kept) "
        "GROUP BY found.real ORDER BY found.pattern, found.place"
    )
    return jobs, [_left_out(*map(os.fsdecode, paths)) for paths in left_out]


def _rows(
    patterns: Sequence[Path], outputs: str
) -> Iterator[tuple[int, bytes, bytes, bytes, bytes, bytes]]:
    """Of each image that is not an output: pattern, place in its order, real path, name, stem, path."""
    files = [_absolute(pattern).parent for pattern in patterns if not _is_folder_or_glob(pattern)]
    common = Path(os.path.commonpath(files)) if files else Path()
    for number, pattern in enumerate(patterns):
        root = _root(pattern, common)
        for path, real in images_of(pattern):
            if real.startswith(outputs):
                continue
            name = os.path.relpath(path, root).replace(os.sep, "/")
            encoded = os.fsencode(path)
            place = encoded.replace(os.fsencode(os.sep), b"\0")  # sorted as paths are, by parts
            stem = os.fsencode(name.removesuffix(path.suffix))
            yield number, place, os.fsencode(real), os.fsencode(name), stem, encoded


def _left_out(path: str, other: str) -> Failure:
    return Failure(Path(path), (
        f"'{path}' is left out: its outputs would have the same names as those of '{other}'; rename "
        "one of them or give them different output folders"
    ))  # fmt: skip


def _is_folder_or_glob(pattern: Path) -> bool:
    return pattern.is_dir() or (has_magic(str(pattern)) and not pattern.is_file())


def _root(pattern: Path, common: Path) -> Path:
    if pattern.is_dir():
        return _absolute(pattern)
    if not _is_folder_or_glob(pattern):
        return common
    fixed = _absolute(pattern).parts
    first = next(index for index, part in enumerate(fixed) if has_magic(part))
    return Path(*fixed[:first])


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  # unlike resolve() it keeps links as named
