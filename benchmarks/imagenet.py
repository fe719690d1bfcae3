"""ImageNet networks: do maps find the object, tell classes apart, and show what the network relies on?

    python benchmarks/imagenet.py study --data DATA --weights WEIGHTS --work runs
    python benchmarks/imagenet.py ablation --data DATA --weights WEIGHTS --work runs

EfficientNet-Lite0 and -Lite2 and SqueezeNet with ImageNet weights; every first-order method beside
SSG-CAM, on the ``auto`` layers one by one (the mean of their scores) and fused. Photos are those that the
ablation did not choose on, and Lite2 chose nothing. Axes: localization (PxAP against filled boxes,
MaxBoxAcc), grid pointing game, sanity (weight randomization, class sensitivity), perturbation (blur,
insertion, deletion), and with ``--axes road,road-layers`` ROAD. A lead counts if the interval of the
paired difference excludes zero.

``ablation`` compares forms, sigmas, exponents and gamma, from the default before it. Every second
photo chooses, the other half reports; EfficientNet-Lite2 chooses nothing and confirms.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from common import (
    DOCS,
    Row,
    imagenet_network,
    kept,
    labeled_photos,
    opening,
    photos_with_boxes,
    table,
    with_interval,
    write_page,
)
from ssgcam import LoadedModel, SSGSettings
from ssgcam.core.methods import DISCRIMINATE, LOCALIZE, method_of
from ssgcam.evaluation import (
    Evaluation,
    EvaluationSettings,
    MethodsCompared,
    evaluate_grid,
    evaluate_localization,
    evaluate_perturbation,
    evaluate_sanity,
)

CHOOSING, FRESH = ("efficientnet_lite0", "squeezenet"), "efficientnet_lite2"  # of the ablation
PRESETS = {"discriminate": DISCRIMINATE, "localize": LOCALIZE}
ABLATION_RIVALS = ("hires_cam", "grad_cam_elementwise", "smoothed_hires_cam")
RIVALS = (
    "grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam", "layer_cam", "grad_cam_elementwise",
    "smoothed_hires_cam",
)  # fmt: skip
#: What is compared on the page and in the rows, by axis.
METRICS = (
    "PxAP-box", "MaxBoxAcc", "MaxBoxAccV2", "mass in the cell", "top 10 % in the cell",
    "rank correlation", "class sensitivity", "probability drop", "accuracy drop", "insertion",
    "deletion", "ROAD",
)  # fmt: skip
#: The default before this ablation, and the present one without its unsmoothed share.
BEFORE, SMOOTHED = (
    SSGSettings("sum", 0.06, 1, 0.5, unsmoothed=0),
    replace(DISCRIMINATE, unsmoothed=0),
)
SETTINGS = {
    "before": BEFORE,
    **PRESETS,
    "all smoothed": SMOOTHED,
    **{f"{form} form": SSGSettings(form, 0.06, 0.3, 0.3) for form in ("taylor", "gradient")},
    **{f"sigma {sigma}": replace(BEFORE, sigma=sigma) for sigma in (0.0, 0.08, 0.1, 0.13)},
    **{f"second exponent {b}": replace(BEFORE, second_exponent=b) for b in (0.0, 0.25, 1.0)},
    **{
        f"sigma 0.08, exponents {a}, {a / 4}": replace(
            SMOOTHED, first_exponent=a, second_exponent=a / 4
        )
        for a in (1, 2)
    },
    "cancellation 0.5": replace(BEFORE, cancellation=0.5),
    **{f"all smoothed, sigma {sigma}": replace(SMOOTHED, sigma=sigma) for sigma in (0.0, 0.03)},
    **{f"unsmoothed {share}": replace(SMOOTHED, unsmoothed=share) for share in (0.5, 0.7)},
    "localize, sigma 0.03": replace(LOCALIZE, sigma=0.03),
}
VARIANTS = {name: replace(method_of("ssg_cam", s), title=name) for name, s in SETTINGS.items()}
VARIANTS["gamma 0.5"] = replace(VARIANTS["before"], gamma=0.5, title="gamma 0.5")
PLACES = ("mean of layers", "all fused")
AXES = ("localization", "grid", "sanity", "perturbation")
#: Mosaics of the grid pointing game; photos of sanity, perturbation, ROAD and ROAD of single layers.
MOSAICS, SANITY, PERTURBED, ROAD, ROAD_LAYERS = 32, 60, 24, 16, 8


def axes(
    model: LoadedModel, data: Path, compared: MethodsCompared, *, start: int, limit: int | None
) -> dict[str, Callable[[], Evaluation]]:
    """The evaluations of a network on every second photo: from 0 those that choose, from 1 report."""
    settings = EvaluationSettings(batch_size=8, examples=0, progress=True)
    boxed, labeled = (
        replace(photos, samples=photos.samples[start::2][:limit])
        for photos in (photos_with_boxes(data), labeled_photos(data))
    )
    perturbed, road, road_layers = (
        replace(labeled, samples=labeled.samples[:n]) for n in (PERTURBED, ROAD, ROAD_LAYERS)
    )
    road_of = partial(evaluate_perturbation, model, measures=("road",), settings=settings)
    return {
        "localization": lambda: evaluate_localization(model, boxed, compared, settings=settings),
        "grid": lambda: evaluate_grid(model, labeled, compared, mosaics=MOSAICS, settings=settings),
        "sanity": lambda: evaluate_sanity(
            model, labeled, compared, images=SANITY, stages=1, settings=settings
        ),
        "perturbation": lambda: evaluate_perturbation(
            model, perturbed, compared, areas=(0.05, 0.1, 0.3), steps=14, settings=settings
        ),
        "road": lambda: road_of(road, replace(compared, each=False)),
        "road-layers": lambda: road_of(road_layers, replace(compared, fused=False)),
    }


def scores_of(evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
    """Scores and differences as plain data, which can be kept in a file."""
    return {
        part: json.loads(json.dumps([vars(each) for each in getattr(evaluation, part)]))
        for part in ("scores", "differences")
    }


def scores_of_half(
    name: str, compared: MethodsCompared, half: int, stem: str, options: argparse.Namespace
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The scores of a network on each axis, computed once; their files begin with the stem."""
    model = imagenet_network(name, options.weights)
    evaluations = axes(model, options.data, compared, start=half, limit=options.limit)
    stem += "_fused" * options.fused
    return {
        axis: kept(
            options.work / f"{stem}_{name}_{half}_{axis}_{options.limit}.pt",
            lambda evaluate=evaluations[axis]: scores_of(evaluate()),
        )
        for axis in options.axes.split(",")
    }


def rows_of(network: str, found: dict[str, dict[str, list[dict[str, Any]]]]) -> list[Row]:
    """The rows of a network: scores, and our differences to the best rival.

    Of single layers only the sanity check, to keep the file small.
    """
    rows = []
    for axis in found.values():
        rows += [_row(network, score["method"], score) for score in axis["scores"]]
        rows += [_row(network, f"{d['method']} - {d['rival']}", d) for d in axis["differences"]]
    rows = [row for row in rows if row.metric in METRICS]
    return [row for row in rows if row.layers in PLACES or row.metric == "rank correlation"]


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


def score_sections(title: str, found: dict[str, dict[str, list[dict[str, Any]]]]) -> list[str]:
    """The title, the numbers of images, and the tables of both choices of layers."""
    counts = ", ".join(f"{axis} {own['scores'][0]['n']}" for axis, own in found.items())
    places = {score["layers"] for own in found.values() for score in own["scores"]}
    shown = [place for place in PLACES if place in places]
    tables = [part for place in shown for part in (f"### {place}", score_table(found, place))]
    return [f"## {title}", f"Images (for grid: mosaics' cells): {counts}.", *tables]


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


def study(options: argparse.Namespace) -> None:
    """Compare the presets with first-order methods and write the page."""
    compared = MethodsCompared(tuple(map(method_of, (*PRESETS, *RIVALS))), each=not options.fused)
    rows, sections = [], opening("ImageNet networks", __doc__)
    for network in options.networks.split(","):
        found = scores_of_half(network, compared, 1, "imagenet", options)
        own = rows_of(network, found)
        rows += own
        sections += score_sections(network, found)
        if "sanity" in found:
            sections += [
                "### Sanity: rank correlation after randomizing the classifier (passes below .5)",
                layer_table(found, "rank correlation"),
            ]
        lines = [
            [row.metric, row.layers, row.method, with_interval(row, "+")]
            for row in own
            if " - " in row.method and row.layers in PLACES
        ]
        header = ["metric", "layers", "methods", "difference [95 %]"]
        sections += ["### Less the best rival, paired", table(header, lines)]
    write_page("imagenet", sections, rows, options.out)


def ablation(options: argparse.Namespace) -> None:
    """Compare variants with three rivals and write the page."""
    chosen = [VARIANTS[name] for name in options.variants or VARIANTS]
    methods = (*chosen, *map(method_of, ABLATION_RIVALS))
    compared = MethodsCompared(methods, each=not options.fused)
    stem = "_".join(("ablation", *options.variants))
    rows, sections = [], opening("Ablation", __doc__, 3)
    for network in options.networks.split(","):
        for half in (1,) if network == FRESH else (0, 1):
            found = scores_of_half(network, compared, half, stem, options)
            title = f"{network}, {('choosing', 'reporting')[half]} half"
            own = rows_of(title, found)
            rows += [row for row in own if " - " not in row.method and row.layers in PLACES]
            sections += score_sections(title, found)
    write_page("ablation", sections, rows, options.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", choices=("study", "ablation"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="folder of SqueezeNet's weights")
    parser.add_argument("--networks", default=",".join((*CHOOSING, FRESH)))
    parser.add_argument("--limit", type=int, help="photos for each axis")
    parser.add_argument("--axes", default=",".join(AXES), help="some of them, by comma")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=(), help="default: all")
    parser.add_argument("--fused", action="store_true", help="all layers fused alone")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="results so far")
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    {"study": study, "ablation": ablation}[options.step](options)


if __name__ == "__main__":
    main()
