"""How uncertain is a number? Bootstrap intervals that resample groups, and statistics of parts.

Every metric here is a statistic of the mean of *parts*, one row for each image (hits, histograms,
confusion matrices). Images of one field, patient or slide resemble each other; resampling single images
would make the interval too narrow. So the percentile bootstrap (Efron 1979) resamples whole groups, as
one matrix product: how often each group is drawn ``[R, G]`` times summed parts ``[G, P]``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ssgcam.errors import SsgcamError
from ssgcam.metrics.checks import check, check_count, double

Statistic = Callable[[Tensor], Tensor]
"""From the mean of the parts ``[..., *P]`` over the resampled items to the number ``[...]``."""


@dataclass(frozen=True)
class Interval:
    """A number and the interval in which ``level`` of the resampled numbers lie.

    Attributes:
        value: The statistic of all items.
        low: Lower end of the interval.
        high: Upper end.
        level: The share of resampled numbers inside.
        n: How many items (images).
        groups: How many groups were resampled: fields, patients, or the items themselves.
        samples: How many resamples.
        seed: Of the resamples.
        undefined: Resamples for which the statistic was NaN; they are left out of the interval.
    """

    value: float
    low: float
    high: float
    level: float
    n: int
    groups: int
    samples: int
    seed: int
    undefined: int


def identity(means: Tensor) -> Tensor:
    """The statistic of a plain mean: parts ``[N]``, one number per item."""
    return means


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


def parts_by_class(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """One number for each image as parts of its class, for :func:`mean_of_ratios`.

    Args:
        values: ``[N]``.
        labels: ``[N]``, the class of each image.
        classes: How many classes there are.

    Returns:
        Parts ``[N, classes, 2]`` float64: (value, 1) at the image's class, zeros elsewhere.

    Raises:
        SsgcamError: If the counts differ or a label is outside 0..classes - 1.
    """
    check_count(len(values), "values", labels, "labels")
    labels = labels.to(values.device).long()
    if not bool(((labels >= 0) & (labels < classes)).all()):
        raise SsgcamError(f"labels {labels.tolist()} don't fit {classes} classes")
    member = double(F.one_hot(labels, classes))
    return torch.stack([member * double(values).to(member.device)[:, None], member], -1)


def resample_counts(groups: int, samples: int, generator: torch.Generator) -> Tensor:
    """How often each group is drawn: ``groups`` draws with replacement, ``samples`` times.

    Args:
        groups: How many there are.
        samples: How many resamples.
        generator: Source of the draws.

    Returns:
        ``[samples, groups]`` float64; every row sums to ``groups``.
    """
    drawn = torch.randint(groups, (samples, groups), generator=generator)
    counts = torch.zeros(samples, groups, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(counts))


def bootstrap_interval(
    parts: Tensor,
    statistic: Statistic,
    *,
    seed: int,
    rival: Tensor | None = None,
    groups: Sequence[Hashable] | None = None,
    counts: Tensor | None = None,
    samples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of a statistic of the mean of per-item parts.

    Each resample draws as many groups as there are, with replacement, takes all of their items and
    computes ``statistic(mean of their parts)``. So pooled IoU from per-image confusion matrices is
    ``bootstrap_interval(confusions, foreground_iou, seed=0, groups=patients)``.

    Args:
        parts: ``[N, *P]``, a row for each item.
        statistic: Maps means ``[R, *P]`` to ``[R]`` float64.
        seed: Fixes the resamples.
        rival: ``[N, *P]``, the parts of another method on the same items in the same order: the number
            is then the difference ``statistic(parts) - statistic(rival)`` on the same resampled groups.
            A claim that one method leads another rests on this, not on two overlapping intervals.
        groups: For each item its field, patient or slide; None resamples the items.
        counts: ``[N]``: each row of the parts is the sum of so many items; None: of one.
        samples: How many resamples.
        level: The share of resampled numbers inside the interval, in (0, 1).

    Returns:
        The statistic of all items, or the difference, and its interval.

    Raises:
        SsgcamError: If there is no item, the counts differ, a setting is out of range, the
            statistic returns another shape or is never defined, or the rival's parts have another
            shape.
    """
    if rival is not None:
        check(
            parts.shape == rival.shape,
            f"parts of {list(parts.shape)} and {list(rival.shape)} can't be paired; "
            "score both methods on the same images in the same order",
        )
        parts = torch.stack([parts.detach().cpu(), rival.detach().cpu()], 1)
    number_of = statistic if rival is None else lambda m: statistic(m[:, 0]) - statistic(m[:, 1])
    n = len(parts) if parts.ndim else 0
    check(n, "there is nothing to resample; pass parts [N, ...] with N of at least 1")
    check(
        samples >= 1 and 0 < level < 1,
        f"{samples} samples at level {level} can't make an interval; "
        "pass at least 1 sample and a level between 0 and 1",
    )
    names = range(n) if groups is None else groups
    check(len(names) == n, f"{n} items but {len(names)} groups; name the group of each item")
    number = {name: index for index, name in enumerate(dict.fromkeys(names))}
    group = torch.tensor([number[name] for name in names])
    shape, count = parts.shape[1:], len(number)
    sums = torch.zeros(count, max(1, shape.numel()), dtype=torch.float64)
    sums.index_add_(0, group, parts.detach().cpu().double().reshape(n, -1))
    sizes = group.bincount(counts, minlength=count).double()

    def numbers(drawn: Tensor) -> Tensor:
        means = (drawn @ sums) / (drawn @ sizes)[:, None]
        return number_of(means.reshape(-1, *shape))

    value = numbers(torch.ones(1, count, dtype=torch.float64))
    check(
        value.shape == (1,),
        f"the statistic made {list(value.shape)} of means [1, {', '.join(map(str, shape))}]; "
        "it must return one number for each row",
    )
    generator = torch.Generator().manual_seed(seed)
    block = max(1, 2**22 // max(count, sums.shape[1]))  # resamples held in memory at a time
    sizes_of_blocks = [min(block, samples - start) for start in range(0, samples, block)]
    draws = torch.cat([numbers(resample_counts(count, r, generator)) for r in sizes_of_blocks])
    defined = draws[~draws.isnan()].double()
    check(len(defined), "the statistic is not defined on any resample; check for empty masks")
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(defined, tails).tolist()
    undefined = samples - len(defined)
    return Interval(float(value), low, high, level, n, count, samples, seed, undefined)
