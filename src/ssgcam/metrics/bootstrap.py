"""How far could a number move? Bootstrap intervals that resample groups.

Images of one field, patient or slide resemble each other; resampling single images would make the
interval too narrow. Percentile bootstrap (Efron 1979) over whole groups, as one matrix product:
counts of how often each group was drawn ``[R, G]`` times summed parts ``[G, P]``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssgcam.errors import SsgcamError

Statistic = Callable[[Tensor], Tensor]
"""From the mean of the parts ``[..., *P]`` over the resampled items to the number ``[...]``."""


@dataclass(frozen=True)
class Interval:
    """A number and the interval in which ``level`` of the resampled numbers lie."""

    value: float
    low: float
    high: float
    level: float
    n: int
    """Items (images)."""
    groups: int
    """What was resampled: fields, patients, or the items themselves."""
    samples: int
    seed: int
    undefined: int
    """Resamples for which the statistic was NaN; they are left out of the interval."""

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0: of a difference, that one method leads."""
        return self.low > 0 or self.high < 0


def identity(means: Tensor) -> Tensor:
    """The statistic of a plain mean: parts ``[N]``, one number per item."""
    return means


def resample_counts(groups: int, samples: int, seed: int) -> Tensor:
    """How often each group is drawn: ``groups`` draws with replacement, ``samples`` times.

    Args:
        groups: How many there are.
        samples: How many resamples.
        seed: Fixes the draws.

    Returns:
        ``[samples, groups]`` float64; every row sums to ``groups``.
    """
    return torch.cat(list(_counts(groups, samples, seed, samples)))


def bootstrap_interval(
    parts: Tensor,
    statistic: Statistic,
    *,
    seed: int,
    groups: Sequence[Hashable] | None = None,
    samples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of a statistic of the mean of per-item parts.

    Each resample draws as many groups as there are, with replacement, takes all of their items and
    computes ``statistic(mean of their parts)``. So pooled IoU from per-image confusion matrices is
    ``bootstrap_interval(result.parts, foreground_iou, seed=0, groups=patients)``.

    Args:
        parts: ``[N, *P]``: the per-image rows of any result here.
        statistic: Maps means ``[R, *P]`` to ``[R]`` float64.
        seed: Fixes the resamples.
        groups: For each item its field, patient or slide; None resamples the items.
        samples: How many resamples.
        level: The share of resampled numbers inside the interval, in (0, 1).

    Returns:
        The statistic of all items and its interval.

    Raises:
        SsgcamError: If there is no item, the counts differ, a setting is out of range, the
            statistic returns another shape or is never defined.
    """
    return _interval([parts], lambda means: statistic(means[0]), seed, groups, samples, level)


def paired_difference(
    first: Tensor,
    second: Tensor,
    statistic: Statistic,
    *,
    seed: int,
    groups: Sequence[Hashable] | None = None,
    samples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Interval of ``statistic(first) - statistic(second)``, both on the same resampled groups.

    A claim that one method leads another rests on this, not on two overlapping intervals.

    Args:
        first: ``[N, *P]``, the parts of one method.
        second: ``[N, *P]``, the parts of the other on the same items in the same order.
        statistic: As in :func:`bootstrap_interval`.
        seed: As there.
        groups: As there.
        samples: As there.
        level: As there.

    Returns:
        The difference on all items and its interval.

    Raises:
        SsgcamError: As there, or if the two don't have the same shape.
    """
    if first.shape != second.shape:
        raise SsgcamError(
            f"parts of {list(first.shape)} and {list(second.shape)} can't be paired; "
            "score both methods on the same images in the same order"
        )

    def difference(means: list[Tensor]) -> Tensor:
        return statistic(means[0]) - statistic(means[1])

    return _interval([first, second], difference, seed, groups, samples, level)


def _interval(
    parts: list[Tensor],
    statistic: Callable[[list[Tensor]], Tensor],
    seed: int,
    groups: Sequence[Hashable] | None,
    samples: int,
    level: float,
) -> Interval:
    n = len(parts[0]) if parts[0].ndim else 0
    if n == 0:
        raise SsgcamError("there is nothing to resample; pass parts [N, ...] with N of at least 1")
    if samples < 1 or not 0 < level < 1:
        raise SsgcamError(
            f"{samples} samples at level {level} can't make an interval; "
            "pass at least 1 sample and a level between 0 and 1"
        )
    owner, count = _owners(n, groups)
    shape = parts[0].shape[1:]
    sums = [
        torch.zeros(count, max(1, shape.numel()), dtype=torch.float64).index_add_(
            0, owner, rows.detach().cpu().double().reshape(n, -1)
        )
        for rows in parts
    ]
    sizes = owner.bincount(minlength=count).double()

    def numbers(counts: Tensor) -> Tensor:
        items = (counts @ sizes)[:, None]
        return statistic([((counts @ s) / items).reshape(-1, *shape) for s in sums])

    value = numbers(torch.ones(1, count, dtype=torch.float64))
    if value.shape != (1,):
        raise SsgcamError(
            f"the statistic made {list(value.shape)} of means [1, {', '.join(map(str, shape))}]; "
            "it must return one number for each row"
        )
    block = max(1, 2**22 // max(count, sums[0].shape[1]))
    draws = torch.cat([numbers(counts) for counts in _counts(count, samples, seed, block)])
    defined = draws[~draws.isnan()]
    if len(defined) == 0:
        raise SsgcamError("the statistic is not defined on any resample; check for empty masks")
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(defined.double(), tails).tolist()
    return Interval(
        value=float(value),
        low=low,
        high=high,
        level=level,
        n=n,
        groups=count,
        samples=samples,
        seed=seed,
        undefined=samples - len(defined),
    )


def _counts(groups: int, samples: int, seed: int, block: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, samples, block):
        rows = min(block, samples - start)
        drawn = torch.randint(groups, (rows, groups), generator=generator)
        counts = torch.zeros(rows, groups, dtype=torch.float64)
        yield counts.scatter_add_(1, drawn, torch.ones_like(counts))


def _owners(n: int, groups: Sequence[Hashable] | None) -> tuple[Tensor, int]:
    if groups is None:
        return torch.arange(n), n
    if len(groups) != n:
        raise SsgcamError(f"{n} items but {len(groups)} groups; name the group of each item")
    number = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    return torch.tensor([number[group] for group in groups]), len(number)
