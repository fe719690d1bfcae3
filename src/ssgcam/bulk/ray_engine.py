"""How does the streaming engine run on a cluster? Ray Data with a pool of actors, one network in each.

    groups of names -> blocks -> actors: read, compute, write -> entries -> manifest, in this process

Only names are sent to the actors and only manifest entries come back. Each actor runs
:func:`ssgcam.bulk.stream.process` on a few groups at a time and writes the outputs itself, so photos
and outputs must be on a file system that all machines share. Ray gives an actor at most two tasks ahead
of time.

When an actor or its machine dies, Ray starts another one with the same groups. Outputs are written
whole and are the same each time, and a task's entries come back only when all of it is finished, so
nothing is lost or written twice. When this process dies, the manifest has the entries that came back.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ssgcam.bulk.inputs import InputImage
from ssgcam.bulk.stream import Task, process
from ssgcam.errors import SsgcamError, require
from ssgcam.manifest import Entry

#: Largest number of tasks in a run: Ray keeps a record of each.
MOST_TASKS = 5000


@dataclass(frozen=True)
class RayEngine:
    """Processes groups of images on a Ray cluster; an engine of :func:`ssgcam.bulk.stream.run`.

    It uses the cluster that this process is connected to, else the one that ``RAY_ADDRESS`` names,
    else one that it starts on this machine and stops when it is done. Beside the methods of
    :class:`ssgcam.bulk.stream.Task` a task has ``to_device(device)``, which moves its network (None: it
    stays) and is called once in each actor, first.

    Attributes:
        actors: Number of actors; as many as fit in the cluster, also one that grows, if None.
        gpus: GPUs of each actor: 1, a fraction to share one (the networks must fit in together), or
            0 for the CPU.
        cpus: Processors of each actor.
        workers: Threads of each actor that read, and as many that write; see ``bulk.stream``.
        groups: Groups in a task, the unit that is repeated when an actor dies.
        retries: How often a task is repeated before the run ends with an error.
    """

    actors: int | None = None
    gpus: float = 0.0
    cpus: float = 1.0
    workers: int | None = None
    groups: int = 4
    retries: int = 3

    def __post_init__(self) -> None:
        """Check every value."""
        if self.actors is not None and self.actors < 1:
            raise SsgcamError(f"actors is {self.actors}; give at least 1")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus % 1):
            raise SsgcamError(f"gpus is {self.gpus}; give a whole number or a fraction of one")
        if not self.cpus > 0:
            raise SsgcamError(f"cpus is {self.cpus}; give more than 0")
        require("ray.data", "ray")

    def __call__(
        self, groups: Sequence[Sequence[InputImage]], task: Task
    ) -> Generator[Entry, None, None]:
        """Process groups of images.

        Yields:
            The manifest's entry of each image, in any order, when its outputs are in place.

        Raises:
            SsgcamError: If the outputs can't be written, or a task fails again and again.
        """
        import ray
        import ray.data
        from ray.exceptions import RayError

        if not groups:
            return
        started = not ray.is_initialized()
        if started:
            ray.init(
                logging_level=logging.ERROR,
                log_to_driver=False,
                runtime_env={"env_vars": {"PYTHONPATH": _user_paths()}},
            )
        try:
            logging.getLogger("ray.data").setLevel(logging.WARNING)
            reference = ray.put(task)  # must live as long as actors may be started
            for row in self._results(ray, groups, reference).iter_rows():
                line = json.loads(row["entry"])
                if "fatal" in line:
                    raise SsgcamError(line["fatal"])
                yield Entry(**{**line, "outputs": tuple(line["outputs"])})
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise SsgcamError(
                f"the Ray cluster gave up after {self.retries} retries ({reason}); run the same "
                "command again to go on"
            ) from error
        finally:
            if started:
                ray.shutdown()

    def _results(self, ray: Any, groups: Sequence[Sequence[InputImage]], task: Any) -> Any:
        """A data set of rows ``{"entry": JSON}``, lazily computed."""
        listed = [[(i.name, str(i.path.absolute()), i.output) for i in group] for group in groups]
        rows = [{"group": json.dumps(group)} for group in listed]
        batch_size = max(self.groups, math.ceil(len(rows) / MOST_TASKS))
        # with the blocks made here, no reading task can wait for a processor that an actor holds
        data = ray.data.from_items(rows, override_num_blocks=math.ceil(len(rows) / batch_size))
        data.context.enable_progress_bars = False
        pool = {"size": self.actors} if self.actors else {"min_size": 1}
        return data.map_batches(
            _Actor,
            fn_constructor_args=[task, self.gpus > 0, self.workers],
            batch_size=batch_size,
            compute=ray.data.ActorPoolStrategy(**pool, max_tasks_in_flight_per_actor=2),
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            ray_remote_args_fn=partial(dict, max_restarts=-1, max_task_retries=self.retries),
        )


class _Actor:
    """One network in one process."""

    def __init__(self, task: Any, gpu: bool, workers: int | None) -> None:
        import ray

        self.task = ray.get(task)
        self.workers = workers
        self.task.to_device(torch.device("cuda") if gpu else None)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        groups = [
            [InputImage(name, Path(path), output) for name, path, output in json.loads(group)]
            for group in batch["group"]
        ]
        lines: list[dict[str, Any]] = []
        try:
            lines.extend(map(asdict, process(groups, self.task, workers=self.workers)))
        except SsgcamError as error:
            lines.append({"fatal": str(error)})
        return {"entry": [json.dumps(line) for line in lines]}


def _user_paths() -> str:
    """Where this process finds a user's own modules: a network's class is looked up by name."""
    installed = (sys.base_prefix, sys.prefix)
    own = [
        Path(path) for path in sys.path if not any(Path(path).is_relative_to(p) for p in installed)
    ]
    return os.pathsep.join(str(path.absolute()) for path in own)
