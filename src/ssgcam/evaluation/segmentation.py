"""How well do pseudo-masks made of maps and image-level classes cover the objects?

PASCAL VOC's mean IoU (Everingham et al. 2010), the pseudo-masks of Ahn et al. 2019, the boundary
F-score (Csurka et al. 2013). All definitions are those of :mod:`ssgcam.metrics`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from ssgcam.core import fusion as pipeline
from ssgcam.data import IGNORE, SampleSet
from ssgcam.errors import SsgcamError
from ssgcam.evaluation.board import Board, Metric
from ssgcam.evaluation.contenders import Entrants
from ssgcam.evaluation.figures import Entry, Example, Picture
from ssgcam.evaluation.items import Batch, Item
from ssgcam.evaluation.levels import best_background, best_levels, level_chart, level_counts
from ssgcam.evaluation.result import RECIPE, Evaluation
from ssgcam.evaluation.settings import EvaluationSettings
from ssgcam.evaluation.setup import Run, counted, example
from ssgcam.metrics import (
    boundary_f_score,
    class_iou,
    confusion_matrix,
    foreground_iou,
    image_ious,
    mean_iou,
    mean_of_ratios,
    pseudo_masks,
    ratio,
)
from ssgcam.metrics.boundary import TOLERANCE
from ssgcam.models import LoadedModel


def evaluate_segmentation(
    model: LoadedModel,
    samples: SampleSet,
    who: Entrants | None = None,
    *,
    class_index: int | None = None,
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
        who: Methods, layers and recipe; the gradient methods on automatic layers if None.
        class_index: Explain this class of the network in every image that has a label, and take
            all foreground as the object.
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
    settings = settings or EvaluationSettings()
    who = who or Entrants()
    run = Run("segmentation", model, samples, who, settings)
    task = _Task(run, samples, class_index)
    board = run.board(task.items)
    with run.running():
        backgrounds = _backgrounds(run, task, background, class_index, calibration)
        shown = [
            _example(run, task, backgrounds, *found)
            for batch in run.few(task.items, task.truth)
            for found in task.images(batch, None)
        ]
        for batch in run.batches(
            board, task.items, task.truth, task.names, sorted(backgrounds.values())
        ):
            for item, labels, found in task.images(batch, board):
                for entry, maps in found.items():
                    predicted = _predicted(maps, task.values(item), backgrounds[entry])
                    _score_image(board, entry, predicted, labels, len(task.names))
                    board.add_total(entry, "levels", task.levels(item, maps, labels))

    metrics = _metrics(task.names)
    negatives = sum(not item.labels for item in task.items)
    notes = run.notes(board)
    if negatives:
        notes.append(f"Images without a label, whose pseudo-masks are all background: {negatives}.")
    if len(task.names) == 2:
        notes += _skipped(board)
    chart = level_chart({e: board.total(e, "levels") for e in run.entries}, task.names)
    rule = f"score {background:g} of each map's maximum"
    if calibration is not None:
        rule = f"the best score for each line on {len(calibration)} calibration images"
        at = "; ".join(f"{e.method} ({e.layers}) {value:g}" for e, value in backgrounds.items())
        notes.append(f"Background scores: {at}.")
    if who.recipe is not None:
        rule += "; the recipe has its own threshold"
    return Evaluation(
        task="segmentation",
        facts=run.facts(
            images=counted(len(task.items), board.groups),
            classes=", ".join(task.names),
            background=rule,
            **{"boundary F-score": f"tolerance {TOLERANCE:.2%} of the image's diagonal"},
        ),
        scores=board.scores(metrics),
        differences=board.differences(metrics, run.ours()),
        charts=(chart,),
        examples=tuple(shown),
        notes=(*notes, best_levels(chart)),
    )


class _Task:
    """The images of one set, their label masks, and their maps at the masks' size."""

    def __init__(self, run: Run, samples: SampleSet, class_index: int | None) -> None:
        self.run = run
        self.semantic = samples.semantic and class_index is None and len(samples.class_names) > 1
        self.names = ("background", *(samples.mask_names if self.semantic else ("object",)))
        self.items = _items(samples, run.classes_of(class_index, samples), self.semantic)

    def values(self, item: Item) -> list[int] | None:
        """The mask values of an item's maps; None where all are 1."""
        return [label + 1 for label in item.labels] if self.semantic else None

    def levels(self, item: Item, maps: Tensor, labels: Tensor) -> Tensor:
        """The item's pixels by :func:`level_counts`."""
        return level_counts(maps, self.values(item), labels, len(self.names))

    def images(
        self, batch: Batch[Tensor], board: Board | None
    ) -> Iterator[tuple[Item, Tensor, dict[Entry, Tensor]]]:
        """Item, label mask ``[H, W]`` and each entry's maps ``[K, H, W]`` of each image of a batch."""
        inputs = self.run.model.preprocessing.normalize(batch.pixels)
        explained = self.run.explain(inputs, batch.classes, board)
        for k, (item, labels) in enumerate(zip(batch.items, batch.extras, strict=True)):
            size = (int(labels.shape[0]), int(labels.shape[1]))
            present = len(item.classes)
            found = {}
            for entry, maps in explained.maps.items():
                own = maps[k, :present].cpu()
                if entry.method == RECIPE and explained.gate is not None:
                    own = own * explained.gate[k, :present].cpu()[:, None, None]
                found[entry] = pipeline.resize(own, size) if present else own.new_zeros(0, *size)
            yield item, labels, found

    def truth(self, item: Item, photo: Image.Image) -> Tensor:
        """The label mask ``[H, W]`` of an item; called in a thread."""
        assert item.sample.mask is not None
        labels = torch.from_numpy(item.sample.mask.read(photo.size).copy()).long()
        if self.semantic:
            return labels
        return torch.where(labels == IGNORE, IGNORE, (labels > 0).long())


def _backgrounds(
    run: Run,
    task: _Task,
    background: float,
    class_index: int | None,
    calibration: SampleSet | None,
) -> dict[Entry, float]:
    """The background score of each entry: the stated one, the calibrated one, the recipe's own."""
    found = dict.fromkeys(run.entries, background)
    if calibration is not None:
        other = _Task(run, calibration, class_index)
        if other.names != task.names:
            raise SsgcamError(
                f"the calibration images have the classes {', '.join(other.names)}, those that are "
                f"scored {', '.join(task.names)}; give sets of the same classes"
            )
        board = run.board(other.items)
        for batch in run.batches(board, other.items, other.truth, other.names, title="calibration"):
            for item, labels, maps in other.images(batch, None):
                for entry, own in maps.items():
                    board.add_total(entry, "levels", other.levels(item, own, labels))
        found = {entry: best_background(board.total(entry, "levels")) for entry in run.entries}
    recipe = run.who.recipe
    if recipe is not None:
        found[run.entries[-1]] = min(max(recipe.threshold, 1e-6), 1 - 1e-6)
    return found


def _example(
    run: Run,
    task: _Task,
    backgrounds: dict[Entry, float],
    item: Item,
    labels: Tensor,
    maps: dict[Entry, Tensor],
) -> Example:
    pictures = []
    for entry in run.pictured():
        own = maps[entry]
        predicted = _predicted(own, task.values(item), backgrounds[entry])
        seen = own.amax(0) if len(own) else torch.zeros_like(labels).float()
        pictures.append(Picture(entry, seen, (), predicted > 0))
    return example(run, item, (labels > 0) & (labels != IGNORE), pictures)


def _skipped(board: Board) -> list[str]:
    """Images that the mean per-image IoU leaves out."""
    counts = {e: board.count(e, "image") - int(board.total(e, "image")[1]) for e in board.entries}
    if not any(counts.values()):
        return []
    told = ", ".join(f"{entry.method} ({entry.layers}) {n}" for entry, n in counts.items())
    if len({*counts.values()}) == 1:
        told = f"{counts[board.entries[0]]} by every line"
    return [f"The per-image IoU leaves out images whose masks are both empty: {told}."]


def _items(samples: SampleSet, lookup: dict[int, int], semantic: bool) -> list[Item]:
    lacking = [sample for sample in samples if sample.mask is None]
    if lacking or not len(samples):
        where = f"'{lacking[0].name}'" if lacking else f"'{samples.root}'"
        raise SsgcamError(
            f"{where} has no mask; segmentation needs a mask for every image (localization takes "
            "boxes)"
        )
    items = []
    for sample in samples:
        labels = sample.labels
        classes = [lookup[label] for label in labels]
        if not semantic:  # one object, whatever its classes: each class of the network once
            classes = list(dict.fromkeys(classes))
        items.append(Item(sample, labels, tuple(classes)))
    return items


def _predicted(maps: Tensor, values: Sequence[int] | None, background: float) -> Tensor:
    """Maps ``[K, H, W]`` of the classes present to a label mask ``[H, W]``."""
    if not len(maps):
        return torch.zeros(maps.shape[1:], dtype=torch.long)
    present = torch.ones(1, len(maps), dtype=torch.bool)
    ranks = pseudo_masks(maps[None], present, background)[0]
    return torch.tensor([0, *(values or [1] * len(maps))])[ranks]


def _score_image(
    board: Board, entry: Entry, predicted: Tensor, truth: Tensor, classes: int
) -> None:
    confusion = confusion_matrix(predicted, truth, classes)[None]
    board.add(entry, "confusion", confusion)
    if classes == 2:
        board.add(entry, "image", image_ious(confusion))
    outlines = torch.zeros(1, classes - 1, 2, dtype=torch.float64)
    void = truth == IGNORE
    occurring = {*torch.cat([predicted, truth]).flatten().tolist()} - {0, IGNORE}
    for label in occurring:
        found = boundary_f_score(predicted == label, truth == label, void)
        if found == found:  # NaN: no boundary pixel counts
            outlines[0, label - 1] = torch.tensor([found, 1.0])
    board.add(entry, "boundary", outlines)


def _metrics(names: Sequence[str]) -> list[Metric]:
    boundary = Metric("boundary F", "boundary", mean_of_ratios)
    if len(names) == 2:
        return [
            Metric("foreground IoU", "confusion", foreground_iou),
            Metric("mean IoU with background", "confusion", mean_iou),
            Metric("per-image foreground IoU", "image", ratio),
            boundary,
        ]
    return [
        Metric("mIoU", "confusion", mean_iou),
        boundary,
        *(
            Metric(f"IoU {name}", "confusion", partial(_class_iou, index=index), shown=False)
            for index, name in enumerate(names)
        ),
    ]


def _class_iou(means: Tensor, index: int) -> Tensor:
    return class_iou(means)[..., index]
