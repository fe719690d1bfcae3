"""Pseudo-masks at every background score at once: the curve of the IoU, and the best score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssgcam.data import IGNORE
from ssgcam.evaluation.figures import Chart, Entry, Series, plots_of
from ssgcam.metrics import foreground_iou, mean_iou

LEVELS = 100


def level_counts(maps: Tensor, values: Sequence[int] | None, truth: Tensor, classes: int) -> Tensor:
    """Count the pixels of an image by true label, strongest class and level.

    At the background score ``j / LEVELS`` a pixel has its strongest class if its level is above j, and
    is background otherwise.

    Args:
        maps: ``[K, H, W]`` of the classes present.
        values: Their mask values; None: all 1.
        truth: ``[H, W]`` labels, 255 ignored.
        classes: C, background included.

    Returns:
        ``[C, C, LEVELS + 1]`` int64.
    """
    counted = truth != IGNORE
    level = torch.zeros_like(truth)
    strongest = torch.zeros_like(truth)
    if len(maps):
        usable = maps.isfinite().all(-1).all(-1)[:, None, None]
        safe = torch.where(usable, maps, 0.0).double()
        shares, which = (safe / (safe.amax((1, 2), keepdim=True) + 1e-5)).max(0)
        level = (shares * LEVELS).ceil().long().clamp(0, LEVELS)
        strongest = torch.tensor(values or [1] * len(maps))[which]
    slots = ((truth * classes + strongest) * (LEVELS + 1) + level)[counted]
    shape = (classes, classes, LEVELS + 1)
    return slots.bincount(minlength=classes * classes * (LEVELS + 1)).view(shape)


def level_ious(counts: Tensor) -> Tensor:
    """Foreground IoU (two classes) or mIoU at the background scores 0, 1 / LEVELS, ...: ``[LEVELS]``.

    Args:
        counts: ``[C, C, LEVELS + 1]`` of :func:`level_counts`.
    """
    above = counts.flip(-1).cumsum(-1).flip(-1)[..., 1:]
    confusions = above.permute(2, 0, 1).clone()
    confusions[..., 0] += (counts.sum(-1, keepdim=True) - above).sum(1).T
    score = foreground_iou if counts.shape[0] == 2 else mean_iou
    return score(confusions).nan_to_num(0.0)


def best_background(counts: Tensor) -> float:
    """The score between 0 and 1 (both excluded) with the best IoU; of equals the lowest."""
    return (int(level_ious(counts)[1:].argmax()) + 1) / LEVELS


def level_chart(totals: dict[Entry, Tensor], names: Sequence[str]) -> Chart:
    """IoU against the background score."""
    scores = tuple(j / LEVELS for j in range(LEVELS))
    plots = plots_of(
        (entry, Series(entry.method, scores, tuple(level_ious(counts).tolist())))
        for entry, counts in totals.items()
    )
    y = "foreground IoU" if len(names) == 2 else "mIoU"
    return Chart(
        "segmentation_iou", f"{y} against the background score", "background score",
        f"{y}, all pixels of the set", plots,
    )  # fmt: skip


def best_levels(chart: Chart) -> str:
    """What each method could reach with the score chosen on the scored images themselves."""
    best = [
        (max(line.y), line.label, layers, line.x[line.y.index(max(line.y))])
        for layers, lines in chart.plots.items()
        for line in lines
    ]
    found = "; ".join(
        f"{method} ({layers}) {value:.3f} at {at:g}" for value, method, layers, at in best
    )
    return (
        f"{chart.y_label} at the best background score, chosen on the scored images (an upper bound): "
        f"{found}."
    )
