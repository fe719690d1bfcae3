"""How long a candidate of the search takes, against running the network for each candidate.

    python benchmarks/search_speed.py            # some minutes
    python benchmarks/search_speed.py --quick    # under one

Writes ``docs/benchmarks/search_speed.json``, ``.md`` and ``.png``. The maps are noise in the default grid
(192 entries a layer), candidates are the random ones of a first generation (3 layers each on average) or
use all layers; the network is ResNet34 with random weights at 224 px, whose speed does not depend on
them. Both are measured in one run, turn by turn, in a process that keeps freed memory as the command
does; the ratio is that of their medians.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torchvision import models

from ssgcam.allocator import keep_freed_memory
from ssgcam.cam import CAM
from ssgcam.core.blocks import block_layers
from ssgcam.core.fusion import threshold
from ssgcam.files import write_json, write_text, write_with
from ssgcam.search.cache import MapCache, MapGrid, packed
from ssgcam.search.calibration import Examples
from ssgcam.search.objective import GENES, MIN_WEIGHT, Objective

OUT = Path(__file__).parent.parent / "docs" / "benchmarks"


@dataclass(frozen=True)
class Case:
    """One setting of the measurement."""

    images: int = 40
    layers: int = 8
    candidates: int = 160
    side: int = 56
    all_layers: bool = False


GROWTH: dict[str, tuple[int, ...]] = {
    "images": (10, 20, 40, 80),
    "layers": (4, 8, 12, 16),
    "candidates": (20, 80, 160, 320),
    "side": (28, 56, 84, 112),
}


def generation(case: Case) -> Callable[[], object]:
    """A call that scores one generation."""
    generator = torch.Generator().manual_seed(0)
    grid = MapGrid()
    shape = (case.images, case.layers * len(grid), case.side**2)
    values = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    masks = (torch.rand(case.images, case.side, case.side, generator=generator) > 0.7).byte()
    names = tuple(str(k) for k in range(max(case.layers, case.images)))
    examples = Examples(
        torch.zeros(case.images, 3, 1, 1), masks, torch.zeros(case.images).long(),
        torch.rand(case.images, generator=generator), (0,), names[: case.images], names[: case.images],
    )  # fmt: skip
    rows = packed(values)
    cache = MapCache(
        rows[..., : case.side**2], names[: case.layers], grid, (case.side, case.side), packed=rows
    )
    rng = np.random.default_rng(0)
    genes = np.ones((case.candidates, case.layers, GENES))
    if not case.all_layers:
        genes[..., 0] = rng.random(genes.shape[:2]) < 3 / case.layers
    genes[..., 1] = rng.uniform(MIN_WEIGHT, 1, genes.shape[:2])
    genes[..., 2] = rng.integers(len(grid), size=genes.shape[:2])
    cuts = rng.uniform(0.1, 0.9, (case.candidates, 2))
    population = np.concatenate([genes.reshape(case.candidates, -1), cuts], 1).T
    objective = Objective(cache, examples)
    return lambda: objective(population)


def network_pass(
    side: int = 224, images: int = 40, batch: int = 8
) -> tuple[Callable[[], object], ...]:
    """Calls that run ResNet34 on all images: for the maps and masks of one candidate; forward only."""
    network = models.resnet34(num_classes=2).eval()
    pictures = torch.rand(images, 3, side, side)
    layers = block_layers(network, pictures[:1], most=8)
    cam = CAM(network, layers, size=(56, 56))

    def candidate() -> None:
        for part in pictures.split(batch):
            threshold(cam(part, 1).maps, 0.4)

    def forward() -> None:
        with torch.inference_mode():
            for part in pictures.split(batch):
                network(part)

    return candidate, forward


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the main figure alone, few repeats")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    repeats = 3 if arguments.quick else 7
    calls = {
        "fitness": generation(Case()),
        "fitness, all 8 layers": generation(Case(all_layers=True)),
    }
    calls["ResNet34 maps"], calls["ResNet34 forward"] = network_pass()
    for call in calls.values():
        call()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(timed(call))
    per = {name: Case().candidates if "fitness" in name else 1 for name in calls}
    main_rows = {
        name: {
            "ms_per_candidate": 1000 * statistics.median(t[0] for t in found) / per[name],
            "processor_ms_per_candidate": 1000 * statistics.median(t[1] for t in found) / per[name],
            "fastest_ms_per_candidate": 1000 * min(t[0] for t in found) / per[name],
        }
        for name, found in times.items()
    }
    ratios = {
        f"{slow} / {fast}": main_rows[slow]["ms_per_candidate"]
        / main_rows[fast]["ms_per_candidate"]
        for slow in ("ResNet34 maps", "ResNet34 forward")
        for fast in ("fitness", "fitness, all 8 layers")
    }
    del calls
    growth = [] if arguments.quick else grown(repeats)
    result: dict[str, Any] = {
        "study": "search_speed",
        "case": "40 images, 8 layers, 56x56 cells, 192 entries a layer, 160 candidates a generation",
        "threads": arguments.threads,
        "processors": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "machine": platform.machine(),
        "torch": torch.__version__,
        "repeats": repeats,
        "measured": main_rows,
        "ratios": ratios,
        "growth": growth,
        "command": "python " + " ".join(["benchmarks/search_speed.py", *sys.argv[1:]]),
    }
    text = markdown(result)
    print(text)
    if not arguments.quick:
        write_json(arguments.out / "search_speed.json", result)
        write_text(arguments.out / "search_speed.md", text)
        write_with(
            arguments.out / "search_speed.png", lambda path: plot(growth).savefig(path, dpi=130)
        )


def grown(repeats: int) -> list[dict[str, Any]]:
    """The time of a candidate as one number after another changes."""
    rows = []
    for what, values in GROWTH.items():
        for value in values:
            case = replace(Case(), **{what: value})
            call = generation(case)
            call()
            found = [timed(call) for _ in range(repeats)]
            rows.append(
                {
                    "varied": what,
                    "value": value,
                    "ms_per_candidate": 1000
                    * statistics.median(t[0] for t in found)
                    / case.candidates,
                    "processor_ms_per_candidate": 1000
                    * statistics.median(t[1] for t in found)
                    / case.candidates,
                }
            )
            print(rows[-1], flush=True)
    return rows


def markdown(result: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        "# Speed of the search",
        "",
        f"{result['case']}; {result['threads']} threads of {result['processors']} processors, load "
        f"average {result['load_average']:.1f} (on a shared machine ratios tell more than times).",
        "",
        "| | ms a candidate (median) | fastest | processor ms |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {row['ms_per_candidate']:.3g} | {row['fastest_ms_per_candidate']:.3g} | "
        f"{row['processor_ms_per_candidate']:.3g} |"
        for name, row in result["measured"].items()
    ]
    lines += ["", "| ratio of medians | |", "| --- | --- |"]
    lines += [f"| {name} | {value:,.0f} |" for name, value in result["ratios"].items()]
    if result["growth"]:
        lines += [
            "",
            "![How it grows](search_speed.png)",
            "",
            "| varied | value | ms a candidate |",
        ]
        lines += ["| --- | --- | --- |"]
        lines += [
            f"| {row['varied']} | {row['value']} | {row['ms_per_candidate']:.3g} |"
            for row in result["growth"]
        ]
    return "\n".join([*lines, "", f"    {result['command']}", ""])


def plot(growth: list[dict[str, Any]]) -> Figure:
    """Four panels, one for each number that grows."""
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    labels = {"side": "side of the maps, cells", "candidates": "candidates a generation"}
    for axes, what in zip(figure.subplots(1, len(GROWTH)), GROWTH, strict=True):
        rows = [row for row in growth if row["varied"] == what]
        values = [row["value"] for row in rows]
        axes.plot(values, [row["ms_per_candidate"] for row in rows], "o-", label="wall")
        axes.plot(
            values, [row["processor_ms_per_candidate"] for row in rows], "s:", label="processor"
        )
        axes.set(xlabel=labels.get(what, what), ylim=(0, None))
    figure.axes[0].set_ylabel("ms a candidate")
    figure.axes[0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
