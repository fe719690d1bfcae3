"""Ablation: which form, sigma, exponents and gamma are the defaults, and what lost.

Three networks: EfficientNet-Lite0 and SqueezeNet with their ImageNet weights on photos with boxes,
and a ResNet18 trained on infected and healthy red blood cells with an ellipse in each box. The even
images of ``imagenet_val`` and ``tiny_imagenet_val`` choose, the odd ones make the table; for the cells
the calibration fields choose and the test fields make the table. Everything is PxAP (Choe et al. 2020):
it needs no threshold. One backward pass for each batch; every setting is read from the same signals.

    python benchmarks/ablation.py --data DATA --squeezenet WEIGHTS \
        --resnet runs/malaria_resnet18_fold0.pth
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from malaria_windows import WindowSet
from ssgcam import CAM, LoadedModel, SSGSettings, load_model
from ssgcam.core import maps as pipeline
from ssgcam.core.methods import METHODS, ssg_cam
from ssgcam.core.scores import Signal
from ssgcam.metrics import (
    bootstrap_interval,
    paired_difference,
    pixel_average_precision,
    score_histograms,
)
from ssgcam.metrics.preparation import fill_boxes
from study import DOCS, Row, batches, boxed_samples, row, table, write_study

FORMS = ("taylor", "gradient")
SIGMAS = (0.0, 0.05, 0.1, 0.15)
EXPONENTS = ((1.0, 0.0), (1.0, 0.5), (1.0, 1.0), (0.5, 0.5))
GAMMAS = (0.3, 0.5, 1.0)
RIVALS = (
    "grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam", "layer_cam", "grad_cam_elementwise",
)  # fmt: skip
WORKING = 56


@dataclass
class Collected:
    """Score histograms [N, L, 2, 1001] (single layers) or [N, 2, 1001] (fused), by setting."""

    single: dict[str, list[Tensor]] = field(default_factory=dict)
    fused: dict[str, list[Tensor]] = field(default_factory=dict)
    choosing: list[bool] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)


def settings_grid() -> dict[str, SSGSettings]:
    """Every setting under its name in the tables."""
    grid = {}
    for form, sigma, (a, b) in itertools.product(FORMS, SIGMAS, EXPONENTS):
        grid[f"{form}, sigma {sigma:g}, a {a:g}, b {b:g}"] = SSGSettings(form, sigma, a, b)
    return grid


def photo_batches(
    data: Path, model: LoadedModel, tiny: int
) -> Iterator[tuple[Tensor, Tensor, list[Tensor], list[bool], list[str]]]:
    """Inputs, classes, filled boxes, whether the image chooses, groups."""
    for name, limit in (("imagenet_val", None), ("tiny_imagenet_val", tiny)):
        number = 0
        for images, labels, samples, sizes in batches(model, boxed_samples(data, name, limit)):
            masks = [
                fill_boxes(torch.tensor(sample.boxes), size[1], size[0])
                for sample, size in zip(samples, sizes, strict=True)
            ]
            numbers = range(number, number + len(samples))
            number += len(samples)
            yield images, labels, masks, [k % 2 == 0 for k in numbers], [s.name for s in samples]


def cell_batches(
    data: Path, model: LoadedModel, fold: int
) -> Iterator[tuple[Tensor, Tensor, list[Tensor], list[bool], list[str]]]:
    """Infected windows: of the calibration fields (choosing), then of the test fields."""
    windows = WindowSet.read(data / "malaria_iml")
    for split in ("calibration", "test"):
        infected = windows.fixed(fold, split, healthy=0)
        for start in range(0, len(infected), 32):
            part = infected[start : start + 32]
            images = model.preprocessing([windows.image(window) for window in part])
            masks = [torch.from_numpy(windows.mask(window)) for window in part]
            labels = torch.ones(len(part), dtype=torch.long)
            chooses = [split == "calibration"] * len(part)
            yield images, labels, masks, chooses, [window.field for window in part]


def collect(
    model: LoadedModel,
    source: Iterator[tuple[Tensor, Tensor, list[Tensor], list[bool], list[str]]],
    layers: str | list[str],
    title: str,
) -> Collected:
    """Run the network once over all images and score every setting."""
    found = Collected()
    cam = CAM(model, layers, method="layer_cam")
    grid = settings_grid()
    for images, labels, masks, chooses, groups in tqdm(source, desc=title):
        found.choosing += chooses
        found.groups += groups
        signals, _ = cam.signals(images, labels)
        found.layers = list(signals)
        for name, settings in grid.items():
            maps = [ssg_cam(signal, settings) for signal in signals.values()]
            _score(found, name, maps, masks, GAMMAS)
        for method in RIVALS:
            function = METHODS[method].function
            assert function is not None
            maps = [function(Signal(s.activation, s.first)) for s in signals.values()]
            _score(found, METHODS[method].title, maps, masks, (1.0,))
    return found


def _score(
    found: Collected, name: str, maps: list[Tensor], masks: list[Tensor], gammas: tuple[float, ...]
) -> None:
    single = torch.stack([score_histograms(layer_map, masks) for layer_map in maps], 1)
    found.single.setdefault(name, []).append(single)
    for gamma in gammas:
        fused = pipeline.fuse(maps, (WORKING, WORKING), gammas=[gamma] * len(maps))
        key = f"{name}, gamma {gamma:g}" if len(gammas) > 1 else name
        found.fused.setdefault(key, []).append(score_histograms(fused, masks))


def mean_over_layers(means: Tensor) -> Tensor:
    """Statistic [R, L, 2, 1001] to [R]: the mean of the layers' PxAP."""
    return pixel_average_precision(means).mean(-1)


def report(studies: dict[str, Collected], seed: int) -> tuple[list[Row], str]:
    """Choose on one half, state on the other."""
    rows: list[Row] = []
    text = [
        "# Ablation: form, sigma, exponents and gamma of SSG-CAM",
        f"`{' '.join(['python benchmarks/ablation.py', '--data DATA', '--squeezenet WEIGHTS'])}`",
        "PxAP against filled boxes (photos) or the ellipse in each box (cells). `a` and `b` are the "
        "exponents of the first and second order. The settings were chosen by their mean over the "
        "three networks on the choosing half; every number below is from the other half, with 95 % "
        "bootstrap intervals (images resampled; fields for the cells).",
    ]
    for kind, statistic in (("single", mean_over_layers), ("fused", pixel_average_precision)):
        chosen_on: dict[str, float] = {}
        held: dict[str, dict[str, Tensor]] = {}
        for title, study in studies.items():
            choosing = torch.tensor(study.choosing)
            for name, parts in getattr(study, kind).items():
                whole = torch.cat(parts)
                value = float(statistic(whole[choosing].double().mean(0)[None])[0])
                chosen_on[name] = chosen_on.get(name, 0.0) + value / len(studies)
                held.setdefault(name, {})[title] = whole[~choosing]
        ours = [name for name in chosen_on if name.startswith(FORMS)]
        order = sorted(ours, key=lambda name: -chosen_on[name])
        rivals = sorted((n for n in chosen_on if n not in ours), key=lambda name: -chosen_on[name])
        best = order[0]
        what = "each layer on its own, mean over layers" if kind == "single" else "all layers fused"
        text.append(f"## {what.capitalize()}")
        text.append(
            f"Chosen: **{best}** (choosing half: {chosen_on[best]:.3f}; best rival {rivals[0]} "
            f"{chosen_on[rivals[0]]:.3f})."
        )
        shown = order[:8] + [
            name for name in order[8:] if _is_landmark(name)
        ] + rivals  # fmt: skip
        lines = []
        for name in shown:
            cells = [name, f"{chosen_on[name]:.3f}"]
            for title, study in studies.items():
                groups = [
                    group
                    for group, chooses in zip(study.groups, study.choosing, strict=True)
                    if not chooses
                ]
                found = bootstrap_interval(held[name][title], statistic, seed=seed, groups=groups)
                cells.append(f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]")
                layers = ",".join(study.layers)
                metric = "PxAP mean over layers" if kind == "single" else "PxAP fused"
                rows.append(row("ablation", title, name, layers, metric, found, seed))
            lines.append(cells)
        text.append(table(["setting", "choosing half", *studies], lines))
        lines = []
        for title, study in studies.items():
            groups = [
                g for g, chooses in zip(study.groups, study.choosing, strict=True) if not chooses
            ]
            leader = max(rivals, key=lambda name: float(
                statistic(held[name][title].double().mean(0)[None])[0]
            ))  # fmt: skip
            gap = paired_difference(
                held[best][title], held[leader][title], statistic, seed=seed, groups=groups
            )
            lines.append([title, leader, f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"])
        text.append("The chosen setting less the best rival of each network, paired:")
        text.append(table(["network", "best rival", "difference"], lines))
    text.append("Layers: " + "; ".join(f"{t}: {', '.join(s.layers)}" for t, s in studies.items()))
    return rows, "\n\n".join(text)


def _is_landmark(name: str) -> bool:
    """Settings that the tables always show: the neighbours of the default, and what lost."""
    return "gamma" not in name and (
        "a 1, b 1" in name or ("a 1, b 0" in name and "sigma 0," in name)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--squeezenet", type=Path, required=True, help="state dict, from Caffe")
    parser.add_argument("--resnet", type=Path, required=True, help="by train_malaria.py")
    parser.add_argument("--fold", type=int, default=0, help="the fold --resnet was trained for")
    parser.add_argument("--tiny", type=int, default=120, help="images of tiny_imagenet_val")
    parser.add_argument("--quick", action="store_true", help="few images, for a smoke test")
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tiny = 16 if options.quick else options.tiny
    lite = load_model("efficientnet_lite0")
    squeeze = load_model("networks:squeezenet_caffe", options.squeezenet)
    cells = load_model(str(options.resnet))
    fires = ["features.4", "features.7", "features.9", "features.12"]
    studies = {
        "EfficientNet-Lite0": collect(
            lite, photo_batches(options.data, lite, tiny), "auto", "lite"
        ),
        "SqueezeNet": collect(
            squeeze, photo_batches(options.data, squeeze, tiny), fires, "squeeze"
        ),
        "ResNet18, cells": collect(
            cells, cell_batches(options.data, cells, options.fold), "auto", "cells"
        ),
    }
    rows, text = report(studies, options.seed)
    write_study("ablation", rows, text, options.out)
    print(text)


if __name__ == "__main__":
    main()
