"""Which genes have the lowest cost? SciPy's differential evolution, from known good candidates."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, differential_evolution

from ssgcam.core.settings import SSGSettings
from ssgcam.search.objective import GENES, MIN_WEIGHT, THRESHOLD_RANGE, Objective

Array = NDArray[np.float64]
#: After 16,000 candidates on cells' masks these were .002 to .004 better than SciPy's defaults (0.5 to
#: 1, and 0.7), whose trials change most genes of a good mixture at once.
MUTATION, RECOMBINATION = (0.3, 0.7), 0.2
#: LayerCAM as a grid entry: settings and gamma.
LAYER_CAM = (SSGSettings("gradient", 0.0, 1.0, 0.0), 1.0)


@dataclass(frozen=True)
class Evolution:
    """The result of an evolution.

    Attributes:
        genes: ``[D]``: the best candidate.
        history: The best cost after each generation, the initial population's first.
        evaluations: How many candidates were scored.
    """

    genes: Array
    history: tuple[float, ...]
    evaluations: int

    @property
    def cost(self) -> float:
        """The cost of the best candidate."""
        return self.history[-1]


def evolve(
    objective: Objective,
    population: Array,
    *,
    generations: int,
    seed: int,
    interrupted: Callable[[], bool] = lambda: False,
    progress: Callable[[float], object] = lambda cost: None,
) -> Evolution:
    """Minimize a cost by differential evolution (Storn and Price 1997), ``best1bin``, deferred updates.

    Args:
        objective: Costs, bounds and integrality of the genes.
        population: ``[P, D]``: the initial population, P of at least 5.
        generations: Generations after the initial population.
        seed: Seed of mutation and crossover.
        interrupted: Asked after each generation; True ends the evolution with the best so far.
        progress: Called with the best cost after each generation.
    """
    lowest: list[float] = []  # of the initial population and of each generation

    def scored(genes: Array) -> Array:
        costs = objective(genes)
        lowest.append(float(costs.min()))
        return costs

    def after_generation(intermediate_result: OptimizeResult) -> None:
        progress(float(intermediate_result.fun))
        if interrupted():
            raise StopIteration

    found = differential_evolution(
        scored,
        objective.bounds,
        init=population,
        maxiter=generations,
        integrality=objective.integrality,
        strategy="best1bin",
        mutation=MUTATION,
        recombination=RECOMBINATION,
        vectorized=True,
        updating="deferred",
        polish=False,
        tol=0,
        rng=seed,
        callback=after_generation,
    )
    history = tuple(np.minimum.accumulate(lowest).tolist())
    return Evolution(np.asarray(found.x), history, len(lowest) * len(population))


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag; the second one is an ordinary KeyboardInterrupt.

    Yields:
        Whether there was a Ctrl-C.
    """
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag.is_set
        return

    def handler(number: int, frame: FrameType | None) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield flag.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def known_candidates(objective: Objective) -> dict[str, Array]:
    """Candidates that every search starts from: single layers, LayerCAM and naive means.

    Returns:
        ``[candidates, D]`` by kind. ``"layer"``: each layer alone by its best entry; ``"layer_cam"``:
        each alone by LayerCAM, if the grid has it; ``"mean"``: the mean of all layers, equally weighted,
        each by its best entry and all by each entry that is best in some layer, at the mean of the
        layers' best thresholds and at 1.5 times that.
    """
    layers, order = objective.layers, objective.order
    place = order.argsort(1)  # of an entry in the order
    found: dict[str, list[Array]] = {"layer": [], "layer_cam": [], "mean": []}
    entries = {"layer": order[:, 0]}
    if LAYER_CAM in objective.cache.grid.entries:
        index = objective.cache.grid.entries.index(LAYER_CAM)
        entries["layer_cam"] = torch.full((layers,), index)
    for kind, of_layer in entries.items():
        indices = place.gather(1, of_layer[:, None])
        cuts = objective.thresholds.gather(1, indices)
        for layer in range(layers):
            genes = np.tile([0, MIN_WEIGHT, 0], (layers, 1))
            genes[layer] = 1, 1, int(indices[layer])
            found[kind].append(np.append(genes, [float(cuts[layer]), 0.0]))
    for entry in (None, *sorted(set(order[:, 0].tolist()))):
        indices = torch.zeros(layers, 1).long() if entry is None else place[:, [entry]]
        mean = float(objective.thresholds.gather(1, indices).mean())
        genes = np.column_stack([np.ones((layers, 2)), indices.numpy()])
        found["mean"] += [np.append(genes, [cut, 0.0]) for cut in (mean, min(0.9, 1.5 * mean))]
    low, high = np.array(objective.bounds).T
    return {kind: np.stack(genes).clip(low, high) for kind, genes in found.items() if genes}


def initial_population(objective: Objective, size: int, seed: int) -> Array:
    """The known candidates and random ones: ``[max(size, known), D]``.

    A random candidate has each layer with probability 3 / layers (at least one), a random weight, and a
    grid entry that is more often one of the layer's best (uniform rank, squared); its threshold is
    uniform over the known candidates' range, its class gate uniform.
    """
    known = np.concatenate([*known_candidates(objective).values()])
    rng = np.random.default_rng([seed, 1])
    count = max(0, size - len(known))
    layers, entries = objective.layers, len(objective.cache.grid)
    genes = np.zeros((count, layers, GENES))
    genes[..., 0] = rng.random((count, layers)) < min(1.0, 3 / layers)
    genes[np.arange(count), rng.integers(layers, size=count), 0] = 1
    genes[..., 1] = rng.uniform(MIN_WEIGHT, 1, (count, layers))
    genes[..., 2] = np.floor(rng.random((count, layers)) ** 2 * entries)
    low, high = np.clip([known[:, -2].min() / 2, known[:, -2].max() * 1.5], *THRESHOLD_RANGE)
    cuts, gates = rng.uniform(low, high, (count, 1)), rng.random((count, 1))
    random = np.concatenate([genes.reshape(count, layers * GENES), cuts, gates], 1)
    return np.concatenate([known, random])
