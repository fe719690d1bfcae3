"""How well do maps find objects that are known by boxes or masks?

Choe et al. 2020, "Evaluating Weakly Supervised Object Localization Methods Right" (CVPR): MaxBoxAcc,
MaxBoxAccV2, PxAP; beside them GT-known, Top-1 and Top-5 Loc and the pointing game. All definitions
are those of :mod:`ssgcam.metrics`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ssgcam.data import SampleSet
from ssgcam.errors import SsgcamError
from ssgcam.evaluation.board import Board, Metric
from ssgcam.evaluation.contenders import Entrants
from ssgcam.evaluation.figures import Chart, Entry, Example, Picture, Series, plots_of
from ssgcam.evaluation.items import Batch, Item
from ssgcam.evaluation.result import Evaluation
from ssgcam.evaluation.settings import EvaluationSettings
from ssgcam.evaluation.setup import Run, example
from ssgcam.metrics import (
    SCORES,
    TAUS,
    box_hits,
    contour_boxes,
    fill_boxes,
    localization_hits,
    max_box_acc,
    max_box_acc_v2,
    mean_of_ratios,
    near_object,
    peak_hits,
    pixel_average_precision,
    pixel_curves,
    prepare_maps,
    pxap_histograms,
    quantize,
)
from ssgcam.models import LoadedModel

POINTING_TOLERANCE = 15.0
EVERY = 5  # of the 1001 points of a curve, so many are kept for the charts


@dataclass(frozen=True, eq=False)
class Truth:
    """Ground truth of one item at the original size.

    Attributes:
        boxes: ``[K, 4]`` inclusive; K is 0 in a set without boxes.
        mask: The object, ``[H, W]`` bool: from a mask, or the filled boxes.
        ignore: Pixels that don't count, ``[H, W]`` bool, or None.
        near: Where a maximum hits, ``[H, W]`` bool; None in an image too small for the pointing game.
    """

    boxes: Tensor
    mask: Tensor
    ignore: Tensor | None
    near: Tensor | None


def evaluate_localization(
    model: LoadedModel,
    samples: SampleSet,
    who: Entrants | None = None,
    *,
    class_index: int | None = None,
    tau: float = 0.15,
    settings: EvaluationSettings | None = None,
) -> Evaluation:
    """Score maps against boxes, and against masks where the set has them.

    An item is an image and one of its classes; the map of that class is scored against the boxes
    (or the mask) of that class. Images without any object are left out and counted.

    Args:
        model: The network.
        samples: Images with labels and boxes or masks.
        who: Methods, layers and recipe; the gradient methods on automatic layers if None.
        class_index: Explain this class of the network for every object.
        tau: The fixed threshold of GT-known, Top-1 and Top-5 Loc, a share of the map's maximum.
        settings: Batch size, seed, ...

    Returns:
        Scores, paired differences, curves and examples. With boxes: MaxBoxAcc, MaxBoxAccV2,
        GT-known, Top-1 and Top-5 Loc. PxAP (PxAP-box without masks), the best pixel IoU at one
        threshold for the set, and the pointing game where images are large enough.

    Raises:
        SsgcamError: If the set has neither boxes nor masks, some objects lack theirs, classes
            don't fit the network, or a setting is out of range.
    """
    settings = settings or EvaluationSettings()
    run = Run("localization", model, samples, who or Entrants(), settings)
    items = _items(samples, run.classes_of(class_index), class_index)
    boxed, masked = _kinds(samples, items)
    board = run.board(items)
    used = sorted({item.classes[0] for item in items})
    read = partial(_truth, samples=samples, masked=masked)
    with run.running():
        kept = [shown for batch in run.few(items, read) for shown in _mapped(run, batch)]
        for batch in run.batches(board, items, read, tau):
            explained = run.explain(
                model.preprocessing.normalize(batch.pixels), batch.classes, board
            )
            for entry, maps in explained.maps.items():
                if boxed:
                    _score_boxes(board, entry, maps[:, 0], batch, explained.logits, tau)
                _score_pixels(board, entry, maps[:, 0], batch, used)

    name = "PxAP" if masked else "PxAP-box"
    pointing = board.count(run.entries[0], "pointing") == len(items)
    metrics = _metrics(name, boxed, pointing)
    notes = run.notes(board)
    if not pointing:
        notes.append(
            "The pointing game was left out: an image's shorter side is less than five times its "
            f"tolerance of {POINTING_TOLERANCE:g} pixels."
        )
    images = len({item.sample.name for item in items})
    if images < len(samples):
        notes.append(f"Images without an object, which were left out: {len(samples) - images}.")
    return Evaluation(
        task="localization",
        facts=run.facts(
            images=f"{images}, {len(items)} pairs of an image and a class, {board.groups} groups",
            **{"fixed threshold of GT-known, Top-1 and Top-5 Loc": f"{tau:g} of the maximum"},
        ),
        scores=board.scores(metrics),
        differences=board.differences(metrics, run.ours()),
        charts=_charts(board, name, boxed),
        examples=tuple(_example(run, board, boxed, *found) for found in kept),
        notes=tuple(notes),
    )


def _items(samples: SampleSet, classes: dict[int, int], class_index: int | None) -> list[Item]:
    """One for each class of an image; where one class stands for all, one for each image."""
    items = []
    for sample in samples:
        if not (sample.boxes or sample.mask):
            continue
        labels = tuple(sorted({*sample.box_labels})) or sample.labels
        if class_index is not None:
            items += [Item(sample, labels, (class_index,))] if labels or sample.boxes else []
        else:
            items += [Item(sample, (label,), (classes[label],)) for label in labels]
    return items


def _kinds(samples: SampleSet, items: Sequence[Item]) -> tuple[bool, bool]:
    """Whether items have boxes and masks; refuse sets in which only some have."""
    boxed = [item for item in items if item.sample.boxes]
    masked = [item for item in items if item.sample.mask]
    if not items:
        raise SsgcamError(
            f"no image of '{samples.root}' has a class and a box or a mask; localization needs both"
        )
    for kind, found in (("box", boxed), ("mask", masked)):
        if 0 < len(found) < len(items):
            lacking = next(item for item in items if item not in found)
            raise SsgcamError(
                f"'{lacking.sample.name}' has a class but no {kind}, while {len(found)} others "
                "have one; leave such images out or complete the annotation"
            )
    return bool(boxed), bool(masked)


def _truth(item: Item, photo: Image.Image, *, samples: SampleSet, masked: bool) -> Truth:
    """The ground truth of one item; called in a thread."""
    sample = item.sample
    own = [
        box
        for index, box in enumerate(sample.boxes)
        if not sample.box_labels or sample.box_labels[index] in item.labels
    ]
    boxes = torch.tensor(own).view(-1, 4)
    ignore = None
    if masked:
        label = item.labels[0] if len(item.labels) == 1 else None
        found, ignored = samples.object_mask(sample, photo.size, label)
        mask, ignore = torch.from_numpy(found), torch.from_numpy(ignored)
        if not mask.any():
            name = ", ".join(samples.class_names[label] for label in item.labels)
            raise SsgcamError(
                f"the mask of '{sample.name}' has no pixel of its class '{name}'; correct one of them"
            )
    else:
        mask = fill_boxes(boxes, photo.height, photo.width)
    large = min(photo.size) >= 5 * POINTING_TOLERANCE
    return Truth(boxes, mask, ignore, near_object(mask, POINTING_TOLERANCE) if large else None)


def _score_boxes(
    board: Board, entry: Entry, maps: Tensor, batch: Batch[Truth], logits: Tensor, tau: float
) -> None:
    boxes = [truth.boxes for truth in batch.extras]
    board.add(entry, "boxes", box_hits(maps, boxes, batch.sizes))
    hits = localization_hits(maps, boxes, batch.sizes, logits, batch.classes[:, 0], tau)
    board.add(entry, "fixed", hits)


def _mapped(run: Run, batch: Batch[Truth]) -> Iterator[tuple[Item, Truth, dict[Entry, Tensor]]]:
    """Items with the maps that the panel of examples shows."""
    inputs = run.model.preprocessing.normalize(batch.pixels)
    maps = run.explain(inputs, batch.classes, None).maps
    for k, (item, truth) in enumerate(zip(batch.items, batch.extras, strict=True)):
        yield item, truth, {entry: maps[entry][k, 0].cpu() for entry in run.pictured()}


def _score_pixels(
    board: Board, entry: Entry, maps: Tensor, batch: Batch[Truth], used: Sequence[int]
) -> None:
    """PxAP, and the pointing game unless an image is too small; ``used``: the classes that occur."""
    ignored = [truth.ignore for truth in batch.extras if truth.ignore is not None]
    masks = [truth.mask for truth in batch.extras]
    board.add(entry, "pixels", pxap_histograms(maps, masks, ignored or None))
    near = [truth.near for truth in batch.extras if truth.near is not None]
    if len(near) == len(batch.items):
        hits = peak_hits(maps, near)
        place = torch.tensor([used.index(item.classes[0]) for item in batch.items])
        member = functional.one_hot(place, len(used)).double()
        board.add(entry, "pointing", torch.stack([member * hits[:, None], member], -1))


def _metrics(name: str, boxed: bool, pointing: bool) -> list[Metric]:
    metrics = [
        Metric(name, "pixels", pixel_average_precision),
        Metric("best pixel IoU", "pixels", _best_iou, shown=False),
    ]
    if boxed:
        metrics += [
            Metric("MaxBoxAcc", "boxes", max_box_acc),
            Metric("MaxBoxAccV2", "boxes", max_box_acc_v2),
            Metric("GT-known", "fixed", lambda means: means[..., 0]),
            Metric("Top-1 Loc", "fixed", lambda means: means[..., 1]),
            Metric("Top-5 Loc", "fixed", lambda means: means[..., 2]),
        ]
    return metrics + [Metric("pointing game", "pointing", mean_of_ratios)] * pointing


def _best_iou(histogram: Tensor) -> Tensor:
    """The highest IoU at ONE threshold for the whole set."""
    return pixel_curves(histogram)[2].nan_to_num(0.0).amax(-1)


def _charts(board: Board, name: str, boxed: bool) -> tuple[Chart, ...]:
    scores = tuple(SCORES[::EVERY].tolist())
    iou, trade, accuracy = [], [], []
    for entry in board.entries:
        precision, recall, ious = (
            curve[::EVERY] for curve in pixel_curves(board.total(entry, "pixels"))
        )
        known = ~precision.isnan()
        line = Series(entry.method, scores, tuple(ious.nan_to_num(0.0).tolist()))
        iou.append((entry, line))
        line = Series(entry.method, tuple(recall[known].tolist()), tuple(precision[known].tolist()))
        trade.append((entry, line))
        if boxed:
            hits = board.total(entry, "boxes")[0, ::EVERY].double() / len(board.owners)
            line = Series(entry.method, tuple(TAUS[::EVERY].tolist()), tuple(hits.tolist()))
            accuracy.append((entry, line))
    truth = "filled boxes" if name == "PxAP-box" else "masks"
    charts = [
        Chart("localization_iou", f"Pixel IoU with the {truth} against the threshold",
              "threshold, a share of the map's range", "IoU, all pixels of the set", plots_of(iou)),
        Chart("localization_precision_recall", f"Precision and recall ({name})", "recall",
              "precision", plots_of(trade)),
    ]  # fmt: skip
    if boxed:
        charts.append(
            Chart("localization_box_accuracy", "Images with a box of IoU at least 0.5",
                  "threshold, a share of the map's maximum", "BoxAcc", plots_of(accuracy))
        )  # fmt: skip
    return tuple(charts)


def _example(
    run: Run, board: Board, boxed: bool, item: Item, truth: Truth, maps: dict[Entry, Tensor]
) -> Example:
    pictures = []
    for entry, values in maps.items():
        boxes: tuple[tuple[float, float, float, float], ...] = ()
        if boxed:  # at the threshold of MaxBoxAcc
            best = float(TAUS[board.total(entry, "boxes")[0].argmax()])
            prepared = quantize(prepare_maps(values[None]))[0]
            found, largest = contour_boxes(prepared, int(best * int(prepared.max())))
            side = prepared.shape[-1]
            x0, y0, x1, y1 = (found[largest].double() / side).tolist()
            boxes = ((x0, y0, x1 + 1 / side, y1 + 1 / side),)
        pictures.append(Picture(entry, values, boxes))
    return example(run, item, truth.mask, pictures)
