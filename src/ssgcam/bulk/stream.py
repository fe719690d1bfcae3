"""Many images through one network: read ahead, compute in batches, write behind, go on after a cut.

    files -> reader threads -> batches -> network, in this thread -> writer threads -> manifest

At most two batches of images wait before the network and two of results behind it, whatever the
number of images: memory is bounded, and a slow disk slows the network instead of filling the memory.

The readers are threads, not processes of a ``DataLoader``: Pillow and torch release Python's lock
while they decode, resize and compress. Measured on two busy cores, with a tiny network on 4,000 PNG
files of 32 pixels, where Python's share is largest: one and two worker processes made 5 % and 12 %
fewer images a second than two threads, for 8 % and 35 % more processor time. With ResNet18 on photos
of 500x375 they were equal within the noise. And threads need no shared memory, no pickling and no fork.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from tqdm import tqdm

from ssgcam.bulk.jobs import Job, Jobs, Stamp
from ssgcam.bulk.manifest import Done, Manifest, only_run
from ssgcam.errors import SsgcamError
from ssgcam.threads import Failure, ahead

Read = TypeVar("Read")
Made = TypeVar("Made")

#: The folder below the outputs in which files are made before they are moved to their places.
SCRATCH = ".unfinished"


class Task(Protocol[Read, Made]):
    """What is done with each image. It can be pickled, to be sent to other machines."""

    @property
    def at_once(self) -> int:
        """Images in one call of :meth:`compute`."""
        ...

    def start(self, device: torch.device | None) -> None:
        """Move to a device (None: stay). Called once in each process, before anything else."""
        ...

    def read(self, job: Job) -> Read:
        """Read an image. Called in a thread.

        Raises:
            SsgcamError: If it can't be read; the others go on.
        """
        ...

    def compute(self, images: Sequence[Read]) -> Sequence[Made]:
        """One result for each image.

        Raises:
            SsgcamError: If one of them has no result. They are then tried one by one.
        """
        ...

    def write(self, job: Job, made: Made) -> tuple[Sequence[str], dict[str, Any]]:
        """Write the outputs, each whole or not at all. Called in a thread.

        Returns:
            The files, relative to the manifest's folder, and what else its line is to say.

        Raises:
            SsgcamError: If it can't be written, which ends the run.
        """
        ...


#: Works off groups of jobs, which can be gone through several times; the results are in the order of
#: the jobs where only one process works.
Engine = Callable[[Iterable[Sequence[Job]], Task[Any, Any]], Iterator[Done]]


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        total: Images that were asked for.
        before: How many of them an earlier run had finished.
        failures: Those that nothing could be made of.
    """

    total: int
    before: int
    failures: tuple[Failure, ...]


def run(
    jobs: Iterable[Job],
    task: Task[Any, Any],
    manifest: Manifest,
    *,
    engine: Engine | None = None,
    each: Callable[[Job, Done], object] | None = None,
    failed: Callable[[Failure], object] | None = None,
    progress: bool = False,
) -> Outcome:
    """Work off jobs, except those that the manifest says are finished.

    Args:
        jobs: The images; :class:`Jobs` where they are many.
        task: What is done with each.
        manifest: Gets a line for each, in its folder the outputs are.
        engine: Who works; :func:`work_off`, this process, by default.
        each: Called with each image when it is done, or has failed.
        failed: Called with each image that has failed.
        progress: Show a bar on a terminal.

    Returns:
        Counts and failures.

    Raises:
        SsgcamError: If the outputs can't be written, another run is writing to the same folder, or
            the device has too little memory.
    """
    jobs = jobs if isinstance(jobs, Jobs) else Jobs(jobs)
    failures = []
    with only_run(manifest.path.parent), _scratch(manifest.path.parent / SCRATCH):
        groups = manifest.unfinished(jobs, task.at_once)
        count = groups.jobs
        shown = None if progress else True
        with manifest, tqdm(total=count, unit="image", disable=shown) as bar:
            for done in (engine or work_off)(groups, task):
                manifest.add(done)
                bar.update()
                if each is None and not done.error:
                    continue
                job = jobs.get(done.name)
                assert job is not None
                if done.error:
                    failures.append(Failure(job.path, done.error))
                    if failed is not None:
                        failed(failures[-1])
                if each is not None:
                    each(job, done)
    return Outcome(len(jobs), len(jobs) - count, tuple(failures))


def work_off(
    groups: Iterable[Sequence[Job]], task: Task[Any, Any], *, workers: int | None = None
) -> Iterator[Done]:
    """Work off groups of jobs in this process.

    Args:
        groups: Jobs that are computed together, at most ``task.at_once``. They are gone through twice.
        task: What is done with each.
        workers: Threads that read, and as many that write; one for each processor, at most 8, if
            None.

    Yields:
        What became of each job, in order, once its outputs are in place.

    Raises:
        SsgcamError: If the outputs can't be written or the device has too little memory.
    """
    window = 2 * task.at_once
    jobs = (job for group in groups for job in group)
    read = ahead(partial(_read, task), jobs, window=window, workers=workers)
    computed = _computed(groups, read, task)
    yield from ahead(partial(_write, task), computed, window=window, workers=workers)


@contextmanager
def _scratch(folder: Path) -> Iterator[None]:
    """Remove the folder before the block, where a killed run left it, and after it."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _Step:
    """An image on its way: what was read or made of it, or why nothing was."""

    job: Job
    stamp: Stamp
    value: Any = None
    error: str = ""


def _read(task: Task[Any, Any], job: Job) -> _Step:
    step = _Step(job, job.stamp())
    try:
        return replace(step, value=task.read(job))
    except SsgcamError as error:
        return replace(step, error=str(error))


def _computed(
    groups: Iterable[Sequence[Job]], read: Iterator[_Step], task: Task[Any, Any]
) -> Iterator[_Step]:
    for group in groups:
        steps = list(islice(read, len(group)))
        made = iter(_compute(task, [step for step in steps if not step.error]))
        while steps:  # let go of each as soon as it is passed on
            step = steps.pop(0)
            yield step if step.error else next(made)


def _compute(task: Task[Any, Any], steps: Sequence[_Step]) -> list[_Step]:
    if not steps:
        return []
    try:
        made = task.compute([step.value for step in steps])
        return [replace(step, value=value) for step, value in zip(steps, made, strict=True)]
    except torch.OutOfMemoryError as error:
        raise SsgcamError(
            f"the device has too little memory for {len(steps)} images at once; "
            "give a smaller --batch-size"
        ) from error
    except SsgcamError as error:
        if len(steps) == 1:
            (step,) = steps
            return [replace(step, value=None, error=f"'{step.job.path}': {error}")]
    return [outcome for step in steps for outcome in _compute(task, [step])]


def _write(task: Task[Any, Any], step: _Step) -> Done:
    if step.error:
        return Done(step.job.name, step.stamp, error=step.error)
    outputs, facts = task.write(step.job, step.value)
    return Done(step.job.name, step.stamp, tuple(outputs), facts)
