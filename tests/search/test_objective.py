"""The fitness of many candidates at once, against plain loops over candidates, images and pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.search_sets import (
    GRID,
    cache_of,
    labeled_masks,
    set_with_known_optimum,
    small,
    squares,
)
from ssgcam.cam import CAM
from ssgcam.core.augment import View
from ssgcam.core.fusion import threshold
from ssgcam.search.cache import build_cache
from ssgcam.search.fitness import fitness, gated
from ssgcam.search.objective import Candidates, Objective
from ssgcam.search.settings import SearchSettings

KINDS = ("pooled", "per_image", "with_background", "box")
SIDE = 8


def random_case(seed: int, factor: int = 1, **options) -> tuple[Objective, Candidates]:
    """Six images (one empty, one all ignored but a corner), four layers, masks ``factor`` times finer."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(6, 4 * len(GRID), SIDE * SIDE, generator=generator, dtype=torch.float64)
    values[0, :10] = 0
    fine = SIDE * factor
    masks = (torch.rand(6, fine, fine, generator=generator) > 0.6).long()
    masks[4] = 0
    masks[:, :factor, :] = 255
    masks[5] = 255
    masks[5, -factor:, -factor:] = 1
    data = labeled_masks(masks, torch.rand(6, generator=generator).tolist())
    objective = Objective(cache_of(values, 4, (SIDE, SIDE)), data, **options)
    objective.masks = masks
    count = 30
    weights = torch.rand(count, 4, generator=generator, dtype=torch.float64) + 0.05
    weights *= torch.rand(count, 4, generator=generator) > 0.5
    weights[0] = 0
    return objective, Candidates(
        weights,
        torch.randint(len(GRID), (count, 4), generator=generator),
        torch.rand(count, generator=generator, dtype=torch.float64),
        torch.rand(count, generator=generator, dtype=torch.float64) * (torch.arange(count) % 2),
    )


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    ys, xs = np.nonzero(mask)
    return (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(ys) else (0, 0, 0, 0)


def plain(objective: Objective, candidates: Candidates, p: int, kind: str, factor: int) -> float:
    """One candidate, one image and one pixel after another."""
    hits, unions, scores, right, both = 0.0, 0.0, [], 0.0, 0.0
    for n in range(len(objective.cache)):
        fused = np.zeros((SIDE, SIDE))
        for layer in range(4):
            row = layer * len(GRID) + int(candidates.entries[p, layer])
            values = objective.cache.values[n, row].numpy().reshape(SIDE, SIDE)
            fused += float(candidates.weights[p, layer]) * values
        is_open = float(objective.probabilities[n]) >= float(candidates.gates[p])
        mask = (fused >= float(candidates.thresholds[p]) * fused.max()) & (fused > 0) & is_open
        mask = mask.repeat(factor, 0).repeat(factor, 1)
        truth = objective.masks[n].numpy()
        if kind == "box":
            a, b = box(mask), box(truth == 1)
            width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
            height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
            area = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
            union = sum(area) - width * height
            if union:
                scores.append(width * height / union)
            continue
        hit = union = 0
        for i in range(SIDE * factor):
            for j in range(SIDE * factor):
                if truth[i, j] != 255:
                    hit += mask[i, j] and truth[i, j] == 1
                    union += mask[i, j] or truth[i, j] == 1
                    right += not mask[i, j] and truth[i, j] == 0
                    both += not mask[i, j] or truth[i, j] == 0
        hits, unions = hits + hit, unions + union
        if union:
            scores.append(hit / union)
    if kind in ("per_image", "box"):
        return float(np.mean(scores)) if scores else 0.0
    foreground = hits / unions if unions else 0.0
    return foreground if kind == "pooled" else (foreground + right / both) / 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [1, 3])
def test_batched_fitness_equals_a_plain_loop(kind: str, factor: int) -> None:
    objective, candidates = random_case(1, factor, kind=kind)
    found = objective.fitness(candidates)
    assert found.dtype == torch.float64
    for p in range(0, 30, 3):
        expected = plain(objective, candidates, p, kind, factor)
        assert float(found[p]) == pytest.approx(expected, abs=1e-6)
    assert found.std() > 0.01


def test_some_images_only() -> None:
    objective, candidates = random_case(2)
    part, _ = random_case(2, rows=[1, 3, 4])
    assert torch.equal(part.confusions(candidates), objective.confusions(candidates)[:, [1, 3, 4]])


def test_genes_are_decoded_and_layers_cost_their_penalty() -> None:
    cache, data, ((first, left), (second, right)) = set_with_known_optimum(0)
    objective = Objective(cache, data, penalty=0.01, gate=0.0)
    genes = np.zeros((objective.layers, 3))
    genes[:, 1] = 0.5
    for layer, entry in ((first, left), (second, right)):
        genes[layer] = 1, 0.8, int((objective.order[layer] == entry).nonzero())
    column = np.append(genes, [0.9, 1.0])[:, None]
    assert len(objective.bounds) == len(objective.integrality) == len(column)
    assert objective(column)[0] == pytest.approx(0.02)  # IoU 1, two layers
    assert objective.fitness(objective.decode(column))[0] == 1


def test_entries_are_ordered_with_the_best_first() -> None:
    cache, data, ((first, left), (second, right)) = set_with_known_optimum(3)
    objective = Objective(cache, data, gate=0.0)
    assert objective.order[first, 0] == left
    assert objective.order[second, 0] == right
    everything = torch.arange(len(GRID)).expand(objective.layers, -1)
    assert torch.equal(objective.order.sort(1).values, everything)
    assert bool(((objective.thresholds >= 0.01) & (objective.thresholds <= 0.95)).all())


def test_a_candidate_is_a_recipe_of_cam() -> None:
    """Masks of the fitness and masks of ``CAM`` with the same settings are nearly the same.

    The cache holds maps in 1/255, so that a cell at the threshold may fall either way.
    """
    network = small()
    data = squares(5).with_predictions(network)
    settings = SearchSettings(grid=GRID, working_size=(16, 16))
    cache = build_cache(network, data, ["act1", "act2"], settings, View(1.0, ()))
    candidate = Candidates(
        torch.tensor([[0.3, 0.6]]).double(),
        torch.tensor([[2, 5]]),
        torch.tensor([0.4]),
        torch.zeros(1),
    )
    ssg, gammas = zip(*(GRID.entries[k] for k in (2, 5)), strict=True)
    cam = CAM(
        network,
        ["act1", "act2"],
        ssg=ssg,
        gamma=gammas,
        layer_weights=[0.3, 0.6],
        output_size=(16, 16),
    )
    masks = threshold(cam(data.images, data.classes).maps, 0.4)
    predicted = Objective(cache, data).confusions(candidate)[0, :, :, 1].sum(1) / 4
    assert (predicted - masks.flatten(1).sum(1)).abs().max() <= 3
    assert predicted.min() > 5


def test_a_closed_gate_leaves_an_empty_mask() -> None:
    matrices = torch.tensor([[[5.0, 2.0], [1.0, 4.0]]]).double()
    assert gated(matrices, torch.tensor([False])).tolist() == [[[7, 0], [5, 0]]]
    assert float(fitness(gated(matrices, torch.tensor([False])), "pooled")) == 0
