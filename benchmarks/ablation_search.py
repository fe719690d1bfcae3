"""Ablation of the search: how many calibration images it needs, and whether its optimizer matters.

Infected red blood cells and a network of ``train_malaria.py``, plain maps without flips or refinement,
at 56x56 cells: IoU against the ellipse of each cell on the windows of the fold's test fields.
**Images**: several draws of each size (of 40 and 80 there is one set, and several seeds of the search).
Each calibrates the search, the best single SSG-CAM layer (its settings searched alike) and the best
single LayerCAM layer. Of the 80 windows, 40 are from fields whose image-level labels the network was
trained on. **Optimizers**: equal evaluations on 40 windows, from the same planted candidates: our
differential evolution, the same with SciPy's default step sizes, CMA-ES with margin (Hamano et al. 2022)
and random search.

    python benchmarks/ablation_search.py --data DATA --weights runs --network resnet34
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cmaes import CMAwM
from numpy.typing import NDArray
from scipy.optimize import differential_evolution
from torch import Tensor

from ablation_search_report import drawn, report
from malaria_cells import examples, spread
from malaria_windows import WindowSet
from ssgcam import load_model
from ssgcam.core.blocks import block_layers
from ssgcam.files import write_json, write_with
from ssgcam.search import SearchSettings
from ssgcam.search.cache import MapCache, build_cache
from ssgcam.search.calibration import Examples, make_examples
from ssgcam.search.evolution import evolve
from ssgcam.search.objective import Candidates, Objective, ranked_entries
from ssgcam.search.planting import LAYER_CAM, first_generation, planted
from study import DOCS, write_study

Array = NDArray[np.float64]
SIZES = (5, 10, 20, 40, 80)
#: Windows beyond the calibration fields are of fields that the network was trained on.
CALIBRATION, MORE = 40, 80


@dataclass(frozen=True, eq=False)
class Cells:
    """Cached maps of calibration and test windows."""

    near: Examples
    near_maps: MapCache
    far: Examples
    far_maps: MapCache
    seconds: float  # that a calibration window's maps took

    def objective(self, rows: Sequence[int], settings: SearchSettings) -> Objective:
        """Of some calibration windows, with its ranked grid entries."""
        plain = Objective(
            self.near_maps, self.near, "pooled", settings.penalty, rows=tuple(rows), gate=0.0
        )
        return replace(plain, order=ranked_entries(plain)[0])

    def score(self, candidates: Candidates) -> Tensor:
        """``[P]``: IoU on the test windows."""
        return Objective(self.far_maps, self.far, gate=0.0).fitness(candidates)


@dataclass
class Trace:
    """An objective that notes the best cost and its genes after every evaluation."""

    objective: Objective
    best: float = float("inf")
    genes: Array | None = None
    curve: list[float] = field(default_factory=list)

    def __call__(self, genes: Array) -> Array:
        """Costs ``[P]`` of genes ``[D, P]``."""
        genes = genes[:, None] if genes.ndim == 1 else genes
        costs = self.objective(genes)
        for column, cost in enumerate(costs):
            if cost < self.best:
                self.best, self.genes = float(cost), genes[:, column].copy()
            self.curve.append(1 - self.best)
        return costs


def prepared(data: Path, file: Path, fold: int, settings: SearchSettings) -> Cells:
    """Run the network once over all windows."""
    model = load_model(str(file))
    size = model.preprocessing.size[0]
    windows = WindowSet.read(data / "malaria_iml")
    first = spread(windows.fixed(fold, "calibration", healthy=0), CALIBRATION, windows.seed)
    wider = replace(windows, calibration_cells=2 * MORE)
    known = {window.field for window in windows.fixed(fold, "calibration", healthy=0)}
    rest = [w for w in wider.fixed(fold, "calibration", healthy=0) if w.field not in known]
    chosen = [*first, *spread(rest, MORE - CALIBRATION, windows.seed)]
    near, far = (
        make_examples(examples(windows, part, size), model)
        for part in (chosen, windows.fixed(fold, "test", healthy=0))
    )
    layers = block_layers(model.network, near.images[:1])
    started = time.perf_counter()
    maps = [
        build_cache(
            model, part, layers, grid=settings.grid, size=settings.size, score=settings.score,
            storage=settings.storage, limit=2**33, batch_size=settings.batch_size,
        )
        for part in (near, far)
    ]  # fmt: skip
    seconds = (time.perf_counter() - started) / (len(near) + len(far))
    return Cells(near, maps[0], far, maps[1], seconds)


def differ(trace: Trace, population: Array, settings: SearchSettings) -> None:
    """The search's own differential evolution."""
    own = trace.objective
    evolve(
        trace, own.bounds, own.integral, population,
        generations=settings.generations, seed=settings.seed,
    )  # fmt: skip


def differ_as_scipy(trace: Trace, population: Array, settings: SearchSettings) -> None:
    """The same with SciPy's default mutation and recombination."""
    own = trace.objective
    differential_evolution(
        trace, own.bounds, init=population, maxiter=settings.generations, integrality=own.integral,
        vectorized=True, updating="deferred", polish=False, tol=0, rng=settings.seed,
    )  # fmt: skip


def covariance(trace: Trace, population: Array, settings: SearchSettings) -> None:
    """CMA-ES with margin, genes scaled to [0, 1], from the best planted candidate."""
    low, high = np.array(trace.objective.bounds).T
    budget = len(population) * (settings.generations + 1)
    trace(population.T)
    assert trace.genes is not None
    steps = np.where(trace.objective.integral, 1 / (high - low), 0.0)
    bounds = np.tile([0.0, 1.0], (len(low), 1))
    start = (trace.genes - low) / (high - low)
    optimizer = CMAwM(start, 0.2, bounds, steps, seed=settings.seed)
    while len(trace.curve) + optimizer.population_size <= budget:
        asked = [optimizer.ask() for _ in range(optimizer.population_size)]
        costs = trace((low + np.stack([shown for shown, _ in asked]) * (high - low)).T)
        optimizer.tell([(told, float(c)) for (_, told), c in zip(asked, costs, strict=True)])
        if optimizer.should_stop():  # converged: again from the best so far
            start = (trace.genes - low) / (high - low)
            seed = settings.seed + len(trace.curve)
            optimizer = CMAwM(start, 0.2, bounds, steps, seed=seed)


def random(trace: Trace, population: Array, settings: SearchSettings) -> None:
    """More candidates like the random ones of the first generation."""
    trace(population.T)
    order, thresholds = ranked_entries(replace(trace.objective, order=None))
    known = len(planted(trace.objective, order, thresholds))
    size = known + len(population)
    for generation in range(1, settings.generations + 1):
        seed = settings.seed + 1000 * generation
        fresh = first_generation(trace.objective, order, thresholds, size, seed)
        trace(fresh[known:].T)


OPTIMISERS: dict[str, Callable[[Trace, Array, SearchSettings], None]] = {
    "differential evolution (ours)": differ,
    "differential evolution, SciPy's steps": differ_as_scipy,
    "CMA-ES with margin": covariance,
    "random search": random,
}


def optimized(
    objective: Objective, name: str, settings: SearchSettings
) -> tuple[Trace, Candidates, float]:
    """One optimizer's run: its trace, its best candidate, its seconds."""
    order, thresholds = ranked_entries(replace(objective, order=None))
    population = first_generation(objective, order, thresholds, settings.population, settings.seed)
    trace = Trace(objective)
    started = time.perf_counter()
    OPTIMISERS[name](trace, population, settings)
    assert trace.genes is not None
    return trace, objective.decode(trace.genes[:, None]), time.perf_counter() - started


def single_layers(objective: Objective, entries: Sequence[int]) -> Candidates:
    """The best of each layer alone with these grid entries, at the threshold that suits it."""
    cuts = torch.linspace(0.02, 0.9, 89, dtype=torch.float64)
    alone = torch.eye(objective.layers, dtype=torch.float64)
    found = []
    for entry in entries:
        weights = alone.repeat_interleave(len(cuts), 0)
        many = Candidates(
            weights,
            torch.full(weights.shape, entry),
            cuts.repeat(objective.layers),
            torch.zeros(len(weights), dtype=torch.float64),
        )
        scores = objective.fitness(many)
        best = int(scores.argmax())
        found.append((float(scores[best]), best, many))
    _, best, many = max(found, key=lambda item: item[0])
    pick = slice(best, best + 1)
    return Candidates(
        many.weights[pick], many.entries[pick], many.thresholds[pick], many.gates[pick]
    )


def sizes_study(cells: Cells, settings: SearchSettings, draws: int) -> list[dict[str, Any]]:
    """For each number of images and draw: IoU on the test windows, and what it cost."""
    grid = cells.near_maps.grid
    layer_cam = [grid.entries.index(LAYER_CAM)]
    found = []
    for size in SIZES:
        pool = CALIBRATION if size <= CALIBRATION else MORE
        for draw in range(draws):
            rows = sorted(np.random.default_rng([draw, size]).permutation(pool)[:size].tolist())
            objective = cells.objective(rows, settings)
            run = replace(settings, seed=draw)
            trace, best, seconds = optimized(objective, "differential evolution (ours)", run)
            top = sorted({int(entry) for entry in objective.order[:, :3].flatten()})  # type: ignore[index]
            found.append(
                {
                    "images": size,
                    "draw": draw,
                    "recipe": float(cells.score(best)),
                    "ssg": float(cells.score(single_layers(objective, top))),
                    "layer_cam": float(cells.score(single_layers(objective, layer_cam))),
                    "calibration": 1 - trace.best,
                    "seconds": seconds + size * cells.seconds,
                }
            )
            print(found[-1], flush=True)
    return found


def optimizers_study(cells: Cells, settings: SearchSettings, seeds: int) -> list[dict[str, Any]]:
    """For each optimizer and seed: its best fitness, the IoU on the test windows, its course."""
    objective = cells.objective(range(CALIBRATION), settings)
    found = []
    for name in OPTIMISERS:
        for seed in range(seeds):
            trace, best, seconds = optimized(objective, name, replace(settings, seed=seed))
            found.append(
                {
                    "optimizer": name,
                    "seed": seed,
                    "calibration": 1 - trace.best,
                    "held_out": float(cells.score(best)),
                    "evaluations": len(trace.curve),
                    "seconds": seconds,
                    "curve": trace.curve[:: settings.population],
                }
            )
            print({k: v for k, v in found[-1].items() if k != "curve"}, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="folder of train_malaria.py")
    parser.add_argument("--network", default="resnet34")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5, help="draws of images, and seeds")
    parser.add_argument("--quick", action="store_true", help="3 generations, for a smoke test")
    parser.add_argument("--work", type=Path, default=Path("runs/ablation_search"), help="parts")
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    settings = SearchSettings(generations=3) if options.quick else SearchSettings()
    repeats = 1 if options.quick else options.repeats
    file = options.weights / f"malaria_{options.network}_fold{options.fold}.pth"
    kept = options.work / f"{options.network}_fold{options.fold}_{settings.generations}.json"
    found = json.loads(kept.read_text()) if kept.is_file() else {}
    if not {"sizes", "optimizers"} <= set(found):
        cells = prepared(options.data, file, options.fold, settings)
        found["windows"] = len(cells.far)
        for name, study in (("sizes", sizes_study), ("optimizers", optimizers_study)):
            if name not in found:
                found[name] = study(cells, settings, repeats)
                write_json(kept, found)
    sizes, optimizers = found["sizes"], found["optimizers"]
    about = (__doc__ or "").split("\n\n")[1]
    rows, text = report(sizes, optimizers, options.network, found["windows"], about)
    figure = drawn(sizes, optimizers, settings.population)
    write_with(
        options.out / "ablation_search.png", lambda p: figure.savefig(p, format="png", dpi=130)
    )
    write_study("ablation_search", rows, text, options.out)
    print(text)


if __name__ == "__main__":
    main()
