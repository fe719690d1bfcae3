"""Do maps depend on what the network learnt? Cascading weight randomisation for all methods at once.

Adebayo et al. 2018, "Sanity Checks for Saliency Maps" (NeurIPS). One cascade serves all methods and
layers: at each stage one forward and one backward pass for each batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ssgcam.core.capture import Target
from ssgcam.data import SampleSet
from ssgcam.errors import SsgcamError
from ssgcam.evaluation.contenders import Competition, Contender, Entrants
from ssgcam.evaluation.figures import Chart, Entry, Series
from ssgcam.evaluation.items import Item, batches, limited, nothing
from ssgcam.evaluation.result import Evaluation, Score, Table
from ssgcam.evaluation.settings import EvaluationSettings
from ssgcam.evaluation.setup import Run
from ssgcam.metrics import (
    SanityResult,
    bootstrap_interval,
    cascade,
    constant_maps,
    identity,
    judge,
    rank_correlation,
)
from ssgcam.models import LoadedModel

CONTROL = Contender("activation_sum", name="control: sum of activations")


def evaluate_sanity(
    model: LoadedModel,
    samples: SampleSet,
    who: Entrants | None = None,
    *,
    images: int | None = 16,
    stages: int | None = None,
    threshold: float = 0.5,
    class_index: int | None = None,
    settings: EvaluationSettings | None = None,
) -> Evaluation:
    """Randomise the weights from the top down and compare the maps with the original ones.

    The explained class of an image is the intact network's top class throughout. A recipe takes no
    part: it belongs to the network it was made for.

    Args:
        model: The network; it stays as it is.
        samples: Images; labels aren't needed.
        who: Methods, layers and recipe; the gradient methods on automatic layers if None.
        images: How many images, spread evenly over the set, or all; their maps are kept in memory.
        stages: At most about so many stages of the cascade are looked at, spread evenly, and always
            the first and those just above a target layer; None looks at all (one for each module
            with weights).
        threshold: A method passes where the mean rank correlation is below it.
        class_index: Explain this class instead.
        settings: Batch size, seed, ...

    Returns:
        Rank correlations at the decisive stage (only weights above the layer are random) with
        intervals, verdicts, and the course of the correlation.

    Raises:
        SsgcamError: As :func:`ssgcam.metrics.sanity_check`, or if there is no image.
    """
    settings = settings or EvaluationSettings()
    if not -1 < threshold <= 1:
        raise SsgcamError(f"the threshold is {threshold}; give a rank correlation in (-1, 1]")
    samples = limited(samples, images)
    if not len(samples):
        raise SsgcamError(f"'{samples.root}' has no image")
    who = who or Entrants()
    judged = tuple(c for c in who.contenders if c.method != CONTROL.method)
    who = replace(who, contenders=(*judged, CONTROL), recipe=None)
    run = Run(model, samples, who, settings)
    names = run.competition.layers
    items = [Item(sample, (), ()) for sample in samples]
    inputs: list[Tensor] = []
    classes: list[Tensor] = []
    originals: list[dict[Entry, Tensor]] = []
    for batch in batches(items, model, settings, "sanity: images", nothing):
        inputs.append(model.preprocessing.normalise(batch.pixels))
        given = None if class_index is None else torch.full((len(batch.items), 1), class_index)
        explained = run.explain(inputs[-1], given)
        classes.append(explained.classes)
        originals.append({entry: maps[:, 0].cpu() for entry, maps in explained.maps.items()})

    looked_at = _stages(model.network, names, stages)
    passed_by, method, vanished = [], _lists(run), _lists(run)
    bar = tqdm(
        cascade(model.network, seed=settings.seed),
        desc="sanity: stages",
        disable=None if settings.progress else True,
    )
    for stage, randomised in bar:
        if stage not in looked_at:
            continue
        passed_by.append(stage)
        found = _maps(replace(model, network=randomised), who, names, inputs, classes)
        for entry in run.entries:
            now = torch.cat([maps[entry] for maps in found])
            before = torch.cat([maps[entry] for maps in originals])
            method[entry].append(rank_correlation(before, now))
            vanished[entry].append(constant_maps(now))
    results = {}
    for entry in run.entries:
        before = torch.cat([maps[entry] for maps in originals])
        control = torch.stack(method[Entry(CONTROL.title, entry.layers)], 1)
        results[entry] = judge(
            passed_by, torch.stack(method[entry], 1), control, torch.stack(vanished[entry], 1),
            keep=~constant_maps(before), threshold=threshold, seed=settings.seed,
        )  # fmt: skip
    return Evaluation(
        task="sanity",
        facts=run.facts(
            images=str(len(items)),
            **{
                "explained class": "the intact network's top class"
                if class_index is None
                else run.class_name(class_index),
                "threshold": f"passes where the mean rank correlation is below {threshold:g}",
                "stages": f"{len(passed_by)}: {', '.join(passed_by)}",
            },
        ),
        scores=tuple(_score(entry, result, settings) for entry, result in results.items()),
        tables=(_table(results, settings),),
        charts=(_chart(results),),
        notes=tuple(run.notes()),
    )


def _lists(run: Run) -> dict[Entry, list[Tensor]]:
    return {entry: [] for entry in run.entries}


def _maps(
    model: LoadedModel,
    who: Entrants,
    layers: Sequence[str],
    inputs: Sequence[Tensor],
    classes: Sequence[Tensor],
) -> list[dict[Entry, Tensor]]:
    """All maps of a randomised network, batch by batch."""
    competition = Competition(model, replace(who, layers=list(layers)))
    return [
        {entry: maps[:, 0].cpu() for entry, maps in competition(images, wanted).maps.items()}
        for images, wanted in zip(inputs, classes, strict=True)
    ]


def _stages(network: nn.Module, layers: Sequence[str], most: int | None) -> set[str]:
    """Names of the cascade's stages to look at."""
    owners = [
        name
        for name, m in network.named_modules()
        if any(True for _ in m.parameters(recurse=False))
    ][::-1]
    if most is None:
        return set(owners)
    if most < 1:
        raise SsgcamError(f"{most} stages are too few; give at least 1")
    step = max(1.0, len(owners) / most)
    wanted = {0} | {min(len(owners) - 1, int((k + 1) * step) - 1) for k in range(most)}
    for layer in layers:
        module = Target.parse(layer).module
        inside = [k for k, name in enumerate(owners) if (name + ".").startswith(module + ".")]
        if inside and inside[0] > 0:
            wanted.add(inside[0] - 1)
    return {owners[k] for k in wanted}


def _score(entry: Entry, result: SanityResult, settings: EvaluationSettings) -> Score:
    found = bootstrap_interval(
        result.parts[:, result.decisive], identity, seed=settings.seed, samples=settings.resamples
    )
    return Score(
        method=entry.method,
        layers=entry.layers,
        metric="rank correlation",
        value=found.value,
        low=found.low,
        high=found.high,
        n=found.n,
        groups=found.groups,
        better="lower",
        shown=False,
    )


def _table(results: dict[Entry, SanityResult], settings: EvaluationSettings) -> Table:
    rows = []
    for entry, result in results.items():
        found = _score(entry, result, settings)
        rows.append(
            (
                entry.method,
                entry.layers,
                result.stages[result.decisive],
                f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]",
                f"{result.control[result.decisive]:.3f}",
                f"{result.correlation[-1]:.3f}",
                str(result.vanished[result.decisive]),
                str(result.n),
                "passes" if result.passed else "fails",
            )
        )
    header = (
        "method", "layers", "random down to", "rank correlation there", "control there",
        "all random", "vanished", "n", "verdict",
    )  # fmt: skip
    return Table("Rank correlation with the original map", header, tuple(rows))


def _chart(results: dict[Entry, SanityResult]) -> Chart:
    plots: dict[str, tuple[Series, ...]] = {}
    for entry, result in results.items():
        x = tuple(float(k + 1) for k in range(len(result.stages)))
        line = Series(entry.method, x, tuple(result.correlation), entry.method == CONTROL.title)
        plots[entry.layers] = (*plots.get(entry.layers, ()), line)
    return Chart(
        "sanity_cascade", "Rank correlation with the original map while weights are randomised",
        "stages randomised, from the top", "rank correlation", plots,
    )  # fmt: skip
