"""The boundary F-score against all pairs of boundary pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssgcam.errors import SsgcamError
from ssgcam.metrics import (
    bootstrap_interval,
    boundary_f_score,
    boundary_parts,
    mask_boundary,
    mean_of_ratios,
    ratio,
)


def plain_boundary(mask):
    height, width = mask.shape
    points = []
    for y in range(height):
        for x in range(width):
            beside = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
            inside = [mask[b] for b in beside if 0 <= b[0] < height and 0 <= b[1] < width]
            if mask[y, x] and not all(inside):
                points.append((y, x))
    return points


def plain_boundary_f(prediction, truth, void, tolerance):
    reach = tolerance * (prediction.shape[0] ** 2 + prediction.shape[1] ** 2) ** 0.5
    a, b = plain_boundary(prediction), plain_boundary(truth)

    def share(points, others):
        counted = [p for p in points if not void[p]]
        if not counted:
            return 1.0
        near = [
            min(((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2) ** 0.5 for q in others) <= reach
            for p in counted
        ]
        return sum(near) / len(near)

    if not [p for p in a + b if not void[p]]:
        return float("nan")
    if not a or not b:
        return 0.0
    precision, recall = share(a, b), share(b, a)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def disc(rng, shape):
    y, x = np.ogrid[: shape[0], : shape[1]]
    cy, cx = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
    return np.hypot(y - cy, x - cx) < rng.uniform(0, min(shape) / 2)


def test_boundary_f_equals_all_pairs():
    rng = np.random.default_rng(3)
    seen = []
    for index in range(60):
        shape = (30, 40)  # diagonal 50: tolerances of exactly 1, 2, 3, 5 pixels
        truth = disc(rng, shape) | (disc(rng, shape) if index % 3 else False)
        prediction = (
            np.roll(truth, rng.integers(-3, 4, 2), (0, 1)) if index % 2 else disc(rng, shape)
        )
        void = rng.random(shape) < (0.0, 0.3)[index % 2]
        tolerance = (0.02, 0.04, 0.06, 0.1)[index % 4]
        expected = plain_boundary_f(prediction, truth, void, tolerance)
        masks = [torch.from_numpy(m) for m in (prediction, truth, void)]
        assert boundary_f_score(*masks, tolerance) == pytest.approx(expected, nan_ok=True)
        seen.append(expected)
    assert len({round(s, 6) for s in seen}) > 20


def test_boundary_edge_cases():
    full, empty = torch.ones(9, 9), torch.zeros(9, 9)
    assert not mask_boundary(full).any()  # the image's edge is no outline
    assert np.isnan(boundary_f_score(empty, empty))
    inner = torch.zeros(9, 9)
    inner[3:6, 3:6] = 1
    assert boundary_f_score(inner, empty) == 0
    assert boundary_f_score(inner, inner) == 1
    assert int(mask_boundary(inner).sum()) == 8
    ring = torch.zeros(9, 9)
    ring[2:7, 2:7] = 1
    wider = torch.zeros(9, 9)
    wider[2:7, 2:7] = 1
    void = ring - inner
    assert boundary_f_score(wider, inner, void, 0.12) == 1  # its outline lies in the void
    assert boundary_f_score(wider, inner, void, 0.01) == 0


def test_boundary_f_of_classes():
    rng = np.random.default_rng(4)
    pairs = []
    for _ in range(4):
        truth = np.zeros((30, 40), int)
        truth[disc(rng, truth.shape)], truth[disc(rng, truth.shape)] = 1, 2
        truth[rng.random(truth.shape) < 0.05] = 255
        prediction = np.roll(truth % 255, 1, 0)
        pairs.append((torch.from_numpy(prediction), torch.from_numpy(truth)))
    parts = torch.stack([boundary_parts(p, t, 4, tolerance=0.03) for p, t in pairs])
    means = []
    for label in (1, 2):
        scores = [
            plain_boundary_f((p == label).numpy(), (t == label).numpy(), (t == 255).numpy(), 0.03)
            for p, t in pairs
        ]
        means.append(np.nanmean(scores))
    np.testing.assert_allclose(ratio(parts.mean(0)), [*means, np.nan])
    assert float(mean_of_ratios(parts.mean(0))) == pytest.approx(np.mean(means))
    interval = bootstrap_interval(parts, mean_of_ratios, seed=1, samples=50)
    assert interval.value == pytest.approx(np.mean(means))


def test_masks_of_two_sizes_and_negative_tolerances_are_refused():
    mask = torch.zeros(3, 3).long()
    with pytest.raises(SsgcamError, match="can't be compared"):
        boundary_f_score(mask, mask[:2])
    with pytest.raises(SsgcamError, match="tolerance is -1"):
        boundary_f_score(mask, mask, tolerance=-1)
