"""The score histogram against loops over pixels and against pseudo-masks."""

from __future__ import annotations

import pytest
import torch

from ssgcam.errors import SsgcamError
from ssgcam.metrics import confusion_matrix, pseudo_masks
from ssgcam.metrics.histogram import counts_from_above, score_histogram, threshold_counts


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_histogram_equals_a_loop_over_pixels(generator):
    scores = (torch.rand(3, 5, 6, generator=generator) * 8).floor() / 8
    labels = torch.randint(-1, 3, (3, 5, 6), generator=generator)
    thresholds = torch.tensor([0.125, 0.5, 0.75])
    for strict in (False, True):
        found = score_histogram(scores, labels, thresholds, classes=3, strict=strict)
        expected = torch.zeros(3, 3, 4, dtype=torch.int64)
        for image in range(3):
            for score, label in zip(scores[image].flatten(), labels[image].flatten(), strict=True):
                reached = thresholds < score if strict else thresholds <= score
                if label >= 0:
                    expected[image, label, reached.sum()] += 1
        assert torch.equal(found, expected)


def test_threshold_counts_equal_masks_at_each_threshold(generator):
    """The use of the search: maps in float32 at ``map >= k / 1000``, ignored pixels left out."""
    maps = torch.rand(4, 7, 9, generator=generator)
    thresholds = torch.arange(1, 1001) / 1000
    maps.view(-1)[:100] = thresholds[::10]  # exactly on a threshold
    maps.view(-1)[100:200] = 0  # below all
    truth = torch.randint(0, 2, maps.shape, generator=generator)
    truth[torch.rand(maps.shape, generator=generator) < 0.2] = 255
    labels = torch.where(truth == 255, -1, truth)
    counts = threshold_counts(score_histogram(maps, labels, thresholds))
    inside, valid = truth == 1, truth != 255
    assert torch.equal(counts.true, inside.flatten(1).sum(1))
    assert torch.equal(counts.valid, valid.flatten(1).sum(1))
    for k in (1, 10, 11, 500, 991, 1000):
        mask = maps >= thresholds[k - 1]
        assert torch.equal(counts.hit[:, k], (mask & inside).flatten(1).sum(1))
        assert torch.equal(counts.predicted[:, k], (mask & valid).flatten(1).sum(1))
    assert torch.equal(counts.predicted[:, 0], counts.valid)


def test_strict_levels_equal_pseudo_masks_at_each_background_score(generator):
    """The use of the evaluation: a confusion matrix for every background score at once."""
    maps = torch.rand(1, 2, 8, 8, generator=generator)
    maps[maps < 0.2] = 0
    truth = torch.randint(0, 3, (1, 8, 8), generator=generator)
    scores, strongest = (maps / (maps.amax((2, 3), keepdim=True) + 1e-5)).max(1)
    thresholds = torch.arange(100) / 100
    pairs = truth * 3 + strongest + 1
    histogram = score_histogram(scores, pairs, thresholds, classes=9, strict=True)[0].view(3, 3, -1)
    above = counts_from_above(histogram)
    present = torch.ones(1, 2, dtype=torch.bool)
    for j in (1, 15, 40, 99):
        found = above[..., j + 1].clone()
        found[:, 0] += (above[..., 0] - above[..., j + 1]).sum(1)
        predicted = pseudo_masks(maps, present, j / 100)
        assert torch.equal(found, confusion_matrix(predicted, truth, 3))


def test_one_image_does_not_change_another(generator):
    scores = torch.rand(3, 10, generator=generator)
    labels = torch.randint(0, 2, (3, 10), generator=generator)
    thresholds = torch.tensor([0.3, 0.6])
    together = score_histogram(scores, labels, thresholds)
    apart = [score_histogram(scores[i : i + 1], labels[i : i + 1], thresholds) for i in range(3)]
    assert torch.equal(together, torch.cat(apart))


def test_bad_input_is_refused():
    thresholds = torch.tensor([0.5])
    with pytest.raises(SsgcamError, match="differ in shape"):
        score_histogram(torch.rand(1, 4), torch.zeros(1, 5).long(), thresholds)
    with pytest.raises(SsgcamError, match="label 2 doesn't fit 2 classes"):
        score_histogram(torch.rand(1, 4), torch.full((1, 4), 2), thresholds)
