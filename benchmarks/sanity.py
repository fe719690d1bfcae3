"""Sanity: which maps depend on what the network learned, and what the others follow instead.

Cascading weight randomization (Adebayo et al. 2018) of every method of the library, on
EfficientNet-Lite0 and SqueezeNet with their ImageNet weights; Score-CAM, one forward pass for each
channel, on fewer photos, stages and layers. Then the cause, with the weights intact: how much of a map
is left when its gradient is replaced by noise or taken for another class, and how much of it is in the
magnitude of the activations.

    python benchmarks/sanity.py --data DATA --squeezenet WEIGHTS [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from evaluations import finished, rows_of
from helpers.networks import Network, imagenet_networks
from ssgcam.core.capture import capture
from ssgcam.core.derivatives import derivatives
from ssgcam.core.methods import METHODS
from ssgcam.core.settings import SSGSettings, TargetSettings
from ssgcam.core.signals import Signal
from ssgcam.data import SampleSet
from ssgcam.evaluation import (
    Contender,
    Entrants,
    Evaluation,
    EvaluationSettings,
    evaluate_sanity,
    limited,
)
from ssgcam.evaluation.plots import draw_chart
from ssgcam.evaluation.result import markdown_table
from ssgcam.files import write_png
from ssgcam.metrics import Interval, bootstrap_interval, identity, rank_correlation
from study import DOCS, Row, batches, command, labeled_samples, row, write_study

VARIANTS = (
    Contender("ssg_cam", SSGSettings(form="gradient")),
    Contender("ssg_cam", SSGSettings(sigma=0), name="SSG-CAM, not smoothed"),
    Contender("ssg_cam", SSGSettings(first_exponent=1, second_exponent=0), name="SSG-CAM, 1 and 0"),
)
EVERY = (
    *(Contender(name) for name in METHODS if name not in ("score_cam", "activation_sum")),
    *VARIANTS,
)
#: Layers of Score-CAM: at most 512 forward passes for each photo and stage.
FEW = {
    "EfficientNet-Lite0": ["_blocks.2", "_blocks.4", "_blocks.10"],
    "SqueezeNet": ["features.7", "features.12"],
}
#: What a map is compared with, the network being intact.
AGAINST = {
    "noise": "the map of the same activations with Gaussian noise for the gradient",
    "class": "the map of the class ranked tenth",
    "size": "the sum of the activations' magnitudes over channels",
}


Causes = dict[tuple[str, str, str], Interval]
"""Method, layer and what it is compared with -> rank correlation."""


def signals(network: Network, inputs: Tensor, layers: list[str], rank: int) -> dict[str, Signal]:
    """Activations and gradients of the class of this rank (0 is the top) at every layer."""
    captured = capture(network.model.network, inputs, layers)
    classes = captured.output.topk(rank + 1, dim=1).indices[:, -1]
    found = derivatives(captured, classes, TargetSettings(), need_second=True)
    return {
        name: Signal(captured.activations[name].detach(), first, second)
        for name, (first, second) in found.items()
    }


def causes(network: Network, samples: SampleSet, layers: list[str], seed: int) -> Causes:
    """How each method's intact map ranks the cells beside the three other maps."""
    contenders = [c for c in EVERY if METHODS[c.method].needs in ("first", "second")]
    generator = torch.Generator().manual_seed(seed)
    found: dict[tuple[str, str, str], list[Tensor]] = {}
    for inputs, _, _, _ in batches(network.model, list(samples)):
        top, tenth = (signals(network, inputs, layers, rank) for rank in (0, 9))
        for layer in layers:
            activation = top[layer].activation
            noise = Signal(activation, torch.randn(activation.shape, generator=generator))
            for contender in contenders:
                own = contender.layer_map(top[layer])
                others = {
                    "noise": contender.layer_map(noise),
                    "class": contender.layer_map(tenth[layer]),
                    "size": activation.abs().sum(1),
                }
                for what, other in others.items():
                    values = rank_correlation(own, other).nan_to_num(0.0)
                    found.setdefault((contender.title, layer, what), []).append(values)
    return {
        key: bootstrap_interval(torch.cat(values), identity, seed=seed)
        for key, values in found.items()
    }


def evaluations(
    network: Network, samples: SampleSet, options: argparse.Namespace
) -> Iterator[tuple[str, Evaluation]]:
    """The cascade of all methods, then that of Score-CAM."""
    settings = EvaluationSettings(seed=options.seed, examples=0, progress=True)
    cascades = {
        "cascade": (Entrants(EVERY, network.layers, fused=False), options.photos, options.stages),
        "score_cam": (
            Entrants((Contender("score_cam"),), FEW[network.title], fused=False),
            options.score_photos,
            options.score_stages,
        ),
    }
    for name, (who, photos, stages) in cascades.items():
        label = f"{network.title.split('-')[0].lower()}_{name}"
        if options.only not in label or not photos:
            continue
        key = f"{photos} photos, {stages} stages, seed {options.seed}, {Contender().ssg}"
        yield (
            label,
            finished(
                options.work / f"{label}.json",
                key,
                lambda who=who, photos=photos, stages=stages: evaluate_sanity(
                    network.model, samples, who, images=photos, stages=stages, settings=settings
                ),
            ),
        )


def verdict_table(found: list[Evaluation]) -> str:
    """Methods by layers: the rank correlation at the decisive stage, bold where it fails."""
    cells: dict[str, dict[str, str]] = {}
    for evaluation in found:
        for line in evaluation.tables[0].rows:
            told = dict(zip(evaluation.tables[0].header, line, strict=True))
            value = told["rank correlation there"].replace(" [", "<br>[")
            fails = told["verdict"] == "fails"
            cells.setdefault(told["method"], {})[told["layers"]] = (
                f"**{value}**" if fails else value
            )
    layers = list(dict.fromkeys(layer for line in cells.values() for layer in line))
    rows = [[method, *(line.get(k, "") for k in layers)] for method, line in cells.items()]
    return markdown_table(["method", *layers], rows)


def cause_table(found: Causes, what: str) -> str:
    """Methods by layers."""
    layers = list(dict.fromkeys(layer for _, layer, _ in found))
    methods = list(dict.fromkeys(method for method, _, _ in found))
    rows = [
        [method, *(f"{found[method, layer, what].value:.2f}" for layer in layers)]
        for method in methods
    ]
    return markdown_table(["method", *layers], rows)


def section(title: str, found: list[Evaluation], why: Causes) -> str:
    """One network."""
    cascade, *score_cam = found
    facts = cascade.facts
    photos = f"{facts['images']} photos of `imagenet_samples`"
    photos += f", Score-CAM {score_cam[0].facts['images'] if score_cam else 'not run'}"
    down_to = {
        line[1]: line[2] for line in cascade.tables[0].rows
    }  # the same for every method of a layer
    random = "; ".join(f"`{layer}`: down to `{stage}`" for layer, stage in down_to.items())
    parts = [
        f"## {title}",
        f"Rank correlation with the original map where all weights above the layer are random and none "
        f"below ({random}); bold: fails ({facts['threshold']}). {photos}; "
        f"explained: {facts['explained class']}.",
        verdict_table(found),
        *cascade.notes,
        f"![The whole cascade]({picture_name(title)})",
        "### Why: the same maps, weights intact",
    ]
    for what, told in AGAINST.items():
        parts += [f"Rank correlation with {told}:", cause_table(why, what)]
    return "\n\n".join(parts)


def picture_name(title: str) -> str:
    """File of a network's chart."""
    return f"sanity_{title.split('-')[0].lower()}.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--squeezenet", type=Path, required=True, help="state dict, from Caffe")
    parser.add_argument("--photos", type=int, default=32)
    parser.add_argument("--stages", type=int, default=8)
    parser.add_argument("--score-photos", type=int, default=6, help="0: without Score-CAM")
    parser.add_argument("--score-stages", type=int, default=2)
    parser.add_argument("--only", default="", help="run only the cascades with this in their name")
    parser.add_argument("--work", type=Path, default=Path("runs/sanity"), help="finished parts")
    parser.add_argument("--quick", action="store_true", help="few photos, for a smoke test")
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.quick:
        options.photos, options.score_photos, options.stages = 2, 1, 2
    samples = labeled_samples(options.data / "imagenet_samples")
    rows: list[Row] = []
    sections = []
    for network in imagenet_networks(options.squeezenet):
        done = dict(evaluations(network, samples, options))
        if options.only:
            print("\n\n".join(found.text() for found in done.values()))
            continue
        cascade = next(iter(done.values()))
        layers = cascade.facts["layers"].split(", ")
        why = causes(network, limited(samples, options.photos), layers, options.seed)
        sections.append(section(network.title, list(done.values()), why))
        for found in done.values():
            rows += rows_of("sanity", network.title, "cascade", found, options.seed)
        rows += [
            row("sanity", network.title, method, layer,
                f"rank correlation with {AGAINST[what]}", interval, options.seed)
            for (method, layer, what), interval in why.items()
        ]  # fmt: skip
        chart = replace(cascade.charts[0], title=f"{network.title}: {cascade.charts[0].title}")
        write_png(options.out / picture_name(network.title), draw_chart(chart))
    if not options.only:
        text = [
            "# Sanity: which maps depend on what the network learned",
            f"`{command()}`",
            (__doc__ or "").split("\n\n")[1],
            *sections,
            "Every number with its interval is in [sanity.json](sanity.json).",
        ]
        write_study("sanity", rows, "\n\n".join(text), options.out)


if __name__ == "__main__":
    main()
