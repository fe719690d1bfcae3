"""How good are many candidates at once? Pick cached maps, weight, sum, threshold, compare with the masks.

A candidate is a row of genes: for each layer a gate (0 or 1), a weight and an index into the grid;
then the mask threshold and the class gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ssgcam.search import fitness as scores
from ssgcam.search.cache import MapCache
from ssgcam.search.calibration_set import CalibrationSet
from ssgcam.search.settings import Fitness

#: Genes of a layer: gate, weight, grid index.
GENES = 3
MIN_WEIGHT = 0.05
THRESHOLD_RANGE = (0.01, 0.95)
#: Thresholds at which each map alone is ranked: even in the logarithm, as maps have heavy tails.
RANKING_THRESHOLDS = np.geomspace(*THRESHOLD_RANGE, 24)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run small operations in one thread, as starting several takes longer than the operation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Candidates(NamedTuple):
    """Decoded genes of P candidates.

    Attributes:
        weights: ``[P, L]`` float64; 0 where the layer is not used.
        entries: ``[P, L]`` grid indices.
        thresholds: ``[P]``.
        gates: ``[P]``.
    """

    weights: Tensor
    entries: Tensor
    thresholds: Tensor
    gates: Tensor


class Objective:
    """Fitness on some images of a cache.

    Masks are compared at the working size: each cell holds how many object and valid pixels of the
    labeled mask lie in it, as if the predicted mask were enlarged (nearest) to the labeled mask's size.
    For ``"box"`` the smallest boxes around the masks take their place; every pixel is valid.

    Args:
        cache: The maps.
        data: The images of the cache, all of them, with their masks.
        kind: What is scored.
        penalty: Subtracted for each layer in use.
        rows: The images that count; None is all.
        gate: A fixed class gate; None: the last gene.

    Attributes:
        order: ``[L, entries]``: each layer's grid entries, best first by their own pooled IoU. An index
            gene counts in this order, as differential evolution needs neighbors to be alike.
        thresholds: ``[L, entries]``: the best threshold of each, in the same order.
        bounds: Lower and upper bound of every gene.
        integrality: Which genes are whole numbers.
    """

    def __init__(
        self,
        cache: MapCache,
        data: CalibrationSet,
        kind: Fitness = "pooled",
        penalty: float = 0.0,
        rows: Sequence[int] | None = None,
        gate: float | None = None,
    ) -> None:
        self.cache, self.kind, self.penalty, self.gate = cache, kind, penalty, gate
        self.rows = list(range(len(cache)) if rows is None else rows)
        self.layers = len(cache.layers)
        self.probabilities = data.probabilities[self.rows].double()
        masks, size = data.masks[self.rows], cache.size
        area = masks.shape[-1] * masks.shape[-2] / (size[0] * size[1])  # of a cell, in pixels
        if kind == "box":
            masks = scores.filled_boxes((masks == 1).byte())
        planes = torch.stack([masks == 1, masks != 255], 1).float()
        #: ``[n, 2, cells]``: object and valid pixels in each cell.
        self.pixels = F.adaptive_avg_pool2d(planes, size).flatten(2) * area
        layer_bounds = [(0, 1), (MIN_WEIGHT, 1), (0, len(cache.grid) - 1)]
        self.bounds = [*layer_bounds * self.layers, THRESHOLD_RANGE, (0, 1)]
        self.integrality = [*[True, False, True] * self.layers, False, False]
        with one_thread():
            self.order, self.thresholds = self._ranked_entries()

    def decode(self, genomes: NDArray[np.float64]) -> Candidates:
        """Genes ``[D, P]``, one column for each candidate, as SciPy passes them."""
        genes = torch.from_numpy(np.ascontiguousarray(genomes.T))  # [P, D]
        layers = genes[:, :-2].view(len(genes), self.layers, GENES)
        entries = self.order.gather(1, layers[..., 2].round().long().T).T
        gates = genes[:, -1] if self.gate is None else torch.full_like(genes[:, -1], self.gate)
        return Candidates(layers[..., 1] * (layers[..., 0] >= 0.5), entries, genes[:, -2], gates)

    @one_thread()
    def __call__(self, genomes: NDArray[np.float64]) -> NDArray[np.float64]:
        """What SciPy minimizes: 1 minus the penalized fitness of each column, ``[P]``."""
        candidates = self.decode(genomes)
        used = (candidates.weights > 0).sum(1)
        costs: NDArray[np.float64] = (1 - self.fitness(candidates) + self.penalty * used).numpy()
        return costs

    def fitness(self, candidates: Candidates) -> Tensor:
        """``[P]`` float64, without the penalty."""
        is_open = self.probabilities >= candidates.gates[:, None]
        return scores.fitness(scores.gated(self.confusions(candidates), is_open), self.kind)

    def confusions(self, candidates: Candidates) -> Tensor:
        """Confusion matrices ``[P, n, 2, 2]`` before the class gate."""
        active = candidates.weights > 0
        rows = (candidates.entries + torch.arange(self.layers) * len(self.cache.grid))[active]
        used, places = torch.unique(rows, return_inverse=True)
        starts = active.sum(1).cumsum(0) - active.sum(1)
        weights, limits = candidates.weights[active].float(), candidates.thresholds.float()
        counts = []
        for n, image in enumerate(self.rows):
            maps = self.cache.values[image].index_select(0, used).float()
            fused = F.embedding_bag(places, maps, starts, mode="sum", per_sample_weights=weights)
            peaks = fused.amax(1)
            inside = fused.ge_(torch.where(peaks > 0, peaks * limits, torch.inf)[:, None])
            if self.kind == "box":
                inside = scores.filled_boxes(inside.view(-1, *self.cache.size)).flatten(1)
            counts.append(self.pixels[n] @ inside.T)
        true, valid = self.pixels.double().sum(2).T
        hit, predicted = torch.stack(counts).double().permute(1, 2, 0)
        return scores.confusions(hit, predicted, true, valid)

    def _ranked_entries(self) -> tuple[Tensor, Tensor]:
        """``order`` and ``thresholds``, from a quarter of the cells."""
        values, size = self.cache.values, self.cache.size
        limits = torch.from_numpy(RANKING_THRESHOLDS)
        hit, predicted = torch.zeros(2, len(limits), values.shape[1], dtype=torch.float64)
        cells = torch.arange(size[0] * size[1]).view(size)[::2, ::2].flatten()
        pixels = self.pixels[..., cells]
        for n, image in enumerate(self.rows):
            maps = values[image].index_select(1, cells).float() / 255
            for t, limit in enumerate(limits):
                counts = pixels[n] @ (maps >= limit).float().T
                hit[t] += counts[0]
                predicted[t] += counts[1]
        union = predicted + pixels[:, 0].double().sum() - hit
        best, at = (hit / union.clamp_min(1e-12)).max(0)
        order = best.view(self.layers, -1).argsort(dim=1, descending=True, stable=True)
        return order, limits[at].view(self.layers, -1).gather(1, order)
