"""One search from cached maps to a recipe: evolve, decode, and cut where the real masks say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from ssgcam.core.augment import Augmentation
from ssgcam.core.refine import Refinement
from ssgcam.fingerprint import Fingerprint, parameter_hash
from ssgcam.models import LoadedModel
from ssgcam.recipe import Origin, Recipe, RecipeLayer
from ssgcam.search.baselines import Mapped
from ssgcam.search.cache import MapCache
from ssgcam.search.calibration import Examples
from ssgcam.search.evolution import Evolved, evolve
from ssgcam.search.objective import Candidates, Objective, ranked_entries
from ssgcam.search.planting import LAYER_CAM, first_generation
from ssgcam.search.scoring import Sweep, choose_cut
from ssgcam.search.settings import SearchSettings


@dataclass(frozen=True, eq=False)
class Draft:
    """A recipe as the evolution left it, with what is known about it.

    Attributes:
        recipe: With the views it was searched on; threshold and gate of the evolution.
        best_layer: The best layer alone, with the settings that are best for it, on the same views.
        layer_cam: The best layer alone by LayerCAM, on the same views; None if the grid lacks it.
        evolved: The evolution.
    """

    recipe: Recipe
    best_layer: Recipe
    layer_cam: Recipe | None
    evolved: Evolved


def draft(
    model: nn.Module | LoadedModel,
    cache: MapCache,
    examples: Examples,
    settings: SearchSettings,
    views: Augmentation,
    *,
    rows: list[int] | None = None,
    journal: Path | None = None,
    resume: bool = False,
    progress: bool = False,
    title: str = "search",
) -> Draft:
    """Search a recipe on some of the cached images.

    Args:
        model: The network, for the recipe's fingerprint.
        cache: Maps of the examples.
        examples: All of them.
        settings: Of the search.
        views: What the cached maps were averaged over.
        rows: The images to search on; None is all.
        journal: See :func:`evolve`.
        resume: As well.
        progress: As well.
        title: As well.

    Returns:
        The recipe and how it was found.
    """
    used = list(range(len(examples))) if rows is None else rows
    gate = settings.gate
    if gate is None and not examples.negatives[used].any():
        gate = 0.0  # nothing to calibrate it by
    plain = Objective(
        cache, examples, settings.fitness, settings.penalty, rows=tuple(used), gate=gate
    )
    order, thresholds = ranked_entries(plain)
    objective = replace(plain, order=order)
    evolved = evolve(
        objective,
        objective.bounds,
        objective.integral,
        first_generation(objective, order, thresholds, settings.population, settings.seed),
        generations=settings.generations,
        seed=settings.seed,
        journal=journal,
        resume=resume,
        progress=progress,
        title=title,
    )
    candidate = objective.decode(evolved.genes[:, None])
    network = _fingerprint(model, examples)

    def recipe(weights: Tensor, entries: Tensor, threshold: float, gate: float) -> Recipe:
        total = float(weights.sum())
        layers = []
        for layer in weights.nonzero()[:, 0].tolist():
            ssg, gamma = cache.grid.entries[int(entries[layer])]
            share = float(weights[layer]) / total
            layers.append(RecipeLayer(cache.layers[layer], share, ssg, gamma, cache.shapes[layer]))
        return Recipe(
            layers=tuple(layers),
            threshold=threshold,
            gate=gate,
            network=network,
            working_size=cache.size,
            classes=examples.targets,
            target=settings.score,
            augmentation=views,
        )

    def alone(ranks: Tensor) -> Recipe:
        """The best layer by itself, of each layer the entry at its rank."""
        weights = torch.eye(len(cache.layers), dtype=torch.float64)
        entries, cuts = (values.gather(1, ranks[:, None])[:, 0] for values in (order, thresholds))
        shut = torch.zeros(len(cuts), dtype=torch.float64)
        scores = objective.fitness(Candidates(weights, entries.expand_as(weights), cuts, shut))
        best = int(scores.argmax())
        return recipe(weights[best], entries, float(cuts[best]), gate or 0.0)

    layer_cam = None
    if LAYER_CAM in cache.grid.entries:
        layer_cam = alone((order == cache.grid.entries.index(LAYER_CAM)).int().argmax(1))
    return Draft(
        recipe(
            candidate.weights[0],
            candidate.entries[0],
            float(candidate.thresholds[0]),
            float(candidate.gates[0]),
        ),
        alone(torch.zeros(len(cache.layers), dtype=torch.long)),
        layer_cam,
        evolved,
    )


@dataclass(frozen=True, eq=False)
class Variant:
    """A recipe with or without views and refinement, on the images it was calibrated on.

    Attributes:
        recipe: With its own threshold and gate.
        swept: Its counts.
        score: Its fitness there.
    """

    recipe: Recipe
    swept: Sweep
    score: float

    @property
    def name(self) -> str:
        """For people."""
        return variant_name(self.recipe.augmentation, self.recipe.refinement)


def variants(
    recipe: Recipe, model: nn.Module | LoadedModel, examples: Examples, settings: SearchSettings
) -> list[Variant]:
    """A recipe with its own views, then with others, each with and without refinement.

    Args:
        recipe: As the evolution left it.
        model: The network.
        examples: The calibration images.
        settings: Of the search.

    Returns:
        Each with its own threshold and gate, chosen at the masks' size.
    """
    found = []
    for augmentation in dict.fromkeys((recipe.augmentation, *settings.augmentations)):
        plain = replace(recipe, augmentation=augmentation)
        mapped = Mapped.of(plain.bind(model), examples, settings.batch_size)
        versions = [(plain, mapped)]
        if settings.refinement is not None:
            finer = replace(plain, refinement=settings.refinement)
            versions.append((finer, mapped.refined(examples, settings.refinement)))
        for version_, maps in versions:
            swept = maps.sweep(examples, settings.fitness)
            threshold, gate, score = choose_cut(swept, settings.fitness, gate=settings.gate)
            finished = replace(version_, threshold=threshold, gate=gate)
            found.append(Variant(finished, swept, score))
    return found


def choose_variant(found: list[Variant], margin: float) -> Variant:
    """The best if it beats the first by more than the margin, else the first."""
    best = max(found, key=lambda each: each.score)
    return best if best.score > found[0].score + margin else found[0]


def variant_name(augmentation: Augmentation, refinement: Refinement | None) -> str:
    """Such as ``"flips horizontal, scales 1 1.5, PAMR"`` or ``"plain"``."""
    parts = []
    if augmentation.flips != "none":
        parts.append(f"flips {augmentation.flips}")
    if augmentation.scales != (1.0,):
        parts.append("scales " + " ".join(f"{scale:g}" for scale in augmentation.scales))
    if refinement is not None:
        parts.append("PAMR")
    return ", ".join(parts) or "plain"


def origin(examples: Examples, settings: SearchSettings, evolved: Evolved, score: float) -> Origin:
    """Where the recipe comes from, for the recipe."""
    packages = ("ssgcam", "torch", "scipy", "numpy")
    return Origin(
        data=examples.digest,
        images=len(examples),
        negatives=int(examples.negatives.sum()),
        groups=len(set(examples.groups)),
        seed=settings.seed,
        settings={**settings.as_text(), "evaluations": str(evolved.evaluations)},
        versions={name: version(name) for name in packages},
        scores={"search": 1 - evolved.cost, "calibration": score},
    )


def _fingerprint(model: nn.Module | LoadedModel, examples: Examples) -> Fingerprint:
    if isinstance(model, LoadedModel):
        name, network, output = model.name, model.network, model.output
    else:
        name, network, output = type(model).__name__, model, "softmax"
    return Fingerprint(Path(name).name, examples.size, parameter_hash(network), output)
