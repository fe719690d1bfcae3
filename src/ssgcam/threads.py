"""How are files read or written while the network computes? By threads, with a bounded queue.

Decoding, resizing and compressing release Python's lock, so that threads suffice.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(
    function: Callable[[Item], Made],
    items: Iterable[Item],
    *,
    window: int,
    workers: int | None = None,
) -> Generator[Made, None, None]:
    """``map(function, items)`` in threads, in order, at most ``window`` results ahead of the consumer.

    A consumer that may stop early, by an error too, closes it (``contextlib.closing``). Else the
    garbage collector would, and wait for the threads while it may hold a lock that they need.

    Args:
        function: Called in a thread. What it raises is raised here.
        items: Taken one at a time, in the consumer's thread.
        window: Largest number of results that wait to be consumed.
        workers: Number of threads; one for each processor, at most 8, if None.

    Yields:
        The results in the order of the items.

    Example:
        >>> list(ahead(abs, [-1, 2, -3], window=2))
        [1, 2, 3]
    """
    waiting: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1))
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
