"""Every test starts with the same random numbers and, by default, one thread."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_start() -> None:
    torch.set_num_threads(int(os.environ.get("SSGCAM_TEST_THREADS", "1")))
    torch.manual_seed(0)
