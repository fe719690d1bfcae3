"""Freed memory stays with a process that asks for it, seen by the pages that the system hands out."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from ssgcam import cli

FREE_AND_ASK = """
import resource, torch
from ssgcam.allocator import keep_freed_memory
done = keep_freed_memory() if {keep} else False
def work():
    for _ in range(8):
        torch.empty(12_000_000).fill_(1)  # 48 MB, above what glibc can be told to keep by size
for _ in range(4):
    work()  # until the memory at hand suffices
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")


def faults(keep: bool, **environment: str) -> tuple[str, int]:
    """Whether it was done, and pages that were handed out in the last of five turns."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    found = subprocess.run(
        [sys.executable, "-c", FREE_AND_ASK.format(keep=keep)],
        check=True, capture_output=True, text=True, env={**inherited, **environment},
    )  # fmt: skip
    done, count = found.stdout.split()
    return done, int(count)


@glibc
def test_memory_that_was_freed_is_not_cleared_again():
    done, kept = faults(keep=True)
    _, plain = faults(keep=False)
    assert done == "True"
    assert plain > 1_000  # the test would show nothing if pages were large
    assert kept < plain / 20


@glibc
@pytest.mark.parametrize(
    "environment",
    [{"MALLOC_MMAP_MAX_": "65536"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"}],
)
def test_what_the_environment_says_is_left(environment):
    assert faults(keep=True, **environment)[0] == "False"


def test_the_command_keeps_memory_before_anything_else(monkeypatch):
    order = []
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: order.append("keep"))
    monkeypatch.setattr(cli, "app", lambda **_: order.append("command"))
    cli.main()
    assert order == ["keep", "command"]
