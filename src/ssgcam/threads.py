"""Files as a stream: read or written by threads while the network works on others.

Decoding and resizing release Python's lock, so that threads suffice. Memory is bounded: at most a
window of results waits at a time. ``bulk.stream`` builds the engine for whole folders on it.

Each of these threads does its arithmetic by itself. If PyTorch's operations in them started threads of
their own, OpenMP would count more threads than processors and put those of the network to sleep at
every operation, instead of letting them wait awake for the next. And on Linux they are batch work to
the scheduler: a thread that was waiting for a file does not interrupt the network's.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Failure:
    """A photo that nothing could be done with.

    Attributes:
        path: Its file.
        reason: One sentence: what is wrong and what to do.
    """

    path: Path
    reason: str


def ahead(
    function: Callable[[Item], Made],
    items: Iterable[Item],
    *,
    window: int,
    workers: int | None = None,
) -> Iterator[Made]:
    """``map(function, items)`` by threads, in order, at most ``window`` results ahead of the reader.

    Args:
        function: Called in a thread that stands back for others. What it raises is raised here.
        items: Taken one at a time, in the reader's thread.
        window: How many calls may wait to be taken.
        workers: Threads; one for each processor, at most 8, if None.

    Yields:
        The results in the order of the items.

    Example:
        >>> list(ahead(abs, [-1, 2, -3], window=2))
        [1, 2, 3]
    """
    waiting: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1), initializer=_stand_back)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _stand_back() -> None:
    """Let the calling thread, and no other, leave the processors to the network; see the top."""
    torch.get_num_threads()  # PyTorch sets the number when a thread first uses it
    _libraries().limit(limits=1, user_api="openmp")
    if sys.platform == "linux":
        with suppress(OSError):  # a container may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
