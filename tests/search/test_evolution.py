"""The evolution finds what is planted, never loses to what it was given, and goes on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.search_sets import GRID, cache_of, examples_of, planted_set
from ssgcam.errors import SsgcamError
from ssgcam.search.evolution import Evolved, evolve
from ssgcam.search.objective import Objective, ranked_entries
from ssgcam.search.planting import first_generation, planted


def searched(objective: Objective, seed: int, generations: int, population: int = 80) -> Evolved:
    order, thresholds = ranked_entries(objective)
    objective = replace(objective, order=order)
    genes = first_generation(objective, order, thresholds, population, seed)
    return evolve(
        objective, objective.bounds, objective.integral, genes, generations=generations, seed=seed
    )


@pytest.mark.parametrize("seed", range(10))
def test_a_planted_optimum_is_found_from_every_seed(seed: int) -> None:
    cache, examples, pair = planted_set(seed)
    objective = Objective(cache, examples, penalty=0.001, gate=0.0)
    order, thresholds = ranked_entries(objective)
    ranked = replace(objective, order=order)
    known = ranked.fitness(ranked.decode(planted(ranked, order, thresholds).T))
    assert known.max() < 0.9  # nobody hands it the answer
    found = searched(objective, seed, generations=60)
    best = ranked.decode(found.genes[:, None])
    used = best.weights[0].nonzero()[:, 0].tolist()
    assert float(ranked.fitness(best)) == 1
    assert {(layer, int(best.entries[0, layer])) for layer in used} >= set(pair)


def test_never_loses_to_a_planted_candidate_and_the_same_seed_gives_the_same() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(5, 6 * len(GRID), 100, generator=generator)
    masks = (torch.rand(5, 10, 10, generator=generator) > 0.7).long()
    values[:, 7] = masks.flatten(1) * 0.9 + 0.1 * values[:, 7]  # one layer's entry is hard to beat
    objective = Objective(cache_of(values, 6, (10, 10)), examples_of(masks), gate=0.0)
    order, thresholds = ranked_entries(objective)
    ranked = replace(objective, order=order)
    known = ranked(planted(ranked, order, thresholds).T)
    found = [searched(objective, 3, generations=3, population=40) for _ in range(2)]
    assert found[0].cost <= known.min()
    assert found[0].cost < 0.2
    assert np.array_equal(found[0].genes, found[1].genes)
    assert found[0].history == found[1].history
    assert list(found[0].history) == sorted(found[0].history, reverse=True)
    assert found[0].evaluations == 4 * 40
    assert len(found[0].history) == 4


def quadratic(genes: np.ndarray) -> np.ndarray:
    return ((genes - 0.3) ** 2).sum(0) + 0.1 * np.sin(40 * genes[0])


BOUNDS, WHOLE = [(0.0, 1.0)] * 4, [False] * 4
FIRST = np.random.default_rng(0).random((12, 4))


def run(journal: Path | None = None, costs=quadratic, generations: int = 9, **options) -> Evolved:
    return evolve(
        costs, BOUNDS, WHOLE, FIRST, generations=generations, seed=5, journal=journal, **options
    )


def test_a_journal_cut_anywhere_gives_the_same_end(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 10
    for kept in (0, 1, 4, 10):
        path = tmp_path / f"cut{kept}.jsonl"
        torn = lines[kept][:50] if kept < 10 else ""  # the line that the kill tore
        path.write_text("".join(lines[:kept]) + torn)
        scored = []

        def counted(genes: np.ndarray, scored: list[int] = scored) -> np.ndarray:
            scored.append(genes.shape[1])
            return quadratic(genes)

        found = run(path, counted, resume=True)
        assert len(scored) == 10 - kept
        assert np.array_equal(found.genes, whole.genes)
        assert (found.cost, found.history) == (whole.cost, whole.history)
        assert path.read_text() == "".join(lines)


def test_without_resume_a_journal_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    run(path)
    before = path.read_text()
    path.write_text(json.dumps({"candidates": "other", "costs": []}) + "\n")
    run(path)
    assert path.read_text() == before


def test_the_journal_of_another_search_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    run(path)
    with pytest.raises(SsgcamError, match="belongs to another search"):
        evolve(
            quadratic, BOUNDS, WHOLE, 1 - FIRST, generations=9, seed=5, journal=path, resume=True
        )
    path.write_text("no journal\n")
    with pytest.raises(SsgcamError, match="is not the journal of a search"):
        run(path, resume=True)


def test_ctrl_c_keeps_the_best_so_far_and_gives_the_handler_back() -> None:
    calls = []

    def interrupted(genes: np.ndarray) -> np.ndarray:
        calls.append(genes.shape)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return quadratic(genes)

    before = signal.getsignal(signal.SIGINT)
    found = run(costs=interrupted, generations=50)
    assert signal.getsignal(signal.SIGINT) is before
    assert found.interrupted
    assert len(calls) == 4
    short = run(generations=3)
    assert not short.interrupted
    assert np.array_equal(found.genes, short.genes)


def test_a_second_ctrl_c_ends_at_once() -> None:
    def impatient(genes: np.ndarray) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return quadratic(genes)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(costs=impatient)
    assert signal.getsignal(signal.SIGINT) is before


KILLED = """
import sys, time
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from search.test_run import quick_search
from ssgcam.search.objective import Objective
score = Objective.__call__
def slowly(self, genes):
    time.sleep(0.2)
    return score(self, genes)
Objective.__call__ = slowly
quick_search(cache=sys.argv[2], folds=0)
"""


def test_a_killed_search_goes_on_to_the_bit_same_recipe(tmp_path: Path) -> None:
    from search.test_run import quick_search

    whole = quick_search(cache=tmp_path / "whole", folds=0)
    whole.recipe.save(tmp_path / "whole.json")
    script = [
        sys.executable,
        "-c",
        KILLED,
        str(Path(__file__).parents[1]),
        str(tmp_path / "killed"),
    ]
    with subprocess.Popen(script, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + 300
        journal: list[str] = []
        while len(journal) < 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
            found = list((tmp_path / "killed").glob("journal-*-search.jsonl"))
            journal = found[0].read_text().splitlines() if found else []
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert 3 <= len(journal) < len(whole.report.history)
    resumed = quick_search(cache=tmp_path / "killed", resume=True, folds=0)
    resumed.recipe.save(tmp_path / "resumed.json")
    assert (tmp_path / "resumed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
