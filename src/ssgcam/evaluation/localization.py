"""How well do maps find objects that are known by boxes or masks?

Choe et al. 2020, "Evaluating Weakly Supervised Object Localization Methods Right" (CVPR): MaxBoxAcc,
MaxBoxAccV2, PxAP; and GT-known, Top-1 and Top-5 Loc and the pointing game. All definitions are those
of :mod:`ssgcam.metrics`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from ssgcam import metrics
from ssgcam.data import SampleSet
from ssgcam.evaluation.maps import BatchMaps, MapSource, MethodsCompared
from ssgcam.evaluation.report import Chart, Drawn, Evaluation, curve_chart
from ssgcam.evaluation.run import Batch, EvaluationSettings, Item, Run
from ssgcam.evaluation.scores import Metric, Parts, ScoreTable
from ssgcam.metrics import SCORES, TAUS
from ssgcam.metrics.checks import check
from ssgcam.metrics.pointing import TOLERANCE
from ssgcam.models import LoadedModel

EVERY = 5  # the charts keep every fifth of the 1001 points of a curve
LEGEND = (
    "First column: true boxes or outline. Others: the map and, if boxes are known, the box of its "
    "largest contour at the threshold of MaxBoxAcc."
)


def _best_iou(histogram: Tensor) -> Tensor:
    """The highest IoU at one threshold for the whole set."""
    return metrics.pixel_curves(histogram)[2].nan_to_num(0.0).amax(-1)


#: After PxAP; those of boxes or of the pointing game are left out where some items lack them.
METRICS = (
    Metric("best pixel IoU", "pixels", _best_iou, shown=False),
    Metric("MaxBoxAcc", "boxes", metrics.max_box_acc),
    Metric("MaxBoxAccV2", "boxes", metrics.max_box_acc_v2),
    Metric("GT-known", "fixed", lambda means: means[..., 0]),
    Metric("Top-1 Loc", "fixed", lambda means: means[..., 1]),
    Metric("Top-5 Loc", "fixed", lambda means: means[..., 2]),
    Metric("pointing game", "pointing", metrics.mean_of_ratios),
)


@dataclass(frozen=True, eq=False)
class Truth:
    """Ground truth of one item at the original size.

    Attributes:
        boxes: ``[K, 4]`` inclusive; K is 0 in a set without boxes.
        mask: The object, ``[H, W]`` bool: from a mask, or the filled boxes.
        ignore: Pixels that don't count, ``[H, W]`` bool.
        near: Where a maximum hits, ``[H, W]`` bool; None if the image is too small for the pointing
            game.
    """

    boxes: Tensor
    mask: Tensor
    ignore: Tensor
    near: Tensor | None


def evaluate_localization(
    model: LoadedModel,
    samples: SampleSet,
    methods: MethodsCompared | None = None,
    *,
    classes: int | str | None = None,
    tau: float = 0.15,
    settings: EvaluationSettings | None = None,
) -> Evaluation:
    """Score maps against boxes, and against masks if the set has them.

    An item is an image and one of its classes; the map of that class is scored against the boxes
    (or the mask) of that class. Images without any object are left out and counted.

    Args:
        model: The network.
        samples: Images with labels and boxes or masks.
        methods: Methods, layers and recipe; the gradient methods on automatic layers if None.
        classes: Explain this class of the network for every object, by index or name.
        tau: The fixed threshold of GT-known, Top-1 and Top-5 Loc, a share of the map's maximum,
            rounded to thousandths.
        settings: Batch size, seed, ...

    Returns:
        Scores, paired differences, curves and examples. With boxes: MaxBoxAcc, MaxBoxAccV2,
        GT-known, Top-1 and Top-5 Loc. PxAP (PxAP-box without masks), the best pixel IoU at one
        threshold for the set, and the pointing game if images are large enough.

    Raises:
        SsgcamError: If the set has neither boxes nor masks, some objects lack theirs, classes
            don't fit the network, or a setting is out of range.
    """
    run = Run("localization", model, samples, methods, settings)
    wanted = run.class_index(classes)
    items = _items(samples, run.class_mapping(samples, wanted), wanted)
    boxed, masked = _annotations(samples, items)
    used = sorted({item.classes[0] for item in items})

    def score(batch: Batch[Truth], found: BatchMaps) -> Parts:
        parts: Parts = {}
        truths = batch.extras
        boxes, masks = [t.boxes for t in truths], [t.mask for t in truths]
        ignored = [t.ignore for t in truths]
        near = [t.near for t in truths if t.near is not None]
        place = torch.tensor([used.index(item.classes[0]) for item in batch.items])
        top = found.logits, found.classes[:, 0]
        for source, own in found.maps.items():
            maps = own[:, 0]
            if boxed:
                hits = metrics.box_hits(maps, boxes, batch.sizes)
                parts[source, "boxes"] = hits
                parts[source, "fixed"] = metrics.localization_hits(hits, *top, tau)
            parts[source, "pixels"] = metrics.pxap_histograms(maps, masks, ignored)
            if len(near) == len(maps):
                hits = metrics.peak_hits(maps, near)
                parts[source, "pointing"] = metrics.parts_by_class(hits, place, len(used))
        return parts

    read = partial(_truth, samples=samples, masked=masked)
    table = run.accumulate(items, read, score, tau)

    def draw(found: BatchMaps, source: MapSource, k: int, item: Item, truth: Truth) -> Drawn:
        values = found.maps[source][k, 0]
        return values, [_box(values, table.total(source, "boxes")[0])] if boxed else [], None

    images = len({item.sample.name for item in items})
    notes = []
    if table.count(run.sources[0], "pointing") < len(items):
        notes.append(
            "The pointing game was left out: an image's shorter side is less than five times its "
            f"tolerance of {TOLERANCE:g} pixels."
        )
    if images < len(samples):
        notes.append(f"Images without an object, which were left out: {len(samples) - images}.")
    name = "PxAP" if masked else "PxAP-box"
    facts = {
        "images": f"{images}, {len(items)} pairs of an image and a class, {table.groups} groups",
        "fixed threshold of GT-known, Top-1 and Top-5 Loc": f"{round(tau, 3):g} of the maximum",
    }
    own = Metric(name, "pixels", metrics.pixel_average_precision)
    return run.evaluation(
        table, [own, *METRICS], facts, notes,
        charts=tuple(_charts(table, name, boxed)), legend=LEGEND,
        examples=tuple(run.examples(items, read, draw, lambda truth: truth.mask)),
    )  # fmt: skip


def _items(samples: SampleSet, mapping: dict[int, int], wanted: int | None) -> list[Item]:
    """One for each class of an image; if one class stands for all, one for each image."""
    items = []
    for sample in samples:
        if not (sample.boxes or sample.mask):
            continue
        labels = tuple(sorted({*sample.box_labels})) or sample.labels
        if wanted is None:
            items += [Item(sample, (label,), (mapping[label],)) for label in labels]
        elif labels or sample.boxes:
            items.append(Item(sample, labels, (wanted,)))
    return items


def _annotations(samples: SampleSet, items: Sequence[Item]) -> tuple[bool, bool]:
    """Whether items have boxes and masks; refuse sets in which only some have."""
    check(
        items,
        f"no image of '{samples.root}' has a class and a box or a mask; localization needs both",
    )
    has = {
        "box": [bool(item.sample.boxes) for item in items],
        "mask": [item.sample.mask is not None for item in items],
    }
    for kind, present in has.items():
        lacking = items[present.index(False)].sample.name if not all(present) else ""
        check(
            not any(present) or all(present),
            f"'{lacking}' has a class but no {kind}, while {sum(present)} others have one; leave such "
            "images out or complete the annotation",
        )
    return any(has["box"]), any(has["mask"])


def _truth(item: Item, photo: Image.Image, *, samples: SampleSet, masked: bool) -> Truth:
    """The ground truth of one item; called in a thread."""
    sample = item.sample
    pairs = zip(sample.boxes, sample.box_labels, strict=True) if sample.box_labels else ()
    own = [box for box, label in pairs if label in item.labels] if pairs else sample.boxes
    boxes = torch.tensor(own).view(-1, 4)
    if masked:
        label = item.labels[0] if len(item.labels) == 1 else None
        mask, ignore = map(torch.from_numpy, samples.object_mask(sample, photo.size, label))
        name = ", ".join(samples.class_names[label] for label in item.labels)
        check(
            mask.any(),
            f"the mask of '{sample.name}' has no pixel of its class '{name}'; correct one of them",
        )
    else:
        mask = metrics.fill_boxes(boxes, photo.height, photo.width)
        ignore = torch.zeros_like(mask, dtype=torch.bool)
    large = min(photo.size) >= 5 * TOLERANCE
    near = metrics.near_object(mask) if large else None
    return Truth(boxes, mask, ignore, near)


def _charts(table: ScoreTable, name: str, boxed: bool) -> Iterator[Chart]:
    pixels = {s: metrics.pixel_curves(table.total(s, "pixels")) for s in table.sources}
    kept = {s: [curve[::EVERY] for curve in curves] for s, curves in pixels.items()}
    truth = "filled boxes" if name == "PxAP-box" else "masks"
    title = f"Pixel IoU with the {truth} against the threshold"
    labels = "threshold, a share of the map's range", "IoU, all pixels of the set"
    lines = [(s, SCORES[::EVERY], iou.nan_to_num(0.0)) for s, (_, _, iou) in kept.items()]
    yield curve_chart("localization_iou", title, labels, lines)
    title, labels = f"Precision and recall ({name})", ("recall", "precision")
    lines = [(s, recall[(known := ~p.isnan())], p[known]) for s, (p, recall, _) in kept.items()]
    yield curve_chart("localization_precision_recall", title, labels, lines)
    if boxed:
        title = "Images with a box of IoU at least 0.5"
        labels = "threshold, a share of the map's maximum", "BoxAcc"
        lines = [(s, TAUS[::EVERY], table.mean(s, "boxes")[0, ::EVERY]) for s in table.sources]
        yield curve_chart("localization_box_accuracy", title, labels, lines)


def _box(values: Tensor, hits: Tensor) -> list[float]:
    """The box of the largest contour, as shares of the sides, at the threshold of the most hits."""
    prepared = metrics.quantize(metrics.prepare_maps(values[None]))[0]
    threshold = int(float(TAUS[hits.argmax()]) * int(prepared.max()))
    boxes, largest = metrics.contour_boxes(prepared, threshold)
    x0, y0, x1, y1 = boxes[largest].tolist()
    side = prepared.shape[-1]
    return [x0 / side, y0 / side, (x1 + 1) / side, (y1 + 1) / side]
