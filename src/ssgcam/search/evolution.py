"""The evolution itself: SciPy's differential evolution over the genes of ``objective``, resumable.

A killed search goes on bit-identically: every call of the fitness is written to a journal, and a new run
makes the very same calls again, answered from the journal as far as it reaches.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, differential_evolution
from tqdm import tqdm

from ssgcam.errors import SsgcamError

Array = NDArray[np.float64]
Costs = Callable[[Array], Array]
#: Small steps of few genes: after 16,000 candidates on cells' masks .002 to .004 better than SciPy's
#: defaults (0.5 to 1, and 0.7), whose trials change most genes of a good mixture at once.
MUTATION, RECOMBINATION = (0.3, 0.7), 0.2


@dataclass(frozen=True)
class Evolved:
    """What an evolution found.

    Attributes:
        genes: ``[D]``: the best candidate.
        cost: Its cost.
        history: The best cost after each generation, the planted population's first.
        evaluations: How many candidates were scored.
        interrupted: Whether it was stopped before its last generation.
    """

    genes: Array
    cost: float
    history: tuple[float, ...]
    evaluations: int
    interrupted: bool


def evolve(
    costs: Costs,
    bounds: Sequence[tuple[float, float]],
    integral: Sequence[bool],
    population: Array,
    *,
    generations: int,
    seed: int,
    journal: Path | None = None,
    resume: bool = False,
    progress: bool = False,
    title: str = "search",
) -> Evolved:
    """Minimise a cost by differential evolution (Storn and Price 1997), ``best1bin``, deferred updates.

    Ctrl-C (once) ends it after the running generation with the best so far.

    Args:
        costs: From genes ``[D, P]`` to costs ``[P]``, for a whole generation at once.
        bounds: Of every gene.
        integral: Which genes are whole numbers.
        population: ``[P, D]``: the first generation, P of at least 5.
        generations: How many follow.
        seed: Of mutation and crossover.
        journal: File to keep every call's answers in.
        resume: Answer from the journal, if there is one, as far as it reaches; else it is written anew.
        progress: Show a bar with the best fitness, 1 - cost.
        title: Of the bar.

    Returns:
        The best candidate.

    Raises:
        SsgcamError: If the journal belongs to another search.
    """
    history: list[float] = []
    evaluations = 0
    with (
        _Journal(journal, resume) as written,
        _interruptible() as interrupted,
        tqdm(total=generations + 1, desc=title, disable=not progress, unit="generation") as bar,
    ):

        def scored(genes: Array) -> Array:
            nonlocal evaluations
            genes = genes[:, None] if genes.ndim == 1 else genes
            evaluations += genes.shape[1]
            answers = written.answer(genes, costs)
            if not history:  # the first call scores the first generation
                report(float(answers.min()))
            return answers

        def report(best: float) -> None:
            history.append(best)
            bar.set_postfix(best=f"{1 - best:.4f}", refresh=False)
            bar.update()

        def after_generation(intermediate_result: OptimizeResult) -> None:
            report(float(intermediate_result.fun))
            if interrupted():
                raise StopIteration

        try:
            found = differential_evolution(
                scored,
                bounds,
                init=population,
                maxiter=generations,
                integrality=list(integral),
                strategy="best1bin",
                mutation=MUTATION,
                recombination=RECOMBINATION,
                vectorized=True,
                updating="deferred",
                polish=False,
                tol=0,
                rng=seed,
                callback=after_generation,
            )
        except RuntimeError as error:  # SciPy's word for any ValueError of the function
            if isinstance(error.__cause__, SsgcamError):
                raise error.__cause__ from None
            raise
        stopped = interrupted()
    return Evolved(
        genes=np.asarray(found.x, dtype=np.float64),
        cost=float(found.fun),
        history=tuple(history),
        evaluations=evaluations,
        interrupted=stopped,
    )


class _Journal:
    """Answers of the calls so far, one JSON line each, flushed."""

    def __init__(self, path: Path | None, resume: bool) -> None:
        self.path = None if path is None else Path(path)
        self.calls: list[dict[str, Any]] = []
        self.next = 0
        if self.path is not None and self.path.is_file() and resume:
            self.calls = list(_whole_lines(self.path))

    def __enter__(self) -> _Journal:
        self.stream = None
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.stream = self.path.open("w", encoding="utf-8")
            for call in self.calls:  # a line that was cut off by a kill is not written again
                self._write(call)
        return self

    def __exit__(self, *error: object) -> None:
        if self.stream is not None:
            self.stream.close()

    def answer(self, genes: Array, costs: Costs) -> Array:
        digest = sha256(np.ascontiguousarray(genes).tobytes()).hexdigest()
        if self.next < len(self.calls):
            call = self.calls[self.next]
            if call["candidates"] != digest:
                raise SsgcamError(
                    f"the journal '{self.path}' belongs to another search (other images, network, "
                    "settings or seed); search without --resume or name another journal"
                )
            answers = np.array([float.fromhex(text) for text in call["costs"]])
        else:
            answers = costs(genes)
            self._write({"candidates": digest, "costs": [float(c).hex() for c in answers]})
        self.next += 1
        return answers

    def _write(self, call: dict[str, Any]) -> None:
        if self.stream is not None:
            self.stream.write(json.dumps(call) + "\n")
            self.stream.flush()


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            return
        try:
            yield json.loads(line)
        except ValueError as error:
            raise SsgcamError(
                f"'{path}' is not the journal of a search; name another file"
            ) from error


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag; the second one is an ordinary KeyboardInterrupt."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag.is_set
        return

    def handler(number: int, frame: FrameType | None) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield flag.is_set
    finally:
        signal.signal(signal.SIGINT, before)
