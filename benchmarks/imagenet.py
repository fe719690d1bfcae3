"""ImageNet networks: do maps find the object, tell classes apart, and show what the network relies on?

    python benchmarks/imagenet.py --data DATA --weights WEIGHTS --work runs

EfficientNet-Lite0 and -Lite2 and SqueezeNet with ImageNet weights; every first-order method beside
SSG-CAM, on the ``auto`` layers one by one (the mean of their scores) and fused. Photos are those that the
ablation did not choose on (``ablation.py``), and Lite2 chose nothing. Axes: localization (PxAP against
filled boxes, MaxBoxAcc), grid pointing game, sanity (weight randomization, class sensitivity),
perturbation (blur, insertion, deletion). A lead counts if the interval of the paired difference
excludes zero.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import (
    DOCS,
    Row,
    command,
    imagenet_network,
    kept,
    labeled_photos,
    part_of,
    photos_with_boxes,
    table,
    write_page,
)
from ssgcam import LoadedModel
from ssgcam.evaluation import (
    Evaluation,
    EvaluationSettings,
    MethodsCompared,
    MethodSpec,
    evaluate_grid,
    evaluate_localization,
    evaluate_perturbation,
    evaluate_sanity,
)

NETWORKS = ("efficientnet_lite0", "efficientnet_lite2", "squeezenet")
OURS = ("discriminate", "localize")
RIVALS = (
    "grad_cam",
    "grad_cam_plus_plus",
    "xgrad_cam",
    "hires_cam",
    "layer_cam",
    "grad_cam_elementwise",
    "smoothed_hires_cam",
)
#: What is compared on the page, by axis.
METRICS = (
    "PxAP-box",
    "MaxBoxAcc",
    "mass in the cell",
    "top 10 % in the cell",
    "rank correlation",
    "class sensitivity",
    "probability drop",
    "insertion",
    "deletion",
)
PLACES = ("mean of layers", "all fused")
AXES = ("localization", "grid", "sanity", "perturbation")
#: Mosaics of the grid pointing game, and photos of the perturbation: these axes take longest.
MOSAICS, PERTURBED = 32, 24


def axes(
    model: LoadedModel, data: Path, compared: MethodsCompared, *, start: int, limit: int | None
) -> dict[str, Callable[[], Evaluation]]:
    """The four evaluations of a network on every second photo.

    Args:
        model: The network.
        data: The folder of the data sets.
        compared: Methods and layers.
        start: 0 for the half that the ablation chooses on, 1 for the half that reports.
        limit: At most so many photos for each axis; perturbation takes no more than ``PERTURBED``.
    """
    settings = EvaluationSettings(batch_size=8, examples=0, progress=True)
    boxed = part_of(photos_with_boxes(data), start, 2, limit)
    labeled = part_of(labeled_photos(data), start, 2, limit)
    perturbed = replace(labeled, samples=labeled.samples[:PERTURBED])
    return {
        "localization": lambda: evaluate_localization(model, boxed, compared, settings=settings),
        "grid": lambda: evaluate_grid(model, labeled, compared, mosaics=MOSAICS, settings=settings),
        "sanity": lambda: evaluate_sanity(
            model, labeled, compared, images=16, stages=1, settings=settings
        ),
        "perturbation": lambda: evaluate_perturbation(
            model, perturbed, compared, areas=(0.05, 0.1, 0.3), steps=14, settings=settings
        ),
    }


def scores_of(evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
    """Scores and differences as plain data, which can be kept in a file."""
    return {
        part: json.loads(json.dumps([vars(each) for each in getattr(evaluation, part)]))
        for part in ("scores", "differences")
    }


def kept_scores(
    evaluations: dict[str, Callable[[], Evaluation]], stem: Path, limit: int | None
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The scores of each axis, computed once; their files begin with the stem."""
    return {
        axis: kept(
            stem.with_name(f"{stem.name}_{axis}_{limit}.pt"), lambda e=evaluate: scores_of(e())
        )
        for axis, evaluate in evaluations.items()
    }


def rows_of(network: str, found: dict[str, dict[str, list[dict[str, Any]]]]) -> list[Row]:
    """The rows of a network: every score, and our differences to the best rival."""
    rows = []
    for axis in found.values():
        rows += [_row(network, score["method"], score) for score in axis["scores"]]
        rows += [
            _row(network, f"{difference['method']} - {difference['rival']}", difference)
            for difference in axis["differences"]
        ]
    return rows


def _row(network: str, method: str, score: dict[str, Any]) -> Row:
    numbers = (round(score[key], 4) for key in ("value", "low", "high"))
    return Row(network, method, score["layers"], score["metric"], *numbers, score["n"], 0)


def score_table(found: dict[str, dict[str, list[dict[str, Any]]]], layers: str) -> str:
    """One line for each method, one column for each metric, for one choice of layers."""
    values = {
        (score["method"], score["metric"]): score["value"]
        for axis in found.values()
        for score in axis["scores"]
        if score["layers"] == layers
    }
    methods = list(dict.fromkeys(method for method, _ in values))
    metrics = [metric for metric in METRICS if any((m, metric) in values for m in methods)]
    lines = [
        [method, *(f"{values[method, m]:.3f}" if (method, m) in values else "-" for m in metrics)]
        for method in methods
    ]
    return table(["method", *metrics], lines)


def layer_table(found: dict[str, dict[str, list[dict[str, Any]]]], metric: str) -> str:
    """One line for each method, one column for each layer, for one metric with its interval."""
    own = [s for axis in found.values() for s in axis["scores"] if s["metric"] == metric]
    cells = {
        (s["method"], s["layers"]): f"{s['value']:.2f} [{s['low']:.2f}, {s['high']:.2f}]"
        for s in own
    }
    methods, layers = (list(dict.fromkeys(s[key] for s in own)) for key in ("method", "layers"))
    lines = [[m, *(cells.get((m, layer), "-") for layer in layers)] for m in methods]
    return table(["method", *layers], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="folder of SqueezeNet's weights")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--limit", type=int, help="photos for each axis")
    parser.add_argument("--axes", default=",".join(AXES), help="some of them, by comma")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="results so far")
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    compared = MethodsCompared(tuple(MethodSpec(method) for method in OURS + RIVALS))
    rows, sections = [], ["# ImageNet networks", f"`{command()}`", (__doc__ or "").split("\n\n")[2]]
    for network in options.networks.split(","):
        model = imagenet_network(network, options.weights)
        stem = options.work / f"imagenet_{network}"
        evaluations = axes(model, options.data, compared, start=1, limit=options.limit)
        chosen = {axis: evaluations[axis] for axis in options.axes.split(",")}
        found = kept_scores(chosen, stem, options.limit)
        rows += rows_of(network, found)
        counts = ", ".join(f"{axis} {own['scores'][0]['n']}" for axis, own in found.items())
        sections += [f"## {network}", f"Images (for grid: mosaics' cells): {counts}."]
        for layers in PLACES:
            sections += [f"### {layers}", score_table(found, layers)]
        if "sanity" in found:
            sections += [
                "### Sanity: rank correlation after randomizing the classifier (passes below .5)",
                layer_table(found, "rank correlation"),
            ]
        differences = [
            [d["metric"], d["layers"], f"{d['method']} - {d['rival']}", _row("", "", d)]
            for own in found.values()
            for d in own["differences"]
            if d["metric"] in METRICS and d["layers"] in PLACES
        ]
        lines = [
            [metric, layers, pair, f"{r.value:+.3f} [{r.low:+.3f}, {r.high:+.3f}]"]
            for metric, layers, pair, r in differences
        ]
        sections += [
            "### Less the best rival, paired",
            table(["metric", "layers", "methods", "difference [95 %]"], lines),
        ]
    write_page("imagenet", sections, rows, options.out)


if __name__ == "__main__":
    main()
