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
from ssgcam.core import fusion as pipeline
from ssgcam.core.methods import METHODS, ssg_cam
from ssgcam.core.signals import Signal
from ssgcam.metrics import (
    bootstrap_interval,
    paired_difference,
    pixel_average_precision,
    score_histograms,
)
from ssgcam.metrics.preparation import fill_boxes
from study import (
    DOCS,
    Row,
    batches,
    boxed_samples,
    command,
    row,
    signed,
    table,
    with_interval,
    write_study,
)

FORMS = ("taylor", "gradient")
SIGMAS = {"taylor": (0.0, 0.04, 0.06, 0.08, 0.1, 0.15), "gradient": (0.0, 0.06, 0.1, 0.15)}
EXPONENTS = {
    "taylor": ((1.0, 0.0), (0.3, 0.3), (0.5, 0.5), (1.0, 1.0)),
    "gradient": ((1.0, 0.0), (0.3, 0.3), (1.0, 1.0)),
}
GAMMAS = (0.5, 1.0)
TIE = 0.002  # of settings this close to the best, the one that smooths least is chosen
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
    for form in FORMS:
        for sigma, (a, b) in itertools.product(SIGMAS[form], EXPONENTS[form]):
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
    chosen, gamma, scores = choose(studies)
    text = [
        "# Ablation: form, sigma, exponents and gamma of SSG-CAM",
        f"`{command()}`",
        "PxAP (Choe et al. 2020) against filled boxes (photos) or the ellipse in each box (cells). "
        "`a` and `b` are the exponents of the first and second order. The choosing half chose the "
        "defaults: the mean of the single-layer and the fused PxAP over the three networks; of settings "
        f"within {TIE} of the best, the one that smooths least, with gamma 1 if that is among them. "
        "Every other number is from the other half, with 95 % bootstrap intervals (images or fields "
        "resampled).",
        f"**Chosen: {chosen}, gamma {gamma:g}** ({scores[chosen, gamma]:.4f} on the choosing half; the "
        f"best of all {max(scores.values()):.4f}).",
    ]
    for kind, statistic in (("single", mean_over_layers), ("fused", pixel_average_precision)):
        means = choosing_means(studies, kind)
        default = chosen if kind == "single" else f"{chosen}, gamma {gamma:g}"
        ours = sorted((n for n in means if n.startswith(FORMS)), key=lambda name: -means[name])
        rivals = sorted((n for n in means if n not in ours), key=lambda name: -means[name])
        shown = [default, *ours[:6], *(name for name in ours[6:] if _is_landmark(name)), *rivals]
        what = "Each layer on its own, mean over layers" if kind == "single" else "All layers fused"
        lines, gaps = [], []
        for name in dict.fromkeys(shown):
            cells = [f"**{name}**" if name == default else name, f"{means[name]:.3f}"]
            for title, study in studies.items():
                parts, groups = held_out(study, kind, name)
                found = bootstrap_interval(parts, statistic, seed=seed, groups=groups)
                cells.append(with_interval(found))
                layers = ",".join(study.layers)
                metric = "PxAP mean over layers" if kind == "single" else "PxAP fused"
                rows.append(row("ablation", title, name, layers, metric, found, seed))
            lines.append(cells)
        for title, study in studies.items():
            parts, groups = held_out(study, kind, default)
            others = {name: held_out(study, kind, name)[0] for name in rivals}
            leader = max(
                rivals, key=lambda n: float(statistic(others[n].double().mean(0)[None])[0])
            )
            gap = paired_difference(parts, others[leader], statistic, seed=seed, groups=groups)
            gaps.append([title, leader, signed(gap)])
        text += [
            f"## {what}",
            table(["setting", "choosing half", *studies], lines),
            "The chosen setting less the best rival of each network, paired:",
            table(["network", "best rival", "difference"], gaps),
        ]
    text.append("Layers: " + "; ".join(f"{t}: {', '.join(s.layers)}" for t, s in studies.items()))
    return rows, "\n\n".join(text)


def choosing_means(studies: dict[str, Collected], kind: str) -> dict[str, float]:
    """Each setting's PxAP on the choosing halves, mean over networks."""
    statistic = mean_over_layers if kind == "single" else pixel_average_precision
    means: dict[str, float] = {}
    for study in studies.values():
        chooses = torch.tensor(study.choosing)
        for name, parts in getattr(study, kind).items():
            value = float(statistic(torch.cat(parts)[chooses].double().mean(0)[None])[0])
            means[name] = means.get(name, 0.0) + value / len(studies)
    return means


def choose(
    studies: dict[str, Collected],
) -> tuple[str, float, dict[tuple[str, float], float]]:
    """The default setting and gamma by the rule that the report states, and all scores."""
    single, fused = choosing_means(studies, "single"), choosing_means(studies, "fused")
    scores = {
        (name, gamma): (single[name] + fused[f"{name}, gamma {gamma:g}"]) / 2
        for name in settings_grid()
        for gamma in GAMMAS
    }
    close = [key for key, score in scores.items() if score >= max(scores.values()) - TIE]
    grid = settings_grid()
    least = min(close, key=lambda key: (grid[key[0]].sigma, key[1] != 1, -scores[key]))
    return *least, scores


def held_out(study: Collected, kind: str, name: str) -> tuple[Tensor, list[str]]:
    """The parts and groups of the images that did not choose."""
    parts = torch.cat(getattr(study, kind)[name])[~torch.tensor(study.choosing)]
    pairs = zip(study.groups, study.choosing, strict=True)
    return parts, [group for group, chooses in pairs if not chooses]


def _is_landmark(name: str) -> bool:
    """Settings that the single-layer table always shows: plain ones, and what lost."""
    return "gamma" not in name and ("a 1, b 1" in name or "sigma 0," in name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--squeezenet", type=Path, required=True, help="state dict, from Caffe")
    parser.add_argument("--resnet", type=Path, required=True, help="by train_malaria.py")
    parser.add_argument("--fold", type=int, default=0, help="the fold --resnet was trained for")
    parser.add_argument("--tiny", type=int, default=120, help="images of tiny_imagenet_val")
    parser.add_argument("--quick", action="store_true", help="few images, for a smoke test")
    parser.add_argument("--keep", type=Path, help="keep the counts here, and go on from them")
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tiny = 16 if options.quick else options.tiny
    lite = load_model("efficientnet_lite0")
    squeeze = load_model("networks:squeezenet_caffe", options.squeezenet)
    cells = load_model(str(options.resnet))
    fires = ["features.4", "features.7", "features.9", "features.12"]
    sources = {
        "EfficientNet-Lite0": (lite, photo_batches(options.data, lite, tiny), "auto"),
        "SqueezeNet": (squeeze, photo_batches(options.data, squeeze, tiny), fires),
        "ResNet18, cells": (cells, cell_batches(options.data, cells, options.fold), "auto"),
    }
    kept: dict[str, dict[str, object]] = {}
    if options.keep and options.keep.exists():
        kept = torch.load(options.keep, weights_only=True)
    for title, (model, source, layers) in sources.items():
        if title not in kept:
            kept[title] = vars(collect(model, source, layers, title))
            if options.keep:
                torch.save(kept, options.keep)
    studies = {title: Collected(**content) for title, content in kept.items()}
    rows, text = report(studies, options.seed)
    write_study("ablation", rows, text, options.out)
    print(text)


if __name__ == "__main__":
    main()
