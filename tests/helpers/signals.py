"""Random signals of a layer."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssgcam.core.signals import Signal


def signals(signed: bool = True, count: int = 3, second: bool = False) -> Signal:
    a = torch.randn(count, 4, 3, 5, dtype=torch.float64)
    g = torch.randn(count, 4, 3, 5, dtype=torch.float64)
    g[:, 1, :2] = 0  # zeros, as behind max pooling
    a = a if signed else a.relu()
    return Signal(a, g, torch.randn_like(g) if second else None, torch.randn_like(g))


def scaled(maps: Tensor | np.ndarray) -> np.ndarray:
    array = np.asarray(maps)
    return array / array.max((1, 2), keepdims=True)
