"""The grid pointing game and class sensitivity against loops and SciPy."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from ssgcam.errors import SsgcamError
from ssgcam.metrics import (
    choose_mosaics,
    class_sensitivity,
    compared_classes,
    compose_mosaic,
    grid_parts,
    ratio,
)


@pytest.mark.parametrize("rows", [2, 3])
def test_with_enough_classes_every_cell_has_another_class_and_is_asked_for(rows):
    labels = [photo % 11 for photo in range(40)]
    mosaics = choose_mosaics(labels, rows, 30, seed=0)
    for mosaic in mosaics:
        assert len({labels[photo] for photo in mosaic.photos}) == rows * rows
        assert mosaic.asked == tuple(range(rows * rows))
    assert len({photo for mosaic in mosaics for photo in mosaic.photos}) > 35
    assert mosaics == choose_mosaics(labels, rows, 30, seed=0)
    assert mosaics != choose_mosaics(labels, rows, 30, seed=1)


def test_with_few_classes_the_asked_class_fills_one_cell():
    labels = [0, 0, 0, 1, 2, 2]
    mosaics = choose_mosaics(labels, 2, 60, seed=0)
    asked = []
    for mosaic in mosaics:
        (cell,) = mosaic.asked
        shown = [labels[photo] for photo in mosaic.photos]
        assert shown.count(shown[cell]) == 1
        asked.append((shown[cell], cell))
        others = [photo for place, photo in enumerate(mosaic.photos) if place != cell]
        assert len(set(others)) == 3  # no photo twice where there are enough
    assert Counter(label for label, _ in asked) == {0: 20, 1: 20, 2: 20}
    assert {cell for _, cell in asked} == {0, 1, 2, 3}
    assert choose_mosaics([0, 1], 2, 1, seed=0)[0].photos in {
        (0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)
    }  # fmt: skip


def test_a_mosaic_holds_each_photo_in_its_cell():
    images = torch.rand(9, 3, 4, 5)
    mosaic = compose_mosaic(images, 3)
    assert mosaic.shape == (3, 12, 15)
    for cell, image in enumerate(images):
        y, x = divmod(cell, 3)
        assert torch.equal(mosaic[:, 4 * y : 4 * y + 4, 5 * x : 5 * x + 5], image)


@pytest.mark.parametrize("rows", [2, 3])
def test_shares_equal_a_loop_over_pixels(rows):
    generator = torch.Generator().manual_seed(rows)
    maps = torch.randn(6, 6 * rows, 4 * rows, generator=generator)
    cells = torch.randint(rows * rows, (6,), generator=generator)
    found = grid_parts(maps, cells, rows)
    for values, cell, shares in zip(maps.double().numpy(), cells.tolist(), found, strict=True):
        y, x = divmod(cell, rows)
        own = np.zeros(values.shape, bool)
        own[6 * y : 6 * y + 6, 4 * x : 4 * x + 4] = True
        positive = values.clip(0)
        top = np.argsort(-values.ravel())[: round(0.1 * values.size)]
        assert float(shares[0]) == pytest.approx(positive[own].sum() / positive.sum())
        assert float(shares[1]) == pytest.approx(own.ravel()[top].mean())


def test_a_power_changes_the_mass_but_not_the_highest_pixels():
    maps = torch.rand(4, 20, 20, generator=torch.Generator().manual_seed(0))
    maps[:, :10, :10] += 0.5
    cells = torch.zeros(4, dtype=torch.long)
    plain, squared = grid_parts(maps, cells, 2), grid_parts(maps**4, cells, 2)
    assert (squared[:, 0] > plain[:, 0] + 0.1).all()
    assert torch.equal(squared[:, 1], plain[:, 1])


def test_maps_without_mass_count_zero_and_random_maps_score_chance():
    maps = torch.stack([torch.zeros(8, 8), -torch.rand(8, 8), torch.full((8, 8), torch.nan)])
    assert not grid_parts(maps, torch.tensor([0, 1, 2]), 2).any()
    noise = torch.rand(400, 30, 30, generator=torch.Generator().manual_seed(0))
    noise[:, :, 15:] = noise[:, :, :15]  # many ties
    for chance in grid_parts(noise, torch.arange(400) % 9, 3).mean(0).tolist():
        assert chance == pytest.approx(1 / 9, abs=0.01)


def test_the_classes_compared_are_the_first_and_the_tenth():
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
    found = compared_classes(logits)
    for row, (first, tenth) in zip(logits, found.tolist(), strict=True):
        assert row[first] == row.max()
        assert int((row > row[tenth]).sum()) == 9
    few = compared_classes(logits[:, :4])
    assert torch.equal(few[:, 1], logits[:, :4].argmin(1))


def test_class_sensitivity_is_the_rank_correlation_and_constant_maps_are_marked():
    maps = torch.rand(5, 7, 7, generator=torch.Generator().manual_seed(0))
    other = maps.roll(1, 0) + maps
    other[1] = maps[1]
    maps[2:4], other[3:] = 0, 0
    parts = class_sensitivity(maps, other)
    expected = spearmanr(maps[0].flatten(), other[0].flatten())[0]
    np.testing.assert_allclose(parts[:, 0], [expected, 1, 0, 0, 0], atol=1e-12)
    assert parts[:, 1].tolist() == [1, 1, 1, 0, 1]
    assert float(ratio(parts.mean(0))) == pytest.approx((expected + 1) / 4)


def test_bad_input_is_one_sentence():
    with pytest.raises(SsgcamError, match="at least 2 classes, not 1"):
        choose_mosaics([3, 3], 2, 5, seed=0)
    with pytest.raises(SsgcamError, match="0 mosaics of 2 rows"):
        choose_mosaics([0, 1], 2, 0, seed=0)
    with pytest.raises(SsgcamError, match=r"\[4, C, H, W\]"):
        compose_mosaic(torch.rand(3, 3, 4, 4), 2)
    with pytest.raises(SsgcamError, match="can't be divided"):
        grid_parts(torch.rand(1, 7, 8), torch.zeros(1), 2)
    with pytest.raises(SsgcamError, match="don't fit 2 x 2 cells"):
        grid_parts(torch.rand(1, 8, 8), torch.tensor([4]), 2)
    with pytest.raises(SsgcamError, match="compares two classes"):
        compared_classes(torch.rand(3, 1))
