"""What does the network's answer lose when the highlighted pixels go?

The blur test of the paper, insertion and deletion (Petsiuk et al. 2018), Average Drop and Increase
(Chattopadhyay et al. 2018). All definitions are those of :mod:`ssgcam.metrics`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from ssgcam.core.settings import check_choice
from ssgcam.data import Sample, SampleSet
from ssgcam.errors import SsgcamError
from ssgcam.evaluation.answers import Answers
from ssgcam.evaluation.board import Board, Metric
from ssgcam.evaluation.contenders import Entrants
from ssgcam.evaluation.figures import Chart, Example, Picture, Series, plots_of
from ssgcam.evaluation.items import Batch, Item, nothing
from ssgcam.evaluation.result import Evaluation
from ssgcam.evaluation.settings import EvaluationSettings
from ssgcam.evaluation.setup import Run, counted, example
from ssgcam.metrics import (
    area_under_curve,
    blur_drops,
    curve_counts,
    drop_and_increase,
    fit_maps,
    gaussian_blur,
    images_at_once,
    insertion_deletion,
    pixel_counts,
    pixel_ranks,
)
from ssgcam.models import LoadedModel

Measure = Literal["blur", "insertion_deletion", "drop_increase"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)


def evaluate_perturbation(
    model: LoadedModel,
    samples: SampleSet,
    who: Entrants | None = None,
    *,
    class_index: int | None = None,
    measures: Sequence[Measure] = MEASURES,
    shares: tuple[float, ...] = SHARES,
    sigma: float = 0.05,
    steps: int = 28,
    settings: EvaluationSettings | None = None,
) -> Evaluation:
    """Blur, insert and delete what the maps highlight.

    The class of an image is its label; where it has none (or several), the network's top class, and
    "accuracy" is then how often the network keeps its answer.

    Args:
        model: The network.
        samples: Images, with or without labels.
        who: Methods, layers and recipe; the gradient methods on automatic layers if None.
        class_index: Explain this class in every image.
        measures: Which experiments to run.
        shares: Shares of the image that are blurred, the same for every method.
        sigma: The blur's standard deviation, a share of the input's shorter side.
        steps: Points of the insertion and deletion curves after the first; each step is
            ``ceil(H * W / steps)`` pixels.
        settings: Batch size, seed, ... ``fast`` is for the predictions; the maps are exact.

    Returns:
        Scores, paired differences, curves and examples.

    Raises:
        SsgcamError: If a measure is unknown, there is no image, or a setting is out of range.
    """
    settings = settings or EvaluationSettings()
    for measure in measures:
        check_choice("measure", measure, Measure)
    if not measures or steps < 1:
        raise SsgcamError("name at least one measure, and at least one step")
    exactly = replace(settings, fast=False)  # maps cost next to nothing here
    run = Run("perturbation", model, samples, who or Entrants(), exactly)
    lookup = run.classes_of(class_index)
    items = [_item(sample, lookup, class_index) for sample in samples]
    if not items:
        raise SsgcamError(f"'{samples.root}' has no image to perturb")
    board = run.board(items)
    height, width = model.preprocessing.input_size
    at_once = images_at_once(height, width, run.device, settings.pixels)
    pixel_counts(shares, height * width)  # refuses areas that don't fit
    step = -(-height * width // steps)
    points = curve_counts(height * width, step)
    steps_at = points.double() / (height * width)
    answers = Answers(model, settings.fast)

    with run.running():
        shown = [found for batch in run.few(items, nothing) for found in _examples(run, batch)]
        for batch in run.batches(
            board, items, nothing, measures, shares, sigma, steps, settings.fast
        ):
            inputs = model.preprocessing.normalize(batch.pixels)
            explained = run.explain(inputs, _classes(run, batch.items, inputs), board)
            classes, top = explained.classes[:, 0], explained.logits.argmax(1)
            board.add_total(None, "correct", (top == classes).sum())
            blurred = answers.ready(
                model.preprocessing.normalize(gaussian_blur(batch.pixels, sigma))
            )
            inputs = answers.ready(inputs)
            for entry, found in explained.maps.items():
                maps = found[:, 0]
                if "blur" in measures:
                    drops = blur_drops(
                        answers, inputs, blurred, maps, classes, areas=shares,
                        seed=settings.seed, first=batch.first, batch_size=at_once,
                    )  # fmt: skip
                    board.add(entry, "blur", drops)
                if "insertion_deletion" in measures:
                    curves = insertion_deletion(
                        answers, inputs, blurred, maps, top, counts=points,
                        seed=settings.seed, batch_size=at_once,
                    )  # fmt: skip
                    board.add(entry, "areas", area_under_curve(curves, steps_at))
                    board.add_total(entry, "curves", curves.cpu().double().sum(0))
                if "drop_increase" in measures:
                    drops = drop_and_increase(answers, inputs, maps, classes, at_once)
                    board.add(entry, "drop", drops)

    correct = int(board.total(None, "correct"))
    metrics = _metrics(measures, shares)
    named = sum(len(item.classes) == 1 for item in items)
    known = f"of {named} images the label, of {len(items) - named} the network's top class"
    if class_index is not None:
        known = run.class_name(class_index)
    charts, more = [], {}
    if "blur" in measures:
        charts.append(_blur_chart(board, shares, correct / len(items)))
        more["blurred"] = f"the top {', '.join(f'{q:.0%}' for q in shares)} of the pixels"
        more["random control"] = "each image's own highlight moved to a random place"
    if "insertion_deletion" in measures:
        charts += _curve_charts(board, steps_at, len(items))
        more["insertion and deletion"] = f"{step} pixels a step, {steps} steps"
    if charts:
        more["blur"] = f"Gaussian, sigma {sigma:.1%} of the input's shorter side"
    return Evaluation(
        task="perturbation",
        facts=run.facts(
            images=counted(len(items), board.groups),
            **{
                "explained class": known,
                "accuracy of the intact images": f"{correct / len(items):.3f}",
                **more,
                "perturbed images": f"{at_once} for each pass of the network",
                "fast": f"{settings.fast} for perturbed images, exact maps".lower(),
            },
        ),
        scores=board.scores(metrics),
        differences=board.differences(metrics, run.ours()),
        charts=tuple(charts),
        examples=tuple(shown),
        notes=tuple(run.notes(board)),
    )


def _item(sample: Sample, lookup: dict[int, int], class_index: int | None) -> Item:
    if class_index is not None:
        return Item(sample, sample.labels, (class_index,))
    single = len(sample.labels) == 1
    return Item(sample, sample.labels, (lookup[sample.labels[0]],) if single else ())


def _classes(run: Run, items: Sequence[Item], inputs: Tensor) -> Tensor | None:
    """``[N, 1]``: the label, or the network's top class; None where no item has a label."""
    if not any(item.classes for item in items):
        return None
    known = torch.tensor([[item.classes[0] if item.classes else -1] for item in items])
    known = known.to(inputs.device)
    if all(item.classes for item in items):
        return known
    with torch.no_grad():
        top = run.model.network(inputs).argmax(1)[:, None]
    return torch.where(known < 0, top, known)


def _metrics(measures: Sequence[Measure], shares: Sequence[float]) -> list[Metric]:
    metrics: list[Metric] = []
    if "blur" in measures:
        metrics += [
            Metric("accuracy drop", "blur", lambda m: m[..., 0, 0, :].mean(-1)),
            Metric("random control", "blur", lambda m: m[..., 1, 0, :].mean(-1), ""),
            Metric("probability drop", "blur", lambda m: m[..., 0, 1, :].mean(-1)),
        ]
        for index, share in enumerate(shares):
            metrics += [
                Metric(f"accuracy drop at {share:.0%}", "blur", partial(_drop, 0, index),
                       shown=False),
                Metric(f"probability drop at {share:.0%}", "blur", partial(_drop, 1, index),
                       shown=False),
            ]  # fmt: skip
    if "insertion_deletion" in measures:
        metrics += [
            Metric("insertion", "areas", lambda m: m[..., 0]),
            Metric("deletion", "areas", lambda m: m[..., 1], "lower"),
        ]
    if "drop_increase" in measures:
        metrics += [
            Metric("Average Drop", "drop", lambda m: m[..., 0], "lower"),
            Metric("Increase", "drop", lambda m: m[..., 1]),
        ]
    return metrics


def _drop(kind: int, share: int, means: Tensor) -> Tensor:
    """Of the highlight: accuracy (0) or probability (1)."""
    return means[..., 0, kind, share]


def _blur_chart(board: Board, shares: Sequence[float], intact: float) -> Chart:
    plots: dict[str, tuple[Series, ...]] = {}
    x = (0.0, *shares)
    for layers in dict.fromkeys(entry.layers for entry in board.entries):
        lines, controls = [], []
        for entry in board.entries:
            if entry.layers == layers:
                drops = board.total(entry, "blur") / len(board.owners)
                after = (intact - drops[0, 0]).tolist()
                lines.append(Series(entry.method, x, (intact, *after)))
                controls.append(intact - drops[1, 0])
        control = torch.stack(controls).mean(0).tolist()
        lines.append(Series("moved at random (mean of methods)", x, (intact, *control), True))
        plots[layers] = tuple(lines)
    return Chart(
        "perturbation_blur", "Accuracy against the blurred area", "share of the image blurred",
        "accuracy", plots,
    )  # fmt: skip


def _curve_charts(board: Board, steps_at: Tensor, count: int) -> list[Chart]:
    x = tuple(steps_at.tolist())
    charts = []
    for index, name in enumerate(("insertion", "deletion")):
        plots = plots_of(
            (entry, Series(entry.method, x, tuple((total[index] / count).tolist())))
            for entry, total in ((entry, board.total(entry, "curves")) for entry in board.entries)
        )
        charts.append(
            Chart(f"perturbation_{name}", name.capitalize(), "share of the pixels",
                  "probability of the top class", plots)
        )  # fmt: skip
    return charts


def _examples(run: Run, batch: Batch[None]) -> Iterator[Example]:
    """Maps with the outline of their top 20 % of pixels."""
    inputs = run.model.preprocessing.normalize(batch.pixels)
    maps = run.explain(inputs, _classes(run, batch.items, inputs), None).maps
    height, width = run.model.preprocessing.input_size
    for k, item in enumerate(batch.items):
        pictures = []
        for entry in run.pictured():
            values = maps[entry][k, 0]
            ranks = pixel_ranks(fit_maps(values[None], height, width), run.settings.seed)[0]
            top = ranks < 0.2 * height * width
            pictures.append(Picture(entry, values.cpu(), (), top.cpu()))
        yield example(run, item, None, pictures)
