"""Folds, leads and warnings: scores on images that nothing was chosen on, and when they mean nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.search_sets import labeled_masks, squares
from ssgcam.metrics import MaskOffset, bootstrap_interval
from ssgcam.search import CalibrationSet, SearchSettings
from ssgcam.search.fitness import (
    ThresholdSweep,
    choose_cut,
    fitness,
    fitness_parts,
    score_of,
    sweep_thresholds,
)
from ssgcam.search.validation import (
    PLAIN_RECIPE,
    Table,
    compare,
    group_folds,
    layer_overlap,
    validation_warnings,
)

COUNT = 12
GROUPS = [f"field {n // 2}" for n in range(COUNT)]
IN_PLACE = MaskOffset(0, 0, 0.8, 0.8)
FOLDS = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
FLIPPED = "Recipe, flips both"


def labeled(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Masks, and noisy maps of them whose best threshold differs between images."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(COUNT, 10, 10, dtype=torch.uint8)
    for n in range(COUNT):
        masks[n, 2 : 5 + n % 3, 3:8] = 1
    noise = torch.rand(COUNT, 10, 10, generator=generator)
    level = torch.linspace(0.3, 0.8, COUNT)[:, None, None]
    return masks, (masks * level + 0.4 * noise).clamp(0, 1)


def swept(noise: float, seed: int = 0) -> ThresholdSweep:
    masks, maps = labeled(seed)
    worse = torch.rand(maps.shape, generator=torch.Generator().manual_seed(seed + 9))
    return sweep_thresholds(
        ((1 - noise) * maps + noise * worse), masks, torch.ones(COUNT), "pooled"
    )


def in_folds(sweeps: dict, fold_sweeps: dict, kind: str = "pooled", final: str = "") -> Table:
    settings = SearchSettings(fitness=kind)
    return compare({"folds": sweeps}, fold_sweeps, {"folds": GROUPS}, FOLDS, settings, final)


def test_in_a_fold_the_threshold_is_that_of_the_others() -> None:
    good = swept(0.1)
    row = in_folds({"one": good}, {}).row("one")
    hit = predicted = 0.0
    chosen = set()
    for test in FOLDS:
        train = [n for n in range(COUNT) if n not in test]
        scores = [float(fitness(good.at(k / 1000, 0)[train], "pooled")) for k in range(1, 1001)]
        best = (int(np.argmax(scores)) + 1) / 1000
        chosen.add(best)
        matrices = good.at(best, 0)[test].sum(0)
        hit, predicted = hit + float(matrices[1, 1]), predicted + float(matrices[:, 1].sum())
    assert len(chosen) > 1
    true = float(good.true.sum())
    assert row.folds is not None
    assert row.folds.value == pytest.approx(hit / (predicted + true - hit), abs=1e-12)
    assert row.folds.groups == 6
    assert row.folds.value < row.calibration
    assert row.held_out is None


def test_a_recipe_of_a_fold_is_scored_on_that_fold_alone() -> None:
    bad, good = swept(0.9), swept(0.05)
    folds = [good if k == 1 else bad for k in range(3)]
    table = in_folds({PLAIN_RECIPE: bad}, {PLAIN_RECIPE: folds}, "per_image")
    expected = []
    for number, test in enumerate(FOLDS):
        train = [n for n in range(COUNT) if n not in test]
        cut = choose_cut(folds[number], "per_image", train)
        expected.append(fitness_parts(folds[number].at(*cut[:2])[test], "per_image"))
    folds_score = table.row(PLAIN_RECIPE).folds
    assert folds_score is not None
    assert folds_score.value == pytest.approx(float(torch.cat(expected).mean(0)[0]), abs=1e-12)
    assert expected[1][:, 0].mean() > expected[0][:, 0].mean() + 0.2
    not_crossed = in_folds({PLAIN_RECIPE: bad}, {PLAIN_RECIPE: []})
    assert not_crossed.row(PLAIN_RECIPE).folds is None


def compared(
    recipe: ThresholdSweep, *, layer: ThresholdSweep, plain: ThresholdSweep | None = None
) -> Table:
    sweeps = {
        "LayerCAM, a": layer,
        "LayerCAM, b": swept(0.95, 3),
        "LayerCAM, mean of all layers": layer,
        FLIPPED: recipe,
    }
    if plain is not None:
        sweeps[PLAIN_RECIPE] = plain
    groups = {"folds": GROUPS, "held_out": GROUPS}
    fold_sweeps = {PLAIN_RECIPE: []}
    on_both = {"folds": sweeps, "held_out": sweeps}
    return compare(on_both, fold_sweeps, groups, FOLDS, SearchSettings(), FLIPPED)


def test_leads_are_paired_and_over_the_best_of_each_kind() -> None:
    good, worse = swept(0.0), swept(0.7)
    table = compared(good, layer=worse, plain=swept(0.2))
    held_out = [lead for lead in table.leads if lead.where == "held_out"]
    assert [(lead.recipe, lead.over, lead.kind) for lead in held_out] == [
        (FLIPPED, "LayerCAM, a", "single"),
        (FLIPPED, "LayerCAM, mean of all layers", "mean"),
        (PLAIN_RECIPE, "LayerCAM, a", "single"),
        (PLAIN_RECIPE, "LayerCAM, mean of all layers", "mean"),
    ]
    assert {lead.recipe for lead in table.leads if lead.where == "folds"} == {FLIPPED}
    parts = []
    for name, sweep in ((FLIPPED, good), ("LayerCAM, a", worse)):
        row = table.row(name)
        parts.append(fitness_parts(sweep.at(row.threshold, row.gate), "pooled"))
    own, rival = parts
    expected = bootstrap_interval(
        own, lambda means: score_of(means, "pooled"), seed=0, rival=rival, groups=GROUPS
    )
    assert held_out[0].difference == expected
    assert expected.low > 0
    assert validation_warnings(table, [frozenset("ab"), frozenset("ab")], IN_PLACE) == []


def test_a_lead_within_the_noise_gets_a_warning() -> None:
    table = compared(swept(0.3, 1), layer=swept(0.3, 0))
    found = validation_warnings(table, [], IN_PLACE)
    assert len(found) == 2
    assert "over the best single layer of any other method (LayerCAM, a)" in found[0]
    assert "on the held-out images is within the noise" in found[0]


def test_an_interval_below_zero_is_a_loss() -> None:
    table = compared(swept(0.7), layer=swept(0.0))
    found = validation_warnings(table, [], IN_PLACE)
    assert len(found) == 2
    assert all("is a loss" in sentence for sentence in found)
    assert not any("noise" in sentence for sentence in found)


def test_folds_with_different_layers_get_a_warning() -> None:
    table = compared(swept(0.0), layer=swept(0.7))
    layers = [frozenset("ab"), frozenset("cd"), frozenset("ad")]
    (found,) = validation_warnings(table, layers, IN_PLACE)
    assert "different layers (mean overlap 0.22; of 3 folds: " in found
    assert "a in 2" in found


def test_masks_beside_their_outlines_get_a_warning() -> None:
    table = compared(swept(0.0), layer=swept(0.7))
    (found,) = validation_warnings(table, [], MaskOffset(-3, 1, 0.68, 0.65))
    assert "moved by -3 px to the right and +1 px down" in found
    assert "a foreground IoU of 0.680, not 0.650" in found


def test_folds_keep_groups_together_and_hold_every_row() -> None:
    data = squares(12, negatives=4)
    groups = ["a", "a", "b", "c", "c", "c", "d", "e", "e", "f", "f", "a"]
    data = CalibrationSet(data.images, data.masks, 1, groups)
    folds = group_folds(data, 3)
    assert sorted(row for fold in folds for row in fold) == list(range(12))
    owners = [{groups[row] for row in fold} for fold in folds]
    assert all(not (a & b) for k, a in enumerate(owners) for b in owners[:k])
    assert max(int((~data.negatives)[fold].sum()) for fold in folds) <= 4
    assert group_folds(labeled_masks(data.masks, groups=["a"] * 12), 3) == []


def test_overlap_of_layers() -> None:
    assert layer_overlap([]) is None
    assert layer_overlap([frozenset("ab"), frozenset("b")]) == 0.5
    assert layer_overlap([frozenset("a"), frozenset("b"), frozenset("a")]) == pytest.approx(1 / 3)
