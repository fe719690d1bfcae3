"""Does a recipe hold on images that the search did not see? Folds, a held-out set, and all its rivals.

Every row of the table is treated alike: its threshold and class gate are chosen on calibration images,
then it is scored on others. In a fold the recipe is searched anew on the other folds' images. Folds and
intervals keep the images of a group together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ssgcam.metrics import Interval, MaskOffset, bootstrap_interval, paired_difference
from ssgcam.search.calibration import Examples
from ssgcam.search.scoring import Counts, Fitness, Sweep, choose_cut, statistic

Kind = Literal["single", "ssg", "mean", "recipe"]
Where = Literal["folds", "held_out"]
#: The recipe without views or refinement.
PLAIN = "Recipe, plain"
#: Mean Jaccard overlap of the folds' layers below which they are said to differ.
SAME_LAYERS = 0.5
#: Gain in foreground IoU from which masks are said to lie beside their outlines.
BESIDE = 0.02


@dataclass(frozen=True, eq=False)
class Contender:
    """A way to make masks, at every threshold.

    Attributes:
        name: Of its row.
        kind: ``"single"`` layer of another method, single ``"ssg"`` layer, ``"mean"`` of all layers, or
            ``"recipe"``.
        calibration: Its counts on the calibration images.
        held_out: On the held-out ones.
        folds: For each fold its counts on all calibration images, where it differs between folds (a
            recipe is searched anew); an empty tuple where it is not cross-validated.
    """

    name: str
    kind: Kind
    calibration: Sweep
    held_out: Sweep | None = None
    folds: tuple[Sweep, ...] | None = None


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: What is scored.
        kind: See :class:`Contender`.
        threshold: Chosen on all calibration images.
        gate: As well.
        calibration: Score on these very images: not an estimate of anything.
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
        interval = self.folds if where == "folds" else self.held_out
        return None if interval is None else interval.value


@dataclass(frozen=True)
class Lead:
    """How far the recipe leads another row, on the same resampled groups.

    Attributes:
        recipe: Name of the recipe's row.
        over: Name of the other row.
        why: What it is.
        where: On which images.
        difference: Recipe minus the other.
    """

    recipe: str
    over: str
    why: str
    where: Where
    difference: Interval


@dataclass(frozen=True)
class Table:
    """All rows and the leads of the recipe."""

    rows: tuple[Row, ...]
    leads: tuple[Lead, ...]
    parts: dict[tuple[str, Where], Tensor] = field(repr=False, compare=False)

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


def group_folds(examples: Examples, folds: int) -> list[list[int]]:
    """Rows of each fold: groups stay together, images with an object are spread evenly.

    Args:
        examples: The images.
        folds: How many; fewer if there are fewer groups that show an object.

    Returns:
        Disjoint lists that hold all rows; empty if there are not two such groups.
    """
    shows = ~examples.negatives
    members: dict[str, list[int]] = {}
    for row, group in enumerate(examples.groups):
        members.setdefault(group, []).append(row)
    objects = {group: int(shows[rows].sum()) for group, rows in members.items()}
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


def compare(
    contenders: Sequence[Contender],
    examples: Examples,
    held_out: Examples | None,
    folds: Sequence[Sequence[int]],
    kind: Fitness,
    *,
    final: str,
    gate: float | None,
    seed: int,
) -> Table:
    """Score all contenders where they were not calibrated.

    Args:
        contenders: With their counts.
        examples: The calibration images.
        held_out: Other images.
        folds: Rows of each fold.
        kind: The score.
        final: Name of the recipe that was chosen; where it was not scored, the first recipe stands for
            it. Its plain version is compared as well, as its rivals have no views either.
        gate: A fixed class gate.
        seed: Of the bootstrap.

    Returns:
        The table. The recipe's leads are those over the best single layer of any other method, the
        best single SSG-CAM layer and the best mean of all layers, each the best on the very images of
        the comparison, which favors it.
    """
    parts_of, number = statistic(kind)
    parts: dict[tuple[str, Where], Tensor] = {}
    rows = []
    groups: dict[Where, tuple[str, ...]] = {"folds": examples.groups}
    if held_out is not None:
        groups["held_out"] = held_out.groups

    def interval(name: str, where: Where, counts: Counts) -> Interval:
        parts[name, where] = parts_of(counts)
        return bootstrap_interval(parts[name, where], number, seed=seed, groups=groups[where])

    for each in contenders:
        threshold, opened, score = choose_cut(each.calibration, kind, gate=gate)
        across = _cross_validated(each, folds, kind, gate, len(examples))
        rows.append(
            Row(
                each.name,
                each.kind,
                threshold,
                opened,
                score,
                None if across is None else interval(each.name, "folds", across),
                None
                if each.held_out is None
                else interval(each.name, "held_out", each.held_out.at(threshold, opened)),
            )
        )
    leads = []
    for where in groups:
        own = [row.name for row in rows if row.kind == "recipe" and (row.name, where) in parts]
        chosen = [final if final in own else next(iter(own), ""), PLAIN]
        for name in dict.fromkeys(name for name in chosen if name in own):
            for rival, why in _best_rivals(rows, where):
                pair = parts[name, where], parts[rival.name, where]
                found = paired_difference(*pair, number, seed=seed, groups=groups[where])
                leads.append(Lead(name, rival.name, why, where, found))
    return Table(tuple(rows), tuple(leads), parts)


def _best_rivals(rows: Sequence[Row], where: Where) -> list[tuple[Row, str]]:
    """Of each kind the row that scores best on the very images."""
    found = []
    for kind, why in (
        ("single", "the best single layer of any other method"),
        ("ssg", "the best single SSG-CAM layer"),
        ("mean", "the best mean of all layers"),
    ):
        scored = [row for row in rows if row.kind == kind and row.score(where) is not None]
        if scored:
            found.append((max(scored, key=lambda row: row.score(where) or 0.0), why))
    return found


def doubts(table: Table, fold_layers: Sequence[frozenset[str]], offset: MaskOffset) -> list[str]:
    """What speaks against trusting the recipe, a sentence each."""
    found = []
    where: Where = "held_out" if any(row.held_out for row in table.rows) else "folds"
    names = {"held_out": "on the held-out images", "folds": "across the folds"}
    for lead in table.leads:
        interval = lead.difference
        if lead.where == where and interval.low <= 0:
            found.append(
                f"The lead of '{lead.recipe}' over {lead.why} ({lead.over}) {names[where]} is within the "
                f"noise: "
                f"{interval.value:+.3f}, interval {interval.low:+.3f} to {interval.high:+.3f}."
            )
    overlap = layer_overlap(fold_layers)
    if overlap is not None and overlap < SAME_LAYERS:
        often = Counter(layer for layers in fold_layers for layer in layers).most_common()
        counts = ", ".join(f"{layer} in {count}" for layer, count in often)
        found.append(
            f"The folds choose different layers (mean overlap {overlap:.2f}; of {len(fold_layers)} "
            f"folds: {counts}): which layers are in the recipe means little."
        )
    if offset.iou - offset.in_place >= BESIDE:
        found.append(
            f"The masks lie beside the outlines: moved by {offset.right:+d} px to the right and "
            f"{offset.down:+d} px down, all alike, they would have a foreground IoU of {offset.iou:.3f}, "
            f"not {offset.in_place:.3f}. Look at the examples: outlines can be displaced, and so can "
            "the maps of a network with strides (which flips average out)."
        )
    return found


def layer_overlap(fold_layers: Sequence[frozenset[str]]) -> float | None:
    """Mean Jaccard overlap of all pairs of folds; None below two folds."""
    pairs = [(a, b) for index, a in enumerate(fold_layers) for b in fold_layers[:index]]
    if not pairs:
        return None
    return sum(len(a & b) / len(a | b) for a, b in pairs) / len(pairs)


def _cross_validated(
    each: Contender, folds: Sequence[Sequence[int]], kind: Fitness, gate: float | None, count: int
) -> Counts | None:
    """Counts ``[N]`` of every image at the threshold that the other folds chose."""
    if not folds or each.folds == ():
        return None
    hit, predicted, true, valid = torch.zeros(4, count, dtype=torch.float64)
    for number, test in enumerate(folds):
        swept = each.calibration if each.folds is None else each.folds[number]
        tested = set(test)
        train = torch.tensor([row for row in range(count) if row not in tested])
        threshold, opened, _ = choose_cut(swept, kind, train, gate)
        counts = swept.at(threshold, opened, torch.tensor(test))
        hit[test], predicted[test] = counts.hit, counts.predicted
        true[test], valid[test] = counts.true, counts.valid
    return Counts(hit, predicted, true, valid)
