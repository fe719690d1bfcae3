"""ImageNet networks: do SSG-CAM's maps find the object, and does the network rely on what they show?

EfficientNet-Lite0 and SqueezeNet with their ImageNet weights. Localization on ``imagenet_val`` and on
photos of ``tiny_imagenet_val`` that the ablation didn't use; the blur test, Average Drop, insertion
and deletion on ``imagenet_samples``. One forward and one backward pass for each batch serve all
gradient methods and layers. Every finished evaluation is kept in ``--work``, so that a killed run
goes on where it was. The sanity check of every method is ``sanity.py``.

    python benchmarks/imagenet.py --data DATA --squeezenet WEIGHTS [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from evaluations import finished, rows_of, section
from helpers.networks import Network, imagenet_networks
from ssgcam.data import SampleSet, read_samples
from ssgcam.evaluation import (
    Contender,
    Entrants,
    Evaluation,
    EvaluationSettings,
    evaluate_localization,
    evaluate_perturbation,
    limited,
)
from ssgcam.evaluation.figures import Chart
from ssgcam.evaluation.plots import draw_chart
from ssgcam.evaluation.result import MEAN, markdown_table
from ssgcam.files import write_png
from study import DOCS, command, labeled_samples, signed, write_study

GRADIENT = (
    "ssg_cam", "grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam", "layer_cam",
    "grad_cam_elementwise",
)  # fmt: skip
#: The first photos of tiny_imagenet_val: the ablation chose the defaults on half of them.
ABLATION = 120


@dataclass(frozen=True)
class Job:
    """One evaluation: its name, network, data set and what to call."""

    name: str
    title: str
    network: Network
    data: str
    images: int
    run: Callable[[], Evaluation]


def entrants(network: Network, methods: Sequence[str], **options: Any) -> Entrants:
    return Entrants(tuple(Contender.parse(name) for name in methods), network.layers, **options)


def jobs(options: argparse.Namespace) -> list[Job]:
    data: Path = options.data
    quick: bool = options.quick
    val = limited(read_samples(data / "imagenet_val", edges="inclusive"), 4 if quick else None)
    tiny = read_samples(data / "tiny_imagenet_val", edges="exclusive")
    unseen = replace(tiny, samples=tiny.samples[ABLATION:])
    unseen = limited(unseen, 6 if quick else options.tiny)
    samples = labeled_samples(data / "imagenet_samples")
    many = limited(samples, 4 if quick else options.samples)
    few = limited(samples, 3 if quick else options.curves)
    settings = EvaluationSettings(seed=options.seed, examples=0, progress=True)
    steps = 4 if quick else 28
    found = []
    for network in imagenet_networks(options.squeezenet):
        short = network.title.split("-")[0].lower()
        plain = entrants(network, GRADIENT)
        both_forms = entrants(network, (*GRADIENT, "ssg_cam:gradient"))
        fused = entrants(network, GRADIENT, each=False)

        def add(name: str, data_name: str, function: Callable[..., Evaluation],
                photos: SampleSet, who: Entrants, network: Network = network, short: str = short,
                **more: Any) -> None:  # fmt: skip
            run = partial(function, network.model, photos, who, settings=settings, **more)
            title = name.replace("_", " ")
            found.append(Job(f"{short}_{name}", title, network, data_name, len(photos), run))

        add("localization_imagenet_val", "imagenet_val", evaluate_localization, val, both_forms)
        add("localization_tiny_imagenet_val", "tiny_imagenet_val", evaluate_localization, unseen,
            both_forms)  # fmt: skip
        add("blur", "imagenet_samples", evaluate_perturbation, many, plain,
            measures=("blur", "drop_increase"))  # fmt: skip
        add("insertion_deletion", "imagenet_samples", evaluate_perturbation, few, fused,
            measures=("insertion_deletion",), steps=steps)  # fmt: skip
    return found


def done_job(job: Job, work: Path, seed: int) -> Evaluation:
    """The evaluation, from its file if it was made with the same settings."""
    return finished(work / f"{job.name}.json", key_of(Contender(), job.images, seed), job.run)


def key_of(ours: Contender, images: int, seed: int) -> str:
    """What a kept evaluation depends on."""
    ssg = ours.ssg
    return (
        f"{ssg.form} {ssg.sigma} {ssg.first_exponent} {ssg.second_exponent} {ours.power}; "
        f"{images} images, seed {seed}"
    )


def told(job: Job, found: Evaluation) -> str:
    """One evaluation in the report."""
    return section(f"{job.network.title}, {job.title}", job.data, found)


def pictures(done: Sequence[tuple[Job, Evaluation]]) -> dict[str, Chart]:
    """File name -> the curves of both networks; of the two sets with boxes the fresh one."""
    found: dict[str, Chart] = {}
    for job, evaluation in done:
        if job.data == "imagenet_val":
            continue
        for chart in evaluation.charts:
            name = f"imagenet_{chart.name.partition('_')[2]}.png"
            plots = {f"{job.network.title}, {key}": lines for key, lines in chart.plots.items()}
            before = found[name].plots if name in found else {}
            found[name] = replace(
                chart, title=f"{chart.title} ({job.data})", plots={**before, **plots}
            )
    return found


def verdicts(done: Sequence[tuple[Job, Evaluation]]) -> str:
    """The two claims, and every comparison that is lost."""
    bars = []
    for job, found in done:
        for d in found.differences:
            wanted = d.metric.startswith("PxAP") or d.metric == "accuracy drop"
            if wanted and d.layers == MEAN:
                gap = signed(d)
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
                    gap = signed(d)
                    lost.append([job.network.title, job.data, d.layers, d.metric, d.rival, gap])
    header = ["network", "data", "metric", "best rival", "SSG-CAM less the rival", "", "n"]
    parts = [
        "## The two claims",
        "Mean over the single layers, SSG-CAM less the best of the other gradient methods, paired. "
        "The rival is the best on these very images, which favors it.",
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
    parser.add_argument("--finished", action="store_true", help="report what is finished so far")
    parser.add_argument("--work", type=Path, default=Path("runs/imagenet"), help="finished parts")
    parser.add_argument("--quick", action="store_true", help="few photos, for a smoke test")
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    known = jobs(options)
    wanted = [job for job in known if options.only in job.name]
    if options.finished:
        wanted = [job for job in wanted if (options.work / f"{job.name}.json").is_file()]
    done = [(job, done_job(job, options.work, options.seed)) for job in wanted]
    if options.only:
        print("\n\n".join(told(job, found) for job, found in done))
        return
    rows = [
        row
        for job, found in done
        for row in rows_of("imagenet", job.network.title, job.data, found, options.seed)
    ]
    charts = pictures(done)
    for name, chart in charts.items():
        write_png(options.out / name, draw_chart(chart))
    names = [job.name for job, _ in done]
    missing = [job.name.replace("_", " ") for job in known if job.name not in names]
    facts = done[0][1].facts
    text = [
        "# ImageNet networks: localization and blur test",
        f"`{command()}`",
        f"SSG-CAM: {facts['SSG-CAM']}. Intervals: {facts['intervals']}. The defaults of SSG-CAM were "
        "chosen by the ablation, on half of `imagenet_val` among others, so that set is no fresh "
        "evidence; the photos of `tiny_imagenet_val` and `imagenet_samples` here are. "
        f"{facts['versions']}.",
        verdicts(done),
        *(["Not run yet: " + ", ".join(missing) + "."] if missing else []),
        "## The evaluations",
        "Every number, of every layer and metric, with its interval is in "
        "[imagenet.json](imagenet.json).",
        *(told(job, found) for job, found in done),
        "## Curves",
        *(f"![{chart.title}]({name})" for name, chart in charts.items()),
    ]
    write_study("imagenet", rows, "\n\n".join(text), options.out)
    print(verdicts(done))


if __name__ == "__main__":
    main()
