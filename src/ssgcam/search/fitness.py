"""How good are masks, as one number for a set? The fitness of a search and the score of its report.

A mask is scored by the confusion matrix of each image, ``[..., N, 2, 2]`` float64: rows are the truth,
columns the prediction, background first. For ``"box"`` it holds areas of boxes instead of pixels: of the
smallest box around all predicted pixels, of that around all true pixels, and of their intersection.

- ``"pooled"``: foreground IoU of the pooled pixels of all images;
- ``"with_background"``: mean of that and the background's IoU;
- ``"per_image"``: mean foreground IoU of the images where truth or prediction is not empty;
- ``"box"``: the same mean, of boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssgcam.metrics.bootstrap import ratio
from ssgcam.metrics.histogram import score_histogram, threshold_counts
from ssgcam.metrics.masks import foreground_iou, image_ious, mean_iou
from ssgcam.search.settings import Fitness

#: Thresholds that are tried on a map in [0, 1].
THRESHOLDS = torch.arange(1, 1001) / 1000


def confusions(hit: Tensor, predicted: Tensor, true: Tensor, valid: Tensor) -> Tensor:
    """Confusion matrices from counts of pixels.

    Args:
        hit: ``[..., N]``, pixels that are predicted and true.
        predicted: ``[..., N]``, predicted pixels.
        true: ``[N]``, true pixels.
        valid: ``[N]``, all pixels that are not ignored.

    Returns:
        ``[..., N, 2, 2]`` float64.
    """
    wrong, missed = predicted - hit, true - hit
    rest = valid - true - wrong
    return torch.stack([rest, wrong, missed, hit], -1).double().view(*hit.shape, 2, 2)


def without_prediction(matrices: Tensor) -> Tensor:
    """The confusion matrices ``[..., 2, 2]`` of empty masks: every pixel is predicted as background."""
    total = matrices.sum(-1)
    return torch.stack([total, torch.zeros_like(total)], -1)


def gated(matrices: Tensor, is_open: Tensor) -> Tensor:
    """Confusion matrices ``[..., N, 2, 2]``, of empty masks where ``is_open`` (``[..., N]``) is False."""
    return torch.where(is_open[..., None, None], matrices, without_prediction(matrices))


def fitness_parts(matrices: Tensor, kind: Fitness) -> Tensor:
    """Each image's part ``[..., N, *P]`` of the score, for the mean and for the bootstrap."""
    return image_ious(matrices) if kind in ("per_image", "box") else matrices


def score_of(means: Tensor, kind: Fitness) -> Tensor:
    """The score ``[...]`` of the mean ``[..., *P]`` over images of their parts; NaN if undefined."""
    if kind in ("per_image", "box"):
        return ratio(means)
    return foreground_iou(means) if kind == "pooled" else mean_iou(means)


def fitness(matrices: Tensor, kind: Fitness) -> Tensor:
    """The score of each candidate, in [0, 1]; 0 where it is not defined.

    Args:
        matrices: ``[..., N, 2, 2]`` of N images.
        kind: See the top of this module.

    Returns:
        ``[...]`` float64.
    """
    axis = matrices.ndim - 3
    return score_of(fitness_parts(matrices, kind).mean(axis), kind).nan_to_num(0.0)


class ThresholdSweep(NamedTuple):
    """Counts of one set of maps at every threshold of ``THRESHOLDS``.

    Attributes:
        hit: ``[T, N]``; see :func:`confusions`.
        predicted: ``[T, N]``.
        true: ``[N]``.
        valid: ``[N]``.
        probabilities: ``[N]``: compared with the class gate.
    """

    hit: Tensor
    predicted: Tensor
    true: Tensor
    valid: Tensor
    probabilities: Tensor

    def at(self, threshold: float, gate: float) -> Tensor:
        """Confusion matrices ``[N, 2, 2]`` at one of the thresholds, gated."""
        index = int((THRESHOLDS - threshold).abs().argmin())
        matrices = confusions(self.hit[index], self.predicted[index], self.true, self.valid)
        return gated(matrices, self.probabilities >= gate)


def sweep_thresholds(
    maps: Tensor, masks: Tensor, probabilities: Tensor, kind: Fitness
) -> ThresholdSweep:
    """Compare maps with masks at every threshold.

    Args:
        maps: ``[N, h, w]`` in [0, 1].
        masks: ``[N, h, w]`` uint8: 1 object, 255 ignore.
        probabilities: ``[N]``.
        kind: ``"box"`` compares boxes, the others compare pixels.
    """
    if kind == "box":
        maps, masks = filled_boxes(maps), filled_boxes((masks == 1).byte())
    labels = torch.where(masks == 255, -1, (masks == 1).long())
    hit, predicted, true, valid = threshold_counts(score_histogram(maps, labels, THRESHOLDS))
    return ThresholdSweep(hit[:, 1:].T.int(), predicted[:, 1:].T.int(), true, valid, probabilities)


class Cut(NamedTuple):
    """A threshold and a class gate, and the score with both."""

    threshold: float
    gate: float
    score: float


def choose_cut(
    sweep: ThresholdSweep,
    kind: Fitness,
    rows: Sequence[int] | None = None,
    gate: float | None = None,
) -> Cut:
    """Choose the threshold and the class gate with the best score.

    Gates are tried half-way between neighboring probabilities, and 0, if some image shows no object;
    otherwise the gate is 0. Of gates that score alike, the one in the widest gap is taken.

    Args:
        sweep: Counts at every threshold.
        kind: The score.
        rows: The images to choose on; all by default.
        gate: A fixed gate instead.
    """
    chosen = torch.arange(len(sweep.true)) if rows is None else torch.tensor(list(rows))
    order = chosen[sweep.probabilities[chosen].argsort(descending=True)]
    probabilities, true = sweep.probabilities[order].double(), sweep.true[order]
    gates, gaps = torch.tensor([gate or 0.0], dtype=torch.float64), torch.ones(1)
    if gate is None and bool((true == 0).any()):
        levels = torch.cat([torch.zeros(1), probabilities.unique()])  # type: ignore[no-untyped-call]
        gates = torch.cat([levels[:1], (levels[2:] + levels[1:-1]) / 2])
        gaps = levels.diff()
    matrices = confusions(sweep.hit[:, order], sweep.predicted[:, order], true, sweep.valid[order])
    opened = fitness_parts(matrices, kind)  # [T, n, *P]
    shut = fitness_parts(without_prediction(matrices), kind)
    # sums with the k most probable images open, for k = 0 to n
    sums = torch.cat([torch.zeros_like(opened[:, :1]), (opened - shut).cumsum(1)], 1)
    sums = sums + shut.sum(1, keepdim=True)
    open_images = (probabilities >= gates[:, None]).sum(1)
    scores = score_of(sums[:, open_images] / len(order), kind).nan_to_num(0.0)  # [T, gates]
    best = scores.amax(0)
    column = int(torch.where(best >= best.max() - 1e-12, gaps.double(), -1.0).argmax())
    index = int((scores[:, column] >= best[column] - 1e-12).int().argmax())
    return Cut(float(THRESHOLDS[index].double()), float(gates[column]), float(best[column]))


def filled_boxes(maps: Tensor) -> Tensor:
    """Maps whose mask at every threshold is the smallest box around the mask of the given maps.

    A column reaches the threshold if it lies between the first and the last column whose largest value
    does; rows likewise.

    Args:
        maps: ``[..., h, w]`` of any real type.

    Returns:
        The same shape and type.
    """
    lines = []
    for axis in (-1, -2):
        line = maps.amax(-3 - axis, keepdim=True)
        from_first = line.cummax(axis).values
        from_last = line.flip(axis).cummax(axis).values.flip(axis)
        lines.append(torch.minimum(from_first, from_last))
    return torch.minimum(*lines)
