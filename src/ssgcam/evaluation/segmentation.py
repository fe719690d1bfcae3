"""How well do pseudo-masks made of maps and image-level classes cover the objects?

PASCAL VOC's mean IoU (Everingham et al. 2010), the pseudo-masks of Ahn et al. 2019, the boundary
F-score (Csurka et al. 2013). All definitions are those of :mod:`ssgcam.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from ssgcam.core import maps as pipeline
from ssgcam.data import IGNORE, SampleSet
from ssgcam.errors import SsgcamError
from ssgcam.evaluation.board import Board, Metric
from ssgcam.evaluation.contenders import Entrants, Entry
from ssgcam.evaluation.items import Item, batches
from ssgcam.evaluation.result import RECIPE, Chart, Evaluation, Picture, Series
from ssgcam.evaluation.settings import EvaluationSettings
from ssgcam.evaluation.setup import Run, chosen, example
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

LEVELS = 100


def evaluate_segmentation(
    model: LoadedModel,
    samples: SampleSet,
    who: Entrants | None = None,
    *,
    class_index: int | None = None,
    background: float = 0.15,
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
    run = Run(model, samples, who, settings)
    recipe = who.recipe
    lookup = run.classes_of(class_index)
    semantic = samples.semantic and class_index is None and len(samples.class_names) > 1
    names = ("background", *(samples.mask_names if semantic else ("object",)))
    items = _items(samples, lookup, semantic)
    board = run.board(items)
    totals: dict[Entry, Tensor] = {}
    wanted = chosen(len(items), settings.examples)
    shown = []

    def truth(item: Item, photo: Image.Image) -> Tensor:
        assert item.sample.mask is not None
        labels = torch.from_numpy(item.sample.mask.read(photo.size).copy()).long()
        return labels if semantic else torch.where(labels == IGNORE, IGNORE, (labels > 0).long())

    with run.running():
        for batch in batches(items, model, settings, "segmentation", truth):
            inputs = model.preprocessing.normalise(batch.pixels)
            explained = run.explain(inputs, batch.classes)
            for k, (item, labels) in enumerate(zip(batch.items, batch.extras, strict=True)):
                pictures = []
                for entry, maps in explained.maps.items():
                    level = background
                    own = maps[k, : len(item.classes)].cpu()
                    if entry.method == RECIPE and recipe is not None:
                        assert explained.gate is not None
                        level = min(max(recipe.threshold, 1e-6), 1 - 1e-6)
                        gate = explained.gate[k, : len(item.classes)].cpu()
                        own = own * gate[:, None, None]
                    size = (int(labels.shape[0]), int(labels.shape[1]))
                    own = pipeline.resize(own, size) if len(own) else own.new_zeros(0, *size)
                    values = [label + 1 for label in item.labels] if semantic else None
                    predicted = _predicted(own, values, level)
                    _score_image(board, entry, predicted, labels, len(names))
                    counts = _level_counts(own, values, labels, len(names))
                    totals[entry] = totals.get(entry, torch.zeros_like(counts)) + counts
                    if batch.first + k in wanted and entry in run.pictured():
                        seen = maps[k, : max(1, len(item.classes))].amax(0).cpu()
                        title = f"{entry.method}\n{entry.layers}"
                        pictures.append(Picture(title, seen, (), predicted > 0))
                if batch.first + k in wanted:
                    object_mask = (labels > 0) & (labels != IGNORE)
                    shown.append(example(run, item, object_mask, pictures))

    metrics = _metrics(names)
    negatives = sum(not item.labels for item in items)
    notes = run.notes()
    if negatives:
        notes.append(f"{negatives} images have no label: their pseudo-masks are all background.")
    chart = _chart(totals, names)
    return Evaluation(
        task="segmentation",
        facts=run.facts(
            images=f"{len(items)}, {board.groups} groups",
            classes=", ".join(names),
            background=f"score {background:g} of each map's maximum (the recipe: its own threshold)",
            **{"boundary F-score": f"tolerance {TOLERANCE:.2%} of the image's diagonal"},
        ),
        scores=board.scores(metrics),
        differences=board.differences(metrics, run.ours()),
        charts=(chart,),
        examples=tuple(shown),
        notes=(*notes, *_best(chart)),
    )


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


def _level_counts(
    maps: Tensor, values: Sequence[int] | None, truth: Tensor, classes: int
) -> Tensor:
    """Pixels by true label, strongest class and level: ``[C, C, LEVELS + 1]`` int64.

    At the background score ``j / LEVELS`` a pixel has its strongest class if its level is above j.
    """
    counts = torch.zeros(classes * classes * (LEVELS + 1), dtype=torch.long)
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
    counts += slots.bincount(minlength=len(counts))
    return counts.view(classes, classes, LEVELS + 1)


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
            Metric(f"IoU {name}", "confusion", _of_class(index), shown=False)
            for index, name in enumerate(names)
        ),
    ]


def _of_class(index: int) -> Callable[[Tensor], Tensor]:
    return partial(_class_iou, index=index)


def _class_iou(means: Tensor, index: int) -> Tensor:
    return class_iou(means)[..., index]


def _chart(totals: dict[Entry, Tensor], names: Sequence[str]) -> Chart:
    plots: dict[str, tuple[Series, ...]] = {}
    thresholds = tuple(j / LEVELS for j in range(LEVELS))
    for entry, counts in totals.items():
        ious = []
        for j in range(LEVELS):
            confusion = counts[..., j + 1 :].sum(-1)
            confusion[:, 0] += counts[..., : j + 1].sum((-1, -2))
            found = foreground_iou(confusion) if len(names) == 2 else mean_iou(confusion)
            ious.append(float(found.nan_to_num(0.0)))
        line = Series(entry.method, thresholds, tuple(ious))
        plots[entry.layers] = (*plots.get(entry.layers, ()), line)
    y = "foreground IoU" if len(names) == 2 else "mIoU"
    return Chart(
        "segmentation_iou", f"{y} against the background score", "background score",
        f"{y}, all pixels of the set", plots,
    )  # fmt: skip


def _best(chart: Chart) -> list[str]:
    """What each method could reach with the threshold chosen on these very images."""
    best = [
        (max(line.y), line.label, layers, line.x[line.y.index(max(line.y))])
        for layers, lines in chart.plots.items()
        for line in lines
    ]
    found = "; ".join(
        f"{method} ({layers}) {value:.3f} at {at:g}" for value, method, layers, at in best
    )
    return [f"{chart.y_label} at the best background score, chosen on these images: {found}."]
