"""The throughput part of ``many_images.py``: the bare network and ``segment``, each in its own process.

The floor, ``bare``, is one forward pass and one ``autograd.grad`` to the same layers, same network,
batch and threads, on a batch that is already in memory, by PyTorch as it comes. ``segment`` is what the
command does: it keeps freed memory (``ssgcam.allocator``), which makes the network itself faster. So
there is ``kept`` as well: the floor with that alone. The three take turns, so that whatever else the
machine does slows all alike; beside the rates by the clock there is processor time.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from many_images_cases import BATCH, CASES, generate, load, timed
from ssgcam import CAM, LoadedModel
from ssgcam.allocator import keep_freed_memory
from ssgcam.bulk.segment import segment_images

#: Who takes turns.
WHO = ("bare", "kept", "segment")


@dataclass(frozen=True)
class Throughput:
    """Medians over rounds; ratios above 1 mean that ``segment`` is the faster.

    ``per_second`` and ``cpu_ms`` are for each of ``WHO``; ratios are lowest, median and highest.
    """

    network: str
    input: int
    photo: str
    images: int
    batch: int
    threads: int
    rounds: int
    per_second: dict[str, float]
    cpu_ms: dict[str, float]
    ratio: tuple[float, float, float]
    ratio_kept: tuple[float, float, float]


def throughput(index: int, images: int, threads: int, rounds: int, folder: Path) -> Throughput:
    """Let the three take turns on one of ``CASES``."""
    case = CASES[index]
    photos = folder / f"{case.network}-{case.side}-photos"
    generate(photos, images, case.photo, case.ending)
    words = [str(word) for word in (index, images, threads, photos)]
    turns = [_Process(who, words) for who in WHO]
    rows = [[turn() for turn in turns] for _ in range(rounds)]
    for turn in turns:
        turn.end()

    def middle(values: list[float]) -> float:
        return round(statistics.median(values), 3)

    def spread(other: int) -> tuple[float, float, float]:
        ratios = [row[other][0] / row[-1][0] for row in rows]
        return round(min(ratios), 3), middle(ratios), round(max(ratios), 3)

    return Throughput(
        network=case.network,
        input=case.side,
        photo=f"{case.photo[0]}x{case.photo[1]} {case.ending}",
        images=images,
        batch=BATCH,
        threads=threads,
        rounds=rounds,
        per_second={w: middle([images / row[k][0] for row in rows]) for k, w in enumerate(WHO)},
        cpu_ms={w: middle([1000 * row[k][1] / images for row in rows]) for k, w in enumerate(WHO)},
        ratio=spread(0),
        ratio_kept=spread(1),
    )


class _Process:
    """One of those that take turns; call it for its seconds by the clock and of processor time."""

    def __init__(self, who: str, words: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, who, *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._next()  # it has worked once

    def __call__(self) -> tuple[float, float]:
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        clock, cpu = self._next()
        return clock, cpu

    def end(self) -> None:
        """Let it go."""
        self.process.communicate()

    def _next(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a process that was measured has ended; see above")
        return json.loads(line)


def floor(model: LoadedModel, layers: list[str], batch: Tensor) -> Callable[[], object]:
    """One forward pass and one gradient with respect to the layers' outputs, parameters frozen."""
    modules = dict(model.network.named_modules())
    for parameter in model.network.parameters():
        parameter.requires_grad_(False)

    def step() -> object:
        kept: list[Tensor] = []

        def keep(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            kept.append(output if output.requires_grad else output.detach().requires_grad_())
            return kept[-1].clone()

        handles = [modules[name].register_forward_hook(keep) for name in layers]
        logits = model.network(batch)
        for handle in handles:
            handle.remove()
        return torch.autograd.grad(logits[:, 0].sum(), kept)

    return step


def _work(who: str, index: int, images: int, photos: Path) -> Callable[[], object]:
    """What one of ``WHO`` does in its turn."""
    if who != "bare":
        keep_freed_memory()
    case = CASES[index]
    model = load(case)
    batch = torch.randn(BATCH, 3, case.side, case.side)
    layers = CAM(model).layers(batch)
    step = floor(model, layers, batch)

    def alone() -> None:
        for _ in range(images // BATCH):
            step()

    def segment() -> None:
        masks = tempfile.mkdtemp(dir=photos.parent)
        segment_images(photos, model, masks, cam=CAM(model, layers), classes=[0], gate=0.0,
                       batch_size=BATCH)  # fmt: skip

    return segment if who == "segment" else alone


def _serve() -> None:
    """Work once, then once more for each line that comes, and say how long it took."""
    who, index, images, threads, photos = sys.argv[1:]
    torch.set_num_threads(int(threads))
    work = _work(who, int(index), int(images), Path(photos))
    for _ in chain([""], sys.stdin):
        print(json.dumps(timed(work)), flush=True)


if __name__ == "__main__":
    _serve()
