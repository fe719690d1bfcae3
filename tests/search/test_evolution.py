"""The evolution finds a known optimum and never loses to the candidates that it starts from."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch

from helpers.search_sets import GRID, cache_of, labeled_masks, set_with_known_optimum
from ssgcam.search.evolution import (
    Evolution,
    evolve,
    initial_population,
    interruptible,
    known_candidates,
)
from ssgcam.search.objective import Objective
from ssgcam.search.settings import MapGrid


def searched(objective: Objective, seed: int, generations: int, population: int = 80) -> Evolution:
    genes = initial_population(objective, population, seed)
    return evolve(objective, genes, generations=generations, seed=seed)


@pytest.mark.parametrize("seed", range(10))
def test_a_known_optimum_is_found_from_every_seed(seed: int) -> None:
    cache, data, pair = set_with_known_optimum(seed)
    objective = Objective(cache, data, penalty=0.001, gate=0.0)
    known = np.concatenate([*known_candidates(objective).values()])
    assert objective.fitness(objective.decode(known.T)).max() < 0.9  # it is not given the answer
    found = searched(objective, seed, generations=60)
    best = objective.decode(found.genes[:, None])
    used = best.weights[0].nonzero()[:, 0].tolist()
    assert float(objective.fitness(best)) == 1
    assert {(layer, int(best.entries[0, layer])) for layer in used} >= set(pair)


def test_never_worse_than_a_known_candidate_and_the_same_seed_gives_the_same() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(5, 6 * len(GRID), 100, generator=generator)
    masks = (torch.rand(5, 10, 10, generator=generator) > 0.7).long()
    values[:, 7] = masks.flatten(1) * 0.9 + 0.1 * values[:, 7]  # one layer's entry is hard to beat
    objective = Objective(cache_of(values, 6, (10, 10)), labeled_masks(masks), gate=0.0)
    known = objective(np.concatenate([*known_candidates(objective).values()]).T)
    found = [searched(objective, 3, generations=3, population=40) for _ in range(2)]
    assert found[0].cost <= known.min()
    assert found[0].cost < 0.2
    assert np.array_equal(found[0].genes, found[1].genes)
    assert found[0].history == found[1].history
    assert list(found[0].history) == sorted(found[0].history, reverse=True)
    assert found[0].evaluations == 4 * 40
    assert len(found[0].history) == 4


def test_known_candidates_are_single_layers_layer_cam_and_means() -> None:
    grid = MapGrid(("gradient", "taylor"), (0.0, 0.1), ((1.0, 0.0), (1.0, 1.0)), (1.0,))
    values = torch.rand(3, 5 * len(grid), 36)
    objective = Objective(cache_of(values, 5, (6, 6), grid), labeled_masks(torch.ones(3, 6, 6)))
    known = {kind: objective.decode(genes.T) for kind, genes in known_candidates(objective).items()}
    for kind in ("layer", "layer_cam"):  # each layer alone
        assert torch.equal(known[kind].weights, torch.eye(5).double())
    entries = known["layer"].entries.diagonal()
    assert torch.equal(entries, objective.order[:, 0])
    # gradient form, sigma 0, a 1, b 0, gamma 1
    assert known["layer_cam"].entries.diagonal().tolist() == [0] * 5
    assert bool((known["mean"].weights == 1).all())
    shared = sorted(set(objective.order[:, 0].tolist()))
    assert known["mean"].entries[::2].tolist() == [
        objective.order[:, 0].tolist(),
        *([entry] * 5 for entry in shared),
    ]


def test_the_initial_population_is_within_the_bounds() -> None:
    cache, data, _ = set_with_known_optimum(2, layers=5)
    objective = Objective(cache, data)
    low, high = np.array(objective.bounds).T
    genes = initial_population(objective, 64, 5)
    assert genes.shape == (64, 17)
    assert bool(((genes >= low) & (genes <= high)).all())
    assert bool((genes[:, :15].reshape(64, 5, 3)[..., 0].sum(1) >= 1).all())


class Quadratic:
    """A cost of four genes; ``during`` is called with the number of the call."""

    bounds, integrality = [(0.0, 1.0)] * 4, [False] * 4

    def __init__(self, during=lambda call: None) -> None:
        self.calls, self.during = 0, during

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        self.calls += 1
        self.during(self.calls)
        return ((genes - 0.3) ** 2).sum(0) + 0.1 * np.sin(40 * genes[0])


def minimized(objective: Quadratic, generations: int) -> tuple[Evolution, bool]:
    population = np.random.default_rng(0).random((12, 4))
    with interruptible() as interrupted:
        found = evolve(
            objective, population, generations=generations, seed=5, interrupted=interrupted
        )
        return found, interrupted()


def test_ctrl_c_keeps_the_best_so_far_and_restores_the_handler() -> None:
    def interrupt(call: int) -> None:
        if call == 4:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    objective = Quadratic(interrupt)
    found, interrupted = minimized(objective, generations=50)
    assert signal.getsignal(signal.SIGINT) is before
    assert interrupted
    assert objective.calls == 4
    whole, interrupted = minimized(Quadratic(), generations=3)
    assert not interrupted
    assert np.array_equal(found.genes, whole.genes)


def test_a_second_ctrl_c_ends_at_once() -> None:
    def impatient(call: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        minimized(Quadratic(impatient), generations=9)
    assert signal.getsignal(signal.SIGINT) is before
