"""A search with ``guarantee=``: which images calibrate it, that its limit holds there, and refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from helpers.networks import Bright
from helpers.search_sets import SHORT, labeled_masks, squares
from ssgcam.core.augment import Augmentation
from ssgcam.errors import SsgcamError
from ssgcam.recipe import Guarantee, Recipe
from ssgcam.search import CalibrationSet, SearchSettings, search_recipe
from ssgcam.search.guarantee import calibrate, guarantee_warnings, set_aside, unit_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:(The calibration set is small|The images come from|No image is without)"
)
SETTINGS = replace(
    SHORT, folds=0, refinement=None, augmentations=(), views=(Augmentation(),), guarantee=0.8
)


def with_groups(data: CalibrationSet, groups: list[str]) -> CalibrationSet:
    return CalibrationSet(data.images, data.masks, 1, groups)


def test_a_unit_is_a_group_where_groups_hold_several_images() -> None:
    assert unit_of(squares(4)) == "group"
    data = squares(4)
    assert unit_of(CalibrationSet(data.images, data.masks, 1)) == "image"


def test_half_the_groups_are_set_aside_whole() -> None:
    data = squares(30, negatives=6)  # 15 groups of two, 12 with the object
    search, aside = set_aside(data, 0.2, seed=0)
    assert not set(search.groups) & set(aside.groups)
    assert sorted([*search.names, *aside.names]) == sorted(data.names)
    assert len(set(aside.groups)) == 6
    assert not aside.negatives.any()
    assert int(search.negatives.sum()) == 6
    row = data.names.index(aside.names[0])
    assert torch.equal(aside.images[0], data.images[row])
    assert set_aside(data, 0.2, seed=0)[1].names == aside.names
    assert set_aside(data, 0.2, seed=1)[1].names != aside.names


def test_as_many_groups_are_set_aside_as_the_limit_needs() -> None:
    data = squares(30)
    assert len(set(set_aside(data, 0.1, seed=0)[1].groups)) == 9
    with pytest.raises(
        SsgcamError, match=r"sets 19 groups .* the search needs 2, but there are 15; add 6 more"
    ):
        set_aside(data, 0.05, seed=0)


def test_thresholds_equal_a_loop_over_groups_with_the_gate_in_the_loss() -> None:
    generator = torch.Generator().manual_seed(2)
    masks = (torch.rand(24, 12, 12, generator=generator) > 0.5).byte()
    masks[20:] = 0  # no object: not a unit
    maps = (masks + torch.rand(24, 12, 12, generator=generator)) / 2
    data = labeled_masks(masks, groups=[f"field {n // 2}" for n in range(24)])
    is_open = torch.arange(24) != 3
    alpha = 0.3
    found, undecided = calibrate(maps, is_open, data, alpha, "held-out")

    def mean_loss(t: float, outer: bool) -> float:
        groups = []
        for field in range(10):
            losses = []
            for n in (2 * field, 2 * field + 1):
                mask = (maps[n] >= t) & is_open[n]
                inside, outside = masks[n] == 1, masks[n] == 0
                wrong = (inside & ~mask) if outer else (mask & outside)
                losses.append(min(1.0, float(wrong.sum() / inside.sum())))
            groups.append(sum(losses) / 2)
        return (sum(groups) + 1) / 11

    grid = [k / 1000 for k in range(1001)]
    assert found.outer_threshold == max(t for t in grid if mean_loss(t, True) <= alpha)
    assert found.inner_threshold == min(t for t in grid if mean_loss(t, False) <= alpha)
    assert (found.alpha, found.units, found.unit, found.kind) == (0.3, 10, "group", "held-out")
    low, high = found.outer_threshold, found.inner_threshold
    between = ((maps >= low) & is_open[:, None, None]).float() - (
        (maps >= high) & is_open[:, None, None]
    ).float()
    assert undecided == pytest.approx(max(0.0, float(between[:20].mean())), abs=1e-6)


def missed(recipe: Recipe, data: CalibrationSet) -> float:
    """Mean share of the objects that the outer mask misses."""
    assert recipe.guarantee is not None
    bound = recipe.bind(Bright())
    result = bound(data.images, data.classes)
    inside = result.maps >= recipe.guarantee.outer_threshold
    inside &= bound.is_open(result)[:, None, None]
    truth = data.masks == 1
    return float(1 - ((inside & truth).flatten(1).sum(1) / truth.flatten(1).sum(1)).mean())


def test_images_set_aside_calibrate_the_guarantee_and_take_no_part_in_the_search() -> None:
    data = squares(20)
    found = search_recipe(Bright(), data, ["act"], settings=SETTINGS)
    guarantee = found.recipe.guarantee
    assert guarantee is not None
    assert (guarantee.units, guarantee.unit, guarantee.kind) == (5, "group", "split")
    assert guarantee.alpha == pytest.approx(0.2)
    search, aside = set_aside(data, 0.2, SETTINGS.seed)
    assert found.recipe.origin.images == len(search) == 10
    assert (5 * missed(found.recipe, aside) + 1) / 6 <= 0.2 + 1e-6
    alone = search_recipe(Bright(), search, ["act"], settings=replace(SETTINGS, guarantee=None))
    assert found.recipe.layers == alone.recipe.layers
    assert found.recipe.threshold == alone.recipe.threshold
    text = found.report.markdown()
    assert "misses on average at most 0.2 of an object" in text
    assert "like the 5 groups it was calibrated on (split)" in text
    assert found.report.undecided is not None


def test_held_out_images_calibrate_the_guarantee() -> None:
    held_out = squares(12, seed=3)
    found = search_recipe(Bright(), squares(8), ["act"], held_out=held_out, settings=SETTINGS)
    assert found.recipe.guarantee is not None
    assert (found.recipe.guarantee.units, found.recipe.guarantee.kind) == (6, "held-out")
    assert found.recipe.origin.images == 8
    assert (6 * missed(found.recipe, held_out) + 1) / 7 <= 0.2 + 1e-6


def test_folds_calibrate_it_only_when_asked_and_it_is_named_approximate() -> None:
    settings = replace(SETTINGS, folds=2, guarantee_from_folds=True)
    found = search_recipe(Bright(), squares(12), ["act"], settings=settings)
    assert found.recipe.guarantee is not None
    assert (found.recipe.guarantee.units, found.recipe.guarantee.kind) == (6, "folds")
    assert found.recipe.origin.images == 12
    assert any("guarantee is approximate" in each for each in found.report.warnings)


def test_a_refused_guarantee_keeps_the_recipe_and_says_why() -> None:
    settings = replace(SETTINGS, gate=1.0)  # every image is below it
    found = search_recipe(Bright(), squares(20), ["act"], settings=settings)
    assert found.recipe.guarantee is None
    assert found.report.warnings[0].startswith("There is no guarantee: the class gate is shut")


def test_an_empty_inner_mask_is_named() -> None:
    (found,) = guarantee_warnings(Guarantee(0.1, 0.2, None, 12, "image", "split"))
    assert "inner mask is always empty: no threshold keeps its mean loss at 0.1 on 12" in found
    assert guarantee_warnings(Guarantee(0.1, 0.2, 0.9, 12, "image", "split")) == []
    assert guarantee_warnings(None) == []


def test_too_few_images_are_refused_before_the_search() -> None:
    with pytest.raises(SsgcamError, match=r"sets 9 groups .* there are 5; add 6 more"):
        search_recipe(Bright(), squares(10), ["act"], settings=replace(SETTINGS, guarantee=0.9))
    with pytest.raises(SsgcamError, match="but there are 3; add 1 more"):
        search_recipe(
            Bright(), squares(10), ["act"], held_out=squares(6, seed=1), settings=SETTINGS
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guarantee": 1.5}, "guarantee is 1.5"),
        ({"guarantee_from_folds": True}, "needs guarantee="),
        ({"guarantee": 0.9, "guarantee_from_folds": True, "folds": 0}, "at least 2 folds"),
    ],
)
def test_bad_settings_are_one_sentence(options: dict[str, object], message: str) -> None:
    with pytest.raises(SsgcamError, match=message):
        SearchSettings(**options)  # type: ignore[arg-type]
