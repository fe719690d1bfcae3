"""DE-SSG-CAM: from a few labeled images to a recipe and a report."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm.auto import tqdm

from ssgcam.core.augment import Augmentation, View
from ssgcam.core.layers import MOST, block_layers, resolve
from ssgcam.core.network import placed
from ssgcam.core.refine import Refinement
from ssgcam.data import SampleSet
from ssgcam.data.masks import BoxShape
from ssgcam.errors import SsgcamError
from ssgcam.fingerprint import Fingerprint, layer_shapes
from ssgcam.metrics.offset import mask_offset
from ssgcam.models import LoadedModel, as_loaded
from ssgcam.recipe import Guarantee, Origin, Recipe, RecipeLayer
from ssgcam.search.cache import MapCache, build_cache, mean_of
from ssgcam.search.calibration_set import CalibrationSet
from ssgcam.search.evolution import (
    Evolution,
    evolve,
    initial_population,
    interruptible,
    known_candidates,
)
from ssgcam.search.fitness import ThresholdSweep, choose_cut
from ssgcam.search.guarantee import calibrate, check_units, guarantee_warnings, set_aside
from ssgcam.search.maps import AppliedRecipe, apply_recipe, sweep_maps
from ssgcam.search.objective import Objective
from ssgcam.search.report import SETS, Report, example_panel
from ssgcam.search.settings import SearchSettings
from ssgcam.search.validation import (
    Where,
    compare,
    group_folds,
    kind_of,
    other_rows,
    validation_warnings,
)
from ssgcam.shift import summarize

Layers = Literal["auto", "all"] | Sequence[str | nn.Module]
#: How far masks are moved at most to find an offset, as a share of the shorter side.
OFFSET_RANGE = 0.125
#: Rows of the best single layer, on the recipe's views, by kind of ``known_candidates``.
ALONE = {
    "layer": "SSG-CAM, best layer and settings",
    "layer_cam": "LayerCAM, best layer, recipe's views",
}
#: Steps of the progress bar for one view of an image; a generation is one step.
VIEW_STEPS = 10


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search finds.

    Attributes:
        recipe: To save and to bind.
        report: What was tried, on which images, and how reliable the scores are.
    """

    recipe: Recipe
    report: Report

    def _repr_html_(self) -> str:
        return self.recipe._repr_html_() + self.report._repr_html_()


def search_recipe(
    model: nn.Module | LoadedModel,
    calibration: CalibrationSet | SampleSet,
    layers: Layers = "auto",
    *,
    held_out: CalibrationSet | SampleSet | None = None,
    classes: int | str | None = None,
    boxes: BoxShape = "filled",
    settings: SearchSettings | None = None,
    cache: Path | str | None = None,
    progress: bool = False,
) -> SearchResult:
    """Search the layers, their settings and their weights that give the best masks (DE-SSG-CAM).

    Args:
        model: The network, or what :func:`ssgcam.load_model` returns.
        calibration: Ten to two hundred images with masks or boxes; images without the object calibrate
            the class gate.
        layers: Names or modules; ``"auto"``: the outputs of at most 12 blocks, see
            ``core.layers.block_layers``; ``"all"``: of every block.
        held_out: Labeled images of other groups, to score the result on.
        classes: The network's class that the masks of a :class:`SampleSet` show, where the data don't
            say it.
        boxes: What masks are made of boxes.
        settings: Everything else.
        cache: Folder that keeps the layers' maps for the next search.
        progress: Show a progress bar.

    Returns:
        The recipe and its report. Ctrl-C keeps the best so far, and the report says so.

    Raises:
        SsgcamError: If the images can't be used (see :class:`CalibrationSet`) or a layer doesn't exist.
    """
    settings, loaded = settings or SearchSettings(), as_loaded(model)
    index = None if classes is None else loaded.class_index(classes)
    read = partial(CalibrationSet.from_samples, model=loaded, classes=index, boxes=boxes)
    if isinstance(calibration, SampleSet):
        calibration = read(calibration)
    if isinstance(held_out, SampleSet):
        held_out = read(held_out, any_count=True)
    if held_out is not None and held_out.negatives.all():
        raise SsgcamError(
            "all masks of the held-out images are empty, so they give no score; add images that show "
            "the object"
        )
    aside: CalibrationSet | None = None
    if settings.guarantee_from_folds:
        check_units(calibration, settings.alpha)
    elif settings.guarantee is not None and held_out is not None:
        check_units(held_out, settings.alpha)
    elif settings.guarantee is not None:
        calibration, aside = set_aside(calibration, settings.alpha, settings.seed)
        aside = aside.with_predictions(loaded, settings.batch_size)
    for weakness in calibration.weaknesses():
        warnings.warn(weakness, stacklevel=2)
    if isinstance(layers, str) and layers in ("auto", "all"):
        image = placed(calibration.images[:1], loaded.network)
        names = block_layers(loaded.network, image, most=None if layers == "all" else MOST)
    else:
        names = resolve(loaded.network, [layers] if isinstance(layers, str) else layers)
    sets: dict[Where, CalibrationSet]
    sets = {"folds": calibration.with_predictions(loaded, settings.batch_size)}
    if held_out is not None:
        sets["held_out"] = held_out.with_predictions(loaded, settings.batch_size)
    made_for = Fingerprint.of(loaded, calibration.image_size)
    shapes, _ = layer_shapes(loaded.network, names, calibration.image_size)
    folder = None if cache is None else Path(cache)
    with (
        interruptible() as interrupted,
        tqdm(disable=None if progress else True, unit="step") as bar,
    ):
        return _Search(
            loaded, made_for, sets, aside, shapes, settings, folder, interrupted, bar
        ).run()


@dataclass(frozen=True, eq=False)
class _Search:
    """The parts of one search; ``sets`` holds the calibration images as ``"folds"``.

    ``aside`` are images for the guarantee alone, ``shapes`` those of each layer.
    """

    model: LoadedModel
    made_for: Fingerprint
    sets: dict[Where, CalibrationSet]
    aside: CalibrationSet | None
    shapes: dict[str, tuple[int, int, int]]
    settings: SearchSettings
    folder: Path | None
    interrupted: Callable[[], bool]
    bar: tqdm[None]

    def run(self) -> SearchResult:
        """Everything after the checks."""
        data, settings = self.sets["folds"], self.settings
        folds = group_folds(data, settings.folds)
        evolution, recipes, maps, views = self._best_views(len(folds))
        variants = [name for name in recipes if kind_of(name) == "recipe"]
        first = variants[0]
        in_folds: list[dict[str, Recipe]] = []
        for number, test in enumerate(folds, 1):
            if not self.interrupted():
                title, rows = f"fold {number}", other_rows(len(data), test)
                in_folds.append(self._evolve(maps, recipes[first].augmentation, title, rows)[1])
        stopped = self.interrupted()
        if stopped:  # the last fold's evolution is not complete
            folds, in_folds = [], []
        self.bar.set_description("comparison")
        sweep_all = partial(sweep_maps, self.model, settings=settings, progress=self._step)
        sweeps = {
            where: sweep_all(one, recipes=recipes, layers=list(self.shapes))
            for where, one in self.sets.items()
        }
        cuts = {
            name: choose_cut(sweeps["folds"][name], settings.fitness, gate=settings.gate)
            for name in variants
        }
        final = max(variants, key=lambda name: cuts[name].score)
        if cuts[final].score <= cuts[first].score + settings.margin:
            final = first
        recipe = replace(recipes[final], threshold=cuts[final].threshold, gate=cuts[final].gate)
        crossed = [name for name in recipes if name in (first, final) or name not in variants]
        of_folds = {(name, k): own[name] for name in crossed for k, own in enumerate(in_folds)}
        fold_sweeps: dict[str, list[ThresholdSweep]] = {name: [] for name in recipes}
        for (name, _), sweep in sweep_all(data, recipes=of_folds).items():
            fold_sweeps[name].append(sweep)
        groups = {where: one.groups for where, one in self.sets.items()}
        table = compare(sweeps, fold_sweeps, groups, folds, settings, final)
        where: Where = "held_out" if "held_out" in self.sets else "folds"
        shown, own = self.sets[where], self._apply(recipe, data)
        found = own if shown is data else self._apply(recipe, shown)
        offset = mask_offset(found.masks, shown.masks, int(OFFSET_RANGE * min(shown.mask_size)))
        reasons = []
        if stopped:
            reasons.append("The search was interrupted: this is the best candidate so far.")
        guarantee, undecided = None, None
        if settings.guarantee is not None:
            fold_recipes = [own[final] for own in in_folds]
            in_fold = list(zip(folds, fold_recipes, fold_sweeps[final], strict=True))
            try:
                guarantee, undecided = self._guarantee(recipe, in_fold)
            except SsgcamError as error:
                reasons.append(f"There is no guarantee: {error}.")
        fold_layers = [frozenset(layer.name for layer in each[first].layers) for each in in_folds]
        reasons += [*guarantee_warnings(guarantee), *data.weaknesses()]
        reasons += validation_warnings(table, fold_layers, offset)
        row = table.row(final)
        title = f"Worst, median and best {SETS[where]} images"
        origin = Origin(
            data=data.digest,
            **data.counts,
            seed=settings.seed,
            settings={**settings.as_text(), "evaluations": str(evolution.evaluations)},
            versions={name: version(name) for name in ("ssgcam", "torch", "scipy", "numpy")},
            scores={
                "search": 1 - evolution.cost,
                "calibration": row.calibration,
                "folds": row.score("folds"),
                "held_out": row.score("held_out"),
            },
        )
        recipe = replace(
            recipe,
            origin=origin,
            guarantee=guarantee,
            calibration_statistics=summarize(own.statistics) if len(data) > 1 else (),
        )
        report = Report(
            recipe=recipe,
            fitness=settings.fitness,
            table=table,
            warnings=tuple(reasons),
            views=views,
            history=tuple(1 - cost for cost in evolution.history),
            evaluations=evolution.evaluations,
            fold_layers=tuple(tuple(sorted(layers)) for layers in fold_layers),
            counts={where: one.counts for where, one in self.sets.items()},
            interrupted=stopped,
            offset=offset,
            undecided=undecided,
            examples=example_panel(self.model.preprocessing, shown, found.maps, found.masks, title),
        )
        return SearchResult(recipe, report)

    def _best_views(
        self, folds: int
    ) -> tuple[Evolution, dict[str, Recipe], MapCache, tuple[tuple[str, float], ...]]:
        """Search on the maps of each augmentation.

        Returns:
            What :meth:`_evolve` returns for the best, its maps, and name and fitness of each.
        """
        settings, data = self.settings, self.sets["folds"]
        views = {view for augmentation in settings.views for view in augmentation}
        evolutions = settings.generations * (len(settings.views) + folds)
        compared = sum(map(len, self.sets.values())) + len(data) * (folds > 1)
        self.bar.total = VIEW_STEPS * (len(data) * len(views) + compared) + evolutions
        of_view: dict[View, MapCache] = {}
        best: tuple[Evolution, dict[str, Recipe], MapCache] | None = None
        tried = []
        for augmentation in settings.views:
            name = variant_name(augmentation)
            for view in augmentation:
                if view not in of_view:
                    self.bar.set_description(f"maps ({name})")
                    of_view[view] = build_cache(
                        self.model, data, list(self.shapes), settings, view, self.folder, self._step
                    )
            maps = mean_of([of_view[view] for view in augmentation], settings.memory)
            evolution, recipes = self._evolve(maps, augmentation, f"search ({name})")
            tried.append((name, 1 - evolution.cost))
            if best is None or best[0].cost - evolution.cost > settings.margin:
                best = evolution, recipes, maps
            if self.interrupted():
                break
        assert best is not None
        return *best, tuple(tried)

    def _evolve(
        self, maps: MapCache, views: Augmentation, title: str, rows: list[int] | None = None
    ) -> tuple[Evolution, dict[str, Recipe]]:
        """Search on some of the images (None: all).

        Returns:
            The evolution, and recipes by the names of their rows: the best layer alone with the settings
            that are best for it, the best by LayerCAM (if the grid has it), and the best candidate with
            its own views, then with others, each with and without refinement.
        """
        data, settings, gate = self.sets["folds"], self.settings, self.settings.gate
        if gate is None and not data.negatives[slice(None) if rows is None else rows].any():
            gate = 0.0  # there is no image to choose it on
        objective = Objective(maps, data, settings.fitness, settings.penalty, rows, gate)

        def progress(cost: float) -> None:
            self.bar.set_description(f"{title}, best {1 - cost:.4f}", refresh=False)
            self.bar.update(1)

        evolution = evolve(
            objective,
            initial_population(objective, settings.population, settings.seed),
            generations=settings.generations,
            seed=settings.seed,
            interrupted=self.interrupted,
            progress=progress,
        )
        recipes = {}
        for kind, genes in known_candidates(objective).items():
            if kind in ALONE:
                best = genes[int(objective(genes.T).argmin())]
                recipes[ALONE[kind]] = self._recipe(objective, best, views)
        recipe = self._recipe(objective, evolution.genes, views)
        for others in (views, *settings.augmentations):
            for refinement in (None, settings.refinement):
                name = f"Recipe, {variant_name(others, refinement)}"
                recipes[name] = replace(recipe, augmentation=others, refinement=refinement)
        return evolution, recipes

    def _recipe(
        self, objective: Objective, genes: NDArray[np.float64], views: Augmentation
    ) -> Recipe:
        """A candidate as a recipe."""
        maps = objective.cache
        candidate = objective.decode(genes[:, None])
        weights, entries = candidate.weights[0], candidate.entries[0].tolist()
        layers = []
        for k in weights.nonzero()[:, 0].tolist():
            ssg, gamma = maps.grid.entries[entries[k]]
            weight = float(weights[k] / weights.sum())
            name = maps.layers[k]
            layers.append(RecipeLayer(name, weight, ssg, gamma, self.shapes[name]))
        return Recipe(
            layers=tuple(layers),
            threshold=float(candidate.thresholds[0]),
            gate=float(candidate.gates[0]),
            network=self.made_for,
            working_size=maps.size,
            classes=self.sets["folds"].class_choices,
            target=self.settings.target,
            augmentation=views,
        )

    def _step(self, images: int) -> None:
        self.bar.update(VIEW_STEPS * images)

    def _apply(self, recipe: Recipe, data: CalibrationSet) -> AppliedRecipe:
        return apply_recipe(self.model, recipe, data, self.settings.batch_size)

    def _guarantee(
        self, recipe: Recipe, in_folds: Sequence[tuple[list[int], Recipe, ThresholdSweep]]
    ) -> tuple[Guarantee, float]:
        """The guarantee on the images that are meant for it, and the undecided share of an image.

        Args:
            recipe: The recipe that was chosen.
            in_folds: Rows, recipe and its counts on all calibration images, of each fold.
        """
        settings, data = self.settings, self.sets["folds"]
        if not settings.guarantee_from_folds:
            unseen = self.aside or self.sets["held_out"]
            found = self._apply(recipe, unseen)
            kind: Literal["split", "held-out"] = "split" if self.aside else "held-out"
            return calibrate(found.maps, found.is_open, unseen, settings.alpha, kind)
        if not in_folds:
            raise SsgcamError("there are no folds to calibrate it on")
        maps = torch.empty(len(data), *data.mask_size)
        is_open = torch.empty(len(data), dtype=torch.bool)
        for test, own, sweep in in_folds:
            others = other_rows(len(data), test)
            gate = choose_cut(sweep, settings.fitness, others, settings.gate).gate
            found = self._apply(replace(own, gate=gate), data.subset(test))
            maps[test], is_open[test] = found.maps, found.is_open
        return calibrate(maps, is_open, data, settings.alpha, "folds")


def variant_name(augmentation: Augmentation, refinement: Refinement | None = None) -> str:
    """Such as ``"flips horizontal, scales 1 1.5, PAMR"`` or ``"plain"``."""
    parts = []
    if augmentation.flips != "none":
        parts.append(f"flips {augmentation.flips}")
    if augmentation.scales != (1.0,):
        parts.append("scales " + " ".join(f"{scale:g}" for scale in augmentation.scales))
    if refinement is not None:
        parts.append("PAMR")
    return ", ".join(parts) or "plain"
