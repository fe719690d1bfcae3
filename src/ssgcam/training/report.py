"""The result of a training: how good a classifier is on images that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor
from torch.nn import functional

from ssgcam.errors import require
from ssgcam.metrics.bootstrap import bootstrap_interval, identity, resample_counts
from ssgcam.models import LoadedModel
from ssgcam.report.html import Plot, Section, Table, write_html
from ssgcam.report.tables import TableCell
from ssgcam.training.data import LabeledImages
from ssgcam.training.settings import TrainingSettings


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
    def summary(self) -> str:
        """The numbers that are of all classes."""
        return f"ROC AUC {self.roc_auc:.4f}, calibration error {self.calibration_error:.3f}"

    def __str__(self) -> str:
        """A table to print."""
        width = max(len(name) for name in self.class_names)
        lines = [_origin(self)]
        for name, recall, counts in zip(
            self.class_names, self._recalls(), self.confusion, strict=True
        ):
            pairs = zip(counts, self.class_names, strict=True)
            predicted = ", ".join(f"{count} as {other}" for count, other in pairs if count)
            lines.append(f"{name:{width}}  recall {recall}  predicted: {predicted}")
        return "\n".join([*lines, self.summary])

    def table(self) -> Table:
        """A table of recalls and of the confusion matrix, for the HTML report."""
        columns = ["class", "recall", "images", *(f"as {name}" for name in self.class_names)]
        parts = zip(self.class_names, self._recalls(), self.confusion, strict=True)
        rows: list[list[TableCell]] = [
            [name, recall, sum(counts), *counts] for name, recall, counts in parts
        ]
        title = "Recall of each class, and how many images were predicted as which"
        return Table(title, columns, rows, f"{_origin(self)}; {self.summary}.")

    def _recalls(self) -> list[str]:
        pairs = zip(self.recalls, self.intervals, strict=True)
        return [f"{recall:.3f} [{low:.3f}, {high:.3f}]" for recall, (low, high) in pairs]


@dataclass(frozen=True)
class MultiLabelReport:
    """Scores of a classifier of several labels on held-out images.

    Attributes:
        class_names: One for each class.
        average_precisions: Of each class; NaN for a class without images.
        mean_average_precision: Mean over the classes with images, and its 95 % interval (bootstrap
            over groups).
        roc_auc: Area under the ROC curve, mean over the classes with images.
        n: Number of images.
        n_groups: Number of groups they come from.
    """

    class_names: tuple[str, ...]
    average_precisions: tuple[float, ...]
    mean_average_precision: tuple[float, float, float]
    roc_auc: float
    n: int
    n_groups: int

    @property
    def summary(self) -> str:
        """The numbers that are of all classes."""
        value, low, high = self.mean_average_precision
        interval = f"mean average precision {value:.3f} [{low:.3f}, {high:.3f}]"
        return f"{interval}, ROC AUC {self.roc_auc:.4f}"

    def __str__(self) -> str:
        """A table to print."""
        width = max(len(name) for name in self.class_names)
        rows = [f"{name:{width}}  average precision {own:.3f}" for name, own in self.table().rows]
        return "\n".join([_origin(self), *rows, self.summary])

    def table(self) -> Table:
        """A table of average precisions, for the HTML report."""
        rows = list(zip(self.class_names, self.average_precisions, strict=True))
        title, columns = "Average precision of each class", ["class", "average precision"]
        return Table(title, columns, rows, f"{_origin(self)}; {self.summary}.")


def _origin(report: ClassificationReport | MultiLabelReport) -> str:
    return f"{report.n} held-out images of {report.n_groups} groups"


@dataclass(frozen=True)
class TrainingResult:
    """A trained classifier.

    Attributes:
        model: With the best epoch's weights, on the CPU, in eval mode.
        settings: What it was trained with.
        history: For each epoch its ``number``, the ``training_loss``, and the ``score`` and ``loss`` of
            :func:`score_and_loss` on the held-out images, None if none were held out.
        best_epoch: The epoch whose weights were kept, from 1.
        report: Scores of these weights on the held-out images; None if none were held out.
    """

    model: LoadedModel
    settings: TrainingSettings
    history: tuple[dict[str, Any], ...]
    best_epoch: int
    report: ClassificationReport | MultiLabelReport | None

    def to_json(self) -> dict[str, Any]:
        """Everything but the network, for a JSON file."""
        return {
            "class_names": self.model.class_names,
            "settings": asdict(self.settings),
            "best_epoch": self.best_epoch,
            "history": list(self.history),
            "report": asdict(self.report) if self.report else None,
        }

    def write_html(self, path: str | Path) -> None:
        """Write the HTML report: recalls, confusion, the course of the training, settings.

        Args:
            path: The file, ``.html``.

        Raises:
            SsgcamError: If the name doesn't end in .html or the file can't be written.
        """
        sections: list[Section] = []
        warnings = []
        if self.report is None:
            warnings.append(
                "No images were held out, so nothing is known of how good the network is."
            )
        else:
            sections.append(self.report.table())
        if isinstance(self.report, ClassificationReport):
            warnings += [
                f"The class '{name}' has no held-out image."
                for name, counts in zip(self.report.class_names, self.report.confusion, strict=True)
                if not sum(counts)
            ]
        figure = Figure((6, 3.2), layout="constrained")
        axes = figure.subplots()
        for label, name in (
            ("training loss", "training_loss"),
            ("held-out loss", "loss"),
            ("held-out score", "score"),
        ):
            values = np.array([epoch[name] for epoch in self.history], dtype=float)
            axes.plot(range(1, len(self.history) + 1), values, label=label)
        axes.axvline(self.best_epoch, color="0.6", linestyle=":", label="best epoch")
        axes.set(xlabel="epoch")
        axes.legend(frameon=False)
        write_html(
            path,
            f"Training of {self.settings.model}",
            [*sections, Plot("Course of the training", [figure])],
            summary=[f"Epoch {self.best_epoch} of {len(self.history)} was the best."],
            warnings=warnings,
            settings=asdict(self.settings),
        )


def evaluate(
    probabilities: Tensor, images: LabeledImages, seed: int = 0
) -> ClassificationReport | MultiLabelReport:
    """Score predictions.

    Args:
        probabilities: ``[N, K]``; of one label for each image, rows sum to one.
        images: The N labeled images; their groups are resampled for the intervals.
        seed: Seed of the bootstrap.

    Raises:
        SsgcamError: If torchmetrics, which computes the scores, is not installed.
    """
    metrics = require("torchmetrics.functional.classification", "train")
    targets, count = images.targets(), len(images.class_names)
    sizes = len(targets), len(set(images.groups))
    if images.multi_label:
        shown = targets.any(0)
        known = probabilities[:, shown], targets[:, shown].long(), int(shown.sum())
        precisions = torch.full((count,), torch.nan, dtype=torch.float64)
        precisions[shown] = average_precisions(*known[:2])
        interval = _precision_interval(*known[:2], images.groups, seed)
        auc = float(metrics.multilabel_auroc(*known, average="macro"))
        return MultiLabelReport(
            images.class_names,
            tuple(precisions.tolist()),
            (float(precisions[shown].mean()), *interval),
            auc,
            *sizes,
        )
    confusion = metrics.multiclass_confusion_matrix(probabilities, targets, num_classes=count)
    right = probabilities.argmax(1) == targets
    intervals = []
    for index in range(count):
        members = (targets == index).nonzero()[:, 0].tolist()
        groups = [images.groups[member] for member in members]
        intervals.append(recall_interval(right[members], groups, seed))
    return ClassificationReport(
        images.class_names,
        tuple(tuple(row) for row in confusion.tolist()),
        tuple((confusion.diagonal() / confusion.sum(1).double()).tolist()),
        tuple(intervals),
        float(metrics.multiclass_auroc(probabilities, targets, num_classes=count, average="macro")),
        float(metrics.multiclass_calibration_error(probabilities, targets, num_classes=count)),
        *sizes,
    )


def score_and_loss(probabilities: Tensor, images: LabeledImages) -> dict[str, float]:
    """What selects the best epoch, over the classes that occur.

    Returns:
        ``score`` and ``loss``: mean recall and cross-entropy, each class alike; with several labels for
        each image mean average precision and binary cross-entropy.
    """
    targets = images.targets()
    probabilities = probabilities.double().clamp(1e-12, 1)
    if images.multi_label:
        precisions = average_precisions(probabilities, targets)
        loss = functional.binary_cross_entropy(probabilities, targets.double())
        return {"score": float(precisions.nanmean()), "loss": float(loss)}
    share = 1 / torch.bincount(targets).double()[targets]
    share /= share.sum()
    right = (probabilities.argmax(1) == targets).double()
    losses = functional.nll_loss(probabilities.log(), targets, reduction="none")
    return {"score": float(share @ right), "loss": float(share @ losses)}


def average_precisions(scores: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Average precision of each class: the mean precision at its images, from the highest score down.

    Args:
        scores: ``[N, K]``; equal scores count at the last of them.
        targets: ``[N, K]``, 1 for the classes of an image.
        weights: ``[N]``: how often each image counts; once by default.

    Returns:
        ``[K]`` float64; NaN for a class without images.
    """
    weights = torch.ones(len(scores)) if weights is None else weights
    found = []
    for own, truth in zip(scores.T, targets.T, strict=True):
        order = own.argsort(descending=True)
        last = torch.searchsorted(-own[order], -own[order], right=True) - 1
        weight = weights[order].double()
        hits = weight * truth[order]
        precision = (hits.cumsum(0) / weight.cumsum(0).clamp_min(1e-12))[last]
        found.append((hits * precision).sum() / hits.sum())
    return torch.stack(found)


def _precision_interval(
    scores: Tensor, targets: Tensor, groups: Sequence[str], seed: int, samples: int = 500
) -> tuple[float, float]:
    """95 % interval of the mean average precision, groups resampled."""
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(samples):
        weights = resample_counts(len(names), 1, generator)[0, group_of]
        values.append(float(average_precisions(scores, targets, weights).nanmean()))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


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
