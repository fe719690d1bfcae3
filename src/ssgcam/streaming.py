"""Photos on disk as a stream: read ahead by threads, while the network works on those before.

Decoding and resizing release Python's lock, so that threads suffice. Memory is bounded: at most a
window of prepared inputs waits at a time, and of the photos themselves one for each thread.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from ssgcam.errors import SsgcamError
from ssgcam.images import read_image
from ssgcam.preprocessing import Preprocessing

Item = TypeVar("Item")
Made = TypeVar("Made")
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Photo:
    """A photo as the network gets it.

    Attributes:
        path: Its file.
        size: Width and height of the photo, in pixels, upright.
        box: Left, top, right and bottom of the part that the network sees; None for all of it.
        pixels: The network's input, ``[3, H, W]``, normalised.
    """

    path: Path
    size: tuple[int, int]
    box: Box | None
    pixels: Tensor


@dataclass(frozen=True)
class Failure:
    """A photo that nothing could be done with.

    Attributes:
        path: Its file.
        reason: One sentence: what is wrong and what to do.
    """

    path: Path
    reason: str


def read_photos(
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    *,
    crop: bool = False,
    window: int = 32,
    workers: int | None = None,
) -> Iterator[Photo | Failure]:
    """Read and prepare photos in the order given.

    Args:
        paths: Their files.
        preprocessing: Of the network.
        crop: The weights' centre crop instead of the whole photo.
        window: How many are read ahead.
        workers: Threads; one for each processor, at most 8, if None.

    Yields:
        For each path the photo, or why it can't be read.
    """
    read = partial(_read, preprocessing=preprocessing, crop=crop)
    yield from ahead(read, paths, window=window, workers=workers)


def in_batches(
    photos: Iterable[Photo | Failure], batch_size: int
) -> Iterator[list[Photo] | Failure]:
    """Group consecutive photos into batches of at most ``batch_size``; failures come in between."""
    batch: list[Photo] = []
    for photo in photos:
        if isinstance(photo, Photo):
            batch.append(photo)
        if batch and (len(batch) == batch_size or isinstance(photo, Failure)):
            yield batch
            batch = []
        if isinstance(photo, Failure):
            yield photo
    if batch:
        yield batch


def ahead(
    function: Callable[[Item], Made],
    items: Iterable[Item],
    *,
    window: int,
    workers: int | None = None,
) -> Iterator[Made]:
    """``map(function, items)`` by threads, in order, at most ``window`` results ahead of the reader.

    Args:
        function: Called in a thread. What it raises is raised here.
        items: Taken one at a time, in the reader's thread.
        window: How many calls may wait to be taken.
        workers: Threads; one for each processor, at most 8, if None.

    Yields:
        The results in the order of the items.

    Example:
        >>> list(ahead(abs, [-1, 2, -3], window=2))
        [1, 2, 3]
    """
    waiting: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1))
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def output_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file, for what is written about it: distinct, also where cases are not told apart.

    The file's name without its ending; where two share it, the path from their common folder, with
    its ending and ``_`` for ``/``; where even these are the same, a number is added.

    Example:
        >>> output_names([Path("a/cat.jpg"), Path("b/cat.jpg"), Path("b/dog.png")])
        ['a_cat.jpg', 'b_cat.jpg', 'dog']
    """
    whole = [path.absolute() for path in paths]
    common = os.path.commonpath([path.parent for path in whole]) if whole else ""
    stems = Counter(path.stem.lower() for path in paths)
    names: dict[str, str] = {}  # in lower case -> as it is
    for path in whole:
        alone = stems[path.stem.lower()] == 1
        name = distinct = path.stem if alone else "_".join(path.relative_to(common).parts)
        number = 2
        while distinct.lower() in names:
            distinct, number = f"{name}-{number}", number + 1
        names[distinct.lower()] = distinct
    return list(names.values())


def _read(path: Path, preprocessing: Preprocessing, crop: bool) -> Photo | Failure:
    try:
        image = read_image(path)
    except SsgcamError as error:
        return Failure(path, str(error))
    box = preprocessing.crop_box(*image.size) if crop else None
    return Photo(path, image.size, box, preprocessing([image], crop)[0])
