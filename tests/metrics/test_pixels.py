"""PxAP against a loop over thresholds and scikit-learn; the pointing game against all distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from ssgcam.errors import SsgcamError
from ssgcam.metrics import (
    PixelPrecision,
    PointingGame,
    bootstrap_interval,
    fill_boxes,
    pixel_average_precision,
    pixel_curves,
    pointing_hits,
    prepare_maps,
    resize_mask,
    score_histograms,
)


def cases(seed, count=6, size=12):
    rng = np.random.default_rng(seed)
    maps = torch.from_numpy(rng.random((count, 9, 9)).astype(np.float32))
    maps[0] = 0.4  # constant
    maps[1] = (maps[1] * 4).floor() / 4  # ties
    maps[2, 3, 3] = float("nan")
    masks, ignore = [], []
    for index in range(count):
        height, width = rng.integers(size // 2, 3 * size, 2)
        masks.append(torch.from_numpy(rng.random((height, width)) < rng.random()))
        ignore.append(torch.from_numpy(rng.random((height, width)) < 0.2))
        if index == 3:
            masks[-1][:] = False
    return maps, masks, ignore


def plain_pixels(maps, masks, ignore, size):
    """All counted (score, is foreground) of the set, pixel by pixel."""
    scores, truth, levels = [], [], np.array([k / 1000 for k in range(1001)])
    for m, mask, void in zip(prepare_maps(maps, size), masks, ignore, strict=True):
        height, width = mask.shape
        for i in range(size):
            for j in range(size):
                at = (int(np.floor(i * height / size)), int(np.floor(j * width / size)))
                if mask[at] or not void[at]:
                    scores.append(levels[levels <= float(m[i, j])].max())
                    truth.append(bool(mask[at]))
    return np.array(scores), np.array(truth)


def plain_pxap(scores, truth):
    total, recall_before = 0.0, 0.0
    for k in range(1000, -1, -1):
        chosen = scores >= k / 1000
        if not chosen.any():
            continue
        hit = (chosen & truth).sum()
        recall = hit / truth.sum()
        total += hit / chosen.sum() * (recall - recall_before)
        recall_before = recall
    return total


def test_pxap_equals_the_loop_and_scikit_learn():
    maps, masks, ignore = cases(0)
    scores, truth = plain_pixels(maps, masks, ignore, 12)
    metric = PixelPrecision(size=12)
    metric.update(maps[:2], masks[:2], ignore[:2])
    metric.update(maps[2:], masks[2:], ignore[2:])
    result = metric.compute()
    assert result.value == pytest.approx(plain_pxap(scores, truth), abs=1e-12)
    assert result.value == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    assert int(result.parts.sum()) == len(scores)
    for k in (0, 1, 250, 777, 1000):
        chosen = scores >= k / 1000
        hit, union = (chosen & truth).sum(), (chosen | truth).sum()
        assert float(result.precision[k]) == pytest.approx(hit / chosen.sum())
        assert float(result.recall[k]) == pytest.approx(hit / truth.sum())
        assert float(result.iou[k]) == pytest.approx(hit / union)
    assert result.best_iou == float(result.iou.max())
    assert result.best_iou == float(result.iou[round(result.best_tau * 1000)])


def test_a_score_reaches_its_own_level():
    # Levels that float32 and float64 hold exactly, and their neighbors just below.
    values = torch.tensor([0.0, 0.125, 0.375, 0.5, 0.875, 1.0], dtype=torch.float64)
    below = torch.nextafter(values, torch.zeros(()).double())
    maps = torch.stack([values, below]).reshape(1, 3, 4)
    histogram = score_histograms(maps, torch.ones(1, 3, 4), size=4)[0, 1]
    assert int(histogram.sum()) == 16
    maps = maps.reshape(1, 2, 6).repeat(1, 3, 1)
    histogram = score_histograms(maps, torch.ones(1, 6, 6), size=6)[0, 1]
    found = {k: int(histogram[k]) for k in histogram.nonzero().flatten().tolist()}
    levels = [125, 374, 375, 499, 500, 874, 875, 999, 1000]
    assert found == {0: 6, 124: 3} | dict.fromkeys(levels, 3)


def test_a_perfect_and_an_inverted_map():
    mask = torch.zeros(1, 8, 8)
    mask[0, 2:5, 3:7] = 1
    good = pixel_average_precision(score_histograms(mask, mask, size=8)[0])
    bad = pixel_average_precision(score_histograms(1 - mask, mask, size=8)[0])
    flat = pixel_average_precision(score_histograms(torch.zeros(1, 8, 8), mask, size=8)[0])
    assert (float(good), float(bad), float(flat)) == (1.0, 12 / 64, 12 / 64)
    precision, recall, iou = pixel_curves(score_histograms(mask, mask, size=8)[0])
    assert (precision[500], recall[500], iou[500]) == (1, 1, 1)
    assert iou[0] == 12 / 64


def test_ignored_pixels_are_left_out_unless_they_are_foreground():
    mask, void = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    mask[0, 0] = 1
    void[0, :2] = 1  # the first of these rows is foreground
    histogram = score_histograms(torch.rand(1, 4, 4), mask, void, size=4)[0]
    assert histogram.sum(1).tolist() == [8, 4]


def test_boxes_as_masks_and_the_bootstrap():
    maps, _, _ = cases(1, 8)
    masks = [fill_boxes(torch.tensor([[4, 5, 20, 25], [0, 0, 9, 9]]), 40, 30)] * 8
    metric = PixelPrecision("PxAP-box", size=24)
    metric.update(maps, masks)
    result = metric.compute()
    assert result.name == "PxAP-box"
    interval = bootstrap_interval(result.parts, pixel_average_precision, seed=0, samples=200)
    assert interval.value == pytest.approx(result.value)
    assert interval.low < result.value < interval.high


def test_masks_are_resized_by_exact_nearest_neighbor():
    for side in (20, 62, 230, 300, 496):
        rows = torch.arange(side)[:, None].expand(side, 3)
        expected = [i * side // 224 for i in range(224)]
        assert resize_mask(rows)[:, 0].tolist() == expected


def test_pxap_refuses_what_it_cannot_score():
    metric = PixelPrecision(size=8)
    metric.update(torch.rand(1, 8, 8), torch.zeros(1, 8, 8))
    with pytest.raises(SsgcamError, match="foreground"):
        metric.compute()
    with pytest.raises(SsgcamError, match="1 maps but 2 masks"):
        metric.update(torch.rand(1, 8, 8), torch.zeros(2, 8, 8))
    with pytest.raises(SsgcamError, match="PxAP-box"):
        PixelPrecision("AP")
    assert pixel_average_precision(torch.zeros(2, 1001)).isnan()


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
    np.testing.assert_allclose(pointing_hits(maps, masks, tolerance=7), expected)


def test_the_tolerance_is_a_closed_disc():
    maps, masks = torch.zeros(2, 100, 100), torch.zeros(2, 100, 100)
    maps[:, 50, 50] = 1
    masks[0, 50 + 9, 50 + 12] = 1  # 15 pixels away
    masks[1, 50 + 10, 50 + 12] = 1
    assert pointing_hits(maps, masks).tolist() == [1, 0]


def test_a_map_without_evidence_scores_chance():
    mask = torch.zeros(1, 100, 100)
    mask[0, :, :10] = 1
    for value in (0.0, float("nan")):
        hit = float(pointing_hits(torch.full((1, 7, 7), value), mask))
        assert hit == pytest.approx(0.25)  # the object and 15 columns beside it


def test_pointing_is_the_mean_over_classes():
    maps, masks = torch.zeros(5, 100, 100), torch.zeros(5, 100, 100)
    maps[:, 50, 50] = 1
    masks[:4, 50, 50] = 1
    masks[4, 0, 0] = 1
    game = PointingGame(classes=4)
    game.update(maps[:3], masks[:3], torch.tensor([1, 1, 1]))
    game.update(maps[3:], list(masks[3:]), torch.tensor([2, 2]))
    result = game.compute()
    assert (result.n, result.value) == (5, 0.75)
    assert result.by_class.nan_to_num(-1).tolist() == [-1, 1, 0.5, -1]


def test_pointing_refuses_small_images_and_wrong_labels():
    with pytest.raises(SsgcamError, match="64 x 64"):
        pointing_hits(torch.rand(1, 8, 8), torch.ones(1, 64, 64))
    with pytest.raises(SsgcamError, match="empty"):
        pointing_hits(torch.rand(1, 8, 8), torch.zeros(1, 99, 99))
    with pytest.raises(SsgcamError, match="don't fit 2 classes"):
        PointingGame(2).update(torch.rand(1, 8, 8), torch.ones(1, 99, 99), torch.tensor([2]))
