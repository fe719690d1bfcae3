"""How do the maps of methods and recipes score at every threshold?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssgcam.cam import CAM
from ssgcam.core import fusion as pipeline
from ssgcam.core.augment import View
from ssgcam.core.methods import METHODS, Method, ssg_cam
from ssgcam.core.network import placed
from ssgcam.core.signals import Signal
from ssgcam.core.target import logits_of
from ssgcam.models import LoadedModel
from ssgcam.recipe import Recipe, RecipeLayer, finished_maps, fused_view
from ssgcam.search.calibration_set import CalibrationSet
from ssgcam.search.fitness import ThresholdSweep, sweep_thresholds
from ssgcam.search.settings import SearchSettings

#: SSG-CAM (whose default is ``discriminate``) and every first-order method of a single layer and of the
#: class alone.
COMPARED = [
    key
    for key, method in METHODS.items()
    if method.needs in ("first", "second")
    and method.fusion == "mean"
    and not method.against
    and key != "discriminate"
]
#: Methods whose mean over all layers is compared.
AVERAGED = ("ssg_cam", "localize", "layer_cam")
MEAN = "mean of all layers"


def baseline_maps(
    signals: Mapping[str, Signal], size: tuple[int, int]
) -> Iterator[tuple[str, Tensor]]:
    """The maps of every method on every layer, and means of all layers, with the defaults of ``CAM``.

    Each layer's map is resized, scaled and raised to the method's gamma (``METHODS[key].gamma``) before
    the mean.

    Args:
        signals: Signals of every candidate layer for one batch.
        size: Height and width of the maps.

    Yields:
        A name such as ``"LayerCAM, layer4"`` and maps ``[N, *size]`` in [0, 1], on the CPU.
    """
    for key in COMPARED:
        method, total = METHODS[key], torch.zeros(())
        for layer, signal in signals.items():
            maps = _scaled(method, signal, size)
            total = total + (
                maps if method.fused is method else _scaled(method.fused, signal, size)
            )
            yield f"{method.title}, {layer}", maps
        if key in AVERAGED:
            yield f"{method.title}, {MEAN}", pipeline.scale(total)


def _scaled(method: Method, signal: Signal, size: tuple[int, int]) -> Tensor:
    assert method.function is not None
    return pipeline.prepare(method.function(signal), size, method.gamma).float().cpu()


def batch_maps(
    cam: CAM, recipes: Mapping[Any, Recipe], data: CalibrationSet, part: slice
) -> dict[Any, tuple[Tensor, Tensor]]:
    """The maps of several recipes for one batch: those of ``BoundRecipe``, with shared passes.

    Args:
        cam: The network with all layers of the recipes.
        recipes: By any key. They have the network, the working size and the target in common.
        data: Images with predictions; each is explained for its own class.
        part: The batch.

    Returns:
        For each recipe maps ``[n, H, W]`` at the input's size and probabilities ``[n]`` of the
        explained class, the mean over views.
    """
    images = data.images[part]
    fused: dict[tuple[View, tuple[RecipeLayer, ...]], Tensor] = {}
    probabilities: dict[View, Tensor] = {}
    for view in {view: None for recipe in recipes.values() for view in recipe.augmentation}:
        inputs = placed(view.apply(images), cam.network)
        classes = data.classes[part].to(inputs.device)
        signals, output = cam.signals(inputs, classes)
        of_class = cam.probabilities(logits_of(output).detach()).gather(1, classes[:, None])[:, 0]
        probabilities[view] = of_class.float().cpu()
        for recipe in recipes.values():
            if view in recipe.augmentation and (view, recipe.layers) not in fused:
                with torch.no_grad():
                    maps = {one.name: ssg_cam(signals[one.name], one.ssg) for one in recipe.layers}
                    fused[view, recipe.layers] = fused_view(recipe, view, maps).float().cpu()
    found = {}
    for key, recipe in recipes.items():
        of_views = [fused[view, recipe.layers] for view in recipe.augmentation]
        mean = torch.stack([probabilities[view] for view in recipe.augmentation]).mean(0)
        found[key] = finished_maps(recipe, images, of_views), mean
    return found


@dataclass(frozen=True, eq=False)
class AppliedRecipe:
    """What a recipe makes of labeled images.

    Attributes:
        maps: ``[N, h, w]`` at the size of the labeled masks.
        probabilities: ``[N]``, of each image's class.
        is_open: ``[N]`` bool: whether they reach the class gate.
        masks: ``[N, h, w]`` bool.
        statistics: As of ``BoundRecipe.statistics``.
    """

    maps: Tensor
    probabilities: Tensor
    is_open: Tensor
    masks: Tensor
    statistics: dict[str, Tensor]


def apply_recipe(
    model: LoadedModel, recipe: Recipe, data: CalibrationSet, batch_size: int
) -> AppliedRecipe:
    """Maps and masks of a recipe, each image explained for its own class.

    Args:
        model: The network.
        recipe: The recipe.
        data: Images with predictions.
        batch_size: Images for each pass of the network.
    """
    bound = recipe.bind(model)
    maps, probabilities, statistics = [], [], []
    for part in data.batches(batch_size):
        images = placed(data.images[part], bound.cam.network)
        result = bound(images, data.classes[part].to(images.device))
        maps.append(pipeline.resize(result.maps.float().cpu(), data.mask_size))
        probabilities.append(result.class_probabilities.float().cpu())
        statistics.append(bound.statistics(result))
    of_all, of_class = torch.cat(maps), torch.cat(probabilities)
    is_open = of_class >= recipe.gate
    masks = pipeline.threshold(of_all, recipe.threshold) & is_open[:, None, None]
    joined = {name: torch.cat([each[name] for each in statistics]) for name in statistics[0]}
    return AppliedRecipe(of_all, of_class, is_open, masks, joined)


def sweep_maps(
    model: LoadedModel,
    data: CalibrationSet,
    settings: SearchSettings,
    recipes: Mapping[Any, Recipe],
    layers: Sequence[str] = (),
    progress: Callable[[int], object] = lambda images: None,
) -> dict[Any, ThresholdSweep]:
    """Score recipes, and baselines of some layers, at every threshold and at the masks' size.

    Args:
        model: The network.
        data: Labeled images with predictions.
        settings: Fitness, target and batch size.
        recipes: By any key.
        layers: The layers of :func:`baseline_maps`; none: no baselines.
        progress: Called with the number of images after each batch.

    Returns:
        The counts of each recipe, by its key, and of each baseline, by its name.
    """
    names = dict.fromkeys(layer.name for recipe in recipes.values() for layer in recipe.layers)
    parts: dict[Any, list[ThresholdSweep]] = {}
    for part in data.batches(settings.batch_size) if layers or recipes else ():
        found: dict[Any, tuple[Tensor, Tensor]] = {}
        if layers:
            cam = CAM(model, list(layers))
            images = placed(data.images[part], cam.network)
            signals, _ = cam.signals(images, data.classes[part].to(images.device))
            with torch.no_grad():
                for name, maps in baseline_maps(signals, data.mask_size):
                    found[name] = maps, data.probabilities[part]
        if recipes:
            cam = CAM(model, list(names), target=settings.target)
            found |= batch_maps(cam, recipes, data, part)
        for key, (maps, probabilities) in found.items():
            maps = pipeline.resize(maps, data.mask_size)
            sweep = sweep_thresholds(maps, data.masks[part], probabilities, settings.fitness)
            parts.setdefault(key, []).append(sweep)
        progress(len(data.images[part]))
    return {
        key: ThresholdSweep(*(torch.cat(each, -1) for each in zip(*sweeps, strict=True)))
        for key, sweeps in parts.items()
    }
