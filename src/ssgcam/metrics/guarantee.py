"""At which thresholds do masks keep a stated limit on their errors? Conformal risk control.

Angelopoulos, Bates, Fisch, Lei, Schuster 2022, "Conformal Risk Control" (arXiv 2208.02814); for
segmentation Mossina and Friedrich 2025. An outer mask misses on average at most a share ``alpha`` of
an object; an inner mask spills over by at most ``alpha`` of the object's area. The guarantee holds on
average over calibration sets, for new images that are exchangeable with the calibration images.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssgcam.errors import SsgcamError
from ssgcam.metrics.checks import check, check_count, check_maps, double
from ssgcam.metrics.histogram import score_histogram, threshold_counts

#: The thresholds: a mask is ``map >= t``, compared in float32.
GRID = torch.arange(1001, dtype=torch.float64) / 1000
#: Rounding that a bound may exceed ``alpha`` by: 1 - .9 is below .1 in floating point.
ROUNDING = 1e-9


class Thresholds(NamedTuple):
    """Thresholds that keep a limit.

    Attributes:
        outer: The outer mask is ``map >= outer``.
        inner: The inner mask is ``map >= inner``; None: it is always empty, as no threshold keeps the
            limit. Where maps are good it may lie below ``outer``: then no pixel is undecided.
    """

    outer: float
    inner: float | None


@dataclass(frozen=True)
class SplitCheck:
    """Losses on images that chose no threshold, over random splits of the units.

    Attributes:
        alpha: The limit.
        splits: How many splits chose thresholds.
        refused: Splits in which no threshold of the outer mask kept the limit.
        outer_loss: Mean test loss of the outer mask over splits.
        outer_error: Its standard error.
        inner_loss: Mean test loss of the inner mask.
        inner_error: Its standard error.
        band: Mean share of the image between inner and outer mask.
    """

    alpha: float
    splits: int
    refused: int
    outer_loss: float
    outer_error: float
    inner_loss: float
    inner_error: float
    band: float

    @property
    def holds(self) -> bool:
        """Whether both mean test losses are at most ``alpha`` plus two standard errors."""
        return (
            self.outer_loss <= self.alpha + 2 * self.outer_error
            and self.inner_loss <= self.alpha + 2 * self.inner_error
        )


def mask_losses(maps: Tensor, masks: Tensor, gate_open: Tensor | None = None) -> Tensor:
    """Losses of the outer and the inner mask of each image at every threshold of :data:`GRID`.

    Outer: the share of the object's pixels that ``map >= t`` misses; it never falls along t. Inner:
    min(1, pixels of the mask outside the object / pixels of the object); it never rises. Where the
    class gate is shut the mask is empty: outer loss 1, inner loss 0.

    Args:
        maps: ``[N, H, W]`` in [0, 1].
        masks: ``[N, H, W]``: 1 object, 255 ignored, else background.
        gate_open: ``[N]`` bool; None: open for every image.

    Returns:
        Parts ``[N, 3, 1001]`` float64 in [0, 1]: outer loss, inner loss, the mask's share of the pixels
        that count.

    Raises:
        SsgcamError: If the shapes differ, a map leaves [0, 1] or an image shows no object.
    """
    check_maps(maps)
    inside = ((maps >= 0) & (maps <= 1)).all()
    check(inside, "a map leaves [0, 1] or isn't finite; divide each by its maximum first")
    labels = torch.where(masks == 255, -1, (masks == 1).long())
    histogram = score_histogram(maps.float(), labels, GRID[1:].float())
    hit, predicted, true, valid = (double(count) for count in threshold_counts(histogram))
    check(
        (true > 0).all(),
        f"{int((true == 0).sum())} of {len(true)} calibration images show no object; the "
        "guarantee is about objects, leave such images out",
    )
    outer, inner = 1 - hit / true[:, None], ((predicted - hit) / true[:, None]).clamp(max=1)
    losses = torch.stack([outer, inner, predicted / valid[:, None]], 1).cpu()
    if gate_open is not None:
        check_count(len(maps), "maps", gate_open, "gates")
        shut = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)[None, :, None]
        losses = torch.where(gate_open.cpu().bool()[:, None, None], losses, shut)
    return losses


def group_means(losses: Tensor, groups: Sequence[Hashable]) -> Tensor:
    """Mean losses ``[G, ...]`` of each group of images ``[N, ...]``.

    Raises:
        SsgcamError: If the counts differ.
    """
    check_count(len(losses), "images", groups, "groups")
    names = dict.fromkeys(groups)
    rows = {name: [k for k, own in enumerate(groups) if own == name] for name in names}
    return torch.stack([losses[own].mean(0) for own in rows.values()])


def least_units(alpha: float) -> int:
    """How many units the limit needs at least: with fewer, even a loss of 0 does not keep it.

    Raises:
        SsgcamError: If alpha is outside (0, 1).
    """
    check(0 < alpha < 1, f"alpha is {alpha}; pass the allowed mean loss, between 0 and 1")
    return math.ceil(1 / alpha - 1 - ROUNDING)


def choose_guarantee(losses: Tensor, alpha: float) -> Thresholds:
    """The largest outer and the smallest inner threshold that keep the limit.

    Both satisfy ``(n R(t) + 1) / (n + 1) <= alpha`` with R the mean loss of n units.

    Args:
        losses: ``[G, 3, 1001]``, :func:`mask_losses` or their :func:`group_means` where images come
            from fields, patients or the like.
        alpha: The limit, in (0, 1).

    Returns:
        The thresholds.

    Raises:
        SsgcamError: If alpha is outside (0, 1), or no threshold of the outer mask keeps the limit: with
            what limits it, the number of units or the gate.
    """
    units, least = len(losses), least_units(alpha)
    outer, inner = ((units * losses.mean(0) + 1) / (units + 1) <= alpha + ROUNDING)[:2]
    if not outer.any():
        check(
            units >= least,
            f"{units} calibration groups are too few for a loss of at most {alpha:g}; add "
            f"{least - units} more, or allow a larger loss",
        )
        shut = float(losses[:, 0, 0].mean())
        allowed = max(0.0, (alpha * (units + 1) - 1) / units)
        raise SsgcamError(
            f"the class gate is shut for {shut:.1%} of the calibration objects, more than the "
            f"{allowed:.1%} that a loss of at most {alpha:g} allows with {units} groups; lower the "
            "gate, or allow a larger loss"
        )
    smallest = float(GRID[int(inner.int().argmax())]) if inner.any() else None
    return Thresholds(float(GRID[int(outer.nonzero().max())]), smallest)


def check_splits(losses: Tensor, alpha: float, *, splits: int = 200, seed: int = 0) -> SplitCheck:
    """Choose thresholds on random halves of the units and measure the losses on the others.

    Args:
        losses: ``[G, 3, 1001]`` as for :func:`choose_guarantee`.
        alpha: The limit.
        splits: How many random splits.
        seed: Of the splits.

    Returns:
        Mean test losses and the width of the undecided band.

    Raises:
        SsgcamError: If there are fewer than 2 units, no split is asked for, or every split is refused.
    """
    units = len(losses)
    check(
        units >= 2 and splits >= 1,
        f"{splits} splits of {units} groups can't be made; pass at least 1 split and 2 groups",
    )
    tested = round(units / 2)
    generator = torch.Generator().manual_seed(seed)
    rows, refusal = [], ""
    for _ in range(splits):
        order = torch.randperm(units, generator=generator)
        try:
            found = choose_guarantee(losses[order[tested:]], alpha)
        except SsgcamError as error:
            refusal = str(error)
            continue
        outer, inner, area = F.pad(losses[order[:tested]].mean(0), (0, 1))  # last: an empty mask
        at = round(found.outer * 1000)
        inside = -1 if found.inner is None else round(found.inner * 1000)
        row = [outer[at], inner[inside], (area[at] - area[inside]).clamp(min=0)]
        rows.append(torch.stack(row))
    check(rows, f"no split can be checked: {refusal}")
    values = torch.stack(rows)
    mean = values.mean(0).tolist()
    errors = (values.std(0, correction=0) / len(rows) ** 0.5).tolist()
    return SplitCheck(
        alpha, len(rows), splits - len(rows), mean[0], errors[0], mean[1], errors[1], mean[2]
    )
