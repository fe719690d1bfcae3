"""Do maps tell the classes of a mosaic of photos apart? The grid pointing game.

Boehle, Fritz, Schiele 2021 (CVPR); Rao, Boehle, Schiele 2022, "Towards Better Understanding Attribution
Methods" (CVPR). It needs neither boxes nor masks. Definitions are those of
:mod:`ssgcam.metrics.discrimination`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ssgcam import metrics
from ssgcam.data import Sample, SampleSet
from ssgcam.errors import SsgcamError
from ssgcam.evaluation.maps import BatchMaps, MapSource, MethodsCompared
from ssgcam.evaluation.report import Drawn, Evaluation
from ssgcam.evaluation.run import Batch, EvaluationSettings, Item, Run, no_extra
from ssgcam.evaluation.scores import Metric, Parts
from ssgcam.metrics.checks import check
from ssgcam.models import LoadedModel, check_network

METRICS = (
    Metric("mass in the cell", "grid", lambda means: means[..., 0]),
    Metric("top 10 % in the cell", "grid", lambda means: means[..., 1]),
)
LEGEND = "First column: the mosaic. Others: the map of the class of the outlined cell."


def evaluate_grid(
    model: LoadedModel,
    samples: SampleSet,
    methods: MethodsCompared | None = None,
    *,
    rows: int = 2,
    mosaics: int | None = None,
    confidence: float = 0.9,
    fallbacks: Sequence[float] = (),
    settings: EvaluationSettings | None = None,
) -> Evaluation:
    """Score how much of each class's map lies in the cell of its photo.

    Photos that the network classifies as their label (or as any class, if they have none) with at least
    the stated probability form mosaics of ``rows`` times ``rows`` cells, which the network takes as one
    larger input. With fewer classes than cells one class is asked for in each mosaic.

    Args:
        model: The network, fully convolutional up to a global pool.
        samples: Images with one label each, or without labels.
        methods: Methods and layers; the gradient methods on automatic layers if None. A recipe is left
            out: it was made for the network's own input size.
        rows: Cells along each side, 2 or 3.
        mosaics: How many; None: one for each of the photos, at most 100.
        confidence: Probability that the network must give a photo's class, in [0, 1).
        fallbacks: Lower ones, tried in this order if too few photos reach it.
        settings: Batch size (of photos: as many mosaics as have no more), seed, ...

    Returns:
        The share of the map's mass and of its highest 10 % of pixels that lie in the right cell, means
        over classes and mosaics, with intervals that resample mosaics; paired differences; examples.

    Raises:
        SsgcamError: If the network can't take the larger input, too few photos reach the probability,
            or a setting is out of range.
    """
    check(
        rows in (2, 3) and 0 <= confidence < 1,
        f"rows is {rows} and confidence {confidence:g}; give 2 or 3 rows and a probability in [0, 1)",
    )
    methods = replace(methods or MethodsCompared(), recipe=None)
    settings = settings or EvaluationSettings()
    run = Run("grid", model, samples, methods, settings)
    _check_input(model, rows)
    single = [sample for sample in samples if len(sample.labels) < 2]
    photos, labels, reached = _confident(run, single, (confidence, *fallbacks))
    notes = []
    if reached < confidence:
        notes.append(
            f"Too few photos reach a probability of {confidence:g}, so mosaics are made of those that "
            f"reach {reached:g}."
        )
    count = min(100, max(1, len(photos))) if mosaics is None else mosaics
    chosen = metrics.choose_mosaics(labels, rows, count, settings.seed)
    run.settings = replace(settings, batch_size=max(1, settings.batch_size // rows**2))
    items, cells = [], {}
    for k, mosaic in enumerate(chosen):
        first, *others = [photos[photo] for photo in mosaic.photos]
        classes = tuple(labels[mosaic.photos[cell]] for cell in mosaic.asked)
        sample = Sample(f"mosaic {k}", first.image)
        items.append(Item(sample, (), classes, tuple(others)))
        cells[sample.name] = mosaic.asked
    height, width = (rows * side for side in model.preprocessing.input_size)

    def score(batch: Batch[None], found: BatchMaps) -> Parts:
        asked = torch.tensor([cells[item.sample.name] for item in batch.items])
        parts: Parts = {}
        for source, maps in found.maps.items():
            fitted = metrics.fit_maps(maps.flatten(0, 1), height, width)
            shares = metrics.grid_parts(fitted, asked.flatten(), rows, settings.seed)
            parts[source, "grid"] = shares.view(*asked.shape, 2).mean(1)
        return parts

    def draw(found: BatchMaps, source: MapSource, k: int, item: Item, extra: None) -> Drawn:
        row, column = divmod(cells[item.sample.name][0], rows)
        box = [column / rows, row / rows, (column + 1) / rows, (row + 1) / rows]
        return found.maps[source][k, 0], [box], None

    table = run.accumulate(items, no_extra, score, rows, reached, [*cells.values()])
    many = len(set(labels)) >= rows**2
    facts = {
        "images": f"{len(items)} mosaics of {len(photos)} photos of {len(set(labels))} classes",
        "mosaics": f"{rows} x {rows} photos, {'all classes' if many else 'one class'} asked for; "
        f"chance is {1 / rows**2:.3f}",
        "photos": f"classified with a probability of at least {reached:g}",
    }
    examples = tuple(run.examples(items, no_extra, draw))
    return run.evaluation(table, METRICS, facts, notes, examples=examples, legend=LEGEND)


def _check_input(model: LoadedModel, rows: int) -> None:
    """Refuse a network that fails on an input of the size of a mosaic."""
    height, width = (rows * side for side in model.preprocessing.input_size)
    larger = replace(model.preprocessing, input_size=(height, width))
    try:
        check_network(replace(model, preprocessing=larger))
    except SsgcamError as error:
        raise SsgcamError(
            f"the grid pointing game needs a network that takes {height} x {width} pixels: {error}"
        ) from error


def _confident(
    run: Run, samples: list[Sample], confidences: Sequence[float]
) -> tuple[list[Sample], list[int], float]:
    """The photos that the network classifies with a probability, their classes, and this probability.

    It is the first that photos of two classes reach, or else the last.
    """
    mapping = run.class_mapping(replace(run.samples, samples=tuple(samples)), None)
    check(samples, f"no image of '{run.samples.root}' has one label, or none")
    found = run.probabilities([Item(sample) for sample in samples]).max(1)
    tops, probabilities = found.indices.tolist(), found.values.tolist()
    labels = [mapping[s.labels[0]] if s.labels else k for s, k in zip(samples, tops, strict=True)]
    kept: list[int] = []
    for confidence in confidences:
        kept = [
            k for k, own in enumerate(probabilities) if labels[k] == tops[k] and own >= confidence
        ]
        if len({labels[k] for k in kept}) > 1:
            break
    return [samples[k] for k in kept], [labels[k] for k in kept], confidence
