"""Do maps depend on what the network learned? Cascading weight randomization for all methods at once.

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
from ssgcam.evaluation.competition import Competition
from ssgcam.evaluation.contenders import Contender, Entrants
from ssgcam.evaluation.figures import Chart, Entry, Series, plots_of
from ssgcam.evaluation.items import Item, batches, limited, nothing
from ssgcam.evaluation.result import Evaluation, Score, Table
from ssgcam.evaluation.settings import EvaluationSettings
from ssgcam.evaluation.setup import Run, counted
from ssgcam.evaluation.unfinished import stamps
from ssgcam.metrics import (
    SanityResult,
    bootstrap_interval,
    cascade,
    constant_maps,
    identity,
    rank_correlation,
    sanity_result,
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
    """Randomize the weights from the top down and compare the maps with the original ones.

    The explained class of an image is the intact network's top class throughout. A recipe takes no
    part: it belongs to the network it was made for.

    Args:
        model: The network; it stays as it is.
        samples: Images; labels aren't needed.
        who: Methods, layers and recipe; the gradient methods on automatic layers if None.
        images: How many images, spread evenly over the set, or all.
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
        SsgcamError: As :func:`ssgcam.metrics.sanity_result`, or if there is no image.
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
    run = Run("sanity", model, samples, who, settings)
    names = run.competition.layers
    items = [Item(sample, (), ()) for sample in samples]
    board = run.board(items)
    looked_at = _stages(model.network, names, stages)
    kept = run.unfinished("sanity", class_index, sorted(looked_at), *items, stamps(items))
    # For each batch and stage: rank correlation, and whether the map vanished, [2, entries, n].
    rows: dict[str, Tensor] = kept.load()
    if rows:
        run.tell(f"sanity: going on after {len(rows)} stages of batches")
    passed_by: list[str] = []
    constant: dict[Entry, list[Tensor]] = {entry: [] for entry in run.entries}
    quiet = None if settings.progress else True
    total = len(looked_at) * -(-len(items) // settings.batch_size)
    unseen = replace(settings, progress=False)
    with run.running(), tqdm(total=total, desc="sanity", unit="stage", disable=quiet) as bar:
        for batch in batches(items, model, unseen, "sanity", nothing):
            inputs = model.preprocessing.normalize(batch.pixels)
            given = None if class_index is None else torch.full((len(inputs), 1), class_index)
            explained = run.explain(inputs, given, board)
            before = {entry: maps[:, 0].cpu() for entry, maps in explained.maps.items()}
            for entry, maps in before.items():
                constant[entry].append(constant_maps(maps))
            passed_by = []
            for stage, randomized in cascade(model.network, seed=settings.seed):
                if stage not in looked_at:
                    continue
                passed_by.append(stage)
                key = f"{batch.first} {stage}"
                if key not in rows:
                    competition = Competition(
                        replace(model, network=randomized), replace(who, layers=names),
                        fast=settings.fast,
                    )  # fmt: skip
                    now = competition(inputs, explained.classes).maps
                    rows[key] = _compared(before, {e: m[:, 0].cpu() for e, m in now.items()})
                    kept.save(lambda: rows)
                bar.update()
    firsts = range(0, len(items), settings.batch_size)
    found = torch.stack(
        [torch.cat([rows[f"{first} {stage}"] for first in firsts], 2) for stage in passed_by], 3
    )
    results, scores = {}, []
    for index, entry in enumerate(run.entries):
        keep = ~torch.cat(constant[entry])
        control = run.entries.index(Entry(CONTROL.title, entry.layers))
        results[entry] = sanity_result(
            passed_by, found[0, index], found[0, control], found[1, index] > 0,
            keep=keep, threshold=threshold, seed=settings.seed,
        )  # fmt: skip
        scores.append(_score(entry, results[entry], board.owners[keep], settings))
    return Evaluation(
        task="sanity",
        facts=run.facts(
            images=counted(len(items), board.groups),
            **{
                "explained class": "the intact network's top class"
                if class_index is None
                else run.class_name(class_index),
                "threshold": f"passes where the mean rank correlation is below {threshold:g}",
                "stages": f"{len(passed_by)}: {', '.join(passed_by)}",
            },
        ),
        scores=tuple(scores),
        tables=(_table(scores, results),),
        charts=(_chart(results),),
        notes=tuple(run.notes(board)),
    )


def _compared(before: dict[Entry, Tensor], now: dict[Entry, Tensor]) -> Tensor:
    """Rank correlation with the original map and whether the new one is constant: ``[2, entries, n]``."""
    pairs = [(maps, now[entry]) for entry, maps in before.items()]
    correlations = torch.stack([rank_correlation(*pair).double() for pair in pairs])
    return torch.stack(
        [correlations, torch.stack([constant_maps(new).double() for _, new in pairs])]
    )


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


def _score(
    entry: Entry, result: SanityResult, groups: Tensor, settings: EvaluationSettings
) -> Score:
    """At the decisive stage; ``groups`` are those of the images that count."""
    found = bootstrap_interval(
        result.parts[:, result.decisive], identity, seed=settings.seed,
        samples=settings.resamples, groups=groups.tolist(),
    )  # fmt: skip
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


def _table(scores: Sequence[Score], results: dict[Entry, SanityResult]) -> Table:
    rows = [
        (
            score.method,
            score.layers,
            result.stages[result.decisive],
            f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]",
            f"{result.control[result.decisive]:.3f}",
            f"{result.correlation[-1]:.3f}",
            str(result.vanished[result.decisive]),
            str(result.n),
            "passes" if result.passed else "fails",
        )
        for score, result in zip(scores, results.values(), strict=True)
    ]
    header = (
        "method", "layers", "random down to", "rank correlation there", "control there",
        "all random", "vanished", "n", "verdict",
    )  # fmt: skip
    return Table("Rank correlation with the original map", header, tuple(rows))


def _chart(results: dict[Entry, SanityResult]) -> Chart:
    stages = len(next(iter(results.values())).stages)
    x = tuple(float(k + 1) for k in range(stages))
    plots = plots_of(
        (entry, Series(entry.method, x, result.correlation, entry.method == CONTROL.title))
        for entry, result in results.items()
    )
    return Chart(
        "sanity_cascade", "Rank correlation with the original map while weights are randomized",
        "stages randomized, from the top", "rank correlation", plots,
    )  # fmt: skip
