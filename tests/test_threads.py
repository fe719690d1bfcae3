"""Reading ahead by threads: order, bounds, errors, and threads that leave the processors alone."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ssgcam.threads import ahead

LARGE = 2**20  # elements; PyTorch shares out an operation from 2**15 on


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_stream_keeps_order_and_is_bounded():
    taken = []

    def numbers():
        for i in range(50):
            taken.append(i)
            yield i

    stream = ahead(lambda i: i * i, numbers(), window=4, workers=3)
    assert next(stream) == 0
    assert len(taken) <= 6
    assert list(stream) == [i * i for i in range(1, 50)]


def test_stream_raises_what_a_call_raises():
    stream = ahead(lambda i: 1 // i, [2, 1, 0, 3], window=2)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_arithmetic_in_the_threads_is_done_by_each_alone(three_threads):
    numbers = list(ahead(lambda _: torch.get_num_threads(), range(8), window=4, workers=2))
    assert numbers == [1] * 8
    assert torch.get_num_threads() == 3
    with ThreadPoolExecutor(1) as pool:  # somebody else's thread
        assert pool.submit(torch.get_num_threads).result() == 3


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such kind of work")
def test_the_threads_are_batch_work_to_the_scheduler():
    kinds = list(ahead(lambda _: os.sched_getscheduler(0), range(4), window=2, workers=2))
    assert kinds == [os.SCHED_BATCH] * 4
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_operations_in_the_threads_start_no_threads(three_threads):
    def running():
        return len(list(Path("/proc/self/task").iterdir()))

    def work(_):
        torch.ones(LARGE).mul_(2)
        return running()

    torch.ones(LARGE).mul_(2)  # this thread's own are there
    before = running()
    assert list(ahead(work, range(4), window=4, workers=1)) == [before + 1] * 4
    with ThreadPoolExecutor(1) as pool:  # what the test is about: elsewhere they do
        assert pool.submit(work, 0).result() == before + 1 + 2
