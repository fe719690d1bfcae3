"""Synthetic caches and labeled images for the tests of the search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from helpers.networks import Small
from ssgcam.core.augment import Augmentation
from ssgcam.core.refine import Refinement
from ssgcam.models import LoadedModel
from ssgcam.preprocessing import Preprocessing
from ssgcam.search import CalibrationSet, MapCache, MapGrid, SearchResult, SearchSettings
from ssgcam.search.search import search_recipe

GRID = MapGrid(("taylor",), (0.0, 0.1), ((1.0, 0.0), (1.0, 1.0)), (0.5, 1.0))
#: A search of a few seconds.
SHORT = SearchSettings(
    generations=12,
    population=24,
    working_size=(16, 16),
    grid=MapGrid(("taylor", "gradient"), (0.0, 0.1), ((1.0, 0.0), (1.0, 1.0)), (0.5, 1.0)),
    views=(Augmentation(), Augmentation("horizontal")),
    augmentations=(Augmentation(), Augmentation("horizontal", (1.0, 1.5))),
    refinement=Refinement(iterations=2, dilations=(1, 2)),
    folds=2,
)


def labeled_masks(
    masks: Tensor, probabilities: Sequence[float] | None = None, groups: Sequence[str] | None = None
) -> CalibrationSet:
    """A calibration set of given masks with predictions; the images are noise."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(len(masks), 3, *masks.shape[-2:], generator=generator)
    data = CalibrationSet(images, masks, 0, groups, any_count=True)
    data.classes = torch.zeros(len(masks), dtype=torch.long)
    data.probabilities = torch.tensor(probabilities or [1.0] * len(masks))
    return data


def cache_of(values: Tensor, layers: int, size: tuple[int, int], grid: MapGrid = GRID) -> MapCache:
    """A cache of given rows ``[N, layers * entries, cells]``: uint8, or in [0, 1]."""
    if values.is_floating_point():
        values = (values * 255).round().byte()
    names = tuple(f"layer{k}" for k in range(layers))
    return MapCache(values, names, grid, size)


def set_with_known_optimum(
    seed: int, images: int = 6, layers: int = 6, side: int = 12
) -> tuple[MapCache, CalibrationSet, tuple[tuple[int, int], tuple[int, int]]]:
    """Maps of which two, of two layers and one grid entry each, give the masks exactly, and no one does.

    The object is a left and a right half. The map of one layer shows the left half and, at 0.75,
    clutter elsewhere; that of the other the right half and other clutter. Their weighted
    sum is above a threshold on the object alone if the weights are alike within a factor of 0.75.
    Everything else in the cache is noise.

    Returns:
        The cache, the images, and layer and entry of the two.
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
    return cache, labeled_masks(masks), ((first, left), (second, right))


def small(names: tuple[str, ...] = ()) -> LoadedModel:
    """A network with random weights and 32x32 pixels of input."""
    torch.manual_seed(0)
    return LoadedModel(Small().eval(), "small", Preprocessing((32, 32)), names)


def tiny() -> LoadedModel:
    """A factory for ``--model helpers.search_sets:tiny``."""
    return small(("cell", "ring", "other"))


def squares(count: int, negatives: int = 0, seed: int = 0, side: int = 32) -> CalibrationSet:
    """Noise with a bright square, and its mask; the last ones without."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, side, side, generator=generator) * 0.5
    masks = torch.zeros(count, side, side, dtype=torch.uint8)
    for n in range(count - negatives):
        y, x = torch.randint(2, side - 14, (2,), generator=generator).tolist()
        images[n, :, y : y + 12, x : x + 12] += 1.0
        masks[n, y : y + 12, x : x + 12] = 1
    groups = [f"slide {n // 2}" for n in range(count)]
    return CalibrationSet(images, masks, [1] * count, groups, any_count=True)


def short_search(settings: SearchSettings = SHORT, **options: object) -> SearchResult:
    """A search on six squares, with eight others held out."""
    return search_recipe(
        small(),
        squares(6, negatives=2),
        ["act1", "act2"],
        held_out=squares(8, negatives=2, seed=1),
        settings=settings,
        **options,  # type: ignore[arg-type]
    )
