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
from ssgcam.errors import SsgcamError
from ssgcam.evaluation.maps import RECIPE, BatchMaps, MapSource, MethodsCompared
from ssgcam.evaluation.report import Chart, Evaluation, curve_chart
from ssgcam.evaluation.run import (
    Batch,
    EvaluationSettings,
    Item,
    Picture,
    Run,
    count_text,
)
from ssgcam.evaluation.scores import Metric, Parts, ScoreTable
from ssgcam.metrics.boundary import TOLERANCE
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
    run = Run("segmentation", model, samples, methods, settings)
    task = _Task(run, samples, run.class_index(classes))
    recipe = run.compared.recipe
    backgrounds = dict.fromkeys(run.sources, background)
    if calibration is not None:
        backgrounds = _calibrated(run, task, _Task(run, calibration, run.class_index(classes)))
    if recipe is not None:
        backgrounds[run.sources[-1]] = min(max(recipe.threshold, 1e-6), 1 - 1e-6)
    table = task.accumulate(backgrounds)

    def draw(found: BatchMaps, source: MapSource, k: int, item: Item, labels: Tensor) -> Picture:
        maps = task.maps(found, source, k, item, labels)
        strongest = maps.amax(0) if len(maps) else torch.zeros(labels.shape)
        return strongest, [], task.predicted(maps, item, backgrounds[source]) > 0

    notes = []
    negatives = sum(not item.labels for item in task.items)
    if negatives:
        notes.append(f"Images without a label, whose pseudo-masks are all background: {negatives}.")
    if len(task.names) == 2:
        notes += _left_out(table)
    rule = f"score {background:g} of each map's maximum"
    if calibration is not None:
        rule = f"the best score for each line on {len(calibration)} calibration images"
        at = "; ".join(f"{s.method} ({s.layers}) {value:g}" for s, value in backgrounds.items())
        notes.append(f"Background scores: {at}.")
    if recipe is not None:
        rule += "; the recipe has its own threshold"
    chart, best = _chart(table, task.names)
    facts = {
        "images": count_text(len(task.items), table.groups),
        "classes": ", ".join(task.names),
        "background": rule,
        "boundary F-score": f"tolerance {TOLERANCE:.2%} of the image's diagonal",
    }
    return run.evaluation(
        table, _metrics(task.names), facts, [*notes, best],
        charts=(chart,), legend=LEGEND, examples=run.examples(
            task.items, task.read, draw, lambda labels: (labels > 0) & (labels != IGNORE)
        ),
    )  # fmt: skip


class _Task:
    """The images of one set, their label masks, and their maps at the masks' size."""

    def __init__(self, run: Run, samples: SampleSet, wanted: int | None) -> None:
        lacking = [sample for sample in samples if sample.mask is None]
        if lacking or not len(samples):
            where = lacking[0].name if lacking else samples.root
            raise SsgcamError(
                f"'{where}' has no mask; segmentation needs a mask for every image (localization "
                "takes boxes)"
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
                rows: dict[str, list[Tensor]] = {}
                for k, (item, labels) in enumerate(zip(batch.items, batch.extras, strict=True)):
                    maps = self.maps(found, source, k, item, labels)
                    own = {"levels": self._levels(maps, item, labels)}
                    if backgrounds is not None:
                        predicted = self.predicted(maps, item, backgrounds[source])
                        own |= _image_parts(predicted, labels, len(self.names))
                    for part, row in own.items():
                        rows.setdefault(part, []).append(row)
                parts |= {(source, part): torch.stack(found) for part, found in rows.items()}
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

    def maps(
        self, found: BatchMaps, source: MapSource, k: int, item: Item, labels: Tensor
    ) -> Tensor:
        """The maps ``[K, H, W]`` of the classes present in the k-th image, at its label mask's size."""
        present = len(item.classes)
        own = found.maps[source][k, :present].cpu()
        if not present:
            return own.new_zeros(0, *labels.shape)
        if source.method == RECIPE and found.gate is not None:
            own = own * found.gate[k, :present].cpu()[:, None, None]
        return fusion.resize(own, (int(labels.shape[0]), int(labels.shape[1])))

    def predicted(self, maps: Tensor, item: Item, background: float) -> Tensor:
        """The label mask ``[H, W]`` of the maps ``[K, H, W]`` of the classes present."""
        if not len(maps):
            return torch.zeros(maps.shape[1:], dtype=torch.long)
        present = torch.ones(1, len(maps), dtype=torch.bool)
        return self._values(item, 0)[metrics.pseudo_masks(maps[None], present, background)[0]]

    def _levels(self, maps: Tensor, item: Item, labels: Tensor) -> Tensor:
        """Pixels by true class, class of the strongest map and background scores below that map.

        Returns:
            ``[C, C, 101]``.
        """
        classes = len(self.names)
        shares, strongest = torch.zeros(labels.shape).double(), torch.zeros_like(labels)
        if len(maps):
            usable = maps.isfinite().all(-1).all(-1)[:, None, None]
            safe = torch.where(usable, maps, 0.0).double()
            shares, strongest = (safe / (safe.amax((1, 2), keepdim=True) + 1e-5)).max(0)
            strongest = self._values(item)[strongest]
        slot = torch.where(labels == IGNORE, -1, labels * classes + strongest)
        counts = metrics.score_histogram(
            shares[None], slot[None], BACKGROUNDS, classes=classes**2, strict=True
        )
        return counts.view(classes, classes, -1)

    def _values(self, item: Item, *before: int) -> Tensor:
        """The mask values of an item's maps."""
        values = [label + 1 for label in item.labels] if self.semantic else [1] * len(item.classes)
        return torch.tensor([*before, *values])


def _image_parts(predicted: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
    confusion = metrics.confusion_matrix(predicted, labels, classes)
    boundary = metrics.boundary_parts(predicted, labels, classes)
    parts = {"confusion": confusion, "boundary": boundary}
    return parts | ({"image": metrics.image_ious(confusion[None])[0]} if classes == 2 else {})


def _calibrated(run: Run, task: _Task, other: _Task) -> dict[MapSource, float]:
    """The background score with the best IoU on other images, for each source; of equals the lowest."""
    if other.names != task.names:
        raise SsgcamError(
            f"the calibration images have the classes {', '.join(other.names)}, those that are "
            f"scored {', '.join(task.names)}; give sets of the same classes"
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
    curves, best = {}, []
    for source in table.sources:
        ious = _level_ious(table, source)
        at = float(BACKGROUNDS[ious.argmax()])
        best.append(f"{source.method} ({source.layers}) {float(ious.max()):.3f} at {at:g}")
        curves[source] = BACKGROUNDS, ious
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
    counts = {
        f"{source.method} ({source.layers})": table.count(source, "image")
        - int(table.total(source, "image")[1])
        for source in table.sources
    }
    if any(counts.values()):
        by = ", ".join(f"{name} {count}" for name, count in counts.items())
        if len({*counts.values()}) == 1:
            by = f"{next(iter(counts.values()))} by every line"
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
        iou = partial(_class_iou, index=index)
        rows.append(Metric(f"IoU {name}", "confusion", iou, shown=False))
    return rows


def _class_iou(means: Tensor, index: int) -> Tensor:
    return metrics.class_iou(means)[..., index]
