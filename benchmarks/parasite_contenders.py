"""Who takes part in the benchmark of parasites: recipes, the layers of every method, colors."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from color import color_maps
from parasite_fields import FOLDS, Field, fold_of
from ssgcam import CAM, LoadedModel, load_model
from ssgcam.bound_recipe import refined
from ssgcam.core import fusion as pipeline
from ssgcam.core.methods import ssg_cam
from ssgcam.recipe import Recipe
from ssgcam.search.baselines import Rival, rival_maps

BEST_LAYER = "SSG-CAM, best layer and settings, same views"
LAYER_CAM = "LayerCAM, best layer, same views"
#: Contenders of one layer that the search gives as well, and their kinds.
SINGLES = {BEST_LAYER: "ssg", LAYER_CAM: "single"}

Maps = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Part:
    """Networks that work as one, and the fields they test.

    Attributes:
        variant: The network and ``"zero-shot"`` or ``"adapted"``.
        name: Of its checkpoints; says how many networks they are.
        files: The networks.
        fields: Names.
    """

    variant: str
    name: str
    files: tuple[Path, ...]
    fields: tuple[str, ...]

    @property
    def models(self) -> list[LoadedModel]:
        """The networks."""
        return [load_model(str(file)) for file in self.files]


def parts_of(options: argparse.Namespace, fields: Sequence[str]) -> list[Part]:
    """What there is to do, for each network and variant."""
    found = []
    for network, variant in product(options.networks.split(","), options.variants.split(",")):
        title = f"{network}, {variant}"
        if variant == "zero-shot":
            files = tuple(
                options.weights / f"malaria_{network}_fold{start}.pth"
                for start in options.starts.split(",")
            )
            name = f"{network}_zero-shot_of{len(files)}"
            found.append(Part(title, name, files, tuple(fields)))
            continue
        for fold in range(FOLDS):
            tested = tuple(field for field in fields if fold_of(field) == fold)
            files = tuple(
                options.work / f"{network}_fold{fold}_start{start}_seed{seed}.pth"
                for seed, start in product(options.seeds.split(","), options.adapted.split(","))
            )
            found.append(Part(title, f"{network}_fold{fold}_of{len(files)}", files, tested))
    return found


def recipe_file(work: Path, part: Part, field: str, title: str) -> Path:
    """Where a field's recipe, or single layer, is kept."""
    kind = SINGLES.get(title, "recipe")
    return work / f"{part.name}_{field}_{kind}.json"


def field_colors(field: Field) -> dict[str, Tensor]:
    """Color quantities ``[H, W]`` of a field, as they are and relative to the field's median."""
    pixels = torch.from_numpy(field.pixels.copy()).permute(2, 0, 1)[None].float() / 255
    found = {name: maps[0] for name, maps in color_maps(pixels).items()}
    relative = {
        f"{name} above the field's median": ((maps - maps.median()) / 2 + 0.5).clamp(0, 1)
        for name, maps in found.items()
    }
    return found | relative


def recipe_maps(model: LoadedModel, recipes: dict[str, Recipe]) -> Maps:
    """Maps of several recipes of one network from one pass for each view: ``[N, *input]`` by name.

    Each is what ``Recipe.bind`` gives.
    """
    layers = dict.fromkeys(layer.name for recipe in recipes.values() for layer in recipe.layers)
    cam = CAM(model, list(layers))
    views = dict.fromkeys(view for recipe in recipes.values() for view in recipe.augmentation)

    def maps(images: Tensor) -> dict[str, Tensor]:
        size = (int(images.shape[-2]), int(images.shape[-1]))
        sums: dict[str, Tensor] = {}
        for view in views:
            signals, _ = cam.signals(view.apply(images), torch.ones(len(images), dtype=torch.long))
            for name, recipe in recipes.items():
                if view in tuple(recipe.augmentation):
                    raw = [
                        view.undo(ssg_cam(signals[each.name], each.ssg)) for each in recipe.layers
                    ]
                    fused = pipeline.combine(
                        raw,
                        recipe.size,
                        gammas=[each.gamma for each in recipe.layers],
                        weights=[each.weight for each in recipe.layers],
                        fusion=recipe.fusion,
                    )
                    sums[name] = sums[name] + fused if name in sums else fused
        found = {}
        for name, recipe in recipes.items():
            found[name] = pipeline.resize(pipeline.scale(sums[name]), size)
            if recipe.refinement is not None:
                found[name] = refined(images, found[name], recipe.refinement)
        return found

    return maps


def rivals_of(models: Sequence[LoadedModel], layers: Sequence[str]) -> Callable[..., Any]:
    """Every method's maps of every layer, and their means, averaged over the networks.

    Returns:
        A function from images to maps ``[N, *input]`` by :class:`Rival`.
    """
    cams = [CAM(model, list(layers)) for model in models]

    def maps(images: Tensor) -> dict[Rival, Tensor]:
        size = (int(images.shape[-2]), int(images.shape[-1]))
        sums: dict[Rival, Tensor] = {}
        for cam in cams:
            signals, _ = cam.signals(images, torch.ones(len(images), dtype=torch.long))
            for rival, made in rival_maps(signals, size):
                sums[rival] = sums[rival] + made if rival in sums else made
        return {rival: pipeline.scale(total) for rival, total in sums.items()}

    return maps


def kind_of(rival: Rival) -> str:
    """Its kind in the report."""
    if rival.layer is None:
        return "mean"
    return "ssg" if rival.method == "ssg_cam" else "single"
