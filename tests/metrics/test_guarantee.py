"""Conformal risk control against loops over pixels and thresholds, and against MAPIE."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mapie.risk_control import SemanticSegmentationController

from ssgcam.errors import SsgcamError
from ssgcam.metrics.guarantee import (
    GRID,
    check_splits,
    choose_guarantee,
    group_means,
    least_units,
    mask_losses,
)


def cases(count, seed=0, side=10, noise=0.5):
    """Maps that agree roughly with square objects."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, side, side, dtype=torch.uint8)
    for mask in masks:
        y, x, size = torch.randint(1, 6, (3,), generator=generator).tolist()
        mask[y : y + size, x : x + size] = 1
    maps = masks + noise * torch.rand(count, side, side, generator=generator)
    maps = maps * torch.rand(count, side, side, generator=generator).sqrt()
    return maps / maps.amax((1, 2), keepdim=True), masks


def test_losses_equal_a_loop_over_thresholds():
    maps, masks = cases(5)
    masks[1:, 0] = 255
    gate = torch.tensor([True, True, True, True, False])
    losses = mask_losses(maps, masks, gate)
    for k in (0, 1, 250, 500, 999, 1000):
        for index, (scores, mask) in enumerate(zip(maps, masks, strict=True)):
            predicted = (scores >= k / 1000) & gate[index]
            inside, outside = mask == 1, mask == 0
            outer = float((inside & ~predicted).sum() / inside.sum())
            inner = min(1.0, float((predicted & outside).sum() / inside.sum()))
            area = float((predicted & (mask != 255)).sum() / (mask != 255).sum())
            assert losses[index, :, k].tolist() == pytest.approx([outer, inner, area])


def test_losses_are_monotone():
    losses = mask_losses(*cases(20))
    assert (losses[:, 0].diff() >= 0).all()
    assert (losses[:, 1].diff() <= 0).all()


@pytest.mark.parametrize("alpha", [0.06, 0.1, 0.3])
def test_thresholds_equal_brute_force_over_groups(alpha):
    losses = mask_losses(*cases(60))
    groups = [f"field {k % 23}" for k in range(60)]
    means = group_means(losses, groups)
    found = choose_guarantee(means, alpha)
    plain = [np.mean([losses[k].numpy() for k in range(60) if k % 23 == g], 0) for g in range(23)]
    kept = [
        [(sum(group[row][k] for group in plain) + 1) / 24 <= alpha for k in range(1001)]
        for row in (0, 1)
    ]
    assert len(means) == 23
    assert found.outer == max(k for k in range(1001) if kept[0][k]) / 1000
    inner = [k for k in range(1001) if kept[1][k]]
    assert found.inner == (min(inner) / 1000 if inner else None)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
def test_outer_threshold_equals_mapie(alpha):
    maps, masks = cases(50)
    controller = SemanticSegmentationController(
        predict_function=lambda x: x,
        risk="recall",
        method="crc",
        target_level=1 - alpha,
        predict_params=GRID.numpy(),
    )
    controller.calibrate(maps[:, None].numpy(), masks[:, None].numpy())
    found = choose_guarantee(mask_losses(maps, masks), alpha)
    # MAPIE's mask is map > t, ours map >= t: they differ at a value on the grid only
    assert found.outer == pytest.approx(float(controller.best_predict_param[0]), abs=1e-9)


def test_the_limit_of_nine_groups_at_a_tenth_is_exact():
    losses = torch.zeros(9, 3, 1001, dtype=torch.float64)
    assert choose_guarantee(losses, 1 - 0.9).outer == 1.0
    assert least_units(1 - 0.9) == 9
    with pytest.raises(SsgcamError, match=r"8 calibration groups are too few.* add 1 more"):
        choose_guarantee(losses[:8], 1 - 0.9)


def test_a_shut_gate_is_named_as_the_limit():
    maps, masks = cases(40)
    losses = mask_losses(maps, masks, torch.arange(40) >= 8)
    with pytest.raises(SsgcamError, match=r"shut for 20\.0% .* more than the 7\.8%"):
        choose_guarantee(losses, 0.1)
    assert choose_guarantee(losses, 0.3).outer > 0


def test_without_an_inner_threshold_the_inner_mask_is_empty():
    masks = torch.zeros(30, 8, 8, dtype=torch.uint8)
    masks[:, 0, 0] = 1
    maps = torch.zeros(30, 8, 8)
    maps[:, 7, 7] = 1  # the peak lies beside the object
    found = choose_guarantee(mask_losses(maps, masks), 0.1)
    assert found.inner is None
    assert choose_guarantee(mask_losses(*cases(30, noise=0.1)), 0.2).inner is not None


def test_the_mean_loss_on_new_images_keeps_the_limit():
    losses = mask_losses(*cases(400, seed=3))
    outer, inner = [], []
    for start in range(0, 400, 40):
        rest = torch.cat([losses[:start], losses[start + 40 :]])
        found = choose_guarantee(losses[start : start + 40], 0.15)
        outer.append(rest[:, 0, round(found.outer * 1000)].mean())
        inner.append(0.0 if found.inner is None else rest[:, 1, round(found.inner * 1000)].mean())
    for tested in (outer, inner):
        assert np.mean(tested) <= 0.15 + 2 * np.std(tested) / 10**0.5


def test_splits_hold_and_equal_a_loop():
    losses = mask_losses(*cases(80, seed=1))
    found = check_splits(losses, 0.15, splits=50, seed=4)
    assert found.holds
    assert (found.splits, found.refused) == (50, 0)
    assert check_splits(losses, 0.15, splits=1, seed=4).splits == 1
    assert 0.1 < found.outer_loss <= 0.16
    generator = torch.Generator().manual_seed(4)
    outer, inner, band = [], [], []
    for _ in range(50):
        order = torch.randperm(80, generator=generator)
        chosen = choose_guarantee(losses[order[40:]], 0.15)
        test = losses[order[:40]]
        at, inside = round(chosen.outer * 1000), round(chosen.inner * 1000)
        outer.append(float(test[:, 0, at].mean()))
        inner.append(float(test[:, 1, inside].mean()))
        band.append(max(0.0, float(test[:, 2, at].mean() - test[:, 2, inside].mean())))
    assert found.outer_loss == pytest.approx(np.mean(outer))
    assert found.inner_loss == pytest.approx(np.mean(inner))
    assert found.band == pytest.approx(np.mean(band))
    assert found.outer_error == pytest.approx(np.std(outer) / 50**0.5)


def test_a_wrong_guarantee_does_not_hold():
    found = check_splits(mask_losses(*cases(80, seed=1)), 0.15, splits=50)
    worse = type(found)(0.15, 50, 0, 0.2, 0.002, 0.1, 0.002, 0.3)
    assert found.holds
    assert not worse.holds


def test_bad_input_is_one_sentence():
    maps, masks = cases(4)
    losses = mask_losses(maps, masks)
    with pytest.raises(SsgcamError, match="1 of 4 calibration images show no object"):
        mask_losses(maps, masks * torch.tensor([1, 1, 0, 1])[:, None, None])
    with pytest.raises(SsgcamError, match="leaves"):
        mask_losses(maps * 2, masks)
    with pytest.raises(SsgcamError, match="4 images but 3 groups"):
        group_means(losses, [1, 2, 3])
    with pytest.raises(SsgcamError, match="alpha is 10"):
        choose_guarantee(losses, 10)
    with pytest.raises(SsgcamError, match="can't be made"):
        check_splits(losses[:1], 0.5)
    with pytest.raises(SsgcamError, match="no split can be checked: 2 calibration groups"):
        check_splits(losses, 0.1)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.5])
def test_the_allowed_loss_is_between_0_and_1(alpha):
    with pytest.raises(SsgcamError, match="between 0 and 1"):
        least_units(alpha)
