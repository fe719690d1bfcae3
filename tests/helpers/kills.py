"""Runs a function in a child process and kills that at random moments."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

_FORK = multiprocessing.get_context("fork")


def in_child(work: Callable[[], object]) -> multiprocessing.process.BaseProcess:
    """Start a function in a child process, which writes nothing to the terminal."""

    def quietly() -> None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nothing, stream)
        torch.set_num_threads(1)  # a pool of threads does not survive the fork
        tqdm.set_lock(threading.RLock())  # the parent's would stay locked if the child is killed
        work()

    process = _FORK.Process(target=quietly)
    process.start()
    return process


def seconds_of(work: Callable[[], object]) -> float:
    """How long a child takes; it must succeed."""
    started = time.monotonic()
    process = in_child(work)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - started


def killed(work: Callable[[], object], seconds: float, rng: random.Random) -> bool:
    """Run a child and kill it after a random part of ``seconds``; whether it was still at work."""
    process = in_child(work)
    process.join(rng.uniform(0, seconds))
    process.kill()  # type: ignore[attr-defined]
    process.join()
    return process.exitcode == -signal.SIGKILL


def kill_until(
    count: int,
    work: Callable[[Path], object],
    check: Callable[[Path], None],
    folder: Path,
    seed: int,
) -> int:
    """Kill ``count`` runs, each in a folder of its own, and check what each one left.

    Args:
        count: How many runs have to be killed before they are done.
        work: One run, from its output folder.
        check: Finishes a run that was killed and looks at the files, from its output folder; on one
            thread, as the runs: with several the last digits differ.
        folder: Where the output folders are made.
        seed: Of the moments.

    Returns:
        How many runs were killed.
    """
    rng, done = random.Random(seed), 0
    seconds = seconds_of(lambda: work(folder / "undisturbed"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for attempt in range(6 * count):
            out = folder / f"attempt{attempt}"
            started = time.monotonic()
            if killed(lambda out=out: work(out), seconds, rng):  # type: ignore[misc]
                check(out)
                done += 1
            else:  # it was done sooner: other programs may have slowed the first run down
                seconds = min(seconds, time.monotonic() - started)
            if done == count:
                break
    finally:
        torch.set_num_threads(threads)
    return done


def check_whole(folder: Path) -> None:
    """Every file that is visible can be read to its end; at most a manifest's last line is cut."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file():
            continue
        if path.suffix in (".png", ".jpg"):
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".json":
            json.loads(path.read_text("utf-8"))
        elif path.suffix == ".jsonl":
            for line in path.read_bytes().splitlines(keepends=True):
                assert not line.endswith(b"\n") or json.loads(line)
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix == ".pth":
            torch.load(path, weights_only=True)
