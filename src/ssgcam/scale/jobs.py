"""Which images a run works on, and what each is called: its name decides where its outputs go."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path

from ssgcam.errors import SsgcamError
from ssgcam.images import find_images
from ssgcam.streaming import Failure

#: Size in bytes and time of the last change in ns of an image file; None where there is none.
Stamp = tuple[int, int] | None


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


def name_jobs(patterns: Iterable[str | Path], out: Path) -> tuple[list[Job], list[Failure]]:
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
    given = [Path(pattern).expanduser() for pattern in patterns]
    files = [_absolute(pattern).parent for pattern in given if not _is_folder_or_glob(pattern)]
    common = Path(os.path.commonpath(files)) if files else Path()
    outputs = f"{out.resolve()}{os.sep}"
    taken: dict[str, Path] = {}
    seen: set[str] = set()
    jobs, failures = [], []
    for pattern in given or find_images([]):  # without any pattern it says what is wrong
        root = _root(pattern, common)
        real = root.resolve()
        for path in find_images([pattern]):
            name = os.path.relpath(path, root).replace(os.sep, "/")
            file = f"{real}{os.sep}{name}"  # strings: a folder may hold millions
            if file in seen or file.startswith(outputs):
                continue
            seen.add(file)
            other = taken.setdefault(name.removesuffix(path.suffix), path)
            if other is path:
                jobs.append(Job(name, path))
            else:
                failures.append(Failure(path, (
                    f"'{path}' is left out: its outputs would have the same names as those of "
                    f"'{other}'; rename one of them or give them different output folders"
                )))  # fmt: skip
    if not jobs:
        raise SsgcamError(f"all images are below the output folder '{out}'; choose another one")
    return jobs, failures


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
