"""Memory that is freed stays with the process, where glibc would give it back to the system.

Every block of more than 32 MiB, and of 128 KiB at first, is a mapping of its own to glibc: freed, it
goes back to the system, and asked for again, it comes back page by page, each one cleared. A network
on the processor frees and asks for all of its activations in every batch. That took a sixth of the
time of ResNet18 at 112 pixels, and a fifth to a quarter of VGG16's at 224 (``docs/scale.md``).
"""

from __future__ import annotations

import ctypes
import os
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
#: Whoever sets one of these has chosen.
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next use; until it ends.

    The command ``ssgcam`` and its workers on a cluster call this, the library never does by itself:
    what a step needed stays with the process, not with other programs. Only on Linux with glibc, and
    only where the environment doesn't set glibc's allocator (``MALLOC_MMAP_MAX_`` and the like,
    ``GLIBC_TUNABLES``).

    Returns:
        Whether it was done.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _VARIABLES):
        return False
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
