"""ImageNet networks: do SSG-CAM's maps find the object, and does the network rely on what they show?

EfficientNet-Lite0 and SqueezeNet with their ImageNet weights. Localisation on ``imagenet_val`` and on
photos of ``tiny_imagenet_val`` that the ablation didn't use; the blur test, Average Drop, insertion
and deletion on ``imagenet_samples``; the sanity check of every method. One forward and one backward
pass for each batch serve all gradient methods and layers. Every finished evaluation is kept in
``--work``, so that a killed run goes on where it was.

    python benchmarks/imagenet.py --data DATA --squeezenet WEIGHTS [--quick]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ssgcam import LoadedModel, load_model
from ssgcam.core.methods import METHODS
from ssgcam.data import SampleSet, read_samples
from ssgcam.evaluation import (
    Contender,
    Difference,
    Entrants,
    Evaluation,
    EvaluationSettings,
    Score,
    evaluate_localization,
    evaluate_perturbation,
    evaluate_sanity,
    limited,
)
from ssgcam.evaluation.figures import Chart, Series
from ssgcam.evaluation.plots import draw_chart
from ssgcam.evaluation.result import ALL_FUSED, MEAN, Table, markdown_table
from ssgcam.files import write_json, write_png
from study import DOCS, Row, command, write_study

GRADIENT = (
    "ssg_cam", "grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam", "layer_cam",
    "grad_cam_elementwise",
)  # fmt: skip
CHEAP = tuple(name for name in METHODS if name != "score_cam")
ABLATION = (
    120  # the first photos of tiny_imagenet_val: the ablation chose the defaults on half of them
)


@dataclass(frozen=True)
class Network:
    """A network of the study and its target layers."""

    title: str
    model: LoadedModel
    layers: str | list[str]


@dataclass(frozen=True)
class Job:
    """One evaluation: its name, network, data set and what to call."""

    name: str
    title: str
    network: Network
    data: str
    run: Callable[[], Evaluation]


def networks(squeezenet: Path) -> list[Network]:
    fires = ["features.4", "features.7", "features.9", "features.12"]
    lite = load_model("efficientnet_lite0")
    squeeze = load_model("networks:squeezenet_caffe", squeezenet)
    for model in (lite, squeeze):
        model.network.to(memory_format=torch.channels_last)  # faster on a CPU
    return [Network("EfficientNet-Lite0", lite, "auto"), Network("SqueezeNet", squeeze, fires)]


def entrants(network: Network, methods: Sequence[str], **options: Any) -> Entrants:
    return Entrants(tuple(Contender.parse(name) for name in methods), network.layers, **options)


def labelled_samples(folder: Path) -> SampleSet:
    """``imagenet_samples``: the class index is the beginning of the file name."""
    samples = read_samples(folder)
    every = tuple(replace(s, labels=(int(s.image.name[:3]),)) for s in samples)
    return replace(samples, samples=every, class_names=tuple(map(str, range(1000))))


def jobs(options: argparse.Namespace) -> list[Job]:
    data: Path = options.data
    quick: bool = options.quick
    val = limited(read_samples(data / "imagenet_val", edges="inclusive"), 4 if quick else None)
    tiny = read_samples(data / "tiny_imagenet_val", edges="exclusive")
    unseen = replace(tiny, samples=tiny.samples[ABLATION:])
    unseen = limited(unseen, 6 if quick else options.tiny)
    samples = labelled_samples(data / "imagenet_samples")
    many = limited(samples, 4 if quick else options.samples)
    few = limited(samples, 3 if quick else options.curves)
    settings = EvaluationSettings(seed=options.seed, examples=0, progress=True)
    steps = 4 if quick else 28
    found = []
    for network in networks(options.squeezenet):
        short = network.title.split("-")[0].lower()
        plain = entrants(network, GRADIENT)
        both_forms = entrants(network, (*GRADIENT, "ssg_cam:gradient"))
        fused = entrants(network, GRADIENT, each=False)

        def add(name: str, data_name: str, function: Callable[..., Evaluation], *given: Any,
                network: Network = network, short: str = short, **more: Any) -> None:  # fmt: skip
            run = partial_run(function, network.model, *given, settings=settings, **more)
            found.append(Job(f"{short}_{name}", name.replace("_", " "), network, data_name, run))

        add("localization_imagenet_val", "imagenet_val", evaluate_localization, val, both_forms)
        add("localization_tiny_imagenet_val", "tiny_imagenet_val", evaluate_localization, unseen,
            both_forms)  # fmt: skip
        add("sanity", "imagenet_samples", evaluate_sanity, samples,
            entrants(network, CHEAP, fused=False), images=2 if quick else 16,
            stages=4 if quick else None)  # fmt: skip
        if (
            network.title == "SqueezeNet"
        ):  # one forward pass for each channel: two layers, few photos
            deep = replace(network, layers=["features.7", "features.12"])
            add("sanity_score_cam", "imagenet_samples", evaluate_sanity, samples,
                entrants(deep, ("score_cam",), fused=False), images=1 if quick else 6,
                stages=2 if quick else 6)  # fmt: skip
        add("blur", "imagenet_samples", evaluate_perturbation, many, plain,
            measures=("blur", "drop_increase"))  # fmt: skip
        add("insertion_deletion", "imagenet_samples", evaluate_perturbation, few, fused,
            measures=("insertion_deletion",), steps=steps)  # fmt: skip
    return found


def partial_run(
    function: Callable[..., Evaluation], *given: Any, **more: Any
) -> Callable[[], Evaluation]:
    return lambda: function(*given, **more)


def finished(job: Job, work: Path) -> Evaluation:
    """The evaluation, from its file if it was made with the same settings."""
    file = work / f"{job.name}.json"
    defaults = Contender()
    ssg = defaults.ssg
    key = f"{ssg.form} {ssg.sigma} {ssg.first_exponent} {ssg.second_exponent} {defaults.power}"
    if file.is_file():
        content = json.loads(file.read_text())
        if content.pop("key") == key:
            return restored(content)
    print(job.name, flush=True)
    evaluation = job.run()
    write_json(file, {"key": key, **evaluation.to_json()})
    return evaluation


def restored(content: dict[str, Any]) -> Evaluation:
    """An evaluation from its JSON."""
    nan = float("nan")

    def filled(values: dict[str, Any]) -> dict[str, Any]:
        return {key: nan if value is None else value for key, value in values.items()}

    charts = []
    for chart in content["charts"]:
        plots = {
            layers: tuple(Series(**line) for line in lines)
            for layers, lines in chart["plots"].items()
        }
        charts.append(Chart(**{**chart, "plots": plots}))
    tables = [
        Table(table["title"], tuple(table["header"]), tuple(map(tuple, table["rows"])))
        for table in content["tables"]
    ]
    differences = [{k: v for k, v in d.items() if k != "verdict"} for d in content["differences"]]
    return Evaluation(
        content["task"],
        content["facts"],
        tuple(Score(**filled(score)) for score in content["scores"]),
        tuple(Difference(**difference) for difference in differences),
        tuple(tables),
        tuple(charts),
        notes=tuple(content["notes"]),
    )


def rows_of(job: Job, found: Evaluation, seed: int) -> list[Row]:
    rows = [
        Row("imagenet", job.network.title, s.method, s.layers, f"{s.metric}, {job.data}",
            round(s.value, 4), round(s.low, 4), round(s.high, 4), s.n, seed, command())
        for s in found.scores
    ]  # fmt: skip
    rows += [
        Row("imagenet", job.network.title, f"{d.method} less {d.rival}", d.layers,
            f"{d.metric}, {job.data}, paired difference to the best rival",
            round(d.value, 4), round(d.low, 4), round(d.high, 4), d.n, seed, command())
        for d in found.differences
    ]  # fmt: skip
    return rows


def section(job: Job, found: Evaluation, pictures: Sequence[str]) -> str:
    """One evaluation in the report: what is fused and the means, the first metric by layer, curves."""
    told = ("images", "layers", "blurred", "blur", "random control", "insertion and deletion",
            "explained class", "accuracy of the intact images", "threshold")  # fmt: skip
    facts = "; ".join(f"{name}: {found.facts[name]}" for name in told if name in found.facts)
    shown = "\n\n".join(f"![{name.removesuffix('.png')}]({name})" for name in pictures)
    joint = tuple(s for s in found.scores if s.layers in (MEAN, ALL_FUSED))
    parts = [f"### {job.network.title}, {job.title}", f"{job.data}; {facts}."]
    parts += [
        replace(found, scores=joint, notes=()).text(brief=True),
        by_layer(found),
        *found.notes,
    ]
    return "\n\n".join(part for part in [*parts, shown] if part)


def by_layer(found: Evaluation) -> str:
    """The first metric, methods by layers."""
    first = next((score.metric for score in found.scores if score.shown), None)
    single = [s for s in found.scores if s.metric == first and s.layers not in (MEAN, ALL_FUSED)]
    if not single:
        return ""
    layers = list(dict.fromkeys(score.layers for score in single))
    rows = [
        [method, *(f"{found.score(method, layer, str(first)).value:.3f}" for layer in layers)]
        for method in dict.fromkeys(score.method for score in single)
    ]
    return f"{first} of each layer:\n\n" + markdown_table(["method", *layers], rows)


def verdicts(done: Sequence[tuple[Job, Evaluation]]) -> str:
    """The two claims, and every comparison that is lost."""
    bars = []
    for job, found in done:
        for d in found.differences:
            wanted = d.metric.startswith("PxAP") or d.metric == "accuracy drop"
            if wanted and d.layers == MEAN:
                gap = f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
                bars.append(
                    [job.network.title, job.data, d.metric, d.rival, gap, d.verdict, str(d.n)]
                )
    counts = {"leads": 0, "open": 0, "loses": 0}
    lost = []
    for job, found in done:
        for d in found.differences:
            if d.shown:
                counts[d.verdict] += 1
                if d.verdict == "loses":
                    gap = f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
                    lost.append([job.network.title, job.data, d.layers, d.metric, d.rival, gap])
    header = ["network", "data", "metric", "best rival", "SSG-CAM less the rival", "", "n"]
    parts = [
        "## The two claims",
        "Mean over the single layers, SSG-CAM less the best of the other gradient methods, paired. "
        "The rival is the best on these very images, which favours it.",
        markdown_table(header, bars),
        "## Where SSG-CAM loses",
        f"Of all comparisons with the best rival (each layer, fused, mean of layers; metrics of the "
        f"tables) SSG-CAM leads in {counts['leads']}, loses in {counts['loses']}, and "
        f"{counts['open']} are open (the interval of the paired difference holds zero). It loses:",
        markdown_table(["network", "data", "layers", "metric", "to", "difference"], lost)
        if lost
        else "Nowhere.",
    ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--squeezenet", type=Path, required=True, help="state dict, from Caffe")
    parser.add_argument("--tiny", type=int, default=200, help="photos of tiny_imagenet_val")
    parser.add_argument("--samples", type=int, default=200, help="photos of the blur test")
    parser.add_argument("--curves", type=int, default=60, help="photos of insertion and deletion")
    parser.add_argument(
        "--only", default="", help="run only the evaluations with this in their name"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/imagenet"), help="finished parts")
    parser.add_argument("--quick", action="store_true", help="few photos, for a smoke test")
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    done = [(job, finished(job, options.work)) for job in jobs(options) if options.only in job.name]
    if options.only:
        print("\n\n".join(section(job, found, []) for job, found in done))
        return
    rows, sections = [], []
    for job, found in done:
        rows += rows_of(job, found, options.seed)
        pictures = []
        for chart in found.charts:
            name = f"imagenet_{job.name}_{chart.name.partition('_')[2]}.png"
            write_png(options.out / name, draw_chart(chart))
            pictures.append(name)
        sections.append(section(job, found, pictures))
    facts = done[0][1].facts
    text = [
        "# ImageNet networks: localisation, blur test, sanity",
        f"`{command()}`",
        f"SSG-CAM: {facts['SSG-CAM']}. Intervals: {facts['intervals']}. The defaults of SSG-CAM were "
        "chosen by the ablation, on half of `imagenet_val` among others, so that set is no fresh "
        "evidence; the photos of `tiny_imagenet_val` and `imagenet_samples` here are. "
        f"{facts['versions']}.",
        verdicts(done),
        "## The evaluations",
        "Every number, of every layer and metric, with its interval is in "
        "[imagenet.json](imagenet.json).",
        *sections,
    ]
    write_study("imagenet", rows, "\n\n".join(text), options.out)
    print(verdicts(done))


if __name__ == "__main__":
    main()
