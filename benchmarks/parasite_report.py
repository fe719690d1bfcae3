"""The page of ``malaria_parasites.py``: tables, rows and picture from what its parts found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from parasite_levels import METRICS, Level, field_level, window_level
from parasite_offset import MOVED, best_move, confusion_of, told
from ssgcam.files import write_with
from ssgcam.metrics import (
    foreground_iou,
    mean_iou,
)
from study import FINAL, Row, command, row, signed, table, with_interval, write_study

STUDY = "malaria_parasites"
#: The paper's 62.38 %, of a kind that its abstract doesn't state, and the bar set for the mean.
BARS = {"foreground IoU": 0.6238, "mean with background": 0.80}
#: Kinds of which the best is a rival of the recipe, and what it is called.
RIVALS = {
    "ssg": "best SSG-CAM layer",
    "single": "best other single layer",
    "layer_cam": "best LayerCAM layer",
    "mean": "best naive mean",
    "color and network": "color and network",
    "no network": "no network",
}


def level_section(level: Level, title: str, what: str) -> tuple[list[Row], list[str]]:
    """Rows of all contenders; a table of the recipe and the best of each kind, and the leads."""
    network, variant = title.split(", ")
    rows = []
    for name in level.parts:
        for metric in METRICS:
            found = level.found(name, metric)
            rows.append(row(STUDY, network, f"{name} ({variant})", what, metric, found, found.seed))
    shown = [name for name in level.parts if level.kinds[name] in ("recipe", "no network", "mean")]
    shown += [name for name in level.parts if level.kinds[name] in ("color and network", "moved")]
    for kind in ("ssg", "single", "layer_cam"):
        found_best = level.best(kind)
        if found_best is not None and found_best not in shown:
            shown.append(found_best)
    shown.sort(key=lambda name: -level.value(name))
    lines = [
        [name, level.kinds[name], *(with_interval(level.found(name, metric)) for metric in METRICS)]
        for name in shown
    ]
    pairs = [(FINAL, level.best(kind), called) for kind, called in RIVALS.items()]
    pairs += [(MOVED, name, "moved as well") for name, k in level.kinds.items() if k == "moved"]
    leads = []
    for name, rival, kind in pairs:
        if rival not in (None, name):
            gap = level.lead(name, rival)
            leads.append([name, kind, rival, signed(gap)])
            both = f"{name} - {rival} ({variant})"
            rows.append(row(STUDY, network, both, what, "foreground IoU difference", gap, 0))
    count = len(level.groups)
    return rows, [
        f"### {what.capitalize()}: {count} of {len(set(level.groups))} fields",
        table(["contender", "kind", *METRICS], lines),
        "The recipe less the best of each kind (the best on these very images, which favors it), "
        "foreground IoU, paired, fields resampled:",
        table(["recipe", "kind", "rival", "difference"], leads),
    ]


def bars_section(levels: dict[str, Level]) -> tuple[str, str]:
    """The recipe on windows beside the bars."""
    lines = []
    for variant, level in levels.items():
        for metric, bar in BARS.items():
            found, shifted = (level.found(name, metric) for name in (FINAL, MOVED))
            verdicts = ["reached" if each.value >= bar else "missed" for each in (found, shifted)]
            cells = [with_interval(found), verdicts[0], with_interval(shifted), verdicts[1]]
            lines.append([variant, metric, f"{bar:.4f}", *cells])
    return "## The bars, on windows", table(
        ["variant", "metric", "bar", "recipe [95 %]", "", "the same, moved", ""], lines
    )


def verdict(levels: dict[str, Level]) -> str:
    """The answer in plain words."""
    lines = ["## What it says", ""]
    for variant, level in levels.items():
        words = []
        for kind in ("ssg", "single", "mean", "no network"):
            rival = level.best(kind)
            assert rival is not None
            gap = level.lead(FINAL, rival)
            how = (
                "leads"
                if gap.low > 0
                else "loses to"
                if gap.high < 0
                else "neither leads nor loses to"
            )
            words.append(f"{how} {rival} ({signed(gap)})")
        lines.append(f"- {variant}, windows: the recipe {'; '.join(words)}.")
    first = next(iter(levels.values()))
    sizes = {field: first.groups.count(field) for field in first.groups}
    largest = max(sizes, key=lambda field: sizes[field])
    lines += [
        "",
        f"Pixels are pooled, and {sizes[largest]} of {len(first.groups)} windows are of one field, "
        f"{largest}: rings in loose outlines. It decides the pooled numbers, and the intervals are wide "
        "as resamples with and without it differ; the table of fields shows the others.",
    ]
    return "\n".join(lines)


def field_table(levels: dict[str, Level]) -> str:
    """Foreground IoU of each field on its own."""
    first = next(iter(levels.values()))
    fields = list(dict.fromkeys(first.groups))
    lines = []
    for variant, level in levels.items():
        for kind in ("recipe", "single", "mean", "no network"):
            name = FINAL if kind == "recipe" else level.best(kind)
            assert name is not None
            each = [level.value(name, field) for field in fields]
            values = (f"{value:.2f}" for value in [*each, sum(each) / len(each)])
            lines.append([f"{variant}: {name}", *values])
    return table(["foreground IoU on windows", *fields, "mean of fields"], lines)


def shift_table(found: dict[str, dict[str, Any]]) -> str:
    """Foreground IoU of each field's masks as given, moved as others say, and as it fits best.

    And of the field's own outlines, moved back as far: what a perfect mask would score, were that step
    what displaced them.
    """
    lines = []
    pooled = torch.zeros(4, 2, 2, dtype=torch.float64)
    for name, each in found.items():
        masks, truth, calibrated = each["masks"], each["truth"], each["moves"][MOVED]
        best = best_move(masks, truth)
        moves = (0, 0), calibrated, best
        back = -calibrated[0], -calibrated[1]
        counts = torch.stack(
            [confusion_of(masks, truth, move) for move in moves]
            + [confusion_of(truth == 1, truth, back)]
        )
        pooled += counts
        scores = (f"{float(value):.2f}" for value in foreground_iou(counts))
        lines.append([name, *scores, *(told(m, truth.shape[-1]) for m in (calibrated, best))])
    for title, score in (
        ("all, pooled", foreground_iou),
        ("the same, mean with background", mean_iou),
    ):
        lines.append([title, *(f"{float(value):.3f}" for value in score(pooled)), "", ""])
    header = ["field", "as given", "moved as others say", "moved to fit", "perfect, displaced"]
    header += ["others say", "fits"]
    return table(header, lines)


def trained_table(networks: Sequence[Path]) -> str:
    """How well the adapted networks tell windows of fields they did not see."""
    lines = []
    for network in networks:
        content = json.loads(network.with_suffix(".json").read_text("utf-8"))
        healthy, infected = content["test"]["recalls"]
        fields = ", ".join(content["fields"])
        drawn = [str(content[key]) for key in ("start", "seed")]
        count = str(content["test"]["n"])
        lines.append([fields, *drawn, count, f"{infected:.2f}", f"{healthy:.2f}"])
    header = [
        "fields left out",
        "fold of study 1 it started from",
        "seed",
        "windows",
        "recall",
        "specificity",
    ]
    return table(header, lines)


def draw(levels: dict[str, Level]) -> Figure:
    """Foreground IoU on windows with its interval, and of each field as a dot."""
    lines = -(-len(levels) // 2)
    figure = Figure(figsize=(9, 4.2 * lines), layout="constrained")
    axes = figure.subplots(lines, min(2, len(levels)), sharex=True, squeeze=False).flat
    for axis, (variant, level) in zip(axes, levels.items(), strict=False):
        names = [FINAL, MOVED]
        for kind in ("ssg", "single", "layer_cam", "mean", "no network"):
            name = level.best(kind)
            if name is not None and name not in names:
                names.append(name)
        for height, name in enumerate(reversed(names)):
            found = level.found(name, "foreground IoU")
            axis.plot([found.low, found.high], [height] * 2, color="C0", lw=2)
            axis.plot([found.value], [height], "o", color="C0")
            each = [level.value(name, field) for field in dict.fromkeys(level.groups)]
            axis.plot(each, [height - 0.2] * len(each), ".", color="gray", ms=4)
        axis.axvline(BARS["foreground IoU"], color="C3", ls="--", lw=1)
        axis.set_yticks(
            range(len(names)), [name.replace(", ", ",\n", 1) for name in reversed(names)]
        )
        axis.tick_params(labelsize=7)
        axis.set_title(variant, fontsize=9)
        axis.set_xlabel("foreground IoU on windows", fontsize=8)
        axis.set_xlim(0, 1)
    return figure


def write_report(
    results: dict[str, dict[str, dict[str, Any]]],
    fields: Sequence[str],
    networks: dict[str, Sequence[Path]],
    out: Path,
    about: str,
    name: str = STUDY,
) -> None:
    """Write the page, the rows and the picture.

    Args:
        results: By network and variant (``"resnet34, adapted"``), level and field.
        fields: In the order of the tables.
        networks: Files of each of them; an adapted one has its report beside it.
        out: Where to write.
        about: What was done.
        name: Of the page and its files.
    """
    results = {
        variant: {what: {f: each[f] for f in fields if f in each} for what, each in found.items()}
        for variant, found in results.items()
    }
    levels = {variant: window_level(found["windows"]) for variant, found in results.items()}
    rows: list[Row] = []
    text = ["# Malaria, parasites", f"`{command()}`", about, *bars_section(levels), verdict(levels)]
    text += [f"![Intervals]({name}.png)", field_table(levels)]
    for variant, found in results.items():
        text.append(f"## {variant}")
        if variant.endswith("adapted"):
            text += [
                "The adapted networks on the windows that cover the fields left out:",
                trained_table(networks[variant]),
            ]
        what = "windows with a parasite"
        made, section = level_section(levels[variant], variant, what)
        rows += made
        text += section
        if found["fields"]:
            level = field_level(found["fields"])
            made, section = level_section(level, variant, "whole fields")
            rows += made
            text += section
        used = [
            f"{field}: {', '.join(each['layers'])} ({each['chosen']})"
            for field, each in found["windows"].items()
        ]
        notes = [
            f"{field}: {'; '.join(each['notes'].values())}"
            for field, each in found["windows"].items()
        ]
        text += [
            "Some outlines are drawn with slack, or displaced. The recipe's masks moved, all windows of "
            "a field alike: as the laboratory's other fields say, which is a result, and to where they "
            "fit best, which is a diagnosis with the scored outlines and no result. Perfect, displaced: "
            "the outlines themselves, moved back as far as others say: what masks without a fault would "
            "score if that is how far they lie apart. Moves are in hundredths of a cell's diameter.",
            shift_table(found["windows"]),
        ]
        text += [f"Recipes. {'. '.join(used)}.", f"Colors chosen. {'. '.join(notes)}."]
    write_study(name, rows, "\n\n".join(text), out)
    picture = draw(levels)
    write_with(out / f"{name}.png", lambda path: picture.savefig(path, dpi=130, format="png"))
    print("\n\n".join(text))
