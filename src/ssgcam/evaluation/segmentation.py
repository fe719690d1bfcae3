"""Do pseudo-masks that are computed from maps cover the objects?

One confusion matrix of the whole set (PASCAL VOC; Ahn et al. 2019, CVPR); for a binary task all three
numbers that papers call IoU; the boundary F-score (Csurka et al. 2013, BMVC). All definitions are
those of :mod:`ssgcam.metrics`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from ssgcam import metrics
from ssgcam.core import fusion
from ssgcam.data import IGNORE, SampleSet
from ssgcam.evaluation.maps import RECIPE, BatchMaps, MapSource, MethodsCompared
from ssgcam.evaluation.report import Chart, Drawn, Evaluation, curve_chart
from ssgcam.evaluation.run import Batch, EvaluationSettings, Item, Run
from ssgcam.evaluation.scores import Metric, Parts, ScoreTable
from ssgcam.metrics.boundary import TOLERANCE
from ssgcam.metrics.checks import check
from ssgcam.models import LoadedModel

#: The background scores of the curve.
BACKGROUNDS = torch.arange(100, dtype=torch.float64) / 100
LEGEND = "First column: true outline. Others: the map and the outline of its pseudo-mask."


def evaluate_segmentation(
    model: LoadedModel,
    samples: SampleSet,
    methods: MethodsCompared | None = None,
    *,
    classes: int | str | None = None,
    background: float = 0.15,
    calibration: SampleSet | None = None,
    settings: EvaluationSettings | None = None,
) -> Evaluation:
    """Score pseudo-masks against masks at the images' own size.

    For each class that the image shows (its labels) the map divided by its maximum, against a
    constant background; argmax. An image without labels is all background. Masks that tell the
    classes apart make one confusion matrix of all classes; masks that only tell objects from
    background make a binary task, in which every class of the image is the object. A recipe has its
    own threshold and gate instead.

    Args:
        model: The network.
        samples: Images with labels and masks.
        methods: Methods, layers and recipe; the gradient methods on automatic layers if None.
        classes: Explain this class of the network, by index or name, in every image that has a
            label, and take all foreground as the object.
        background: Score of the background channel, in (0, 1).
        calibration: Other images with masks, on which the background score of each method and
            choice of layers is chosen instead (the highest mIoU, or foreground IoU). A fixed score
            favors the method whose values happen to fit it.
        settings: Batch size, seed, ...

    Returns:
        Scores (a binary task: the three IoUs of papers; else mIoU and each class's IoU; the boundary
        F-score), paired differences, IoU against the background score, and examples.

    Raises:
        SsgcamError: If an image has no mask, classes don't fit the network, or a setting is out of
            range.
    """
    check(0 < background < 1, f"the background score is {background}; pass one between 0 and 1")
    run = Run("segmentation", model, samples, methods, settings)
    task = _Task(run, samples, run.class_index(classes))
    recipe = run.compared.recipe
    backgrounds = dict.fromkeys(run.sources, background)
    if calibration is not None:
        backgrounds = _calibrated(run, task, _Task(run, calibration, run.class_index(classes)))
    if recipe is not None:
        backgrounds[run.sources[-1]] = recipe.threshold
    table = task.accumulate(backgrounds)

    def draw(found: BatchMaps, source: MapSource, k: int, item: Item, labels: Tensor) -> Drawn:
        scores, _ = task.strongest(found, source, k, item, labels)
        return scores, [], scores > backgrounds[source]

    notes = []
    negatives = sum(not item.labels for item in task.items)
    if negatives:
        notes.append(f"Images without a label, whose pseudo-masks are all background: {negatives}.")
    if len(task.names) == 2:
        notes += _left_out(table)
    rule = f"score {background:g} of each map's maximum"
    if calibration is not None:
        rule = f"the best score for each line on {len(calibration)} calibration images"
        at = "; ".join(f"{source} {value:g}" for source, value in backgrounds.items())
        notes.append(f"Background scores: {at}.")
    if recipe is not None:
        rule += "; the recipe has its own threshold"
    chart, best = _chart(table, task.names)
    facts = {
        "images": table.size,
        "classes": ", ".join(task.names),
        "background": rule,
        "boundary F-score": f"tolerance {TOLERANCE:.2%} of the image's diagonal",
    }
    examples = run.examples(
        task.items, task.read, draw, lambda labels: (labels > 0) & (labels != IGNORE)
    )
    return run.evaluation(
        table, _metrics(task.names), facts, [*notes, best],
        charts=(chart,), examples=tuple(examples), legend=LEGEND,
    )  # fmt: skip


class _Task:
    """The images of one set, their label masks, and their maps at the masks' size."""

    def __init__(self, run: Run, samples: SampleSet, wanted: int | None) -> None:
        lacking = [sample.name for sample in samples if sample.mask is None]
        check(
            len(samples) and not lacking,
            f"'{lacking[0] if lacking else samples.root}' has no mask; segmentation needs a mask for "
            "every image (localization takes boxes)",
        )
        self.run = run
        self.semantic = samples.semantic and wanted is None and len(samples.class_names) > 1
        self.names = ("background", *(samples.mask_names if self.semantic else ("object",)))
        mapping = run.class_mapping(samples, wanted)
        self.items = []
        for sample in samples:
            classes = [mapping[label] for label in sample.labels]
            if not self.semantic:  # one object, whatever its classes: each class once
                classes = list(dict.fromkeys(classes))
            self.items.append(Item(sample, sample.labels, tuple(classes)))

    def accumulate(self, backgrounds: dict[MapSource, float] | None, title: str = "") -> ScoreTable:
        """The parts of all images; without background scores only the counts for the curve."""

        def score(batch: Batch[Tensor], found: BatchMaps) -> Parts:
            parts: Parts = {}
            for source in found.maps:
                background = backgrounds[source] if backgrounds else None
                rows = []
                for k, (item, labels) in enumerate(zip(batch.items, batch.extras, strict=True)):
                    strongest = self.strongest(found, source, k, item, labels)
                    rows.append(self._parts(*strongest, labels, background))
                for part in rows[0]:
                    parts[source, part] = torch.stack([own[part] for own in rows])
                parts[source, "levels"] = parts[source, "levels"].sum(0, keepdim=True)
            return parts

        chosen = None if backgrounds is None else sorted(backgrounds.values())
        return self.run.accumulate(
            self.items, self.read, score, self.names, chosen, title=title, pooled=["levels"]
        )

    def read(self, item: Item, photo: Image.Image) -> Tensor:
        """The label mask ``[H, W]`` of an item; called in a thread."""
        assert item.sample.mask is not None
        labels = torch.from_numpy(item.sample.mask.read(photo.size).copy()).long()
        return labels if self.semantic else labels.where(labels == IGNORE, (labels > 0).long())

    def strongest(
        self, found: BatchMaps, source: MapSource, k: int, item: Item, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score and mask value of each pixel's strongest class in the k-th image, each ``[H, W]``."""
        present = len(item.classes)
        if not present:
            return torch.zeros(labels.shape), torch.zeros_like(labels)
        maps = found.maps[source][k, :present].cpu()
        if source.method == RECIPE and found.gate is not None:
            maps = maps * found.gate[k, :present].cpu()[:, None, None]
        maps = fusion.resize(maps, (int(labels.shape[0]), int(labels.shape[1])))
        scores, classes = metrics.strongest_class(maps[None], torch.ones(1, present))
        values = [label + 1 for label in item.labels] if self.semantic else [1] * present
        return scores[0], torch.tensor(values)[classes[0]]

    def _parts(
        self, scores: Tensor, values: Tensor, labels: Tensor, background: float | None
    ) -> dict[str, Tensor]:
        """The parts of one image; ``"levels"`` counts pixels by true class, strongest class, score."""
        classes = len(self.names)
        slot = torch.where(labels == IGNORE, -1, labels * classes + values)
        counts = metrics.score_histogram(
            scores[None], slot[None], BACKGROUNDS, classes=classes**2, strict=True
        )
        parts = {"levels": counts.view(classes, classes, -1)}
        if background is not None:
            predicted = torch.where(scores > background, values, 0)
            parts["confusion"] = metrics.confusion_matrix(predicted, labels, classes)
            parts["boundary"] = metrics.boundary_parts(predicted, labels, classes)
            if classes == 2:
                parts["image"] = metrics.image_ious(parts["confusion"][None])[0]
        return parts


def _calibrated(run: Run, task: _Task, other: _Task) -> dict[MapSource, float]:
    """The background score with the best IoU on other images, for each source; of equals the lowest."""
    check(
        other.names == task.names,
        f"the calibration images have the classes {', '.join(other.names)}, those that are scored "
        f"{', '.join(task.names)}; give sets of the same classes",
    )
    table = other.accumulate(None, "calibration")
    return {
        source: float(BACKGROUNDS[1 + int(_level_ious(table, source)[1:].argmax())])
        for source in run.sources
    }


def _level_ious(table: ScoreTable, source: MapSource) -> Tensor:
    """Foreground IoU (two classes) or mIoU at each of the background scores, ``[100]``."""
    counts = table.total(source, "levels")
    above = metrics.counts_from_above(counts)[..., 1:]
    confusions = above.permute(2, 0, 1).clone()
    confusions[..., 0] += (counts.sum(-1, keepdim=True) - above).sum(1).T
    score = metrics.foreground_iou if len(counts) == 2 else metrics.mean_iou
    return score(confusions).nan_to_num(0.0)


def _chart(table: ScoreTable, names: Sequence[str]) -> tuple[Chart, str]:
    """IoU against the background score, and what each method reaches with its best score."""
    y_label = "foreground IoU" if len(names) == 2 else "mIoU"
    curves = [(source, BACKGROUNDS, _level_ious(table, source)) for source in table.sources]
    best = [
        f"{source} {float(ious.max()):.3f} at {float(levels[ious.argmax()]):g}"
        for source, levels, ious in curves
    ]
    labels = "background score", f"{y_label}, all pixels of the set"
    title = f"{y_label} against the background score"
    chart = curve_chart("segmentation_iou", title, labels, curves)
    note = (
        f"{chart.y_label} at the best background score, chosen on the scored images (an upper "
        f"bound): {'; '.join(best)}."
    )
    return chart, note


def _left_out(table: ScoreTable) -> Iterator[str]:
    """Images that the mean per-image IoU leaves out."""
    counts = [
        table.count(source, "image") - int(table.total(source, "image")[1])
        for source in table.sources
    ]
    if any(counts):
        by = ", ".join(f"{s} {count}" for s, count in zip(table.sources, counts, strict=True))
        by = f"{counts[0]} by every line" if len({*counts}) == 1 else by
        yield f"The per-image IoU leaves out images whose masks are both empty: {by}."


def _metrics(names: Sequence[str]) -> list[Metric]:
    boundary = Metric("boundary F", "boundary", metrics.mean_of_ratios)
    if len(names) == 2:
        return [
            Metric("foreground IoU", "confusion", metrics.foreground_iou),
            Metric("mean IoU with background", "confusion", metrics.mean_iou),
            Metric("per-image foreground IoU", "image", metrics.ratio),
            boundary,
        ]
    rows = [Metric("mIoU", "confusion", metrics.mean_iou), boundary]
    for index, name in enumerate(names):
        iou = partial(lambda means, k: metrics.class_iou(means)[..., k], k=index)
        rows.append(Metric(f"IoU {name}", "confusion", iou, shown=False))
    return rows
