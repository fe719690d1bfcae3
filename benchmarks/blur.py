"""The blur test on many photos, and which part of SSG-CAM decides it.

All gradient methods on ``imagenet_samples`` (the blur test of ``imagenet.py`` alone, kept in the same
folder ``--work``), then SSG-CAM with parts of it taken away, each against element-wise Grad-CAM, which is
what is left without smoothing and second order. Differences are paired, means over single layers.

    python benchmarks/blur.py --data DATA --squeezenet WEIGHTS --samples 200
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from evaluations import finished, rows_of, section
from helpers.networks import imagenet_networks
from imagenet import GRADIENT, entrants, key_of
from ssgcam.core.settings import SSGSettings
from ssgcam.data import SampleSet
from ssgcam.evaluation import (
    Contender,
    Entrants,
    EvaluationSettings,
    evaluate_perturbation,
    limited,
)
from ssgcam.evaluation.perturbation import Measure
from ssgcam.evaluation.result import MEAN, markdown_table
from study import DOCS, Row, command, labeled_samples, signed, write_study

RIVAL = Contender("grad_cam_elementwise")
PARTS = {
    "SSG-CAM": SSGSettings(),
    "without smoothing": SSGSettings(sigma=0),
    "first order alone": SSGSettings(first_exponent=1, second_exponent=0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--squeezenet", type=Path, required=True, help="state dict, from Caffe")
    parser.add_argument("--samples", type=int, default=200, help="photos for all methods")
    parser.add_argument("--causes", type=int, default=60, help="photos for the parts of SSG-CAM")
    parser.add_argument("--quick", action="store_true", help="few photos, for a smoke test")
    parser.add_argument("--work", type=Path, default=Path("runs/imagenet"), help="finished parts")
    parser.add_argument("--finished", action="store_true", help="report what is finished so far")
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    samples = labeled_samples(options.data / "imagenet_samples")
    many = limited(samples, 4 if options.quick else options.samples)
    few = limited(samples, 3 if options.quick else options.causes)
    settings = EvaluationSettings(seed=options.seed, examples=0, progress=True)
    rows: list[Row] = []
    text = ["# The blur test on many photos", f"`{command()}`", (__doc__ or "").split("\n\n")[1]]
    summary: list[list[str]] = []
    for network in imagenet_networks(options.squeezenet):
        short = network.title.split("-")[0].lower()
        jobs: dict[str, tuple[SampleSet, Entrants, tuple[Measure, ...]]] = {
            "blur": (many, entrants(network, GRADIENT), ("blur", "drop_increase"))  # of imagenet.py
        }
        for name, ssg in PARTS.items():
            pair = Entrants(
                (Contender("ssg_cam", ssg, name=name), RIVAL), network.layers, fused=False
            )
            jobs[f"blur_{name}".replace(" ", "_")] = (few, pair, ("blur",))
        for name, (photos, who, measures) in jobs.items():
            file = options.work / f"{short}_{name}.json"
            if options.finished and not file.is_file():
                continue
            run = partial(
                evaluate_perturbation, network.model, photos, who,
                measures=measures, settings=settings,
            )  # fmt: skip
            found = finished(file, key_of(who.contenders[0], len(photos), options.seed), run)
            rows += rows_of("imagenet", network.title, "imagenet_samples", found, options.seed)
            title = f"{network.title}, {name.replace('_', ' ')}"
            text.append(section(title, "imagenet_samples", found))
            summary += [
                [network.title, d.method, d.rival, signed(d), str(d.n)]
                for d in found.differences
                if d.metric == "accuracy drop" and d.layers == MEAN
            ]  # fmt: skip
    head = [
        "network",
        "method",
        "less the best of the others",
        "accuracy drop, mean of layers",
        "n",
    ]
    text.insert(3, markdown_table(head, summary))
    write_study("blur", rows, "\n\n".join(text), options.out)
    print(markdown_table(head, summary))


if __name__ == "__main__":
    main()
