"""A recipe searched on the other photos, applied to each: before and after.

So few labeled photos are far fewer than a search is made for (ten and more): what it shows is how it
goes, not how well.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssgcam.cam import CAM
from ssgcam.core.augment import Augmentation
from ssgcam.demo.objects import Outlined
from ssgcam.models import LoadedModel
from ssgcam.recipe import Recipe
from ssgcam.report.heatmap import resized
from ssgcam.result import Result
from ssgcam.search import Calibration, SearchSettings, search_recipe

SETTINGS = SearchSettings(
    generations=30,
    folds=0,
    fitness="per_image",
    augmentations=(Augmentation(),),
    refinement=None,
    gate=0.0,
)
THRESHOLDS = np.linspace(0.02, 0.98, 49)


@dataclass(frozen=True)
class Cut:
    """A map and the mask cut from it, both ``[H, W]`` of the photo's size, and its IoU."""

    values: NDArray[np.float32]
    mask: NDArray[np.bool_]
    iou: float


@dataclass(frozen=True)
class Transfer:
    """One object, by settings that were found without its photo.

    Attributes:
        thing: The object.
        before: SSG-CAM by default, the mean of the default layers; only the threshold was chosen.
        after: The recipe.
    """

    thing: Outlined
    before: Cut
    after: Cut


def leave_one_out(
    model: LoadedModel,
    objects: Sequence[Outlined],
    out: Path,
    settings: SearchSettings = SETTINGS,
    say: Callable[[str], None] = print,
) -> list[Transfer]:
    """For each photo: search a recipe on the others, save it, load it and apply it.

    Args:
        model: The demo's network.
        objects: Of three photos or more.
        out: Where the recipes are saved, as ``recipe_without_PHOTO.json``.
        settings: Of the search.
        say: Told how long each search took.

    Returns:
        One for each object.
    """
    cam = CAM(model)
    default = {thing: _map(cam, model, thing) for thing in objects}
    transfers = []
    for photo in dict.fromkeys(thing.photo for thing in objects):
        others = [thing for thing in objects if thing.photo != photo]
        path = out / f"recipe_without_{Path(photo).stem}.json"
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that these are few photos; see above
            search_recipe(model, _calibration(others), settings=settings).recipe.save(path)
        bound = Recipe.load(path).bind(model)
        layers = ", ".join(layer.name for layer in bound.recipe.layers)
        say(f"{path.name}: {time.perf_counter() - started:.0f} s, layers {layers}")
        scores = [
            np.mean([_iou(default[thing] >= level, thing.inside) for thing in others])
            for level in THRESHOLDS
        ]
        level = float(THRESHOLDS[int(np.argmax(scores))])
        for thing in objects:
            if thing.photo == photo:
                before = _cut(thing, default[thing], level)
                after = _cut(thing, _map(bound, model, thing), bound.recipe.threshold)
                transfers.append(Transfer(thing, before, after))
    return transfers


def _calibration(things: Sequence[Outlined]) -> Calibration:
    return Calibration(
        images=[thing.image for thing in things],
        masks=[thing.inside for thing in things],
        classes=[thing.index for thing in things],
        groups=[thing.photo for thing in things],
        names=[f"{thing.photo}: {thing.name}" for thing in things],
    )


def _map(
    explain: Callable[..., Result], model: LoadedModel, thing: Outlined
) -> NDArray[np.float32]:
    result = explain(model.preprocessing([thing.image]), thing.index)
    values: NDArray[np.float32] = result.maps[0].cpu().numpy()
    return resized(values, thing.image.size)


def _cut(thing: Outlined, values: NDArray[np.float32], level: float) -> Cut:
    mask = values >= level
    return Cut(values, mask, _iou(mask, thing.inside))


def _iou(mask: NDArray[np.bool_], inside: NDArray[np.bool_]) -> float:
    return float((mask & inside).sum() / max((mask | inside).sum(), 1))
