"""Which images a run works on, and what each is called: its name decides where its outputs go."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import reduce
from glob import has_magic
from pathlib import Path
from sqlite3 import Connection

from ssgcam.bulk.jobs import Job, Jobs, private_database
from ssgcam.errors import SsgcamError
from ssgcam.images import find_images, images_of
from ssgcam.threads import Failure


def name_jobs(patterns: Iterable[str | Path], out: Path) -> tuple[Jobs, list[Failure]]:
    """Name the images that files, folders and globs stand for; see ``ssgcam.images.find_images``.

    A name is the path below the folder that was named, below the part of a glob before its first
    wildcard, or below the folder that single files have in common. Images below ``out`` are not
    inputs.

    Args:
        patterns: Files, folders and globs.
        out: The folder of the outputs.

    Returns:
        The jobs, and the images whose name, endings aside, another image has.

    Raises:
        SsgcamError: If a pattern stands for no image, or all images are below ``out``.
    """
    given = _expanded(patterns)
    files = [_absolute(pattern).parent for pattern in given if not _is_folder_or_glob(pattern)]
    common = Path(os.path.commonpath(files)) if files else Path()
    roots = [_root(pattern, common) for pattern in given]

    def named(number: int, path: Path) -> tuple[str, str]:
        name = os.path.relpath(path, roots[number]).replace(os.sep, "/")
        return name, name.removesuffix(path.suffix)

    with closing(private_database()) as table:
        _list(table, given, out, named, "stem BLOB UNIQUE")  # of several with one stem the first
        rows = table.execute("SELECT name, path FROM kept ORDER BY pattern, place")
        jobs = Jobs(Job(os.fsdecode(name), Path(os.fsdecode(path))) for name, path in rows)
        left_out = table.execute(
            "SELECT found.path, kept.path FROM found JOIN kept USING (stem) "
            "WHERE found.real NOT IN (SELECT real FROM kept) "
            "GROUP BY found.real ORDER BY found.pattern, found.place"
        )
        return jobs, [_left_out(*map(os.fsdecode, paths)) for paths in left_out]


def name_flat(patterns: Iterable[str | Path], out: Path) -> Jobs:
    """Name images for outputs in one folder: distinct, also where cases are not told apart.

    The file's name without its ending; where two share it, the path from the common folder of all,
    with its ending and ``_`` for ``/``; where even these are the same, a number is added.

    Args:
        patterns: Files, folders and globs.
        out: The folder of the outputs; images below it are not inputs.

    Returns:
        The jobs.

    Raises:
        SsgcamError: If a pattern stands for no image, or all images are below ``out``.
    """
    given = _expanded(patterns)
    with closing(private_database()) as table:
        _list(table, given, out, lambda _, path: ("", path.stem.lower()), "stem BLOB")
        table.execute("CREATE INDEX stems ON kept (stem)")
        return Jobs(_flat(table))


def _flat(table: Connection) -> Iterator[Job]:
    parents = (
        _absolute(Path(os.fsdecode(path))).parent
        for (path,) in table.execute("SELECT path FROM kept")
    )
    common = reduce(lambda one, other: Path(os.path.commonpath((one, other))), parents)
    table.execute("CREATE TABLE taken (name BLOB PRIMARY KEY)")
    rows = table.execute(
        "SELECT path, EXISTS (SELECT 1 FROM kept AS other WHERE other.stem = kept.stem "
        "AND other.rowid != kept.rowid) FROM kept ORDER BY pattern, place"
    )
    for encoded, shared in rows:
        path = Path(os.fsdecode(encoded))
        whole = _absolute(path).relative_to(common)
        name = distinct = "_".join(whole.parts) if shared else path.stem
        number = 2
        while not _take(table, distinct.lower()):
            distinct, number = f"{name}-{number}", number + 1
        yield Job(distinct, path)


def _take(table: Connection, name: str) -> bool:
    row = (os.fsencode(name),)
    return table.execute("INSERT OR IGNORE INTO taken VALUES (?)", row).rowcount > 0


def _list(
    table: Connection,
    patterns: Sequence[Path],
    out: Path,
    named: Callable[[int, Path], tuple[str, str]],
    stem_column: str,
) -> None:
    """Fill ``found`` with all images that are no outputs, and ``kept`` with each file once.

    A database in a temporary file sorts and compares, so that memory does not grow with their number.

    Args:
        table: Where to.
        patterns: Files, folders and globs.
        out: The folder of the outputs.
        named: From a pattern's number and a path to a name and a stem.
        stem_column: Of ``kept``; distinct there, or not.

    Raises:
        SsgcamError: If nothing is left.
    """
    outputs = f"{out.resolve()}{os.sep}"
    columns = f"pattern INTEGER, place BLOB, real BLOB UNIQUE, name BLOB, {stem_column}, path BLOB"
    table.execute(f"CREATE TABLE found ({columns.replace(' UNIQUE', '')})")
    table.execute(f"CREATE TABLE kept ({columns})")

    def rows() -> Iterator[tuple[int, bytes, bytes, bytes, bytes, bytes]]:
        for number, pattern in enumerate(patterns):
            for path, real in images_of(pattern):
                if not real.startswith(outputs):
                    encoded = os.fsencode(path)
                    place = encoded.replace(os.fsencode(os.sep), b"\0")  # as paths: by their parts
                    name, stem = map(os.fsencode, named(number, path))
                    yield number, place, os.fsencode(real), name, stem, encoded

    table.executemany("INSERT INTO found VALUES (?, ?, ?, ?, ?, ?)", rows())
    table.execute("INSERT OR IGNORE INTO kept SELECT * FROM found ORDER BY pattern, place")
    if table.execute("SELECT 1 FROM kept LIMIT 1").fetchone() is None:
        raise SsgcamError(f"all images are below the output folder '{out}'; choose another one")


def _expanded(patterns: Iterable[str | Path]) -> list[Path]:
    given = [Path(pattern).expanduser() for pattern in patterns]
    return given or find_images([])  # which says what is wrong


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
