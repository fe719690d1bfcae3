"""What did an evaluation find? Tables as Markdown, CSV and JSON, charts, and a panel of examples."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image
from torch import Tensor

from ssgcam.core import fusion
from ssgcam.evaluation.maps import ALL_FUSED, MEAN, RECIPE, MapSource
from ssgcam.evaluation.scores import Difference, Score
from ssgcam.files import remove_unfinished, write_json, write_png, write_text
from ssgcam.manifest import locked
from ssgcam.report import html
from ssgcam.report.heatmap import figure_picture, overlay
from ssgcam.report.html import Table
from ssgcam.report.panel import Cell, panel

COLUMNS = 3
#: A map ``[h, w]`` of an example, predicted boxes as shares of the sides, and the predicted mask.
Drawn = tuple[Tensor | None, Sequence[Sequence[float]], Tensor | None]
LONGEST = 640  # longer side of a photo in the panel, in pixels
DIFFERENCES = (
    "Difference from the best rival, paired (positive: higher; open: the interval contains zero)"
)


@dataclass(frozen=True)
class Chart:
    """Lines, in one small plot for each choice of layers.

    Attributes:
        name: Of its file, without ending.
        title: Above it.
        x_label: Under the axis.
        y_label: Beside the axis.
        plots: Title of each small plot -> label of each line -> its x values and y values.
        dashed: Label of the lines that are dashed.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    plots: dict[str, dict[str, tuple[list[float], list[float]]]]
    dashed: str = ""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found.

    Attributes:
        task: ``"localization"``, ``"segmentation"``, ``"perturbation"``, ``"sanity"`` or ``"grid"``.
        facts: What makes the numbers comparable: network, layers, thresholds, seed, ...
        scores: All numbers.
        differences: Paired differences from the best rival.
        tables: Other tables.
        charts: Curves.
        examples: Rows of the panel of examples.
        legend: What the panel shows.
        notes: Sentences that a reader must know.
    """

    task: str
    facts: dict[str, str]
    scores: tuple[Score, ...]
    differences: tuple[Difference, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    examples: tuple[list[Cell], ...] = ()
    legend: str = ""
    notes: tuple[str, ...] = ()

    def score(self, method: str, layers: str, metric: str) -> Score:
        """The score of a line of the table.

        Raises:
            KeyError: If there is none.
        """
        for found in self.scores:
            if (found.method, found.layers, found.metric) == (method, layers, metric):
                return found
        raise KeyError((method, layers, metric))

    def all_tables(self, brief: bool = False) -> list[Table]:
        """The scores that are shown, the other tables, and the paired differences.

        Args:
            brief: Leave out the differences of single layers if there are fused ones or means of layers.
        """
        columns = ["method", "layers", "n"]
        lines: dict[tuple[str, str, str], dict[str, str]] = {}
        for score in self.scores:
            if score.shown:
                n = f"{score.n}" + f" ({score.groups} groups)" * (score.groups != score.n)
                column = score.metric + " (lower is better)" * (score.better == "lower")
                columns += [column] * (column not in columns)
                cells = lines.setdefault((score.method, score.layers, n), {})
                cells[column] = score.text()
        rows = [(*line, *(cells.get(c, "") for c in columns[3:])) for line, cells in lines.items()]
        shown = [d for d in self.differences if d.shown]
        if brief and any(d.layers in (ALL_FUSED, MEAN) for d in shown):
            shown = [d for d in shown if d.layers in (ALL_FUSED, MEAN) or d.method == RECIPE]
        differences = [
            (
                d.metric,
                f"{d.method}, {d.layers}",
                d.rival + f", {d.rival_layers}" * (d.rival_layers != d.layers),
                d.text("+"),
                d.verdict,
            )
            for d in shown
        ]
        header = ("metric", "of", "best rival", "difference", "")
        tables = (
            Table("", tuple(columns), tuple(rows)),
            *self.tables,
            Table(DIFFERENCES, header, tuple(differences)),
        )
        return [table for table in tables if table.rows]

    def text(self, brief: bool = False) -> str:
        """The tables and the notes; ``brief`` as for :meth:`all_tables`."""
        parts = []
        for table in self.all_tables(brief):
            parts += [table.title] * bool(table.title)
            parts.append(markdown_table(table.columns, table.rows))
        return "\n\n".join([*parts, *self.notes])

    def picture_names(self) -> list[str]:
        """Names of the files of the charts and the panel of examples."""
        names = [f"{chart.name}.png" for chart in self.charts]
        return names + [f"{self.task}_examples.png"] * bool(self.examples)

    def markdown(self) -> str:
        """The report, with links to the pictures."""
        facts = "\n".join(f"- {name}: {value}" for name, value in self.facts.items())
        pictures = "\n\n".join(
            f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in self.picture_names()
        )
        parts = [f"# {self.task.capitalize()}", facts, self.text(), pictures]
        return "\n\n".join(part for part in parts if part) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Everything but the examples, as plain values."""
        content = asdict(replace(self, examples=()))
        del content["examples"], content["legend"]
        for row, difference in zip(content["differences"], self.differences, strict=True):
            row["verdict"] = difference.verdict
        return content


def write_evaluation(evaluation: Evaluation, out: str | Path) -> list[Path]:
    """Write ``TASK.json``, ``.csv``, ``_differences.csv``, ``.md``, charts and the panel of examples.

    The finished batches that the run kept there are removed when all is written.

    Args:
        evaluation: What was found.
        out: The folder; made if need be.

    Returns:
        The files.

    Raises:
        SsgcamError: If the folder can't be written to, another run is writing to it, or a photo can't be
            read again.
    """
    out, task = Path(out), evaluation.task
    written = [out / f"{task}.json", out / f"{task}.md"]
    with locked(out):
        remove_unfinished(out, below=False)  # temporary files of a killed run
        write_json(written[0], evaluation.to_json())
        write_text(written[1], evaluation.markdown())
        rows: Sequence[Score]
        for name, rows in (
            (task, evaluation.scores),
            (f"{task}_differences", evaluation.differences),
        ):
            if rows:
                written.append(out / f"{name}.csv")
                write_text(written[-1], _csv(rows))
        for chart in evaluation.charts:
            write_png(out / f"{chart.name}.png", figure_picture(chart_figure(chart)))
        if evaluation.examples:
            picture = panel(evaluation.examples, footer=evaluation.legend)
            write_png(out / f"{task}_examples.png", picture)
        shutil.rmtree(out / f".{task}", ignore_errors=True)
    return [*written, *(out / name for name in evaluation.picture_names())]


def curve_chart(
    name: str,
    title: str,
    labels: tuple[str, str],
    curves: Iterable[tuple[MapSource, Tensor, Tensor]],
    dashed: str = "",
) -> Chart:
    """A chart with one line for each source.

    Args:
        name: Of its file, without ending.
        title: Above it.
        labels: Of the x axis and the y axis.
        curves: The source, the x values and the y values of each line.
        dashed: Label of the lines that are dashed.
    """
    chart = Chart(name, title, *labels, {}, dashed)
    for source, x, y in curves:
        chart.plots.setdefault(source.layers, {})[source.method] = x.tolist(), y.tolist()
    return chart


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table with aligned columns."""
    body = [[str(cell) for cell in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(header, *body, strict=True)]
    lines = [header, ["-" * width for width in widths], *body]
    padded = [
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def write_report(evaluation: Evaluation, path: str | Path) -> None:
    """Write the HTML report: notes, sortable tables, charts, examples and facts in one file.

    Args:
        evaluation: What was found.
        path: The file, ``.html``.

    Raises:
        SsgcamError: If the name doesn't end in .html or the file can't be written.
    """
    tables = [replace(t, title=t.title or "Scores") for t in evaluation.all_tables()]
    plots = [html.Plot(chart.title, [chart_figure(chart)]) for chart in evaluation.charts]
    pictures = [
        html.Picture(panel([row], scale=False), row[0].title or f"image {k}")
        for k, row in enumerate(evaluation.examples, 1)
    ]
    html.write_html(
        path,
        f"{evaluation.task.capitalize()} of {Path(evaluation.facts['network']).name}",
        [*tables, *plots, html.Gallery("Examples", pictures, evaluation.legend)],
        warnings=evaluation.notes,
        settings=evaluation.facts,
    )


def chart_figure(chart: Chart) -> Figure:
    """A chart: one small plot for each choice of layers, one color for each label."""
    labels = list(dict.fromkeys(label for lines in chart.plots.values() for label in lines))
    palette = colormaps["tab10" if len(labels) <= 10 else "tab20"]
    columns = min(COLUMNS, len(chart.plots))
    rows = -(-len(chart.plots) // columns)
    size = (4.2 * columns + 0.4, 3.1 * rows + 1.1)
    figure = Figure(size, dpi=110, layout=ConstrainedLayoutEngine())
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    handles: dict[str, Artist] = {}
    for axes, (title, lines) in zip(grid.flat, chart.plots.items(), strict=False):
        for label, (x, y) in lines.items():
            number, dashed = labels.index(label), label == chart.dashed
            color = "0.4" if dashed else palette(number % palette.N)
            width = max(0.8, 2.8 - 0.25 * number)  # lines under others stay visible
            (drawn,) = axes.plot(x, y, "--" if dashed else "-", color=color, linewidth=width)
            handles.setdefault(label, drawn)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(chart.x_label, fontsize=8)
        axes.tick_params(labelbottom=True, labelsize=8)
        axes.grid(alpha=0.3)
    for axes in list(grid.flat)[len(chart.plots) :]:
        axes.set_axis_off()
    figure.suptitle(chart.title, fontsize=11)
    figure.supylabel(chart.y_label, fontsize=9)
    figure.legend(
        handles=list(handles.values()), labels=list(handles), loc="outside lower center",
        ncols=min(4, len(handles)), fontsize=8,
    )  # fmt: skip
    return figure


def map_overlay(photo: Image.Image, values: Tensor) -> Image.Image:
    """A map ``[h, w]``, not negative, divided by its maximum and drawn over its photo."""
    scaled = fusion.scale(values[None].float().cpu())[0]
    return overlay(photo, scaled.nan_to_num(0.0).clamp(0, 1).numpy())


def example_cell(photo: Image.Image, title: str, caption: str, drawn: Drawn) -> Cell:
    """A cell of the panel of examples.

    Args:
        photo: The photo.
        title: Above it.
        caption: Below it.
        drawn: A map ``[h, w]``, not negative, to draw over the photo, or None; boxes, as x0, y0, x1,
            y1 in shares of the photo's sides; and a mask ``[H, W]`` bool of any size, to outline, or
            None.
    """
    maps, boxes, mask = drawn
    picture = photo if maps is None else map_overlay(photo, maps)
    sides = (*photo.size, *photo.size)
    scaled = [tuple(round(c * s) for c, s in zip(box, sides, strict=True)) for box in boxes]
    outline = None
    if mask is not None:
        resized = Image.fromarray(mask.cpu().numpy().astype(np.uint8) * 255)
        outline = np.asarray(resized.resize(photo.size, Image.Resampling.NEAREST)) > 0
    return Cell(picture, title, caption, boxes=scaled, mask=outline)  # type: ignore[arg-type]


def _csv(rows: Sequence[Score]) -> str:
    stream = io.StringIO()
    names = [name for name in asdict(rows[0]) if name != "shown"]
    writer = csv.DictWriter(stream, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return stream.getvalue()
