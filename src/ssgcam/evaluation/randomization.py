"""Do maps depend on what the network learned, and on the class that is explained?

Cascading weight randomization for all methods at once, and class sensitivity: the rank correlation of
the maps of two classes (1: the class plays no part).

Adebayo et al. 2018, "Sanity Checks for Saliency Maps" (NeurIPS). One cascade serves all methods and
layers: at each stage one forward and one backward pass for each batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ssgcam import metrics
from ssgcam.core.capture import Target
from ssgcam.core.methods import METHODS
from ssgcam.data import SampleSet
from ssgcam.evaluation.maps import BatchMaps, Explainer, MapSource, MethodsCompared
from ssgcam.evaluation.report import Evaluation, curve_chart
from ssgcam.evaluation.run import Batch, EvaluationSettings, Item, Run, limited, no_extra
from ssgcam.evaluation.scores import Metric, Parts
from ssgcam.metrics.checks import check
from ssgcam.metrics.randomization import UNCHANGED
from ssgcam.models import LoadedModel
from ssgcam.report.html import Table

#: Rank correlation of the maps of the most probable class and of the 10th (or least probable) one.
SENSITIVITY = Metric("class sensitivity", "sensitivity", metrics.ratio, "lower")
CONTROL = replace(METHODS["activation_sum"], title="control: sum of activations")


def evaluate_sanity(
    model: LoadedModel,
    samples: SampleSet,
    methods: MethodsCompared | None = None,
    *,
    images: int | None = 16,
    stages: int | None = None,
    threshold: float = 0.5,
    classes: int | str | None = None,
    settings: EvaluationSettings | None = None,
) -> Evaluation:
    """Randomize the weights from the top down and compare the maps with the original ones.

    The explained class of an image is the intact network's top class throughout. A recipe is left
    out: it belongs to the network it was made for.

    Args:
        model: The network; it stays as it is.
        samples: Images; labels aren't needed.
        methods: Methods and layers; the gradient methods on automatic layers if None.
        images: How many images, spread evenly over the set; all if None.
        stages: At most about so many stages of the cascade, spread evenly, and always the first and
            those just above a target layer; None takes all (one for each module with weights).
        threshold: A method passes if the mean rank correlation is below it.
        classes: Explain this class instead, by index or name.
        settings: Batch size, seed, ...

    Returns:
        Class sensitivity, and rank correlations at the decisive stage with intervals, verdicts, and the
        course of the correlation. The decisive stage is the last at which the control's maps are still
        the original ones (only weights above the layer are random), or the last of all if there is none.
        Images whose original map is constant are left out; a map that became constant counts as 0.

    Raises:
        SsgcamError: If there is no image, the threshold is outside (-1, 1], the network can't be
            copied, or every original map is constant.
    """
    check(-1 < threshold <= 1, f"the threshold is {threshold}; give a rank correlation in (-1, 1]")
    samples = limited(samples, images)
    check(len(samples), f"'{samples.root}' has no image")
    methods = methods or MethodsCompared()
    judged = tuple(each for each in methods.methods if each.name != CONTROL.name)
    methods = replace(methods, methods=(*judged, CONTROL), recipe=None)

    run = Run("sanity", model, samples, methods, settings)
    wanted = run.class_index(classes)
    names = _stages(model.network, run.explainer.layers, stages)
    given = () if wanted is None else (wanted,)
    items = [Item(sample, (), given) for sample in samples]

    def score(batch: Batch[None], found: BatchMaps) -> Parts:
        rows: dict[MapSource, list[Tensor]] = {}
        for stage, randomized in metrics.cascade(model.network, seed=run.settings.seed):
            if stage in names:
                other = replace(model, network=randomized)
                explain = Explainer(other, run.compared, run.settings.fast)
                for source, maps in explain(batch.inputs, found.classes).maps.items():
                    rows.setdefault(source, []).append(_compared(found.maps[source], maps))
        parts: Parts = {(s, "correlation"): torch.stack(own, 1) for s, own in rows.items()}
        if run.outputs > 1:
            pair = metrics.compared_classes(found.logits)
            for source, maps in run.explainer(batch.inputs, pair).maps.items():
                parts[source, "sensitivity"] = metrics.class_sensitivity(maps[:, 0], maps[:, 1])
        return parts

    table = run.accumulate(items, no_extra, score, wanted, names)
    scores, rows, curves = [], [], []
    for source in run.sources:
        correlations = metrics.ratio(table.total(source, "correlation")[:, :2])
        check(
            not correlations.isnan().any(),
            "every map of the intact network is constant; choose another layer than "
            f"'{source.layers}'",
        )
        of_control = table.total(MapSource(CONTROL.title, source.layers), "correlation")
        control = metrics.ratio(of_control[:, [0, 3]])
        same = [k for k, value in enumerate(control.tolist()) if value >= UNCHANGED]
        decisive = same[-1] if same else len(names) - 1
        statistic = partial(lambda means, k: metrics.ratio(means[..., k, :2]), k=decisive)
        metric = Metric("rank correlation", "correlation", statistic, "lower", shown=False)
        _, kept, vanished, _ = table.total(source, "correlation")[decisive].tolist()
        found = replace(table.score(source, metric), n=int(kept))
        scores.append(found)
        if run.outputs > 1:
            scores.append(table.score(source, SENSITIVITY))
        passed = "passes" if found.value < threshold else "fails"
        rows.append((
            source.method, source.layers, names[decisive],
            found.text(), f"{control[decisive]:.3f}", f"{correlations[-1]:.3f}", f"{vanished:.0f}",
            str(found.n), passed,
        ))  # fmt: skip
        curves.append((source, torch.arange(1.0, len(names) + 1), correlations))
    title = "Rank correlation with the original map while weights are randomized"
    labels = "stages randomized, from the top", "rank correlation"
    chart = curve_chart("sanity_cascade", title, labels, curves, dashed=CONTROL.title)
    header = (
        "method", "layers", "random down to", "rank correlation there", "control there",
        "all random", "vanished", "n", "verdict",
    )  # fmt: skip
    facts = {
        "images": table.size,
        "explained class": "the intact network's top class" if wanted is None
        else run.class_title(wanted),
        "threshold": f"passes if the mean rank correlation is below {threshold:g}",
        "class sensitivity": "rank correlation of the maps of the top class and of the 10th class"
        + (", or the least probable one" if run.outputs < 10 else ""),
        "stages": f"{len(names)}: {', '.join(names)}",
    }  # fmt: skip
    return run.evaluation(
        table, [SENSITIVITY], facts, scores=tuple(scores), charts=(chart,),
        tables=(Table("Rank correlation with the original map", header, tuple(rows)),),
    )  # fmt: skip


def _compared(before: Tensor, now: Tensor) -> Tensor:
    """Compare the original maps ``[N, 1, h, w]`` of a stage with the new ones.

    Returns:
        ``[N, 4]``: the rank correlation (0 if it is not defined), and whether the original map isn't
        constant, the new one is constant although the original isn't, the correlation is defined.
    """
    correlation = metrics.rank_correlation(before[:, 0], now[:, 0]).cpu().double()
    kept = ~metrics.constant_maps(before[:, 0]).cpu()
    vanished = kept & metrics.constant_maps(now[:, 0]).cpu()
    flags = [kept.double(), vanished.double(), (~correlation.isnan()).double()]
    return torch.stack([correlation.nan_to_num(0.0), *flags], 1)


def _stages(network: nn.Module, layers: Sequence[str], most: int | None) -> list[str]:
    """Names of the stages of the cascade to compare, from the top."""
    owners = metrics.stage_names(network)
    if most is None:
        return owners
    check(most >= 1, f"{most} stages are too few; give at least 1")
    step = max(1.0, len(owners) / most)
    wanted = {0} | {min(len(owners) - 1, int((k + 1) * step) - 1) for k in range(most)}
    order = [name for name, _ in network.named_modules()]
    for layer in layers:
        module = Target.parse(layer).module
        last = max(k for k, name in enumerate(order) if f"{name}.".startswith(f"{module}."))
        above = sum(order.index(owner) > last for owner in owners)
        if above:
            wanted.add(above - 1)
    return [owners[k] for k in sorted(wanted)]
