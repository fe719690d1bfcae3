"""How does the network's answer change when the pixels that a map highlights are replaced?

The blur test of the paper, insertion and deletion (Petsiuk et al. 2018), Average Drop and Increase
(Chattopadhyay et al. 2018), ROAD (Rong et al. 2022). All definitions are those of :mod:`ssgcam.metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ssgcam import metrics
from ssgcam.core.fast import Computation
from ssgcam.core.network import unwrap
from ssgcam.core.settings import check_choice
from ssgcam.core.target import logits_of
from ssgcam.data import SampleSet
from ssgcam.evaluation.maps import BatchMaps, MapSource, MethodsCompared
from ssgcam.evaluation.report import Chart, Drawn, Evaluation, curve_chart
from ssgcam.evaluation.run import Batch, EvaluationSettings, Item, Run, no_extra
from ssgcam.evaluation.scores import Metric, Parts, ScoreTable
from ssgcam.metrics.checks import check
from ssgcam.models import LoadedModel

Measure = Literal["blur", "insertion_deletion", "drop_increase", "road"]
#: The default: all but ROAD, which takes some seconds for each map of 224 x 224 pixels.
MEASURES: tuple[Measure, ...] = get_args(Measure)[:3]
BLUR = (
    Metric("accuracy drop", "blur", lambda means: means[..., 0, :].mean(-1)),
    Metric("random control", "control", lambda means: means[..., 0, :].mean(-1), ""),
    Metric("probability drop", "blur", lambda means: means[..., 1, :].mean(-1)),
)
OTHERS = (
    Metric("insertion", "curve areas", lambda means: means[..., 0]),
    Metric("deletion", "curve areas", lambda means: means[..., 1], "lower"),
    Metric("Average Drop", "drop", lambda means: means[..., 0], "lower"),
    Metric("Increase", "drop", lambda means: means[..., 1]),
    Metric("ROAD", "road", metrics.road_score),
)
LEGEND = (
    "First column: the photo, with true boxes if they are known. Others: the map and the outline of "
    "its top 20 % of pixels."
)
MOVED = "moved at random (mean of methods)"  # the line of the random control in the chart


def evaluate_perturbation(
    model: LoadedModel,
    samples: SampleSet,
    methods: MethodsCompared | None = None,
    *,
    classes: int | str | None = None,
    measures: Sequence[Measure] = MEASURES,
    areas: Sequence[float] = metrics.AREAS,
    sigma: float = 0.05,
    steps: int = 28,
    control: bool = True,
    settings: EvaluationSettings | None = None,
) -> Evaluation:
    """Blur, insert and delete the pixels that the maps highlight.

    The class of an image is its label; if it has none (or several), it is the network's top class, and
    "accuracy" is then how often the network keeps its answer.

    Args:
        model: The network.
        samples: Images, with or without labels.
        methods: Methods, layers and recipe; the gradient methods on automatic layers if None.
        classes: Explain this class in every image, by index or name.
        measures: Which experiments to run.
        areas: Shares of the image that are blurred, the same for every method.
        sigma: The blur's standard deviation, a share of the input's shorter side.
        steps: Points of the insertion and deletion curves after the first; each step is
            ``ceil(H * W / steps)`` pixels.
        control: Blur a region of the same shape at a random place, too.
        settings: Batch size, seed, ... With ``fast`` a copy of the network answers to the perturbed
            images; the maps are exact.

    Returns:
        Scores, paired differences, curves and examples.

    Raises:
        SsgcamError: If a measure is unknown, there is no image, or a setting is out of range.
    """
    for measure in measures:
        check_choice("measure", measure, Measure)
    check(measures and steps >= 1, "name at least one measure, and at least one step")
    check(len(samples), f"'{samples.root}' has no image to perturb")
    run = Run("perturbation", model, samples, methods, settings, exact=True)
    settings, normalize = run.settings, model.preprocessing.normalize
    wanted = run.class_index(classes)
    mapping = run.class_mapping(samples, wanted)
    items = []
    for sample in samples:
        own = [wanted] if wanted is not None else [mapping[label] for label in sample.labels]
        items.append(Item(sample, sample.labels, tuple(own) if len(own) == 1 else ()))
    height, width = model.preprocessing.input_size
    at_once = metrics.images_at_once(height, width, run.device, settings.pixels)
    metrics.pixel_counts(areas, height * width)  # refuses areas that aren't shares
    step = -(-height * width // steps)
    counts = metrics.curve_counts(height * width, step)
    shares = counts.double() / (height * width)
    computation = Computation(unwrap(model.network), settings.fast)

    def answers(inputs: Tensor) -> Tensor:
        """Probabilities ``[N, K]`` in float32."""
        network = computation(inputs, ())
        with torch.no_grad():
            logits = logits_of(network(computation.ready(inputs)))
            return model.probabilities(logits.float())

    def score(batch: Batch[None], found: BatchMaps) -> Parts:
        own, top = found.classes[:, 0], found.logits.argmax(1)
        parts: Parts = {(None, "correct"): (top == own).int()}
        inputs = computation.ready(batch.inputs)
        blurred = computation.ready(normalize(metrics.gaussian_blur(batch.pixels, sigma)))
        intact = None
        if "blur" in measures or "drop_increase" in measures:
            intact = metrics.class_answers(answers, inputs, own, at_once)
        passes: dict[str, Any] = {"seed": settings.seed, "batch_size": at_once}
        for source, all_maps in found.maps.items():
            maps = all_maps[:, 0]
            if "blur" in measures:
                drops = metrics.blur_drops(
                    answers, inputs, blurred, maps, own, areas=areas, intact=intact,
                    control=control, first=batch.first, **passes,
                )  # fmt: skip
                for part, rows in zip(("blur", "control"), drops.unbind(1), strict=False):
                    parts[source, part] = rows
            if "insertion_deletion" in measures:
                curves = metrics.insertion_deletion(
                    answers, inputs, blurred, maps, top, counts=counts, **passes
                )
                parts[source, "curves"] = curves
                parts[source, "curve areas"] = metrics.area_under_curve(curves, shares)
            if "drop_increase" in measures:
                parts[source, "drop"] = metrics.drop_and_increase(
                    answers, inputs, maps, own, at_once, intact=intact
                )
            if "road" in measures:
                parts[source, "road"] = metrics.road_parts(answers, inputs, maps, own, **passes)
        return parts

    table = run.accumulate(
        items, no_extra, score, measures, areas, sigma, steps, control, pooled=["curves"]
    )

    def draw(found: BatchMaps, source: MapSource, k: int, item: Item, extra: None) -> Drawn:
        values = found.maps[source][k, 0]
        fitted = metrics.fit_maps(values[None], height, width)
        return values, [], metrics.top_pixels(fitted, height * width // 5, settings.seed)[0]

    intact = float(table.total(None, "correct")) / len(items)
    named = sum(len(item.classes) == 1 for item in items)
    explained = f"of {named} images the label, of {len(items) - named} the network's top class"
    if wanted is not None:
        explained = run.class_title(wanted)
    facts = {
        "images": table.size,
        "explained class": explained,
        "accuracy of the intact images": f"{intact:.3f}",
    }
    charts = []
    if "blur" in measures:
        charts.append(_blur_chart(table, areas, intact, control))
        facts["blurred"] = f"the top {', '.join(f'{area:.0%}' for area in areas)} of the pixels"
        if control:
            facts["random control"] = "each image's own highlighted region moved to a random place"
    if "insertion_deletion" in measures:
        titles = {"insertion": "Insertion", "deletion": "Deletion"}
        labels = "share of the pixels", "probability of the top class"
        charts += _curve_charts(table, "curves", titles, labels, shares)
        facts["insertion and deletion"] = f"{step} pixels a step, {steps} steps"
    if charts:  # both of these blur
        facts["blur"] = f"Gaussian, sigma {sigma:.1%} of the input's shorter side"
    if "road" in measures:
        orders = {"road_morf": "highest", "road_lerf": "lowest"}
        titles = {name: f"ROAD, {which} pixels first" for name, which in orders.items()}
        labels, x = ("share of the pixels imputed", "probability of the class"), metrics.ROAD_AREAS
        charts += _curve_charts(table, "road", titles, labels, torch.tensor(x).double())
        shares_text = f"{metrics.ROAD_AREAS[0]:.0%} to {metrics.ROAD_AREAS[-1]:.0%} of the pixels"
        facts["ROAD"] = f"noisy linear imputation of {shares_text}, noise 0.01"
    facts["perturbed images"] = f"{at_once} for each pass of the network"
    facts["computation"] = f"{computation.description} answers to perturbed images, exact maps"
    return run.evaluation(
        table, _metrics(areas), facts, charts=tuple(charts), legend=LEGEND,
        examples=tuple(run.examples(items, no_extra, draw)),
    )  # fmt: skip


def _metrics(areas: Sequence[float]) -> list[Metric]:
    """All metrics; those of measures that were not taken are left out later."""
    rows = [*BLUR]
    for index, area in enumerate(areas):
        for kind, name in enumerate(("accuracy drop", "probability drop")):
            drop = partial(lambda m, place: m[..., *place], place=(kind, index))
            rows.append(Metric(f"{name} at {area:.0%}", "blur", drop, shown=False))
    return [*rows, *OTHERS]


def _blur_chart(table: ScoreTable, areas: Sequence[float], intact: float, control: bool) -> Chart:
    """Accuracy at each blurred area; with the random control also that one's, the methods' mean."""
    x = torch.tensor([0.0, *areas]).double()

    def after(source: MapSource, part: str) -> Tensor:
        return F.pad(intact - table.mean(source, part)[0], (1, 0), value=intact)

    labels, title = ("share of the image blurred", "accuracy"), "Accuracy against the blurred area"
    lines = ((source, x, after(source, "blur")) for source in table.sources)
    chart = curve_chart("perturbation_blur", title, labels, lines, dashed=MOVED)
    for layers, shown in chart.plots.items() if control else ():
        moved = [after(source, "control") for source in table.sources if source.layers == layers]
        shown[MOVED] = x.tolist(), torch.stack(moved).mean(0).tolist()
    return chart


def _curve_charts(
    table: ScoreTable, part: str, titles: dict[str, str], labels: tuple[str, str], x: Tensor
) -> list[Chart]:
    """A chart for each row of a part, from its name and title."""
    return [
        curve_chart(
            f"perturbation_{name}", title, labels,
            ((s, x, table.mean(s, part)[row]) for s in table.sources),
        )
        for row, (name, title) in enumerate(titles.items())
    ]  # fmt: skip
