"""How good a mask is, as one number for a set: the fitness of a search and the score of its report.

Everything starts from counts of each image: ``hit`` (predicted and true), ``predicted``, ``true`` and
``valid`` pixels (not ignored). For ``"box"`` they are areas of boxes: of the smallest box
around all predicted pixels, of that around all true ones, and of what both share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ssgcam.metrics import foreground_iou, image_ious, mean_iou, ratio

Fitness = Literal["pooled", "per_image", "with_background", "box"]
#: Thresholds that are tried on a map in [0, 1].
THRESHOLDS = 1000


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts for each image, which is the last axis; axes before it are candidates.

    Attributes:
        hit: ``[..., N]``.
        predicted: ``[..., N]``.
        true: ``[N]``.
        valid: ``[N]``.
    """

    hit: Tensor
    predicted: Tensor
    true: Tensor
    valid: Tensor

    def gated(self, is_open: Tensor) -> Counts:
        """With empty masks where ``is_open`` (``[..., N]`` bool) is False."""
        keep = is_open.to(self.hit.dtype)
        return Counts(self.hit * keep, self.predicted * keep, self.true, self.valid)

    def images(self, rows: Tensor) -> Counts:
        """Of some images only, as float64."""
        hit, predicted = self.hit[..., rows].double(), self.predicted[..., rows].double()
        return Counts(hit, predicted, self.true[rows].double(), self.valid[rows].double())

    @property
    def confusions(self) -> Tensor:
        """``[..., N, 2, 2]``: rows are the truth, columns the prediction, background first."""
        wrong = self.predicted - self.hit
        missed = self.true - self.hit
        rest = self.valid - self.true - wrong
        rows = [torch.stack([rest, wrong], -1), torch.stack([missed, self.hit], -1)]
        return torch.stack(rows, -2)


def fitness(counts: Counts, kind: Fitness) -> Tensor:
    """The score of each candidate, in [0, 1]; 0 where it is not defined.

    - ``"pooled"``: foreground IoU of the pooled pixels of all images;
    - ``"with_background"``: mean of that and the background's;
    - ``"per_image"``: mean foreground IoU of the images where truth or prediction is not empty;
    - ``"box"``: the same of boxes.

    The definitions are those of ``ssgcam.metrics.masks``; here for many candidates at once.

    Args:
        counts: Of ``[..., N]`` images.
        kind: Which.

    Returns:
        ``[...]``.
    """
    hit, predicted = counts.hit, counts.predicted
    if kind in ("per_image", "box"):
        union = predicted + counts.true - hit
        counted = (union > 0).to(hit.dtype)
        return _quotient(_quotient(hit, union).sum(-1), counted.sum(-1))
    total_hit, total_predicted = hit.sum(-1), predicted.sum(-1)
    union = total_predicted + counts.true.sum() - total_hit
    foreground = _quotient(total_hit, union)
    if kind == "pooled":
        return foreground
    valid = counts.valid.sum()
    return (foreground + _quotient(valid - union, valid - total_hit)) / 2


def statistic(kind: Fitness) -> tuple[Callable[[Counts], Tensor], Callable[[Tensor], Tensor]]:
    """The same score for the bootstrap: counts to parts ``[N, ...]``, and their mean to the number."""
    if kind == "pooled":
        return lambda counts: counts.confusions, foreground_iou
    if kind == "with_background":
        return lambda counts: counts.confusions, mean_iou
    return lambda counts: image_ious(counts.confusions), ratio


@dataclass(frozen=True, eq=False)
class Sweep:
    """Counts of one set of maps at every threshold: what choosing one needs to know.

    Attributes:
        thresholds: ``[T]`` ascending, ``k / 1000``.
        counts: ``[T, N]``.
        probabilities: ``[N]``: what the class gate sees.
    """

    thresholds: Tensor
    counts: Counts
    probabilities: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Sweep]) -> Sweep:
        """The sweeps of several batches as one."""
        counts = [part.counts for part in parts]
        return cls(
            parts[0].thresholds,
            Counts(
                torch.cat([each.hit for each in counts], -1),
                torch.cat([each.predicted for each in counts], -1),
                torch.cat([each.true for each in counts]),
                torch.cat([each.valid for each in counts]),
            ),
            torch.cat([part.probabilities for part in parts]),
        )

    def at(self, threshold: float, gate: float, rows: Tensor | None = None) -> Counts:
        """Counts ``[N]`` at a threshold of the list, gated."""
        index = int((self.thresholds - threshold).abs().argmin())
        rows = torch.arange(len(self.probabilities)) if rows is None else rows
        every = self.counts
        chosen = Counts(every.hit[index], every.predicted[index], every.true, every.valid)
        return chosen.images(rows).gated(self.probabilities[rows] >= gate)


def sweep(maps: Tensor, masks: Tensor, probabilities: Tensor, kind: Fitness) -> Sweep:
    """Score maps at 1000 thresholds.

    Args:
        maps: ``[N, h, w]`` in [0, 1].
        masks: ``[N, h, w]`` uint8: 1 object, 255 ignore.
        probabilities: ``[N]``.
        kind: Only ``"box"`` counts otherwise than the rest.

    Returns:
        The counts at ``map >= k / 1000`` for k from 1 to 1000.
    """
    thresholds = torch.arange(1, THRESHOLDS + 1) / THRESHOLDS
    truth = masks == 1
    if kind == "box":
        return Sweep(thresholds, _box_sweep(maps, truth, thresholds), probabilities)
    count = len(maps)
    level = torch.bucketize(maps.flatten(1).contiguous(), thresholds, right=True)
    level = level + (THRESHOLDS + 1) * torch.arange(count)[:, None]
    valid, inside = (masks != 255).flatten(1), truth.flatten(1)
    length = count * (THRESHOLDS + 1)
    predicted, hit = (
        level[pixels].bincount(minlength=length).view(count, -1).flip(1).cumsum(1).flip(1)[:, 1:]
        for pixels in (valid, inside)
    )
    return Sweep(
        thresholds,
        Counts(hit.T.int(), predicted.T.int(), inside.sum(1).double(), valid.sum(1).double()),
        probabilities,
    )


def choose_cut(
    swept: Sweep,
    kind: Fitness,
    rows: Tensor | None = None,
    gate: float | None = None,
) -> tuple[float, float, float]:
    """The threshold and the class gate that score best.

    Gates are tried half-way between neighboring probabilities, and 0, if some image shows no object
    (else the gate stays open). Of gates that score alike, the one in the widest gap is taken.

    Args:
        swept: Counts at every threshold.
        kind: The score.
        rows: The images to choose on; all by default.
        gate: A fixed gate instead.

    Returns:
        Threshold, gate and score.
    """
    rows = torch.arange(len(swept.probabilities)) if rows is None else rows
    counts, probabilities = swept.counts.images(rows), swept.probabilities[rows]
    gates, gaps = torch.zeros(1), torch.ones(1)
    if gate is not None:
        gates = torch.tensor([gate], dtype=torch.float64)
    elif bool((counts.true == 0).any()):
        levels = torch.unique(probabilities.double())
        gates = torch.cat([torch.zeros(1, dtype=torch.float64), (levels[1:] + levels[:-1]) / 2])
        gaps = torch.cat([levels[:1], levels[1:] - levels[:-1]])
    scores = torch.stack(
        [fitness(counts.gated(probabilities >= value), kind).max(0).values for value in gates]
    )
    best = scores == scores.max()
    chosen = int(torch.where(best, gaps.double(), -1.0).argmax())
    opened = counts.gated(probabilities >= gates[chosen])
    curve = fitness(opened, kind)
    index = int(curve.argmax())
    return float(swept.thresholds[index].double()), float(gates[chosen]), float(curve[index])


def boxes_of(inside: Tensor) -> Tensor:
    """Smallest box around the pixels of each mask ``[..., h, w]``: ``[..., 4]``, x1 and y1 exclusive."""
    corners = []
    for axis in (-2, -1):  # columns, then rows
        used = inside.any(axis)
        length = used.shape[-1]
        first = used.int().argmax(-1)
        last = length - used.flip(-1).int().argmax(-1)
        some = used.any(-1)
        corners.append((first * some, last * some))
    (x0, x1), (y0, y1) = corners
    return torch.stack([x0, y0, x1, y1], -1).double()


def box_counts(predicted: Tensor, true: Tensor, valid: Tensor) -> Counts:
    """Areas of boxes ``[..., N, 4]`` (predicted) and ``[N, 4]`` (true), and of what they share."""
    low = torch.maximum(predicted[..., :2], true[..., :2])
    high = torch.minimum(predicted[..., 2:], true[..., 2:])
    shared = (high - low).clamp_min(0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (predicted, true)]
    return Counts(shared, areas[0], areas[1], valid)


def _box_sweep(maps: Tensor, truth: Tensor, thresholds: Tensor) -> Counts:
    """A box at a threshold depends on the maximum of each row and column only."""
    limits = thresholds[:, None, None]
    sides = []
    for axis in (1, 2):
        peaks = maps.amax(axis)  # over rows: one value for each column, then the reverse
        used = peaks[None] >= limits
        length = used.shape[-1]
        first, last = used.int().argmax(-1), length - used.flip(-1).int().argmax(-1)
        some = used.any(-1)
        sides.append((first * some, last * some))
    (x0, x1), (y0, y1) = sides
    predicted = torch.stack([x0, y0, x1, y1], -1).double()
    area = torch.full((len(maps),), float(maps.shape[1] * maps.shape[2]), dtype=torch.float64)
    return box_counts(predicted, boxes_of(truth), area)


def _quotient(value: Tensor, by: Tensor) -> Tensor:
    return torch.where(by > 0, value / torch.where(by > 0, by, 1.0), 0.0)
