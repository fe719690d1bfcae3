"""Does a call that fails end the threads that it started, before the garbage collector does?"""

import gc
import threading

import pytest


def pool_threads():
    """The threads of thread pools that are alive."""
    return {each for each in threading.enumerate() if each.name.startswith("ThreadPoolExecutor")}


def failure_leaves_no_thread(kind, function, *args, **options):
    """Call a function that raises this kind of exception, and check that its threads have ended."""
    before = pool_threads()
    gc.disable()  # it would end the threads of generators that nobody closed
    try:
        with pytest.raises(kind) as caught:
            function(*args, **options)
        assert pool_threads() <= before
        assert caught.tb is not None  # keeps the frames, and with them generators, until here
    finally:
        gc.enable()
