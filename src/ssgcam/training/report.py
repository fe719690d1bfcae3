"""How good is a classifier on photos it did not train on: the report at the end of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats
from torch import Tensor

from ssgcam.errors import require

RESAMPLES = 2000


@dataclass(frozen=True)
class ClassificationReport:
    """Scores of a classifier on held-out photos.

    Attributes:
        class_names: One for each class.
        confusion: ``confusion[i][j]`` photos of class i were called class j.
        recalls: Share of each class called right; NaN for a class without photos.
        intervals: 95 % interval of each recall, see :func:`recall_interval`.
        roc_auc: Area under the ROC curve, one class against the rest, mean over classes.
        calibration_error: Expected calibration error of the top class, 15 bins, in [0, 1].
        n: Number of photos.
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
        """Mean recall of the classes that have photos (balanced accuracy)."""
        return float(np.nanmean(self.recalls))

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, for a JSON file."""
        return asdict(self)

    def __str__(self) -> str:
        """A table to print."""
        width = max(len(name) for name in self.class_names)
        lines = [f"{self.n} held-out photos of {self.n_groups} groups"]
        for name, recall, (low, high), row in zip(
            self.class_names, self.recalls, self.intervals, self.confusion, strict=True
        ):
            called = ", ".join(
                f"{count} called {other}"
                for count, other in zip(row, self.class_names, strict=True)
                if count
            )
            lines.append(f"{name:{width}}  recall {recall:.3f} [{low:.3f}, {high:.3f}]  {called}")
        lines.append(f"ROC AUC {self.roc_auc:.4f}, calibration error {self.calibration_error:.3f}")
        return "\n".join(lines)


def report(
    probabilities: Tensor,
    labels: Tensor,
    groups: Sequence[str],
    class_names: tuple[str, ...],
    seed: int = 0,
) -> ClassificationReport:
    """Score predictions; torchmetrics does the counting.

    Args:
        probabilities: ``[N, K]``, rows that sum to one.
        labels: ``[N]`` class indices.
        groups: N groups, resampled for the intervals.
        class_names: K names.
        seed: Of the bootstrap.

    Returns:
        The report.

    Raises:
        SsgcamError: If torchmetrics is not installed.
    """
    metrics = require("torchmetrics.functional.classification", "train")
    count = len(class_names)
    confusion = metrics.multiclass_confusion_matrix(probabilities, labels, num_classes=count)
    total = confusion.sum(1).double()
    right = (probabilities.argmax(1) == labels).numpy()
    truth = labels.numpy()
    return ClassificationReport(
        class_names,
        tuple(tuple(row) for row in confusion.tolist()),
        tuple((confusion.diagonal().double() / total).tolist()),
        tuple(
            recall_interval(right[truth == index], np.asarray(groups)[truth == index], seed)
            for index in range(count)
        ),
        float(metrics.multiclass_auroc(probabilities, labels, num_classes=count, average="macro")),
        float(metrics.multiclass_calibration_error(probabilities, labels, num_classes=count)),
        len(labels),
        len(set(groups)),
    )


def recall_interval(
    right: np.ndarray[Any, np.dtype[np.bool_]], groups: np.ndarray[Any, Any], seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the share of right calls when photos come in groups.

    Percentile bootstrap that resamples groups. When all calls or none are right every resample is
    the same, so the interval is Wilson's with the number of groups as the number of trials.

    Args:
        right: Which calls of one class were right.
        groups: The group of each of them.
        seed: Of the bootstrap.

    Returns:
        Lower and upper end; NaN without photos.
    """
    if not len(right):
        return float("nan"), float("nan")
    names, group_of = np.unique(groups, return_inverse=True)
    hits = np.bincount(group_of, weights=right)
    sizes = np.bincount(group_of)
    if right.all() or not right.any():
        wins = len(names) if right.all() else 0
        wilson = stats.binomtest(wins, len(names)).proportion_ci(method="wilson")
        return float(wilson.low), float(wilson.high)
    drawn = np.random.default_rng(seed).integers(len(names), size=(RESAMPLES, len(names)))
    shares = hits[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.percentile(shares, [2.5, 97.5])
    return float(low), float(high)
