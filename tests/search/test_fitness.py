"""Scores of masks, and the threshold and class gate that are chosen, against trying them all."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from ssgcam.core.fusion import threshold
from ssgcam.search.fitness import (
    choose_cut,
    confusions,
    filled_boxes,
    fitness,
    fitness_parts,
    score_of,
    sweep_thresholds,
)

KINDS = ("pooled", "per_image", "with_background", "box")


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    ys, xs = np.nonzero(mask)
    return (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(ys) else (0, 0, 0, 0)


def test_scores_of_two_images() -> None:
    """Image 1: 4 hits, 2 wrong, 2 missed of 16; image 2: empty truth, 1 wrong of 16."""
    matrices = confusions(*(torch.tensor(v) for v in ([4, 0], [6, 1], [6, 0], [16, 16])))
    assert matrices.tolist() == [[[8, 2], [2, 4]], [[15, 1], [0, 0]]]
    assert float(fitness(matrices, "pooled")) == pytest.approx(4 / 9)
    assert float(fitness(matrices, "per_image")) == pytest.approx((4 / 8 + 0) / 2)
    assert float(fitness(matrices, "with_background")) == pytest.approx((4 / 9 + 23 / 28) / 2)
    assert float(fitness(matrices[:0], "pooled")) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_fitness_is_the_score_of_the_bootstrap(kind: str) -> None:
    generator = torch.Generator().manual_seed(3)
    matrices = torch.randint(1, 50, (30, 6, 2, 2), generator=generator).double()
    for one, found in zip(matrices, fitness(matrices, kind), strict=True):
        assert float(score_of(fitness_parts(one, kind).mean(0), kind)) == pytest.approx(
            float(found), abs=1e-12
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep_is_every_threshold_tried(kind: str) -> None:
    generator = torch.Generator().manual_seed(4)
    maps = torch.rand(3, 9, 7, generator=generator)
    maps[0, 2, 3], maps[0, 4, 4], maps[1] = 0.25, 1.0, 0.0
    masks = (torch.rand(3, 9, 7, generator=generator) > 0.5).to(torch.uint8)
    masks[:, 0] = 255
    sweep = sweep_thresholds(maps, masks, torch.ones(3), kind)
    for k in (1, 250, 251, 500, 999, 1000):
        inside = threshold(maps, k / 1000)
        for n, matrix in enumerate(sweep.at(k / 1000, 0.0)):
            if kind == "box":
                a, b = box(inside[n].numpy()), box((masks[n] == 1).numpy())
                assert matrix[:, 1].sum() == (a[2] - a[0]) * (a[3] - a[1])
                assert matrix[1].sum() == (b[2] - b[0]) * (b[3] - b[1])
            else:
                assert matrix[:, 1].sum() == (inside[n] & (masks[n] != 255)).sum()
                assert matrix[1, 1] == (inside[n] & (masks[n] == 1)).sum()
                assert matrix.sum() == (masks[n] != 255).sum()


@pytest.mark.parametrize("size", [(9, 7), (1, 5), (6, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_the_mask_of_a_filled_box_is_the_box_around_the_mask(
    size: tuple[int, int], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(6)
    maps = torch.randint(8, (2, 20, *size), generator=generator)  # many equal values
    maps *= torch.rand(2, 20, *size, generator=generator) > 0.8
    maps[0, 0], maps[0, 1] = 0, 3
    maps = maps.to(dtype)
    filled = filled_boxes(maps)
    assert filled.dtype == dtype
    assert filled.shape == maps.shape
    for limit in range(9):
        for one, found in zip(maps.flatten(0, 1), filled.flatten(0, 1), strict=True):
            x0, y0, x1, y1 = box((one >= limit).numpy())
            expected = torch.zeros(size, dtype=torch.bool)
            expected[y0:y1, x0:x1] = True
            assert torch.equal(found >= limit, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_chosen_cut_is_the_best_of_all(kind: str) -> None:
    generator = torch.Generator().manual_seed(5)
    masks = torch.zeros(8, 10, 10, dtype=torch.uint8)
    masks[:5, 2:7, 3:8] = 1
    maps = (0.6 * (masks == 1) + 0.5 * torch.rand(8, 10, 10, generator=generator)).clamp(0, 1)
    probabilities = torch.tensor([0.9, 0.8, 0.95, 0.7, 0.4, 0.5, 0.3, 0.1])
    sweep = sweep_thresholds(maps, masks, probabilities, kind)
    found = choose_cut(sweep, kind)
    levels = sorted(probabilities.double().tolist())
    gates = [0, *((a + b) / 2 for a, b in pairwise(levels))]
    best = max(
        float(fitness(sweep.at(k / 1000, gate), kind)) for k in range(1, 1001) for gate in gates
    )
    assert found.score == pytest.approx(best, abs=1e-12)
    at_cut = fitness(sweep.at(found.threshold, found.gate), kind)
    assert float(at_cut) == pytest.approx(found.score, abs=1e-12)
    # no image without the object: the gate stays open
    assert choose_cut(sweep, kind, range(5)).gate == 0
    fixed = choose_cut(sweep, kind, gate=0.45)
    assert fixed.gate == pytest.approx(0.45)
    best = max(float(fitness(sweep.at(k / 1000, 0.45), kind)) for k in range(1, 1001))
    assert fixed.score == pytest.approx(best, abs=1e-12)


def test_of_gates_that_score_alike_the_one_in_the_widest_gap() -> None:
    masks = torch.zeros(4, 6, 6, dtype=torch.uint8)
    masks[:2, 2:4, 2:4] = 1
    maps = torch.where(masks == 1, 1.0, 0.1)
    maps[2:] = 1.0
    sweep = sweep_thresholds(maps, masks, torch.tensor([0.95, 0.9, 0.2, 0.1]), "pooled")
    _, gate, score = choose_cut(sweep, "pooled")
    assert score == 1
    assert gate == pytest.approx(0.55)
