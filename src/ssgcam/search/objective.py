"""The fitness of many candidates at once, from cached maps: pick, weight, sum, threshold, compare.

A candidate is a row of genes: for each layer a gate (0 or 1), a weight and an index into the grid;
then the mask threshold and the class gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ssgcam.search.cache import MapCache
from ssgcam.search.calibration import Examples
from ssgcam.search.scoring import Counts, Fitness, box_counts, boxes_of, fitness

#: Genes of a layer: gate, weight, grid index.
GENES = 3
MIN_WEIGHT = 0.05
THRESHOLD_RANGE = (0.01, 0.95)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Each operation here takes a tenth of a millisecond, less than several threads take to meet.

    Sharing the images out over two threads gained nothing either (``docs/search.md``).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Decoded genes of P candidates.

    Attributes:
        weights: ``[P, L]`` float64; 0 where the gate is shut.
        entries: ``[P, L]`` grid indices.
        thresholds: ``[P]``.
        gates: ``[P]``.
    """

    weights: Tensor
    entries: Tensor
    thresholds: Tensor
    gates: Tensor


@dataclass(frozen=True, eq=False)
class Objective:
    """Fitness on some images of a cache.

    Attributes:
        cache: The maps.
        examples: The images of the cache, all of them, with their masks.
        kind: What is scored.
        penalty: Taken off for each layer in use.
        rows: The images that count; None is all.
        gate: A fixed class gate; None: the last gene.
        order: ``[L, entries]``: the grid entry that an index gene stands for.
        dtype: What the maps are summed in.
    """

    cache: MapCache
    examples: Examples
    kind: Fitness = "pooled"
    penalty: float = 0.0
    rows: tuple[int, ...] | None = None
    gate: float | None = None
    order: Tensor | None = None
    dtype: torch.dtype = torch.float32
    _shares: Tensor = field(init=False, repr=False)
    _true: Tensor = field(init=False, repr=False)
    _valid: Tensor = field(init=False, repr=False)
    _boxes: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Bring the masks to the working size: how many pixels of each cell are object and valid.

        So the counts are those of a mask that is enlarged (nearest) to the masks' own size.
        """
        rows = list(range(len(self.cache))) if self.rows is None else list(self.rows)
        masks = self.examples.masks[rows]
        size = self.cache.size
        pixels = masks.shape[-2] * masks.shape[-1] / (size[0] * size[1])
        planes = torch.stack([masks == 1, masks != 255], 1).double()
        shares = F.adaptive_avg_pool2d(planes, size).flatten(2) * pixels
        set_ = object.__setattr__
        set_(self, "rows", tuple(rows))
        set_(self, "_shares", shares.to(self.dtype))  # [n, 2, cells]
        set_(self, "_true", shares[:, 0].sum(1))
        set_(self, "_valid", shares[:, 1].sum(1))
        sides = [size[1] / masks.shape[2], size[0] / masks.shape[1]]
        set_(self, "_boxes", boxes_of(masks == 1) * torch.tensor(sides * 2, dtype=torch.float64))

    @property
    def layers(self) -> int:
        """Number of candidate layers."""
        return len(self.cache.layers)

    @property
    def bounds(self) -> list[tuple[float, float]]:
        """Lower and upper bound of every gene."""
        entries = len(self.cache.grid) - 1
        return [*[(0, 1), (MIN_WEIGHT, 1), (0, entries)] * self.layers, THRESHOLD_RANGE, (0, 1)]

    @property
    def integral(self) -> list[bool]:
        """Which genes are whole numbers."""
        return [*[True, False, True] * self.layers, False, False]

    def decode(self, genomes: NDArray[np.float64]) -> Candidates:
        """Genes ``[D, P]``, one column for each candidate, as SciPy passes them."""
        genes = torch.from_numpy(np.ascontiguousarray(genomes.T))  # [P, D]
        layers = genes[:, : GENES * self.layers].reshape(len(genes), self.layers, GENES)
        index = layers[..., 2].round().long()
        if self.order is not None:
            index = self.order.gather(1, index.T).T
        gates = genes[:, -1] if self.gate is None else torch.full_like(genes[:, -1], self.gate)
        weights = layers[..., 1] * (layers[..., 0] >= 0.5)
        return Candidates(weights, index, genes[:, -2], gates)

    @_one_thread()
    def __call__(self, genomes: NDArray[np.float64]) -> NDArray[np.float64]:
        """What SciPy minimizes: 1 minus the penalized fitness of each column, ``[P]``."""
        candidates = self.decode(genomes)
        used = (candidates.weights > 0).sum(1)
        scores: NDArray[np.float64] = (1 - self.fitness(candidates) + self.penalty * used).numpy()
        return scores

    def fitness(self, candidates: Candidates) -> Tensor:
        """``[P]`` float64, without the penalty."""
        counts = self.counts(candidates)
        assert self.rows is not None
        probabilities = self.examples.probabilities[list(self.rows)].double()
        return fitness(counts.gated(probabilities >= candidates.gates[:, None]), self.kind)

    @_one_thread()
    def counts(self, candidates: Candidates) -> Counts:
        """Counts ``[P, n]`` before the gate, from a few large operations for each image."""
        active = candidates.weights > 0
        wanted = (candidates.entries + torch.arange(self.layers) * len(self.cache.grid))[active]
        weights = candidates.weights[active].to(self.dtype)
        starts = active.sum(1).cumsum(0) - active.sum(1)
        limits = candidates.thresholds.to(self.dtype)
        count = len(candidates.thresholds)
        assert self.rows is not None
        found = torch.empty(len(self.rows), 2, count, dtype=self.dtype)
        boxes = torch.empty(count, len(self.rows), 4, dtype=torch.float64)
        for n, row in enumerate(self.rows):
            fused = self.cache.sums(row, wanted, starts, weights)
            peaks = fused.amax(1)
            cut = torch.where(peaks > 0, peaks * limits, torch.inf)
            fused.ge_(cut[:, None])
            if self.kind == "box":
                boxes[:, n] = boxes_of(fused.view(count, *self.cache.size) > 0)
            else:
                torch.mm(self._shares[n], fused.T, out=found[n])
        if self.kind == "box":
            return box_counts(boxes, self._boxes, self._valid)
        hit, predicted = found.permute(1, 2, 0).double()
        return Counts(hit, predicted, self._true, self._valid)


@_one_thread()
def ranked_entries(objective: Objective, thresholds: int = 24) -> tuple[Tensor, Tensor]:
    """Every layer's grid entries, best first by their own pooled IoU: an index gene gets an order.

    A quarter of the cells is looked at. Thresholds are spaced evenly in the logarithm, as maps have
    heavy tails.

    Args:
        objective: The images and maps.
        thresholds: How many are tried on each map.

    Returns:
        Entries ``[L, entries]``, best first, and the best threshold of each, in the same order.
    """
    cache = objective.cache
    assert objective.rows is not None
    limits = torch.from_numpy(np.geomspace(*THRESHOLD_RANGE, thresholds))
    rows = cache.values.shape[1]
    hit, predicted = torch.zeros(2, thresholds, rows, dtype=torch.float64)
    picked = torch.arange(cache.size[0] * cache.size[1]).view(cache.size)[::2, ::2].flatten()
    scale = 255 if cache.values.dtype == torch.uint8 else 1
    inside = torch.empty(rows, len(picked), dtype=objective.dtype)
    for n, row in enumerate(objective.rows):
        maps = cache.values[row].index_select(1, picked).to(objective.dtype)
        shares = objective._shares[n][:, picked]
        for t, limit in enumerate(limits.tolist()):
            torch.ge(maps, limit * scale, out=inside)
            counts = shares @ inside.T
            hit[t] += counts[0]
            predicted[t] += counts[1]
    truth = sum(float(objective._shares[n][0, picked].sum()) for n in range(len(objective.rows)))
    scores = hit / (predicted + truth - hit).clamp_min(1e-12)
    best, at = scores.max(0)
    order = best.view(objective.layers, -1).argsort(dim=1, descending=True, stable=True)
    return order, limits[at].view(objective.layers, -1).gather(1, order)


def index_of(order: Sequence[int] | Tensor, entry: int) -> int:
    """The index gene that stands for a grid entry."""
    return int((torch.as_tensor(order) == entry).nonzero()[0, 0])
