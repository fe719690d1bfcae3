"""How do many images go through one network, in bounded memory, so that a killed run can continue?

    files -> reader threads -> batches -> network, in this thread -> writer threads -> manifest

At most two batches of images wait before the network and two of results behind it, whatever the
number of images, so that a slow disk slows the network instead of filling the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol

import torch
from tqdm.auto import tqdm

from ssgcam.bulk.inputs import Failure, InputImage
from ssgcam.errors import SsgcamError
from ssgcam.files import remove_unfinished
from ssgcam.manifest import Entry, Manifest, file_stamp, locked
from ssgcam.threads import ahead


class Task(Protocol):
    """What is done with each image. It can be pickled, to be sent to other machines."""

    @property
    def batch_size(self) -> int:
        """Largest number of images in one call of :meth:`compute`."""

    def read(self, image: InputImage) -> Any:
        """Read an image. Called in a thread.

        Raises:
            SsgcamError: If it can't be read; the others are processed all the same.
        """

    def compute(self, images: Sequence[Any]) -> Sequence[Any]:
        """One result for each image.

        Raises:
            SsgcamError: If one of them has no result. They are then tried one by one.
        """

    def write(self, image: InputImage, made: Any) -> tuple[Sequence[str], dict[str, Any]]:
        """Write the output files, each whole or not at all. Called in a thread.

        Returns:
            The files, relative to the manifest's folder, and the facts for the manifest.

        Raises:
            SsgcamError: If a file can't be written, which ends the run.
        """


#: Processes groups of images; the results have the images' order if only one process works.
Engine = Callable[[Sequence[Sequence[InputImage]], Task], Generator[Entry, None, None]]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        total: Number of images.
        before: How many of them an earlier run had finished.
        failures: Those without outputs.
    """

    total: int
    before: int
    failures: tuple[Failure, ...]


def run(
    images: Sequence[InputImage],
    task: Task,
    manifest: Manifest,
    *,
    engine: Engine | None = None,
    on_done: Callable[[InputImage, Entry], object] | None = None,
    progress: bool = False,
) -> Outcome:
    """Process images, except those that the manifest calls finished.

    Args:
        images: With unique names.
        task: What is done with each.
        manifest: Gets an entry for each; the outputs are in its folder.
        engine: Who processes them; this process, by :func:`process`, if None.
        on_done: Called with each image that is finished or has failed, and its entry.
        progress: Show a bar on a terminal.

    Returns:
        Counts and failures.

    Raises:
        SsgcamError: If the outputs can't be written, another run is writing to the same folder, or
            the device has too little memory.
    """
    folder = manifest.path.parent
    failures = []
    with locked(folder), ExitStack() as at_end:
        remove_unfinished(folder)  # temporary files of a killed run
        at_end.callback(remove_unfinished, folder)  # and of killed workers
        groups = unfinished(images, manifest, task.batch_size)
        due = {image.name: image for group in groups for image in group}
        bar = tqdm(total=len(due), unit="image", disable=None if progress else True)
        opened = manifest.opened(keep=lambda entry: entry.unit not in due)
        with opened, bar, closing((engine or process)(groups, task)) as entries:
            for entry in entries:
                manifest.add(entry)
                bar.update()
                image = due[entry.unit]
                if entry.error:
                    failures.append(Failure(image.path, entry.error))
                if on_done is not None:
                    on_done(image, entry)
    return Outcome(len(images), len(images) - len(due), tuple(failures))


def unfinished(
    images: Sequence[InputImage], manifest: Manifest, batch_size: int
) -> list[Sequence[InputImage]]:
    """The images still to process, in the groups that are computed together.

    Groups are cut from the whole list, and one with an image that was not reached is processed again
    as a whole: the last digit of a map may depend on what else was in its batch, and so the files are
    the same as those of an uninterrupted run. Of a group that was reached as a whole, the failed
    images are tried again.
    """
    paths = {image.name: image.path for image in images}
    failed = {
        entry.unit: bool(entry.error)
        for entry in manifest.entries()
        if entry.unit in paths and manifest.is_current(entry, file_stamp(paths[entry.unit]))
    }
    groups = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    due = [
        [image for image in group if failed[image.name]]
        if all(image.name in failed for image in group)
        else group
        for group in groups
    ]
    return [group for group in due if group]


def process(
    groups: Sequence[Sequence[InputImage]], task: Task, *, workers: int | None = None
) -> Generator[Entry, None, None]:
    """Process groups of images in this process.

    Args:
        groups: Images that are computed together, at most ``task.batch_size``.
        task: What is done with each.
        workers: Threads that read, and as many that write; one for each processor, at most 8, if
            None.

    Yields:
        The manifest's entry of each image, in order, when its outputs are in place.

    Raises:
        SsgcamError: If the outputs can't be written or the device has too little memory.
    """
    window = 2 * task.batch_size
    images = (image for group in groups for image in group)
    with closing(ahead(partial(_read, task), images, window=window, workers=workers)) as read:
        computed = _computed(groups, read, task)
        yield from ahead(partial(_write, task), computed, window=window, workers=workers)


@dataclass
class _Item:
    """An image with what was read, then with what was computed, or with the error that it failed with."""

    image: InputImage
    stamp: list[int] | None
    value: Any


def _read(task: Task, image: InputImage) -> _Item:
    stamp = file_stamp(image.path)
    try:
        return _Item(image, stamp, task.read(image))
    except SsgcamError as error:
        return _Item(image, stamp, error)


def _computed(
    groups: Iterable[Sequence[InputImage]], read: Iterator[_Item], task: Task
) -> Iterator[_Item]:
    for group in groups:
        items = list(islice(read, len(group)))
        _compute(task, [item for item in items if not isinstance(item.value, SsgcamError)])
        while items:  # free each image as soon as it is passed on
            yield items.pop(0)


def _compute(task: Task, items: Sequence[_Item]) -> None:
    """Replace what was read by what is computed, or by the error."""
    try:
        made = task.compute([item.value for item in items]) if items else []
        for item, value in zip(items, made, strict=True):
            item.value = value
    except torch.OutOfMemoryError as error:
        raise SsgcamError(
            f"the device has too little memory for {len(items)} images at once; "
            "give a smaller --batch-size"
        ) from error
    except SsgcamError as error:
        if len(items) == 1:
            items[0].value = SsgcamError(f"'{items[0].image.path}': {error}")
        else:
            for item in items:
                _compute(task, [item])


def _write(task: Task, item: _Item) -> Entry:
    if isinstance(item.value, SsgcamError):
        return Entry(item.image.name, item.stamp, error=str(item.value))
    outputs, facts = task.write(item.image, item.value)
    return Entry(item.image.name, item.stamp, tuple(outputs), facts)
