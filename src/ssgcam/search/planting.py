"""The first generation: known good candidates, so that a search can't lose to them, and random ones."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssgcam.core.settings import SSGSettings
from ssgcam.search.objective import GENES, MIN_WEIGHT, THRESHOLD_RANGE, Objective, index_of

Array = NDArray[np.float64]
#: LayerCAM as a grid entry.
LAYER_CAM = (SSGSettings("gradient", 0.0, 1.0, 0.0), 1.0)


def planted(objective: Objective, order: Tensor, thresholds: Tensor) -> Array:
    """Candidates that are no guess: each layer alone, LayerCAM of each, and naive means of all.

    Args:
        objective: What is searched; its ``order`` is not used.
        order: ``[L, entries]`` from ``ranked_entries``.
        thresholds: As well.

    Returns:
        ``[candidates, D]``: for each layer its best entry alone and, if the grid has it, LayerCAM
        alone; then the mean of all layers, equally weighted, each by its best entry and all by each
        entry that is best in some layer, at the mean of the layers' best thresholds.
    """
    layers, grid = objective.layers, objective.cache.grid
    candidates = []
    for layer in range(layers):
        entries = [int(order[layer, 0])]
        if LAYER_CAM in grid.entries:
            entries.append(grid.entries.index(LAYER_CAM))
        for entry in entries:
            index = index_of(order[layer], entry)
            genes = np.zeros((layers, GENES))
            genes[:, 1] = MIN_WEIGHT
            genes[layer] = 1, 1, index
            candidates.append(np.append(genes, [float(thresholds[layer, index]), 0.0]))
    shared = sorted(set(order[:, 0].tolist()))
    means = [[0] * layers, *([index_of(row, entry) for row in order] for entry in shared)]
    for indices in means:
        genes = np.zeros((layers, GENES))
        genes[:, 0] = genes[:, 1] = 1
        genes[:, 2] = indices
        mean = float(torch.stack([thresholds[k, index] for k, index in enumerate(indices)]).mean())
        candidates += [np.append(genes, [cut, 0.0]) for cut in (mean, min(0.9, 1.5 * mean))]
    low, high = np.array(objective.bounds).T
    return np.stack(candidates).clip(low, high)


def first_generation(
    objective: Objective, order: Tensor, thresholds: Tensor, size: int, seed: int
) -> Array:
    """The planted candidates and random ones: ``[max(size, planted), D]``.

    A random candidate has each layer with probability 3 / layers (at least one), with a random weight
    and a grid entry drawn toward the layer's best ones (uniform rank, squared); its
    thresholds are spread evenly over the planted ones' range, its class gate uniform.
    """
    known = planted(objective, order, thresholds)
    rng = np.random.default_rng([seed, 1])
    count = max(0, size - len(known))
    layers, entries = objective.layers, len(objective.cache.grid)
    genes = np.zeros((count, layers, GENES))
    genes[..., 0] = rng.random((count, layers)) < min(1.0, 3 / layers)
    genes[np.arange(count), rng.integers(layers, size=count), 0] = 1
    genes[..., 1] = rng.uniform(MIN_WEIGHT, 1, (count, layers))
    genes[..., 2] = np.floor(rng.random((count, layers)) ** 2 * entries)
    low, high = np.clip([known[:, -2].min() / 2, known[:, -2].max() * 1.5], *THRESHOLD_RANGE)
    cuts = rng.uniform(low, high, (count, 1))
    gates = rng.random((count, 1))
    random = np.concatenate([genes.reshape(count, layers * GENES), cuts, gates], 1)
    return np.concatenate([known, random])
