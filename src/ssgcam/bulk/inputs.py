"""Which images does a run work on, and what are their outputs called?

The list of images is held in memory: some hundred bytes each, a few hundred megabytes for a million
images. Split larger sets into several runs.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from glob import has_magic
from itertools import takewhile
from pathlib import Path

from ssgcam.errors import SsgcamError
from ssgcam.files import expanded
from ssgcam.images import find_images
from ssgcam.manifest import MANIFEST, Manifest


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image to work on.

    Attributes:
        name: Its path below the common folder of all that was given, with ``/``; unique in a run.
        path: Its file.
        output: The start of the names of its outputs, unique whatever the case: the name without its
            suffix or, where other images share that, with it.
    """

    name: str
    path: Path
    output: str


@dataclass(frozen=True)
class Failure:
    """An image without outputs.

    Attributes:
        path: Its file.
        reason: One sentence: what is wrong and what to do.
    """

    path: Path
    reason: str


def list_inputs(patterns: Iterable[str | Path], out: Path) -> list[InputImage]:
    """List images whose outputs go to the same subfolders; see :func:`ssgcam.images.find_images`.

    Args:
        patterns: Files, folders and globs.
        out: The folder of the outputs; images below it are left out silently. Those in the folder of
            an earlier run, below what was given, are left out with a warning.

    Returns:
        The images, each file once.

    Raises:
        SsgcamError: If a pattern matches no image, or all images are left out.
    """
    given = [expanded(pattern) for pattern in patterns]
    outputs = f"{out.resolve()}{os.sep}"
    found = [path for path in find_images(given) if not os.path.realpath(path).startswith(outputs)]
    if not found:
        raise SsgcamError(f"all images are below the output folder '{out}'; choose another one")
    roots = {_root(pattern) for pattern in given}
    found = _outside_other_runs(found, roots)
    root = os.path.commonpath(roots)
    names = [os.path.relpath(path, root).replace(os.sep, "/") for path in found]
    sharing = Counter(os.path.splitext(name)[0].lower() for name in names)  # noqa: PTH122
    images: dict[str, InputImage] = {}  # by output in lower case
    for name, path in zip(names, found, strict=True):
        stem = name.removesuffix(path.suffix)
        start = output = stem if sharing[stem.lower()] == 1 else name
        number = 2
        while output.lower() in images:
            output, number = f"{start}-{number}", number + 1
        images[output.lower()] = InputImage(name, path, output)
    return list(images.values())


def _outside_other_runs(images: Sequence[Path], roots: Collection[str]) -> list[Path]:
    """Leave out images in folders below the roots that hold the manifest of a run, and say so."""

    @cache
    def folder_of_run(folder: str) -> str:
        if folder in roots or folder == os.path.dirname(folder):  # noqa: PTH120
            return ""
        with suppress(SsgcamError):  # a file of that name that is not ours
            if next(Manifest(Path(folder) / MANIFEST, {}).lines(), None):
                return folder
        return folder_of_run(os.path.dirname(folder))  # noqa: PTH120

    runs = [folder_of_run(os.path.abspath(path.parent)) for path in images]  # noqa: PTH100
    for run, count in Counter(filter(None, runs)).items():
        said = f"images in '{run}' are left out ({count}), as an earlier run wrote to this folder"
        hint = "name the folder itself to use them"
        if count == len(images):
            raise SsgcamError(f"{said}, and there are no others; {hint}")
        warnings.warn(f"{said}; {hint}", stacklevel=3)
    return [path for path, run in zip(images, runs, strict=True) if not run]


def _root(pattern: Path) -> str:
    """A folder itself, the folder of a file, or the part of a glob before its first wildcard."""
    path = Path(os.path.abspath(pattern))  # noqa: PTH100  # unlike resolve() it keeps links as named
    if path.is_dir():
        return str(path)
    parts = path.parent.parts
    if not path.is_file():
        parts = tuple(takewhile(lambda part: not has_magic(part), parts))
    return str(Path(*parts))
