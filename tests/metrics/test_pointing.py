"""The pointing game against all distances between peaks and object pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssgcam.errors import SsgcamError
from ssgcam.metrics import mean_of_ratios, near_object, parts_by_class, peak_hits, ratio


def pointing_hits(maps, masks, tolerance=15):
    return peak_hits(maps, [near_object(mask, tolerance) for mask in masks])


def test_pointing_game_equals_all_distances():
    rng = np.random.default_rng(2)
    maps = torch.from_numpy(rng.random((30, 40, 50)))
    maps[::3] = (maps[::3] * 20).floor()  # ties
    masks = torch.zeros(30, 40, 50)
    for mask in masks:
        y, x = rng.integers(0, 35, 2)
        mask[y : y + 3, x : x + 4] = 1
    expected = []
    for scores, mask in zip(maps.numpy(), masks.numpy(), strict=True):
        peaks, pixels = np.argwhere(scores == scores.max()), np.argwhere(mask)
        near = [min(((p - q) ** 2).sum() for q in pixels) <= 49 for p in peaks]
        expected.append(np.mean(near))
    assert len(set(expected)) > 2
    np.testing.assert_allclose(pointing_hits(maps, masks, 7), expected)


def test_the_tolerance_is_a_closed_disc():
    maps, masks = torch.zeros(2, 100, 100), torch.zeros(2, 100, 100)
    maps[:, 50, 50] = 1
    masks[0, 50 + 9, 50 + 12] = 1  # 15 pixels away
    masks[1, 50 + 10, 50 + 12] = 1
    assert pointing_hits(maps, masks).tolist() == [1, 0]


def test_a_constant_or_non_finite_map_scores_chance():
    mask = torch.zeros(1, 100, 100)
    mask[0, :, :10] = 1
    for value in (0.0, 0.3, float("nan")):
        hit = float(pointing_hits(torch.full((1, 7, 7), value), mask))
        assert hit == pytest.approx(0.25)  # the object and 15 columns beside it


def test_pointing_is_the_mean_over_classes():
    maps, masks = torch.zeros(5, 100, 100), torch.zeros(5, 100, 100)
    maps[:, 50, 50] = 1
    masks[:4, 50, 50] = 1
    masks[4, 0, 0] = 1
    parts = parts_by_class(pointing_hits(maps, masks), torch.tensor([1, 1, 1, 2, 2]), 4)
    assert float(mean_of_ratios(parts.mean(0))) == 0.75
    assert ratio(parts.mean(0)).nan_to_num(-1).tolist() == [-1, 1, 0.5, -1]


def test_small_images_empty_masks_and_wrong_labels_are_refused():
    with pytest.raises(SsgcamError, match="64 x 64"):
        near_object(torch.ones(64, 64))
    with pytest.raises(SsgcamError, match="empty"):
        near_object(torch.zeros(99, 99))
    with pytest.raises(SsgcamError, match="2 maps but 1 masks"):
        peak_hits(torch.rand(2, 8, 8), torch.ones(1, 99, 99))
    with pytest.raises(SsgcamError, match="don't fit 2 classes"):
        parts_by_class(torch.ones(1), torch.tensor([2]), 2)
