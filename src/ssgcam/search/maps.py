"""How do the maps of methods and recipes score at every threshold?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ssgcam.cam import CAM
from ssgcam.core import fusion as pipeline
from ssgcam.core.augment import View
from ssgcam.core.methods import METHODS, ssg_cam
from ssgcam.core.signals import Signal
from ssgcam.fingerprint import placed
from ssgcam.models import LoadedModel
from ssgcam.recipe import Recipe, RecipeLayer, refined
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
        assert method.function is not None
        for layer, signal in signals.items():
            maps = pipeline.prepare(method.function(signal), size, method.gamma).float().cpu()
            total = total + maps
            yield f"{method.title}, {layer}", maps
        if key in AVERAGED:
            yield f"{method.title}, {MEAN}", pipeline.scale(total)


def batch_maps(
    cam: CAM, recipes: Sequence[Recipe], data: CalibrationSet, part: slice
) -> list[tuple[Tensor, Tensor]]:
    """The maps of several recipes for one batch: those of ``BoundRecipe``, with shared passes.

    Args:
        cam: The network with all layers of the recipes.
        recipes: They have the network, the working size and the target in common.
        data: Images with predictions; each is explained for its own class.
        part: The batch.

    Returns:
        For each recipe maps ``[n, H, W]`` at the input's size and probabilities ``[n]`` of the
        explained class, the mean over views.
    """
    images = data.images[part]
    fused: dict[tuple[View, tuple[RecipeLayer, ...]], Tensor] = {}
    probabilities: dict[View, Tensor] = {}
    for view in dict.fromkeys(view for recipe in recipes for view in recipe.augmentation):
        inputs = placed(view.apply(images), cam.network)
        classes = data.classes[part].to(inputs.device)
        signals, logits = cam.signals(inputs, classes)
        of_class = logits.softmax(1) if cam.output == "softmax" else logits.sigmoid()
        probabilities[view] = of_class.detach().gather(1, classes[:, None])[:, 0].float().cpu()
        for recipe in recipes:
            if view in recipe.augmentation and (view, recipe.layers) not in fused:
                fused[view, recipe.layers] = _fused(recipe, view, signals)
    found = []
    for recipe in recipes:
        views = list(recipe.augmentation)
        mean = torch.stack([fused[view, recipe.layers] for view in views]).mean(0)
        maps = pipeline.resize(pipeline.scale(mean), data.image_size)
        if recipe.refinement is not None:
            maps = refined(images, maps, recipe.refinement)
        found.append((maps, torch.stack([probabilities[view] for view in views]).mean(0)))
    return found


def sweep_maps(
    model: LoadedModel,
    data: CalibrationSet,
    settings: SearchSettings,
    recipes: Mapping[str, Sequence[Recipe]],
    layers: Sequence[str] = (),
    progress: Callable[[int], object] = lambda images: None,
) -> dict[str, list[ThresholdSweep]]:
    """Score recipes, and baselines of some layers, at every threshold and at the masks' size.

    Args:
        model: The network.
        data: Labeled images with predictions.
        settings: Fitness, target and batch size.
        recipes: By name, any number.
        layers: The layers of :func:`baseline_maps`; none: no baselines.
        progress: Called with the number of images after each batch.

    Returns:
        By name the counts of each recipe, in order; one for each baseline.
    """
    flat = [(name, k, each) for name, group in recipes.items() for k, each in enumerate(group)]
    names = dict.fromkeys(layer.name for _, _, recipe in flat for layer in recipe.layers)
    parts: dict[tuple[str, int], list[ThresholdSweep]] = {}
    for part in data.batches(settings.batch_size) if layers or flat else ():
        found: list[tuple[str, int, Tensor, Tensor]] = []
        if layers:
            cam = CAM(model, list(layers))
            images = placed(data.images[part], cam.network)
            signals, _ = cam.signals(images, data.classes[part].to(images.device))
            with torch.no_grad():
                for name, maps in baseline_maps(signals, data.mask_size):
                    found.append((name, 0, maps, data.probabilities[part]))
        if flat:
            cam = CAM(model, list(names), target=settings.target)
            of_recipes = batch_maps(cam, [recipe for _, _, recipe in flat], data, part)
            for (name, k, _), (maps, probabilities) in zip(flat, of_recipes, strict=True):
                found.append((name, k, maps, probabilities))
        for name, k, maps, probabilities in found:
            maps = pipeline.resize(maps, data.mask_size)
            sweep = sweep_thresholds(maps, data.masks[part], probabilities, settings.fitness)
            parts.setdefault((name, k), []).append(sweep)
        progress(len(data.images[part]))
    result: dict[str, list[ThresholdSweep]] = {name: [] for name in recipes}
    for (name, _), sweeps in parts.items():
        joined = ThresholdSweep(*(torch.cat(each, -1) for each in zip(*sweeps, strict=True)))
        result.setdefault(name, []).append(joined)
    return result


def _fused(recipe: Recipe, view: View, signals: Mapping[str, Signal]) -> Tensor:
    """One view's fused map before the last scaling, ``[n, *working_size]`` on the CPU."""
    with torch.no_grad():
        maps = [view.undo(ssg_cam(signals[layer.name], layer.ssg)) for layer in recipe.layers]
        gammas, weights = zip(
            *((layer.gamma, layer.weight) for layer in recipe.layers), strict=True
        )
        fused = pipeline.combine(maps, recipe.working_size, gammas=gammas, weights=weights)
        return fused.float().cpu()
