"""Which images does a run work on, and what is each called? The name decides where its outputs go.

The list of images is held in memory: some hundred bytes each, a few hundred megabytes for a million
images. Split larger sets into several runs.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path

from ssgcam.errors import SsgcamError
from ssgcam.images import find_images, images_of


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image to work on.

    Attributes:
        name: Unique in a run.
        path: Its file.
    """

    name: str
    path: Path


@dataclass(frozen=True)
class Failure:
    """An image without outputs.

    Attributes:
        path: Its file.
        reason: One sentence: what is wrong and what to do.
    """

    path: Path
    reason: str


def nested_inputs(
    patterns: Iterable[str | Path], out: Path
) -> tuple[list[InputImage], list[Failure]]:
    """List images for outputs in the same subfolders; see :func:`ssgcam.images.find_images`.

    A name is the path below the given folder, below the part of a glob before its first wildcard, or
    below the common folder of all given files, with ``/``. Images below ``out`` are left out silently.

    Args:
        patterns: Files, folders and globs.
        out: The folder of the outputs.

    Returns:
        The images, each file once, and those that share their name, suffix aside, with another one.

    Raises:
        SsgcamError: If a pattern matches no image, or all images are below ``out``.
    """
    given = [Path(pattern).expanduser() for pattern in patterns] or find_images([])
    parents = [_absolute(path).parent for path in given if not _is_folder_or_glob(path)]
    common = Path(os.path.commonpath(parents)) if parents else Path()
    images: dict[str, InputImage] = {}  # by real path
    with_name: dict[str, Path] = {}  # by name without suffix
    left_out: dict[str, Failure] = {}  # by real path
    outputs = f"{out.resolve()}{os.sep}"
    for pattern in given:
        root = _root(pattern, common)
        for path, real in sorted(images_of(pattern)):
            if real in images or real.startswith(outputs):
                continue
            name = os.path.relpath(path, root).replace(os.sep, "/")
            other = with_name.setdefault(name.removesuffix(path.suffix), path)
            if other is path:
                images[real] = InputImage(name, path)
            else:
                left_out[real] = Failure(path, (
                    f"'{path}' is left out: its outputs would have the same names as those of "
                    f"'{other}'; rename one of them or give them different output folders"
                ))  # fmt: skip
    _check_any(images, out)
    return list(images.values()), [left_out[real] for real in left_out if real not in images]


def flat_inputs(patterns: Iterable[str | Path], out: Path) -> list[InputImage]:
    """List images for outputs in one folder, with names that are unique whatever the case.

    A name is the file's name without its suffix. Files that share it are called by their path below
    the common folder of all, with the suffix and ``_`` for ``/``, and a number if these are equal too.

    Args:
        patterns: Files, folders and globs.
        out: The folder of the outputs; images below it are left out silently.

    Returns:
        The images, each file once.

    Raises:
        SsgcamError: If a pattern matches no image, or all images are below ``out``.
    """
    outputs = out.resolve()
    paths = [path for path in find_images(patterns) if outputs not in path.resolve().parents]
    _check_any(paths, out)
    common = os.path.commonpath([_absolute(path).parent for path in paths])
    count = Counter(path.stem.lower() for path in paths)
    images: dict[str, InputImage] = {}  # by name in lower case
    for path in paths:
        name = path.stem
        if count[name.lower()] > 1:
            name = "_".join(_absolute(path).relative_to(common).parts)
        unique, number = name, 2
        while unique.lower() in images:
            unique, number = f"{name}-{number}", number + 1
        images[unique.lower()] = InputImage(unique, path)
    return list(images.values())


def _check_any(images: object, out: Path) -> None:
    if not images:
        raise SsgcamError(f"all images are below the output folder '{out}'; choose another one")


def _is_folder_or_glob(pattern: Path) -> bool:
    return pattern.is_dir() or (has_magic(str(pattern)) and not pattern.is_file())


def _root(pattern: Path, common: Path) -> Path:
    if pattern.is_dir():
        return _absolute(pattern)
    if not _is_folder_or_glob(pattern):
        return common
    parts = _absolute(pattern).parts
    first = next(index for index, part in enumerate(parts) if has_magic(part))
    return Path(*parts[:first])


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  # unlike resolve() it keeps links as named
