"""What a candidate of the search costs, and what it would cost with a network pass for each.

Random candidates on random maps (the cost depends on neither), against one forward and backward pass of a
ResNet34 at 224 px over the same number of images, both in one run. Then how the cost of a candidate grows
with images, layers, resolution and candidates in a generation.

    python benchmarks/search_speed.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from ssgcam import SSGCAM, load_model
from ssgcam.files import write_json, write_text, write_with
from ssgcam.search import Examples, MapCache, MapGrid, Objective
from study import DOCS, command, table

IMAGES, LAYERS, SIDE, CANDIDATES = 40, 8, 56, 160
GROWTH = {
    "images": (10, 20, 40, 80),
    "layers": (2, 4, 8, 12),
    "side": (28, 56, 112),
    "candidates": (20, 80, 160, 320),
}


def objective(images: int, layers: int, side: int) -> Objective:
    """Random maps of the default grid and masks of a third of the cells."""
    generator = torch.Generator().manual_seed(0)
    grid = MapGrid()
    values = torch.randint(
        0, 256, (images, layers * len(grid), side * side), generator=generator, dtype=torch.uint8
    )
    masks = (torch.rand(images, side, side, generator=generator) < 1 / 3).to(torch.uint8)
    examples = Examples(
        images=torch.zeros(images, 3, 8, 8),
        masks=masks,
        classes=torch.zeros(images, dtype=torch.long),
        probabilities=torch.ones(images),
        targets=(0,),
        groups=tuple(map(str, range(images))),
        names=tuple(map(str, range(images))),
    )
    names = tuple(f"layer{k}" for k in range(layers))
    cache = MapCache(values, names, grid, (side, side), ((1, 2, 2),) * layers)
    return Objective(cache, examples)


def genomes(of: Objective, candidates: int) -> np.ndarray:  # type: ignore[type-arg]
    """Random candidates, half of their gates open."""
    low, high = np.array(of.bounds).T
    random = np.random.default_rng(0).random((len(low), candidates))
    values = low[:, None] + random * (high - low)[:, None]
    values[of.integral] = np.round(values[of.integral])
    return values


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Median of several runs after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def per_candidate(images: int, layers: int, side: int, candidates: int, repeats: int) -> float:
    """Milliseconds for a candidate."""
    of = objective(images, layers, side)
    genes = genomes(of, candidates)
    return 1000 * seconds(lambda: of(genes), repeats) / candidates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one repeat")
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    repeats = 1 if options.quick else options.repeats
    candidate = per_candidate(IMAGES, LAYERS, SIDE, CANDIDATES, repeats)
    cam = SSGCAM(load_model("resnet34", "none"))
    photos = torch.rand(8, 3, 224, 224)
    cam(photos[:1])  # settles the layers
    network = 1000 * seconds(lambda: cam(photos), max(1, repeats // 2)) * IMAGES / len(photos)
    base = {"images": IMAGES, "layers": LAYERS, "side": SIDE, "candidates": CANDIDATES}
    growth = {
        what: [
            per_candidate(**{**base, what: value}, repeats=max(1, repeats // 2)) for value in values
        ]
        for what, values in GROWTH.items()
    }
    result = {
        "command": command(),
        "threads": torch.get_num_threads(),
        "images": IMAGES, "layers": LAYERS, "side": SIDE, "candidates": CANDIDATES,
        "candidate_ms": candidate,
        "network_ms": network,
        "ratio": network / candidate,
        "growth": {what: dict(zip(map(str, GROWTH[what]), growth[what], strict=True)) for what in GROWTH},
    }  # fmt: skip
    write_json(options.out / "search_speed.json", result)
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    for axes, what in zip(figure.subplots(1, 4), GROWTH, strict=True):
        axes.plot(GROWTH[what], growth[what], marker="o")
        axes.set(xlabel=what, ylabel="ms a candidate", ylim=(0, None))
    write_with(options.out / "search_speed.png", lambda path: figure.savefig(path, dpi=100))
    lines = [
        [
            what,
            ", ".join(f"{v}: {ms:.2f}" for v, ms in zip(GROWTH[what], growth[what], strict=True)),
        ]
        for what in GROWTH
    ]
    text = (
        f"# What a candidate of the search costs\n\n`{command()}`, {torch.get_num_threads()} threads\n\n"
        f"**{candidate:.2f} ms** a candidate at {IMAGES} images, {LAYERS} layers, {SIDE}x{SIDE} cells, "
        f"{CANDIDATES} candidates in a generation. SSG-CAM of ResNet34 at 224 px over the same {IMAGES} "
        f"images, in the same run: {network:.0f} ms, **{network / candidate:.0f} times** as much.\n\n"
        f"{table(['grows with', 'ms a candidate'], lines)}\n![growth](search_speed.png)\n"
    )
    write_text(options.out / "search_speed.md", text)
    print(text)


if __name__ == "__main__":
    main()
