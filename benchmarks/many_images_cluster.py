"""The cluster part of ``many_images.py``: Ray on this machine beside the local engine."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import Thread

import torch

from many_images_cases import BATCH, Case, generate, load, timed
from ssgcam import CAM
from ssgcam.bulk.segment import segment_images


@dataclass(frozen=True)
class Cluster:
    """An engine, with the number of its actors."""

    engine: str
    network: str
    input: int
    images: int
    seconds: float
    cpu_seconds: float


def cluster(case: Case, counts: list[int], rounds: int, folder: Path) -> list[Cluster]:
    """Let the local engine and Ray with one and two actors take turns."""
    import ray

    from ssgcam.bulk.ray_engine import RayEngine

    torch.set_num_threads(1)
    model = load(case)
    layers = CAM(model).layers(torch.randn(1, 3, case.side, case.side))
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    processors = ProcessorSeconds()
    before = processors.total()
    start, _ = timed(lambda: ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False,
                                      runtime_env={"env_vars": environment}))  # fmt: skip
    rows = [Cluster("ray.init", "", 0, 0, start, processors.total() - before)]
    engines = {"local": None, **{f"ray, {n}": RayEngine(actors=n) for n in (1, 2)}}
    for _ in range(rounds):
        for count in counts:
            photos = folder / f"cluster-{count}"
            generate(photos, count, case.photo, case.ending)
            for name, engine in engines.items():
                masks = tempfile.mkdtemp(dir=folder)
                before = processors.total()
                clock, _ = timed(partial(
                    segment_images, photos, model, masks, cam=CAM(model, layers), classes=[0],
                    gate=0.0, batch_size=BATCH, workers=1, engine=engine,
                ))  # fmt: skip
                cpu = processors.total() - before
                rows.append(Cluster(name, case.network, case.side, count, clock, cpu))
                print(json.dumps(asdict(rows[-1])), flush=True)
    ray.shutdown()
    return [
        Cluster(*key, round(statistics.median(clocks), 1), round(statistics.median(cpus), 1))
        for key, clocks, cpus in _turns(rows)
    ]


def _turns(
    rows: list[Cluster],
) -> Iterator[tuple[tuple[str, str, int, int], list[float], list[float]]]:
    """The rounds of each engine and number of images."""

    def kind(row: Cluster) -> tuple[str, str, int, int]:
        return row.engine, row.network, row.input, row.images

    for key, group in groupby(sorted(rows, key=kind), kind):
        same = list(group)
        yield key, [row.seconds for row in same], [row.cpu_seconds for row in same]


class ProcessorSeconds(Thread):
    """Processor time of this process and all below it, as long as each of them lives; Linux.

    It looks twice a second, so that it misses up to half a second of each process that ends.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.used: dict[str, float] = {}
        self.start()

    def run(self) -> None:
        """Look for ever."""
        while True:
            self.total()
            time.sleep(0.5)

    def total(self) -> float:
        """All so far."""
        parents, found = {}, {}
        for file in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = file.read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            number = int(file.parent.name)
            parents[number] = int(fields[1])
            ticks = int(fields[11]) + int(fields[12])
            found[number] = f"{number} {fields[19]}", ticks / os.sysconf("SC_CLK_TCK")
        ours = {os.getpid()}
        while more := {child for child, parent in parents.items() if parent in ours} - ours:
            ours |= more
        self.used.update(found[number] for number in ours)
        return sum(self.used.values())
