"""Charts and the panel of examples as pictures."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from PIL import Image

from ssgcam.core import fusion as pipeline
from ssgcam.evaluation.figures import Chart, Example, Picture
from ssgcam.evaluation.result import Evaluation
from ssgcam.files import write_png
from ssgcam.images import read_image
from ssgcam.report.heatmap import overlay
from ssgcam.report.panel import Cell, panel

COLUMNS = 3
LONGEST = 640  # longer side of a photo in the panel, in pixels
#: Foot of the panel of examples.
LEGENDS = {
    "localization": "First column: true boxes or outline. Others: the map and, where boxes are known, "
    "the box of its largest contour at the threshold of MaxBoxAcc.",
    "segmentation": "First column: true outline. Others: the map and the outline of its pseudo-mask.",
    "perturbation": "First column: the photo, with true boxes where they are known. Others: the map and "
    "the outline of its top 20 % of pixels.",
}


def picture_names(evaluation: Evaluation) -> list[str]:
    """Names of the files that :func:`write_pictures` writes."""
    names = [f"{chart.name}.png" for chart in evaluation.charts]
    return names + [f"{evaluation.task}_examples.png"] * bool(evaluation.examples)


def write_pictures(evaluation: Evaluation, out: Path) -> None:
    """Write every chart and the panel of examples.

    Args:
        evaluation: What was found.
        out: The folder.

    Raises:
        SsgcamError: If the folder can't be written to or a photo can't be read again.
    """
    drawn: list[Callable[[], Image.Image]]
    drawn = [partial(draw_chart, chart) for chart in evaluation.charts]
    if evaluation.examples:
        drawn.append(partial(draw_examples, evaluation.examples, LEGENDS[evaluation.task]))
    for name, draw in zip(picture_names(evaluation), drawn, strict=True):
        write_png(out / name, draw())


def draw_chart(chart: Chart) -> Image.Image:
    """A chart as a picture: one small plot for each choice of layers, one color for each line."""
    labels = list(dict.fromkeys(line.label for lines in chart.plots.values() for line in lines))
    palette = colormaps["tab10" if len(labels) <= 10 else "tab20"]
    colors = {label: palette(index % palette.N) for index, label in enumerate(labels)}
    columns = min(COLUMNS, len(chart.plots))
    rows = -(-len(chart.plots) // columns)
    layout = ConstrainedLayoutEngine()
    figure = Figure((4.2 * columns + 0.4, 3.1 * rows + 1.1), dpi=110, layout=layout)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    handles: dict[str, Artist] = {}
    for place, (title, lines) in zip(grid.flat, chart.plots.items(), strict=False):
        for line in lines:
            style = "--" if line.dashed else "-"
            color = "0.4" if line.dashed else colors[line.label]
            width = max(0.8, 2.8 - 0.25 * labels.index(line.label))  # equal lines stay visible
            (drawn,) = place.plot(line.x, line.y, style, color=color, linewidth=width)
            handles.setdefault(line.label, drawn)
        place.set_title(title, fontsize=9)
        place.set_xlabel(chart.x_label, fontsize=8)
        place.tick_params(labelbottom=True, labelsize=8)
        place.grid(alpha=0.3)
    for place in list(grid.flat)[len(chart.plots) :]:
        place.set_axis_off()
    figure.suptitle(chart.title, fontsize=11)
    figure.supylabel(chart.y_label, fontsize=9)
    figure.legend(
        handles=list(handles.values()), labels=list(handles), loc="outside lower center",
        ncols=min(4, len(handles)), fontsize=8,
    )  # fmt: skip
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return Image.open(stream).convert("RGB")


def draw_examples(examples: tuple[Example, ...], legend: str) -> Image.Image:
    """Photos with their true boxes or outlines, and beside them the maps with the predicted ones.

    Args:
        examples: One for each row.
        legend: What is drawn, at the foot.
    """
    return panel([_row(example) for example in examples], footer=legend)


def _row(example: Example) -> list[Cell | None]:
    photo = read_image(example.image)
    full = photo.size
    photo.thumbnail((LONGEST, LONGEST))
    scale = photo.width / full[0], photo.height / full[1]
    boxes = [
        _scaled((x0, y0, x1 + 1, y1 + 1), (scale[0], scale[1])) for x0, y0, x1, y1 in example.boxes
    ]
    mask = None if example.mask is None else _fitted(example.mask.numpy(), photo.size)
    truth = Cell(photo, example.title, boxes=boxes, mask=mask)
    return [truth, *(_cell(photo, picture) for picture in example.pictures)]


def _cell(photo: Image.Image, picture: Picture) -> Cell:
    values = pipeline.scale(picture.values[None].float())[0]
    drawn = overlay(photo, values.nan_to_num(0.0).clamp(0, 1).numpy())
    boxes = [_scaled(box, photo.size) for box in picture.boxes]
    mask = None if picture.mask is None else _fitted(picture.mask.numpy(), photo.size)
    entry = picture.entry
    return Cell(drawn, entry.method, entry.layers, boxes=boxes, mask=mask)


def _scaled(
    box: tuple[float, float, float, float], by: tuple[float, float]
) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = box
    return round(x0 * by[0]), round(y0 * by[1]), round(x1 * by[0]), round(y1 * by[1])


def _fitted(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    picture = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
    return np.asarray(picture) > 0
