"""Does a recipe hold on images that it was not searched on? Folds, a held-out set, and baselines.

Every row of the table is treated alike: its threshold and class gate are chosen on calibration images,
then it is scored on others. In a fold the recipe is searched anew on the other folds' images. Folds and
intervals keep the images of a group together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, product
from typing import Literal

import torch
from torch import Tensor

from ssgcam.metrics.bootstrap import Interval, bootstrap_interval
from ssgcam.metrics.offset import MaskOffset
from ssgcam.search.calibration_set import CalibrationSet
from ssgcam.search.fitness import ThresholdSweep, choose_cut, fitness_parts, score_of
from ssgcam.search.maps import MEAN
from ssgcam.search.settings import SearchSettings

Kind = Literal["single", "ssg", "mean", "recipe"]
Where = Literal["folds", "held_out"]
#: What the recipe is compared with: the best row of each kind.
KINDS: dict[Kind, str] = {
    "single": "the best single layer of any other method",
    "ssg": "the best single SSG-CAM layer",
    "mean": "the best mean of all layers",
}
#: The recipe without views or refinement.
PLAIN_RECIPE = "Recipe, plain"
#: Mean Jaccard overlap of the folds' layers below which there is a warning.
SAME_LAYERS = 0.5
#: Gain in foreground IoU by a move of all masks from which there is a warning.
OFFSET_GAIN = 0.02


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: What is scored.
        kind: ``"single"`` layer of another method, single ``"ssg"`` layer, ``"mean"`` of all layers, or
            ``"recipe"``.
        threshold: Chosen on all calibration images.
        gate: Chosen on all calibration images.
        calibration: Score on these very images, which is too high.
        folds: Score on the images of folds whose threshold was chosen on the other folds.
        held_out: Score on the held-out images.
    """

    name: str
    kind: Kind
    threshold: float
    gate: float
    calibration: float
    folds: Interval | None
    held_out: Interval | None

    def score(self, where: Where) -> float | None:
        """The score on these images, or None."""
        interval: Interval | None = getattr(self, where)
        return None if interval is None else interval.value


@dataclass(frozen=True)
class Lead:
    """The score of the recipe minus that of another row, on the same resampled groups.

    Attributes:
        recipe: Name of the recipe's row.
        over: Name of the other row.
        kind: Kind of the other row, the best of its kind.
        where: On which images.
        difference: Recipe minus the other.
    """

    recipe: str
    over: str
    kind: Kind
    where: Where
    difference: Interval


@dataclass(frozen=True)
class Table:
    """All rows, and the leads of the recipe.

    Attributes:
        rows: One for each method and layer, and for each version of the recipe.
        leads: What the recipe leads or loses by.
        final: Name of the row of the recipe that was chosen.
        parts: For each row and set of images the images' parts of the score, see ``search.fitness``.
    """

    rows: tuple[Row, ...]
    leads: tuple[Lead, ...]
    final: str
    parts: Mapping[tuple[str, Where], Tensor] = field(repr=False, compare=False)

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


def group_folds(data: CalibrationSet, folds: int) -> list[list[int]]:
    """Split images into folds: groups stay together, images with an object are spread evenly.

    Args:
        data: The images.
        folds: How many; fewer if there are fewer groups that show an object.

    Returns:
        Rows of each fold; empty if there are not two groups that show an object.
    """
    positives = ~data.negatives
    members: dict[str, list[int]] = {}
    for row, group in enumerate(data.groups):
        members.setdefault(group, []).append(row)
    objects = {group: int(positives[rows].sum()) for group, rows in members.items()}
    count = min(folds, sum(number > 0 for number in objects.values()))
    if count < 2:
        return []
    result: list[list[int]] = [[] for _ in range(count)]
    filled = [0] * count
    for group in sorted(members, key=lambda g: (-objects[g], -len(members[g]), g)):
        fold = min(range(count), key=lambda k: (filled[k], len(result[k])))
        result[fold] += members[group]
        filled[fold] += objects[group]
    return [sorted(rows) for rows in result]


def other_rows(count: int, rows: Sequence[int]) -> list[int]:
    """The rows of ``count`` that are not among these."""
    return sorted(set(range(count)) - set(rows))


def kind_of(name: str) -> Kind:
    """The kind of a row, from its name."""
    if name.startswith("Recipe, "):
        return "recipe"
    if name.endswith(MEAN):
        return "mean"
    return "ssg" if name.startswith("SSG-CAM") else "single"


def compare(
    sweeps: Mapping[Where, Mapping[str, ThresholdSweep]],
    fold_sweeps: Mapping[str, Sequence[ThresholdSweep]],
    groups: Mapping[Where, Sequence[str]],
    folds: Sequence[Sequence[int]],
    settings: SearchSettings,
    final: str,
) -> Table:
    """Score all methods and recipes on images that their thresholds were not chosen on.

    Args:
        sweeps: By name, counts on the calibration images (``"folds"``) and, if there are any, on the
            held-out images.
        fold_sweeps: For what is searched anew in each fold (or not at all, if empty): for each fold its
            counts on all calibration images.
        groups: The group of each of these images.
        folds: Rows of each fold.
        settings: Fitness, class gate and seed.
        final: Name of the recipe that was chosen; its plain version is compared as well, as the
            baselines have no views either.

    Returns:
        The table. The recipe's leads are those over the best row of each of ``KINDS``, the best on the
        very images of the comparison, which favors that row.
    """
    kind, gate, seed = settings.fitness, settings.gate, settings.seed
    number = partial(score_of, kind=kind)
    parts: dict[tuple[str, Where], Tensor] = {}
    rows = []
    for name, sweep in sweeps["folds"].items():
        cut = choose_cut(sweep, kind, gate=gate)
        matrices: dict[Where, Tensor] = {}
        in_folds = fold_sweeps.get(name, [sweep] * len(folds))
        if in_folds:
            crossed = torch.zeros(len(sweep.true), 2, 2, dtype=torch.float64)
            for test, one in zip(folds, in_folds, strict=True):
                own = choose_cut(one, kind, other_rows(len(crossed), test), gate)
                crossed[list(test)] = one.at(own.threshold, own.gate)[list(test)]
            matrices["folds"] = crossed
        if "held_out" in sweeps:
            matrices["held_out"] = sweeps["held_out"][name].at(cut.threshold, cut.gate)
        scores: dict[Where, Interval] = {}
        for where, found in matrices.items():
            parts[name, where] = fitness_parts(found, kind)
            scores[where] = bootstrap_interval(
                parts[name, where], number, seed=seed, groups=groups[where]
            )
        rows.append(Row(name, kind_of(name), *cut, scores.get("folds"), scores.get("held_out")))
    leads = []
    recipes = dict.fromkeys((final, PLAIN_RECIPE))
    for where, name, of_kind in product(groups, recipes, KINDS):
        rivals = [row for row in rows if row.kind == of_kind and row.score(where) is not None]
        if rivals and (name, where) in parts:
            best = max(rivals, key=lambda row: row.score(where) or 0.0).name
            ours, rival = parts[name, where], parts[best, where]
            lead = bootstrap_interval(ours, number, seed=seed, rival=rival, groups=groups[where])
            leads.append(Lead(name, best, of_kind, where, lead))
    return Table(tuple(rows), tuple(leads), final, parts)


def validation_warnings(
    table: Table, fold_layers: Sequence[frozenset[str]], offset: MaskOffset
) -> list[str]:
    """Why the recipe may be no better than simpler maps, a sentence for each reason."""
    found = []
    where: Where = "held_out" if any(row.held_out for row in table.rows) else "folds"
    images = {"held_out": "on the held-out images", "folds": "across the folds"}[where]
    for lead in table.leads:
        interval = lead.difference
        if lead.where != where or interval.low > 0:
            continue
        subject = f"over {KINDS[lead.kind]} ({lead.over}) {images}"
        numbers = f"{interval.value:+.3f}, interval {interval.low:+.3f} to {interval.high:+.3f}"
        if interval.high < 0:
            found.append(f"The difference of '{lead.recipe}' {subject} is a loss: {numbers}.")
        else:
            found.append(f"The lead of '{lead.recipe}' {subject} is within the noise: {numbers}.")
    overlap = layer_overlap(fold_layers)
    if overlap is not None and overlap < SAME_LAYERS:
        often = Counter(layer for layers in fold_layers for layer in layers).most_common()
        counts = ", ".join(f"{layer} in {count}" for layer, count in often)
        found.append(
            f"The folds choose different layers (mean overlap {overlap:.2f}; of {len(fold_layers)} "
            f"folds: {counts}), so which layers are in the recipe means little."
        )
    if offset.iou - offset.in_place >= OFFSET_GAIN:
        found.append(
            f"The masks lie beside the outlines: moved by {offset.right:+d} px to the right and "
            f"{offset.down:+d} px down, all alike, they would have a foreground IoU of {offset.iou:.3f}, "
            f"not {offset.in_place:.3f}. Look at the examples: outlines can be displaced, and so can "
            "the maps of a network with strides (which flips average out)."
        )
    if not table.leads:
        found.append(
            "There are no folds and no held-out images, so every score is one of the images that "
            "the recipe was searched on, and too high."
        )
    return found


def layer_overlap(fold_layers: Sequence[frozenset[str]]) -> float | None:
    """Mean Jaccard overlap of all pairs of folds; None below two folds."""
    overlaps = [len(a & b) / len(a | b) for a, b in combinations(fold_layers, 2)]
    return sum(overlaps) / len(overlaps) if overlaps else None
