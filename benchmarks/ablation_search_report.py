"""The page of ``ablation_search.py``: tables, rows and picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from study import Row, command, table


def drawn(
    sizes: Sequence[dict[str, Any]], optimizers: Sequence[dict[str, Any]], step: int
) -> Figure:
    """IoU against the number of images; best fitness against evaluations."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    titles = {
        "recipe": "recipe", "ssg": "best SSG-CAM layer and settings", "layer_cam": "best LayerCAM layer",
    }  # fmt: skip
    counts = sorted({run["images"] for run in sizes})
    for key, title in titles.items():
        means = [np.mean([r[key] for r in sizes if r["images"] == n]) for n in counts]
        (line,) = left.plot(counts, means, marker="o", label=title)
        for run in sizes:
            left.plot(run["images"], run[key], ".", color=line.get_color(), alpha=0.4)
    left.set(xscale="log", xlabel="calibration images", ylabel="IoU on the test windows")
    left.set_xticks(counts, [str(n) for n in counts])
    left.minorticks_off()
    for name in dict.fromkeys(run["optimizer"] for run in optimizers):
        curves = [run["curve"] for run in optimizers if run["optimizer"] == name]
        shortest = min(map(len, curves))
        mean = np.mean([curve[:shortest] for curve in curves], axis=0)
        right.plot(np.arange(shortest) * step, mean, label=name)
    right.set(xlabel="evaluations", ylabel="best fitness (40 windows), mean of seeds")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
        axes.grid(alpha=0.3)
    return figure


def report(
    sizes: Sequence[dict[str, Any]],
    optimizers: Sequence[dict[str, Any]],
    network: str,
    n: int,
    about: str,
) -> tuple[list[Row], str]:
    """Tables and rows."""
    rows: list[Row] = []

    def line(method: str, metric: str, values: Sequence[float]) -> str:
        mean, low, high = float(np.mean(values)), min(values), max(values)
        found = (round(float(x), 4) for x in (mean, low, high))
        rows.append(Row("ablation", network, method, "", metric, *found, n, 0, command()))
        return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} ({low:.3f} to {high:.3f})"

    first = []
    for count in sorted({run["images"] for run in sizes}):
        runs = [run for run in sizes if run["images"] == count]
        cells = [
            line(title, f"IoU, {count} calibration images", [run[key] for run in runs])
            for key, title in (
                ("recipe", "recipe"), ("ssg", "best SSG-CAM layer"), ("layer_cam", "best LayerCAM layer"),
            )
        ]  # fmt: skip
        cost = float(np.mean([run["seconds"] for run in runs]))
        first.append([str(count), str(len(runs)), *cells, f"{cost:.0f}"])
    second = []
    for name in dict.fromkeys(run["optimizer"] for run in optimizers):
        runs = [run for run in optimizers if run["optimizer"] == name]
        second.append(
            [
                name,
                line(name, "fitness on 40 calibration windows", [r["calibration"] for r in runs]),
                line(name, "IoU, 40 calibration images", [r["held_out"] for r in runs]),
                str(runs[0]["evaluations"]),
                f"{np.mean([run['seconds'] for run in runs]):.0f}",
            ]
        )
    text = [
        "# Ablation of the search: calibration images and optimizer",
        f"`{command()}`",
        about,
        f"{network}, {n} test windows. In brackets the range over draws or seeds.",
        "## How many calibration images",
        table(
            [
                "images",
                "draws",
                "recipe",
                "best SSG-CAM layer",
                "best LayerCAM layer",
                "s, one thread",
            ],
            first,
        ),
        "## Which optimizer",
        table(["optimizer", "fitness, calibration", "IoU, test", "evaluations", "seconds"], second),
        "![Course](ablation_search.png)",
    ]
    return rows, "\n\n".join(text)
