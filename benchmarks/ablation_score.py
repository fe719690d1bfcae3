"""Ablation of the score, of the second-order signal and of the fusion rule.

PxAP (Choe et al. 2020) of SSG-CAM's default map with every score, with the Gauss-Newton part or the true
diagonal of the Hessian (Hutchinson's estimate) and either sign, each layer on its own (mean over layers)
and fused; and of the fusion rules. Piecewise-linear networks: EfficientNet-Lite0 and SqueezeNet on
photos with boxes, ResNet34 on infected cells with the ellipse in each box. The kind of second order can
matter in a smooth network alone (SiLU): EfficientNet-B0 on the cells, if ``train_malaria.py`` has
trained it. Differences to the default are paired.

    python benchmarks/ablation_score.py --data DATA --squeezenet WEIGHTS --weights runs
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ablation import WORKING, cell_batches, mean_over_layers, photo_batches
from ssgcam import CAM, LoadedModel, load_model
from ssgcam.core import fusion as pipeline
from ssgcam.core.methods import METHODS
from ssgcam.core.settings import Fusion, TargetSettings
from ssgcam.metrics import (
    bootstrap_interval,
    paired_difference,
    pixel_average_precision,
    score_histograms,
)
from study import DOCS, Row, command, row, signed, table, with_interval, write_study

DEFAULT = "exp, squared"
PIECEWISE_LINEAR = {
    DEFAULT: TargetSettings(),
    "odds": TargetSettings("odds"),
    "odds, magnitude": TargetSettings("odds", sign="absolute"),
    "probability": TargetSettings("probability"),
    "probability, magnitude": TargetSettings("probability", sign="absolute"),
    "log_probability, magnitude": TargetSettings("log_probability", sign="absolute"),
    "sigmoid": TargetSettings("sigmoid"),
    "sigmoid, magnitude": TargetSettings("sigmoid", sign="absolute"),
}
SMOOTH = {
    DEFAULT: TargetSettings(),
    "exp, hutchinson": TargetSettings(second="hutchinson"),
    "exp, hutchinson, magnitude": TargetSettings(second="hutchinson", sign="absolute"),
    "odds": TargetSettings("odds"),
    "odds, hutchinson": TargetSettings("odds", second="hutchinson"),
}
FUSIONS: dict[str, tuple[Fusion, float]] = {
    "mean": ("mean", 1.0),
    "mean, gamma 0.5": ("mean", 0.5),
    "largest of tanh (LayerCAM's rule)": ("layer_cam", 1.0),
}
#: The maps of the batches: inputs, classes, masks, whether the image is scored, groups.
Batches = Iterator[tuple[Tensor, Tensor, list[Tensor], list[bool], list[str]]]


@dataclass
class Scored:
    """Score histograms ``[N, L, 2, 1001]`` (single) and ``[N, 2, 1001]`` (fused) by setting."""

    single: dict[str, list[Tensor]] = field(default_factory=dict)
    fused: dict[str, list[Tensor]] = field(default_factory=dict)
    empty: dict[str, int] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)


def collected(
    model: LoadedModel, batches: Batches, layers: str | list[str], scores: dict[str, TargetSettings],
    title: str,
) -> Scored:  # fmt: skip
    """Score every setting on every image."""
    found = Scored()
    cams = {name: CAM(model, layers, score=settings) for name, settings in scores.items()}
    function = METHODS["ssg_cam"].function
    assert function is not None
    for images, labels, masks, _, groups in tqdm(batches, desc=title):
        found.groups += groups
        for name, cam in cams.items():
            signals, _ = cam.signals(images, labels)
            found.layers = list(signals)
            maps = [function(signal).detach() for signal in signals.values()]
            empty = sum(int((each.flatten(1).amax(1) <= 0).sum()) for each in maps)
            found.empty[name] = found.empty.get(name, 0) + empty
            single = torch.stack([score_histograms(each, masks) for each in maps], 1)
            found.single.setdefault(name, []).append(single)
            rules = FUSIONS if name == DEFAULT else {"mean": FUSIONS["mean"]}
            for rule, (fusion, gamma) in rules.items():
                fused = pipeline.fuse(
                    maps, (WORKING, WORKING), gammas=[gamma] * len(maps), fusion=fusion
                )
                key = name if rule == "mean" else rule
                found.fused.setdefault(key, []).append(score_histograms(fused, masks))
    return found


def section(title: str, found: Scored, seed: int) -> tuple[list[Row], str]:
    """The tables of one network."""
    rows: list[Row] = []
    layers = ",".join(found.layers)

    def compared(parts: dict[str, list[Tensor]], name: str, statistic: Any, metric: str) -> str:
        own, default = torch.cat(parts[name]), torch.cat(parts[DEFAULT])
        value = bootstrap_interval(own, statistic, seed=seed, groups=found.groups)
        rows.append(row("ablation", title, name, layers, metric, value, seed))
        if name == DEFAULT:
            return with_interval(value)
        gap = paired_difference(own, default, statistic, seed=seed, groups=found.groups)
        rows.append(
            row("ablation", title, f"{name} - {DEFAULT}", layers, f"{metric} difference", gap, seed)
        )
        return f"{value.value:.3f}; {signed(gap)}"

    lines = [
        [
            name,
            compared(found.single, name, mean_over_layers, "PxAP mean over layers"),
            compared(found.fused, name, pixel_average_precision, "PxAP fused"),
            str(found.empty[name]),
        ]
        for name in found.single
    ]
    rules = [
        [name, compared(found.fused, name, pixel_average_precision, "PxAP fused")]
        for name in found.fused
        if name == DEFAULT or name in FUSIONS
    ]
    images = len(found.groups)
    return rows, "\n\n".join(
        [
            f"## {title}: {images} images",
            f"Layers {layers}. First line: the default. Then PxAP; its difference to the default.",
            table(["score, second order", "single, mean", "fused", "empty maps"], lines),
            table(["fusion (of the default's maps)", "fused"], rules),
        ]
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--squeezenet", type=Path, required=True, help="state dict, from Caffe")
    parser.add_argument("--weights", type=Path, required=True, help="folder of train_malaria.py")
    parser.add_argument("--smooth", default="efficientnet_b0", help="network of train_malaria.py")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--tiny", type=int, default=60, help="images of tiny_imagenet_val")
    parser.add_argument("--quick", action="store_true", help="one batch, for a smoke test")
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lite = load_model("efficientnet_lite0")
    squeeze = load_model("networks:squeezenet_caffe", options.squeezenet)
    cells = load_model(str(options.weights / f"malaria_resnet34_fold{options.fold}.pth"))
    smooth_file = options.weights / f"malaria_{options.smooth}_fold{options.fold}.pth"
    fires = ["features.4", "features.7", "features.9", "features.12"]

    def tested(model: LoadedModel) -> Batches:
        for batch in cell_batches(options.data, model, options.fold):
            if not batch[3][0]:  # a batch is of calibration or of test windows
                yield batch

    studies: dict[str, tuple[LoadedModel, Batches, str | list[str], dict[str, TargetSettings]]] = {
        "EfficientNet-Lite0": (
            lite, photo_batches(options.data, lite, options.tiny), "auto", PIECEWISE_LINEAR),
        "SqueezeNet": (
            squeeze, photo_batches(options.data, squeeze, options.tiny), fires, PIECEWISE_LINEAR),
        "ResNet34, cells": (cells, tested(cells), "auto", PIECEWISE_LINEAR),
    }  # fmt: skip
    if smooth_file.is_file():
        smooth = load_model(str(smooth_file))
        studies[f"{options.smooth}, cells"] = (smooth, tested(smooth), "auto", SMOOTH)
    text = [
        "# Ablation: score, second order, fusion rule",
        f"`{command()}`",
        *(__doc__ or "").split("\n\n")[1:2],
    ]
    rows: list[Row] = []
    for title, (model, batches, layers, scores) in studies.items():
        batches = iter([next(batches)]) if options.quick else batches
        found = collected(model, batches, layers, scores, title)
        more, part = section(title, found, options.seed)
        rows += more
        text.append(part)
        print(part, flush=True)
    write_study("ablation_score", rows, "\n\n".join(text), options.out)


if __name__ == "__main__":
    main()
