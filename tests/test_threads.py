"""Reading ahead by threads: order, bounds and errors."""

import pytest

from ssgcam.threads import ahead


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
