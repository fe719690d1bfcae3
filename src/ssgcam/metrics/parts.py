"""Per-image parts: every metric here is a function of the mean of what each image contributes.

A metric is written as two pure functions, one from images to *parts* (hits, histograms, confusion
matrices: one row per image) and one from the mean of the parts to the number. The accumulators only
keep the rows, so the same rows serve :func:`ssgcam.metrics.bootstrap_interval`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssgcam.errors import SsgcamError
from ssgcam.metrics.checks import double


class Parts:
    """Rows ``[N, ...]`` collected over updates, on the CPU."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        """Append the rows of one batch."""
        self._rows.append(rows.detach().cpu())

    def __len__(self) -> int:
        return sum(len(rows) for rows in self._rows)

    def stacked(self) -> Tensor:
        """All rows in the order in which they came.

        Raises:
            SsgcamError: If nothing was added.
        """
        if not self._rows:
            raise SsgcamError("no image was scored yet; call update() before compute()")
        return torch.cat(self._rows)


def ratio(parts: Tensor) -> Tensor:
    """``parts[..., 0] / parts[..., 1]``: a mean over the items whose second part is 1.

    Args:
        parts: Means or sums ``[..., 2]`` of (value, counted).

    Returns:
        The quotients ``[...]`` in float64; NaN where nothing was counted.
    """
    values = double(parts)
    return values[..., 0] / values[..., 1]


def mean_of_ratios(parts: Tensor) -> Tensor:
    """Mean over classes of :func:`ratio`, leaving out the classes for which nothing was counted.

    Args:
        parts: Means or sums ``[..., classes, 2]`` of (value, counted).

    Returns:
        ``[...]`` in float64; NaN where no class was counted.
    """
    return ratio(parts).nanmean(-1)
