"""Synthetic caches and labeled images for the tests of the search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from helpers.networks import Small
from ssgcam.models import LoadedModel
from ssgcam.preprocessing import Preprocessing
from ssgcam.search.cache import MapCache, MapGrid, packed
from ssgcam.search.calibration import Examples
from ssgcam.search.samples import Calibration

GRID = MapGrid(("taylor",), (0.0, 0.1), ((1.0, 0.0), (1.0, 1.0)), (0.5, 1.0))


def examples_of(
    masks: Tensor, probabilities: Sequence[float] | None = None, groups: Sequence[str] | None = None
) -> Examples:
    """Examples with masks alone; the images are noise."""
    count = len(masks)
    generator = torch.Generator().manual_seed(0)
    return Examples(
        images=torch.rand(count, 3, 8, 8, generator=generator),
        masks=masks.to(torch.uint8),
        classes=torch.zeros(count, dtype=torch.long),
        probabilities=torch.ones(count) if probabilities is None else torch.tensor(probabilities),
        targets=(0,),
        groups=tuple(groups or (f"#{n}" for n in range(count))),
        names=tuple(f"image {n}" for n in range(count)),
    )


def cache_of(values: Tensor, layers: int, size: tuple[int, int], grid: MapGrid = GRID) -> MapCache:
    """A cache of given rows ``[N, layers * entries, cells]``."""
    names = tuple(f"layer{k}" for k in range(layers))
    behind = packed(values) if values.dtype == torch.uint8 else None
    return MapCache(values, names, grid, size, ((1, 2, 2),) * layers, behind)


def planted_set(
    seed: int, images: int = 6, layers: int = 6, side: int = 12
) -> tuple[MapCache, Examples, tuple[tuple[int, int], tuple[int, int]]]:
    """Maps of which two, of two layers and one grid entry each, give the masks exactly, and no one does.

    The object is a left and a right half. The map of one layer shows the left half and, at 0.75,
    clutter elsewhere; that of the other the right half and other clutter. Their weighted
    sum is above a threshold on the object alone if the weights are alike within a factor of 0.75.
    Everything else in the cache is noise.

    Returns:
        The cache, the examples, and layer and entry of the two.
    """
    rng = np.random.default_rng(seed)
    entries = len(GRID)
    values = torch.from_numpy(rng.random((images, layers, entries, side, side)))
    masks = torch.zeros(images, side, side)
    first, second = rng.choice(layers, 2, replace=False).tolist()
    left, right = rng.integers(entries, size=2).tolist()
    for n in range(images):
        y, x = rng.integers(0, 4, 2)
        one, two = torch.zeros(2, side, side, dtype=torch.float64)
        one[y : y + 5, x : x + 3] = 1
        two[y : y + 5, x + 3 : x + 6] = 1
        masks[n] = one + two
        one[10, :] = 0.75
        two[11, :] = 0.75
        values[n, first, left], values[n, second, right] = one, two
    cache = cache_of(values.flatten(1, 2).flatten(2), layers, (side, side))
    return cache, examples_of(masks), ((first, left), (second, right))


def tiny() -> LoadedModel:
    """A factory for ``--model search_sets:tiny``."""
    torch.manual_seed(0)
    return LoadedModel(Small().eval(), "tiny", Preprocessing((32, 32)), ("cell", "ring", "other"))


def squares(count: int, negatives: int = 0, seed: int = 0, side: int = 32) -> Calibration:
    """Noise with a bright square, and its mask; the last ones without."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, side, side, generator=generator) * 0.5
    masks = torch.zeros(count, side, side, dtype=torch.uint8)
    for n in range(count - negatives):
        y, x = torch.randint(2, side - 14, (2,), generator=generator).tolist()
        images[n, :, y : y + 12, x : x + 12] += 1.0
        masks[n, y : y + 12, x : x + 12] = 1
    groups = [f"slide {n // 2}" for n in range(count)]
    return Calibration(images, masks, [1] * count, groups)
