"""The page of ``wbc.py``: tables, rows, picture and words from what its folds found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from ssgcam.metrics import bootstrap_interval, mean_iou, paired_difference
from ssgcam.search.evidence import BEST_LAYER
from ssgcam.search.scoring import statistic
from study import FINAL, Row, row, signed, table, with_interval
from wbc_samples import REGIONS, TARGETS

PLAIN = "Recipe, flips both"


def target_section(
    folds: Sequence[dict[str, Any]], target: str, seed: int
) -> tuple[list[Row], list[str]]:
    """The table of one target, all folds pooled."""
    _, number = statistic("pooled")
    crops = [name for fold in folds for name in fold["crops"]]
    each = [fold[target] for fold in folds]
    names = [n for n in each[0]["parts"] if all(n in one["parts"] for one in each)]
    kinds = each[0]["kinds"]
    parts = {n: torch.cat([one["parts"][n] for one in each]) for n in names}
    found = {n: bootstrap_interval(parts[n], number, seed=seed, groups=crops) for n in names}
    order = sorted(names, key=lambda n: -found[n].value)
    rows = [row("wbc", "resnet34", n, target, "foreground IoU", found[n], seed) for n in order]
    lines = [[n, kinds[n], with_interval(found[n])] for n in order]
    gaps = []
    for kind in ("single", "ssg", "mean", "no network"):
        rival = next(n for n in order if kinds[n] == kind)
        gap = paired_difference(parts[FINAL], parts[rival], number, seed=seed, groups=crops)
        gaps.append([f"best {kind}: {rival}", signed(gap)])
        metric = "foreground IoU difference"
        rows.append(row("wbc", "resnet34", f"{FINAL} - {rival}", target, metric, gap, seed))
    used = "; ".join(
        f"fold {k}: {', '.join(one['layers'])} ({one['views']} views"
        f"{', PAMR' if one['refined'] else ''})"
        for k, one in enumerate(each)
    )
    simple = "; ".join(
        f"{title}: {', '.join(one['notes'][title] for one in each)}" for title in each[0]["notes"]
    )
    shown = [line for line in lines if line[1] != "single" and line[1] != "ssg"]
    shown += [line for line in lines if line[1] in ("single", "ssg")][:8]
    shown.sort(key=lambda line: -found[line[0]].value)
    return rows, [
        f"## {target.capitalize()}: foreground IoU on {len(crops)} crops, {len(folds)} fold(s)",
        table(["contender", "kind", "IoU [95 %]"], shown),
        "The best eight single layers are shown; all are in [wbc.json](wbc.json).",
        "The recipe less the best rival of each kind, paired; the rivals are the best on these very "
        "crops, which favors them:",
        table(["rival", "difference"], gaps),
        f"Recipes: {used}.",
        f"Without a network, what each fold's calibration crops chose: {simple}.",
    ]


def regions_section(folds: Sequence[dict[str, Any]], seed: int) -> tuple[list[Row], list[str]]:
    """Both masks stacked: background, cytoplasm, nucleus."""
    crops = [name for fold in folds for name in fold["crops"]]
    parts = {
        name: torch.cat([fold["regions"][name] for fold in folds]) for name in folds[0]["regions"]
    }
    found = {
        name: bootstrap_interval(each, mean_iou, seed=seed, groups=crops)
        for name, each in parts.items()
    }
    order = sorted(found, key=lambda name: -found[name].value)
    rows, lines = [], []
    for name in order:
        rows.append(row("wbc", "resnet34", name, "both", "mIoU, 3 regions", found[name], seed))
        total = parts[name].sum(0).double()
        hit = total.diagonal()
        single = hit / (total.sum(0) + total.sum(1) - hit)
        lines.append(
            [name, with_interval(found[name]), *(f"{value:.3f}" for value in single.tolist())]
        )
    return rows, [
        "## Both masks stacked: mIoU of background, cytoplasm, nucleus",
        table(["contender", "mIoU [95 %]", *REGIONS], lines),
        "One confusion matrix of all crops. Single layers were chosen on the calibration crops, for each "
        "target its own.",
    ]


def draw(folds: Sequence[dict[str, Any]], rows: Sequence[Row]) -> Figure:
    """The recipe beside the best of each kind, and outlines of three crops per fold: no photo."""
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.1))
    for axis, target in zip(top.subplots(1, 2), TARGETS, strict=True):
        found = {r.method: r for r in rows if r.layers == target and r.metric == "foreground IoU"}
        kinds = folds[0][target]["kinds"]
        names = [FINAL]
        for kind in ("single", "ssg", "mean", "no network"):
            best = max((n for n in found if kinds[n] == kind), key=lambda n: found[n].value)
            names.append(best)
        for height, name in enumerate(reversed(names)):
            axis.plot([found[name].low, found[name].high], [height] * 2, color="C0", lw=2)
            axis.plot(found[name].value, height, "o", color="C0")
        axis.set_yticks(range(len(names)), [n.replace(" ", "\n", 1) for n in reversed(names)])
        axis.tick_params(labelsize=7)
        axis.set_title(f"{target}: foreground IoU", fontsize=9)
    every = [(fold, place) for fold in folds for place in range(len(fold["crops"]))]
    for axis, number in zip(bottom.subplots(2, 4).flat, range(8), strict=True):
        fold, place = every[number * len(every) // 8]
        real = fold["truth"][place]
        axis.imshow(1 - 0.25 * real.float(), cmap="gray", vmin=0, vmax=1)
        for target, color in zip(TARGETS, ("C0", "C3"), strict=True):
            axis.contour(fold["masks"][target][place].float(), [0.5], colors=color, linewidths=1.2)
        axis.set_axis_off()
    bottom.suptitle("Expert masks (gray) and the recipes' outlines, crops not seen", fontsize=9)
    return figure


def verdict(rows: Sequence[Row]) -> str:
    """The answer in plain words."""
    lines = ["## What it says", ""]
    for target in TARGETS:
        found = {r.method: r for r in rows if r.layers == target}
        gaps = {name: r for name, r in found.items() if r.metric == "foreground IoU difference"}
        own = found[FINAL]
        words = []
        for name, gap in gaps.items():
            how = "leads" if gap.low > 0 else "loses to" if gap.high < 0 else "ties with"
            words.append(f"{how} {name.removeprefix(FINAL + ' - ')} ({gap.value:+.3f})")
        plain, layer, disc = (
            f"{found[name].value:.3f}" for name in (PLAIN, BEST_LAYER, "Centered disc")
        )
        score = with_interval(own)
        lines.append(
            f"- {target.capitalize()}: the recipe reaches {score} and {'; '.join(words)}. Without "
            f"PAMR it reaches {plain}, the best SSG-CAM layer with the same flips {layer}, a disc in the "
            f"middle of every crop {disc}."
        )
    lines += [
        "",
        "So the maps of a network that was told types alone do hold the cell and its nucleus. But most "
        "of the recipe's lead over single layers is PAMR, which follows the photo's colors, "
        "and which the single layers here do without; and these cells are stained to stand out: cuts "
        "on color, without a network, are the rival that counts here.",
    ]
    return "\n".join(lines)


def recalls(weights: Path, folds: Sequence[int]) -> str:
    """How good the networks are at what they were trained for."""
    lines = []
    for fold in folds:
        content = json.loads((weights / f"wbc_resnet34_fold{fold}.json").read_text("utf-8"))
        test = content["test"]
        lines.append([str(fold), str(test["n"]), *(f"{value:.2f}" for value in test["recalls"])])
    names = test["class_names"]
    return table(["fold", "crops", *(f"recall {name}" for name in names)], lines)
