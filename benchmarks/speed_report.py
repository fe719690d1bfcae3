"""The page and the chart of the benchmark of speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from speed_contenders import AT_INPUT_SIZE
from study import table

NAMED = {"all": "all blocks or ReLUs", "auto": "auto", "last": "last"}
BARS = {
    ("resnet34", "auto"): 1.10, ("resnet50", "auto"): 1.10, ("vgg16", "auto"): 1.25,
    ("resnet34", "all"): 1.15, ("vgg16", "all"): 1.40,
    ("resnet34", "last"): 1.05, ("resnet50", "last"): 1.05, ("vgg16", "last"): 1.05,
}  # fmt: skip

PEERS = ("grad-cam", "torchcam", f"torchcam {AT_INPUT_SIZE}", "captum")


@dataclass(frozen=True)
class Row:
    """One contender in one setting."""

    network: str
    batch: int
    layers: str
    contender: str
    ms: float
    ratio: float
    lowest: float
    highest: float
    rounds: int
    peak_mib: float
    largest_mib: float  # the largest activation
    maps_mib: float
    threads: int


def markdown(content: dict[str, Any], chart: str | None = None) -> str:
    """The page, with a link to the chart."""
    rows = [Row(**row) for row in content["rows"]]
    lines = [
        "# Speed and memory", "",
        f"A machine of {content['processors']} processors, PyTorch "
        f"{content['versions']['torch']}, 224 px, random weights. The floor is one forward pass and one "
        "`autograd.grad` to the same layers, parameters frozen. All contenders took turns, in a "
        "random order in each round; a ratio is the median over rounds of time by the floor's time in "
        "the same round (range in brackets); below 1 is faster than the floor. Maps are at input size, "
        "layers fused. Peak memory is above the level before the call; in brackets how many copies of "
        "the largest activation it is above the floor's and the maps.", "",
    ]  # fmt: skip
    barred = [
        [row.network, row.layers, f"{row.ratio:.3f} ({row.lowest:.2f} to {row.highest:.2f})",
         f"{BARS[row.network, row.layers.split(',')[0]]:.2f}"]
        for row in rows
        if row.batch == 8 and row.contender == "ssgcam SSG-CAM"
        and (row.network, row.layers.split(",")[0]) in BARS
    ]  # fmt: skip
    if barred:
        lines += ["## SSG-CAM against the floor, batch 8", "",
                  table(["network", "layers", "ratio", "aim: at most"], barred)]  # fmt: skip
    quick = [
        [row.network, row.contender.removeprefix("ssgcam SSG-CAM, "), f"{1 / row.ratio:.2f}"]
        for row in rows
        if row.batch == 8 and row.contender.startswith("ssgcam SSG-CAM, ")
    ]
    if quick:
        lines += ["## Below the floor: the faster precisions, `auto` layers, batch 8", "",
                  table(["network", "precision", "times faster than the floor"], quick)]  # fmt: skip
    peers = beside(rows)
    if peers:
        lines += [
            "## The same maps by other libraries", "",
            "How many times longer each takes than this library's method of the same name. torchcam "
            "fuses several layers at the resolution of the largest, after which the map is enlarged; "
            "told the input's size, it enlarges every layer's map and then fuses, which is what this "
            "library and grad-cam do, and the same output.", "",
            table(["network", "batch", "layers", "method", *PEERS], peers),
        ]  # fmt: skip
    if content.get("agreement"):
        lines += [
            "## Agreement of the faster precisions", "",
            "Spearman's rank correlation over pixels between each image's fused SSG-CAM map and the "
            "exact one; trained networks, real photos, `auto` layers.", "",
            table(["network", "input", "images", "precision", "median", "lowest"], [
                [row["network"], f"{row['input']} px", str(row["images"]), row["precision"],
                 f"{row['median']:.5f}", f"{row['lowest']:.5f}"] for row in content["agreement"]
            ]),
        ]  # fmt: skip
    if chart:
        lines += [f"![Ratios]({chart})", ""]
    for name, batch in dict.fromkeys((row.network, row.batch) for row in rows):
        part = [row for row in rows if (row.network, row.batch) == (name, batch)]
        few = part[0].threads
        lines += [f"## {name}, batch {batch}, {few} thread{'s' * (few > 1)}", ""]
        lines.append(table(
            ["layers", "contender", "ms", "ratio", "rounds", "peak MiB (above the floor and the maps)"],
            [
                [row.layers, row.contender, f"{row.ms:.0f}",
                 f"{row.ratio:.2f} ({row.lowest:.2f} to {row.highest:.2f})", str(row.rounds),
                 memory_words(row, part)]
                for row in part
            ],
        ))  # fmt: skip
    lines += [
        "Where a table says one thread, other programs kept the processors busy: ratios hold there, but "
        "not times. The range shows how rounds differed; ratios a few hundredths apart are the same. "
        "ssgcam takes the maxima of pools below the first target layer by whole rows and columns, to the "
        "same bit; PyTorch's function, which the floor and all others use, takes several times as long. "
        "On AMD's processors with vectors of 512 bits ssgcam has the linear layers of a network of "
        "tokens (ViT-B/16) multiplied by oneDNN, which uses them, where PyTorch, the floor and all "
        "others have MKL, which does not; memory and, but for rounding, numbers are the same.",
        "",
        "Every method is in the table of ResNet34's last layer, batch 8. captum takes one layer and no "
        "tokens."
        + (f" Not measured: {'; '.join(content['missing'])}." if content["missing"] else ""),
        "",
        f"    {content['command']}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def beside(rows: Sequence[Row]) -> list[list[str]]:
    """A line for each method that another library offers, too: its ratio by ours."""
    ratios = {(r.network, r.batch, r.layers, r.contender): r.ratio for r in rows}
    lines = []
    for name, batch, layers in dict.fromkeys((r.network, r.batch, r.layers) for r in rows):
        for method in ("LayerCAM", "Grad-CAM"):
            own = ratios.get((name, batch, layers, f"ssgcam {method}"))
            theirs = [ratios.get((name, batch, layers, f"{peer} {method}")) for peer in PEERS]
            if own is not None and any(theirs):
                words = ["" if ratio is None else f"{ratio / own:.2f}" for ratio in theirs]
                lines.append([name, str(batch), layers, method, *words])
    return lines


def memory_words(row: Row, part: list[Row]) -> str:
    """Peak memory, and how many copies of the largest activation it is above the floor and the maps."""
    base = next(r for r in part if r.layers == row.layers and r.contender == "floor")
    above = row.peak_mib - base.peak_mib - row.maps_mib
    copies = f" ({above / row.largest_mib:+.1f})" if row is not base else ""
    return f"{row.peak_mib:.0f}{copies}"


def plot(rows: list[Row]) -> Figure:
    """Ratios to the floor at batch 8, a panel for each choice of layers."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    shown = [
        "ssgcam SSG-CAM", "ssgcam SSG-CAM, fast", "ssgcam LayerCAM", "torchcam LayerCAM",
        "grad-cam LayerCAM", "captum Grad-CAM",
    ]  # fmt: skip
    panels = figure.subplots(1, 3, sharey=True)
    networks = list(dict.fromkeys(row.network for row in rows if row.batch == 8))
    for axes, which in zip(panels, ("last", "auto", "all"), strict=True):
        part = [row for row in rows if row.batch == 8 and row.layers.split(",")[0] == which]
        for place, contender in enumerate(shown):
            found = {row.network: row.ratio for row in part if row.contender == contender}
            if found:
                axes.barh(
                    [networks.index(name) + 0.13 * (place - 2.5) for name in found],
                    list(found.values()), 0.12, label=contender, color=f"C{place}",
                )  # fmt: skip
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set(xlabel="time by the floor's", title=f"layers: {NAMED[which]}")
        axes.set_yticks(range(len(networks)), networks)
    panels[0].invert_yaxis()
    handles: dict[str, Any] = {}
    for axes in panels:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False
    )
    return figure
