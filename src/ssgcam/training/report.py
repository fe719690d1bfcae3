"""How good a classifier is on images that it was not trained on: the report of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from ssgcam.errors import require
from ssgcam.metrics.bootstrap import bootstrap_interval, identity
from ssgcam.training.data import LabeledImages


@dataclass(frozen=True)
class ClassificationReport:
    """Scores of a classifier on held-out images.

    Attributes:
        class_names: One for each class.
        confusion: ``confusion[i][j]`` images of class i were predicted as class j.
        recalls: Recall of each class; NaN for a class without images.
        intervals: 95 % interval of each recall, see :func:`recall_interval`.
        roc_auc: Area under the ROC curve, one class against the rest, mean over classes.
        calibration_error: Expected calibration error of the top class, 15 bins, in [0, 1].
        n: Number of images.
        n_groups: Number of groups they come from.
    """

    class_names: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    recalls: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    roc_auc: float
    calibration_error: float
    n: int
    n_groups: int

    @property
    def mean_recall(self) -> float:
        """Mean recall of the classes that have images (balanced accuracy)."""
        return float(np.nanmean(self.recalls))

    def __str__(self) -> str:
        """A table to print."""
        width = max(len(name) for name in self.class_names)
        lines = [f"{self.n} held-out images of {self.n_groups} groups"]
        rows = zip(self.class_names, self.recalls, self.intervals, self.confusion, strict=True)
        for name, recall, (low, high), counts in rows:
            pairs = zip(counts, self.class_names, strict=True)
            predicted = ", ".join(f"{count} as {other}" for count, other in pairs if count)
            lines.append(
                f"{name:{width}}  recall {recall:.3f} [{low:.3f}, {high:.3f}]  predicted: {predicted}"
            )
        lines.append(f"ROC AUC {self.roc_auc:.4f}, calibration error {self.calibration_error:.3f}")
        return "\n".join(lines)


def evaluate(probabilities: Tensor, images: LabeledImages, seed: int = 0) -> ClassificationReport:
    """Score predictions.

    Args:
        probabilities: ``[N, K]``, rows that sum to one.
        images: The N labeled images; their groups are resampled for the intervals.
        seed: Seed of the bootstrap.

    Raises:
        SsgcamError: If torchmetrics, which computes the scores, is not installed.
    """
    metrics = require("torchmetrics.functional.classification", "train")
    labels, count = torch.as_tensor(images.labels), len(images.class_names)
    confusion = metrics.multiclass_confusion_matrix(probabilities, labels, num_classes=count)
    right = probabilities.argmax(1) == labels
    intervals = []
    for index in range(count):
        members = (labels == index).nonzero()[:, 0].tolist()
        groups = [images.groups[member] for member in members]
        intervals.append(recall_interval(right[members], groups, seed))
    return ClassificationReport(
        images.class_names,
        tuple(tuple(row) for row in confusion.tolist()),
        tuple((confusion.diagonal() / confusion.sum(1).double()).tolist()),
        tuple(intervals),
        float(metrics.multiclass_auroc(probabilities, labels, num_classes=count, average="macro")),
        float(metrics.multiclass_calibration_error(probabilities, labels, num_classes=count)),
        len(labels),
        len(set(images.groups)),
    )


def recall_interval(right: Tensor, groups: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """95 % interval of a recall where images come in groups.

    Percentile bootstrap over groups. When all predictions or none are right every resample is the
    same, so the interval is Wilson's with the number of groups as the number of trials.

    Args:
        right: Which predictions for one class were right, ``[N]`` bool.
        groups: The group of each of them.
        seed: Seed of the bootstrap.

    Returns:
        Lower and upper end; NaN without images.
    """
    if not len(right):
        return float("nan"), float("nan")
    if right.all() or not right.any():
        trials = len(set(groups))
        wilson = stats.binomtest(trials * bool(right.all()), trials).proportion_ci(method="wilson")
        return float(wilson.low), float(wilson.high)
    interval = bootstrap_interval(right.to(torch.float64), identity, seed=seed, groups=groups)
    return interval.low, interval.high
