"""The batched fitness against plain loops, the cache against CAM, thresholds against trying them all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.networks import Small, state_of
from helpers.search_sets import GRID, cache_of, examples_of, planted_set, squares
from ssgcam.cam import CAM
from ssgcam.core.augment import Augmentation
from ssgcam.core.fusion import fuse, prepare, threshold
from ssgcam.core.settings import TargetSettings
from ssgcam.search.cache import MapGrid, build_cache, cache_bytes
from ssgcam.search.calibration import make_examples
from ssgcam.search.objective import Candidates, Objective, ranked_entries
from ssgcam.search.planting import first_generation, planted
from ssgcam.search.scoring import Counts, choose_cut, fitness, statistic, sweep

KINDS = ("pooled", "per_image", "with_background", "box")
SIDE = 8


def random_case(seed: int, factor: int = 1) -> tuple[Objective, Candidates]:
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
    examples = examples_of(masks, torch.rand(6, generator=generator).tolist())
    objective = Objective(cache_of(values, 4, (SIDE, SIDE)), examples, dtype=torch.float64)
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
    examples, cache = objective.examples, objective.cache
    hits, unions, scores, right, both = 0.0, 0.0, [], 0.0, 0.0
    for n in range(len(examples)):
        fused = np.zeros((SIDE, SIDE))
        for layer in range(4):
            row = layer * len(GRID) + int(candidates.entries[p, layer])
            values = cache.values[n, row].numpy().reshape(SIDE, SIDE)
            fused += float(candidates.weights[p, layer]) * values
        is_open = float(examples.probabilities[n]) >= float(candidates.gates[p])
        mask = (fused >= float(candidates.thresholds[p]) * fused.max()) & (fused > 0) & is_open
        mask = mask.repeat(factor, 0).repeat(factor, 1)
        truth = examples.masks[n].numpy()
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
    objective, candidates = random_case(1, factor)
    found = replace(objective, kind=kind).fitness(candidates)
    assert found.dtype == torch.float64
    for p in range(0, 30, 3):
        assert float(found[p]) == pytest.approx(
            plain(objective, candidates, p, kind, factor), abs=1e-12
        )
    assert found.std() > 0.01


def test_single_precision_and_subsets_agree() -> None:
    objective, candidates = random_case(2)
    exact = objective.fitness(candidates)
    single = replace(objective, dtype=torch.float32).fitness(candidates)
    torch.testing.assert_close(single, exact, atol=1e-6, rtol=0)
    part = replace(objective, rows=(1, 3, 4)).counts(candidates)
    whole = objective.counts(candidates).images(torch.tensor([1, 3, 4]))
    assert torch.equal(part.hit, whole.hit)
    assert torch.equal(part.predicted, whole.predicted)


def test_genes_are_decoded_and_layers_cost_their_penalty() -> None:
    cache, examples, ((first, left), (second, right)) = planted_set(0)
    objective = Objective(cache, examples, penalty=0.01, gate=0.0, dtype=torch.float64)
    order = torch.stack([torch.randperm(len(GRID)) for _ in range(objective.layers)])
    objective = replace(objective, order=order)
    genes = np.zeros((objective.layers, 3))
    genes[:, 1] = 0.5
    for layer, entry in ((first, left), (second, right)):
        genes[layer] = 1, 0.8, int((order[layer] == entry).nonzero())
    column = np.append(genes, [0.9, 1.0])[:, None]
    assert len(objective.bounds) == len(objective.integral) == len(column)
    assert objective(column)[0] == pytest.approx(0.02)  # IoU 1, two layers
    assert objective.fitness(objective.decode(column))[0] == 1


def test_bytes_change_the_fitness_by_little() -> None:
    """uint8 rounds maps to 1/255: on smooth maps with heavy tails the fitness moves by less than .005."""
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(8, 4 * len(GRID), 6, 6, generator=generator)
    maps = torch.nn.functional.interpolate(smooth, (28, 28), mode="bicubic").clamp_min(0)
    maps = (maps / maps.amax((2, 3), keepdim=True)) ** 2
    masks = (maps[:, 3] + maps[:, 20] > 0.5).long()
    examples = examples_of(masks)
    values = maps.flatten(2)
    exact = Objective(cache_of(values, 4, (28, 28)), examples, gate=0.0)
    small = (values * 255).round().to(torch.uint8)
    stored = Objective(cache_of(small, 4, (28, 28)), examples, gate=0.0)
    half = Objective(cache_of(values.half(), 4, (28, 28)), examples, gate=0.0)
    order, thresholds = ranked_entries(exact)
    genes = first_generation(exact, order, thresholds, 200, 0).T
    assert np.abs(exact(genes) - stored(genes)).max() < 0.005
    assert np.abs(exact(genes) - half(genes)).max() < 0.001


def test_packed_bytes_are_summed_as_single_rows_are() -> None:
    objective, candidates = random_case(6)
    small = (objective.cache.values * 255).round().to(torch.uint8)
    fast = cache_of(small, 4, (SIDE, SIDE))
    slow = replace(fast, packed=None)
    rows = torch.tensor([5, 0, 31, 5, 7, 7])
    starts = torch.tensor([0, 0, 2, 5, 6, 6])  # the first and the last two are empty
    weights = torch.rand(6)
    for image in range(6):
        found = fast.sums(image, rows, starts, weights)
        torch.testing.assert_close(
            found, slow.sums(image, rows, starts, weights), atol=1e-6, rtol=0
        )
        expected = [small[image, 5] * weights[0] + small[image, 0] * weights[1]]
        torch.testing.assert_close(found[1:2] * 255, torch.stack(expected), atol=1e-3, rtol=0)
        assert not found[[0, 4, 5]].any()
    scores = [Objective(cache, objective.examples).fitness(candidates) for cache in (fast, slow)]
    torch.testing.assert_close(scores[0], scores[1], atol=2e-3, rtol=0)  # ties may fall either way


@pytest.mark.parametrize("kind", KINDS)
def test_fitness_is_the_metric_of_the_bootstrap(kind: str) -> None:
    objective, candidates = random_case(3)
    counts = replace(objective, kind=kind).counts(candidates)
    parts_of, number = statistic(kind)
    for p in range(1, 30):
        one = Counts(counts.hit[p], counts.predicted[p], counts.true, counts.valid)
        expected = float(number(parts_of(one).double().mean(0)))
        assert float(fitness(one, kind)) == pytest.approx(expected, abs=1e-12)


def test_ranked_entries_put_the_best_first() -> None:
    cache, examples, ((first, left), (second, right)) = planted_set(3)
    objective = Objective(cache, examples, gate=0.0)
    order, thresholds = ranked_entries(objective)
    assert order[first, 0] == left
    assert order[second, 0] == right
    assert torch.equal(order.sort(1).values, torch.arange(len(GRID)).expand(objective.layers, -1))
    assert bool(((thresholds >= 0.01) & (thresholds <= 0.95)).all())


def test_planted_candidates_are_what_they_say() -> None:
    grid = MapGrid(("gradient", "taylor"), (0.0, 0.1), ((1.0, 0.0), (1.0, 1.0)), (1.0,))
    values = torch.rand(3, 5 * len(grid), 36)
    objective = Objective(cache_of(values, 5, (6, 6), grid), examples_of(torch.ones(3, 6, 6)))
    order, thresholds = ranked_entries(objective)
    objective = replace(objective, order=order)
    known = objective.decode(planted(objective, order, thresholds).T)
    alone = (known.weights > 0).sum(1) == 1
    assert int(alone.sum()) == 10  # each layer: its best entry, LayerCAM
    layer_cam = [
        int(known.entries[p, known.weights[p].argmax()]) for p in alone.nonzero()[:, 0].tolist()
    ]
    assert layer_cam[1::2] == [0] * 5  # gradient form, sigma 0, a 1, b 0, gamma 1
    everything = known.weights[~alone]
    assert bool((everything == 1).all())
    low, high = np.array(objective.bounds).T
    genes = first_generation(objective, order, thresholds, 64, 5)
    assert genes.shape == (64, 17)
    assert bool(((genes >= low) & (genes <= high)).all())
    assert bool((genes[:, :15].reshape(64, 5, 3)[..., 0].sum(1) >= 1).all())


def network_and_examples() -> tuple[Small, object]:
    torch.manual_seed(0)
    network = Small().eval()
    return network, make_examples(squares(5), network)


@pytest.mark.parametrize("score", ["exp", "odds"])
def test_the_cache_gives_the_maps_of_cam(score: str) -> None:
    network, examples = network_and_examples()
    before = state_of(network)
    layers = ["act1", "act2"]
    settings = TargetSettings(score)
    grid = MapGrid(("taylor", "gradient"), (0.0, 0.1), ((1.0, 0.0), (0.5, 0.5)), (0.5, 1.0))
    cache = build_cache(
        network, examples, layers, grid=grid, size=(10, 12), score=settings, storage="float32",
        batch_size=2,
    )  # fmt: skip
    assert state_of(network) == before
    assert cache.shapes == ((4, 32, 32), (6, 16, 16))
    for entry, (ssg, gamma) in enumerate(grid.entries):
        cam = CAM(network, layers, ssg=ssg, gamma=gamma, target=settings, output_size=(10, 12))
        found = cam(examples.images, examples.classes)
        for k, layer in enumerate(layers):
            expected = prepare(found.layer_maps[layer], (10, 12), gamma)
            row = cache.values[:, k * len(grid) + entry].view(5, 10, 12)
            torch.testing.assert_close(row, expected, atol=1e-6, rtol=1e-5)


def test_a_candidate_is_a_recipe_of_cam() -> None:
    """Masks of the fitness and masks of ``CAM`` with the same settings are the same."""
    network, examples = network_and_examples()
    layers = ["act1", "act2"]
    cache = build_cache(network, examples, layers, grid=GRID, size=(16, 16), storage="float32")
    objective = Objective(cache, examples, gate=0.0)
    candidate = Candidates(
        torch.tensor([[0.3, 0.6]]).double(),
        torch.tensor([[2, 5]]),
        torch.tensor([0.4]),
        torch.zeros(1),
    )
    ssg, gammas = zip(*(GRID.entries[k] for k in (2, 5)), strict=True)
    cam = CAM(
        network, layers, ssg=ssg, gamma=gammas, layer_weights=[0.3, 0.6], output_size=(16, 16)
    )
    masks = threshold(cam(examples.images, examples.classes).maps, 0.4)
    counts = objective.counts(candidate)
    assert torch.equal(counts.predicted[0], masks.flatten(1).sum(1).double() * 4)


def test_views_in_the_cache_are_those_of_a_recipe() -> None:
    network, examples = network_and_examples()
    views = Augmentation("horizontal", (1.0, 1.5))
    cache = build_cache(
        network, examples, ["act2"], grid=GRID, size=(16, 16), storage="float32", augmentation=views
    )
    ssg, gamma = GRID.entries[3]
    cam = CAM(network, ["act2"], ssg=ssg)
    parts = [
        prepare(view.undo(cam(view.apply(examples.images), 1).layer_maps["act2"]), (16, 16), gamma)
        for view in views
    ]
    torch.testing.assert_close(
        cache.values[:, 3].view(5, 16, 16), torch.stack(parts).mean(0), atol=1e-6, rtol=1e-5
    )


def test_spilling_and_keeping_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, examples = network_and_examples()

    def made(**options: object) -> Tensor:
        return build_cache(
            network, examples, ["act1", "act2"], grid=GRID, size=(8, 8), **options
        ).values

    held = made()
    assert held.dtype == torch.uint8
    assert 5 * 2 * len(GRID) * (8 * 8 + 8) == cache_bytes(5, 2, GRID, (8, 8), "uint8")
    assert held.shape == (5, 2 * len(GRID), 64)
    assert torch.equal(made(limit=10), held)
    assert torch.equal(made(folder=tmp_path), held)
    (kept,) = tmp_path.glob("*.npy")
    monkeypatch.setattr(CAM, "signals", None)  # no network pass from here on
    assert torch.equal(made(folder=tmp_path), held)
    with pytest.raises(TypeError):
        made(folder=tmp_path, score=TargetSettings("odds"))
    monkeypatch.undo()
    with torch.no_grad():
        network.fc.weight[0] += 1
    made(folder=tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2
    assert kept.is_file()


@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep_is_every_threshold_tried(kind: str) -> None:
    generator = torch.Generator().manual_seed(4)
    maps = torch.rand(3, 9, 7, generator=generator)
    maps[0, 2, 3], maps[0, 4, 4], maps[1] = 0.25, 1.0, 0.0
    masks = (torch.rand(3, 9, 7, generator=generator) > 0.5).to(torch.uint8)
    masks[:, 0] = 255
    swept = sweep(maps, masks, torch.ones(3), kind)
    for k in (1, 250, 251, 500, 999, 1000):
        inside = threshold(maps, k / 1000)
        counts = swept.at(k / 1000, 0.0)
        for n in range(3):
            if kind == "box":
                a, b = box(inside[n].numpy()), box((masks[n] == 1).numpy())
                assert counts.predicted[n] == (a[2] - a[0]) * (a[3] - a[1])
                assert counts.true[n] == (b[2] - b[0]) * (b[3] - b[1])
            else:
                assert counts.predicted[n] == (inside[n] & (masks[n] != 255)).sum()
                assert counts.hit[n] == (inside[n] & (masks[n] == 1)).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_the_chosen_cut_is_the_best_of_all(kind: str) -> None:
    generator = torch.Generator().manual_seed(5)
    masks = torch.zeros(8, 10, 10, dtype=torch.uint8)
    masks[:5, 2:7, 3:8] = 1
    maps = (0.6 * (masks == 1) + 0.5 * torch.rand(8, 10, 10, generator=generator)).clamp(0, 1)
    probabilities = torch.tensor([0.9, 0.8, 0.95, 0.7, 0.4, 0.5, 0.3, 0.1])
    swept = sweep(maps, masks, probabilities, kind)
    found = choose_cut(swept, kind)
    best = max(
        float(fitness(swept.at(k / 1000, gate), kind))
        for k in range(5, 1001, 25)
        for gate in [0, *(probabilities - 1e-3).tolist()]
    )
    assert found[2] >= best
    assert float(fitness(swept.at(found[0], found[1]), kind)) == pytest.approx(found[2], abs=1e-12)
    rows = torch.arange(5)  # no image without the object: the gate stays open
    assert choose_cut(swept, kind, rows)[1] == 0
    assert choose_cut(swept, kind, gate=0.45)[1] == pytest.approx(0.45)


def test_of_gates_that_score_alike_the_one_in_the_widest_gap() -> None:
    masks = torch.zeros(4, 6, 6, dtype=torch.uint8)
    masks[:2, 2:4, 2:4] = 1
    maps = torch.where(masks == 1, 1.0, 0.1)
    maps[2:] = 1.0
    swept = sweep(maps, masks, torch.tensor([0.95, 0.9, 0.2, 0.1]), "pooled")
    _, gate, score = choose_cut(swept, "pooled")
    assert score == 1
    assert gate == pytest.approx(0.55)


def test_fusing_layer_maps_is_what_the_objective_sums() -> None:
    maps = [torch.rand(2, 8, 8), torch.rand(2, 4, 4)]
    rows = torch.stack([prepare(m, (8, 8), 1.0) for m in maps], 1).flatten(2)
    expected = fuse(maps, (8, 8), gammas=[1, 1], weights=[0.2, 0.8])
    grid = MapGrid(("taylor",), (0.0,), ((1.0, 0.0),), (1.0,))
    objective = Objective(cache_of(rows, 2, (8, 8), grid), examples_of(torch.ones(2, 8, 8)))
    candidate = Candidates(
        torch.tensor([[0.2, 0.8]]).double(),
        torch.zeros(1, 2).long(),
        torch.tensor([0.5]),
        torch.zeros(1),
    )
    assert torch.equal(
        objective.counts(candidate).hit[0], (expected >= 0.5).flatten(1).sum(1).double()
    )
