"""Folds, leads and doubts: scored where nothing was chosen, and said when it means nothing."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.search_sets import examples_of
from search.test_run import SETTINGS, quick_search
from ssgcam.core.augment import Augmentation
from ssgcam.core.settings import SSGSettings
from ssgcam.metrics import MaskOffset, paired_difference
from ssgcam.recipe import Fingerprint, Recipe, RecipeLayer
from ssgcam.search.objective import Objective
from ssgcam.search.scoring import Counts, Sweep, choose_cut, fitness, statistic, sweep
from ssgcam.search.steps import Variant, choose_variant
from ssgcam.search.validation import PLAIN, Contender, Table, compare, doubts

COUNT = 12
GROUPS = [f"field {n // 2}" for n in range(COUNT)]
IN_PLACE = MaskOffset(0, 0, 0.8, 0.8)
FOLDS = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def labeled(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Masks, and noisy maps of them whose best threshold differs between images."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(COUNT, 10, 10, dtype=torch.uint8)
    for n in range(COUNT):
        masks[n, 2 : 5 + n % 3, 3:8] = 1
    noise = torch.rand(COUNT, 10, 10, generator=generator)
    level = torch.linspace(0.3, 0.8, COUNT)[:, None, None]
    return masks, (masks * level + 0.4 * noise).clamp(0, 1)


def swept(noise: float, seed: int = 0) -> Sweep:
    masks, maps = labeled(seed)
    worse = torch.rand(maps.shape, generator=torch.Generator().manual_seed(seed + 9))
    return sweep(((1 - noise) * maps + noise * worse), masks, torch.ones(COUNT), "pooled")


def test_in_a_fold_the_threshold_is_that_of_the_others() -> None:
    examples = examples_of(labeled()[0], groups=GROUPS)
    good = swept(0.1)
    one = Contender("one", "single", good)
    table = compare([one], examples, None, FOLDS, "pooled", final="", gate=None, seed=0)
    hit = predicted = 0.0
    chosen = set()
    for test in FOLDS:
        train = torch.tensor([n for n in range(COUNT) if n not in test])
        scores = [float(fitness(good.at(k / 1000, 0, train), "pooled")) for k in range(1, 1001)]
        best = (int(np.argmax(scores)) + 1) / 1000
        chosen.add(best)
        counts = good.at(best, 0, torch.tensor(test))
        hit, predicted = hit + float(counts.hit.sum()), predicted + float(counts.predicted.sum())
    assert len(chosen) > 1
    true = float(good.counts.true.sum())
    row = table.row("one")
    assert row.folds is not None
    assert row.folds.value == pytest.approx(hit / (predicted + true - hit), abs=1e-12)
    assert row.folds.groups == 6
    assert row.folds.value < row.calibration
    assert row.held_out is None


def test_a_recipe_of_a_fold_is_scored_on_that_fold_alone() -> None:
    examples = examples_of(labeled()[0], groups=GROUPS)
    bad, good = swept(0.9), swept(0.05)
    folds = tuple(good if k == 1 else bad for k in range(3))
    table = compare(
        [Contender(PLAIN, "recipe", bad, folds=folds)], examples, None, FOLDS, "per_image",
        final=PLAIN, gate=None, seed=0,
    )  # fmt: skip
    parts = table.parts[PLAIN, "folds"]
    for number, test in enumerate(FOLDS):
        train = torch.tensor([n for n in range(COUNT) if n not in test])
        threshold, gate, _ = choose_cut(folds[number], "per_image", train)
        expected = statistic("per_image")[0](folds[number].at(threshold, gate, torch.tensor(test)))
        assert torch.equal(parts[test], expected)
    assert parts[4:8, 0].mean() > parts[:4, 0].mean() + 0.2


def contest(recipe: Sweep, *, layer: Sweep, plain: Sweep | None = None) -> Table:
    examples = examples_of(labeled()[0], groups=GROUPS)
    contenders = [
        Contender("LayerCAM, a", "single", layer, layer),
        Contender("LayerCAM, b", "single", swept(0.95, 3), swept(0.95, 3)),
        Contender("mean", "mean", layer, layer),
        Contender("Recipe, flips both", "recipe", recipe, recipe),
    ]
    if plain is not None:
        contenders.append(Contender(PLAIN, "recipe", plain, plain, ()))
    return compare(
        contenders,
        examples,
        examples,
        FOLDS,
        "pooled",
        final="Recipe, flips both",
        gate=None,
        seed=0,
    )


def test_leads_are_paired_and_over_the_best_of_each_kind() -> None:
    table = contest(swept(0.0), layer=swept(0.7), plain=swept(0.2))
    held_out = [lead for lead in table.leads if lead.where == "held_out"]
    assert [(lead.recipe, lead.over) for lead in held_out] == [
        ("Recipe, flips both", "LayerCAM, a"),
        ("Recipe, flips both", "mean"),
        (PLAIN, "LayerCAM, a"),
        (PLAIN, "mean"),
    ]
    assert {lead.recipe for lead in table.leads if lead.where == "folds"} == {"Recipe, flips both"}
    expected = paired_difference(
        table.parts["Recipe, flips both", "held_out"],
        table.parts["LayerCAM, a", "held_out"],
        statistic("pooled")[1],
        seed=0,
        groups=GROUPS,
    )
    assert held_out[0].difference == expected
    assert expected.low > 0
    assert doubts(table, [frozenset("ab"), frozenset("ab")], IN_PLACE) == []


def test_a_lead_within_the_noise_is_said() -> None:
    table = contest(swept(0.3, 1), layer=swept(0.3, 0))
    found = doubts(table, [], IN_PLACE)
    assert len(found) == 2
    assert "over the best single layer of any other method (LayerCAM, a)" in found[0]
    assert "on the held-out images is within the noise" in found[0]


def test_folds_that_choose_different_layers_are_said() -> None:
    table = contest(swept(0.0), layer=swept(0.7))
    found = doubts(table, [frozenset("ab"), frozenset("cd"), frozenset("ad")], IN_PLACE)
    assert len(found) == 1
    assert "different layers (mean overlap 0.22; of 3 folds: " in found[0]
    assert "a in 2" in found[0]


def test_masks_beside_their_outlines_are_said() -> None:
    table = contest(swept(0.0), layer=swept(0.7))
    found = doubts(table, [], MaskOffset(-3, 1, 0.68, 0.65))
    assert len(found) == 1
    assert "moved by -3 px to the right and +1 px down" in found[0]
    assert "a foreground IoU of 0.680, not 0.650" in found[0]


def variant(name: str, score: float) -> Variant:
    layer = RecipeLayer(name, 1.0, SSGSettings(), 1.0, (1, 2, 2))
    recipe = Recipe((layer,), 0.5, 0.0, Fingerprint("n", (8, 8), ""), (8, 8))
    empty = Counts(*torch.zeros(4, 1))
    return Variant(recipe, Sweep(torch.ones(1), empty, torch.ones(1)), score)


def test_what_costs_more_must_pay() -> None:
    first, second, third = variant("a", 0.700), variant("b", 0.702), variant("c", 0.710)
    assert choose_variant([first, second], 0.003) is first
    assert choose_variant([first, second, third], 0.003) is third
    assert choose_variant([third, first], 0.003) is third


def test_ctrl_c_gives_the_best_so_far_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    score = Objective.__call__

    def interrupted(self: Objective, genes: np.ndarray) -> np.ndarray:
        calls.append(genes.shape)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return score(self, genes)

    monkeypatch.setattr(Objective, "__call__", interrupted)
    found = quick_search(settings=replace(SETTINGS, generations=500))
    assert len(calls) == 3
    assert found.report.interrupted
    assert found.report.warnings[0].startswith("The search was interrupted")
    assert "interrupted: the best so far" in found.report.markdown()
    assert found.report.fold_layers == ()
    assert found.recipe.layers
    assert found.recipe.augmentation in (Augmentation(), Augmentation("horizontal", (1.0, 1.5)))
