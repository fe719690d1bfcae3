"""Pictures side by side with captions, outlines, boxes and one color scale, as one picture.

Drawn with matplotlib's Figure class without pyplot: no window, no global state, nothing to close.
Every place is computed in inches, so that nothing overlaps whatever the captions.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from numpy.typing import NDArray
from PIL import Image

from ssgcam.report.heatmap import COLORS, Box

DPI = 130
LINE = "#00e5ff"  # of outlines and boxes: a color that neither the scale nor gray photos have
GAP, TITLE, HEADING, LINE_HEIGHT, SCALE = 0.08, 0.36, 0.24, 0.155, 0.58  # inches


@dataclass(frozen=True)
class Cell:
    """One picture of a panel.

    Attributes:
        image: RGB.
        title: Above it.
        caption: Below it, one or more lines.
        polygons: Outlines, each a list of x, y in pixels from the upper left corner of the image.
        boxes: Left, top, right and bottom in pixels of the image, right and bottom exclusive.
        mask: ``[H, W]`` bool of the image's size, whose outline is drawn.
    """

    image: Image.Image
    title: str = ""
    caption: str = ""
    polygons: Sequence[Sequence[tuple[float, float]]] = ()
    boxes: Sequence[Box] = ()
    mask: NDArray[np.bool_] | None = None


def panel(
    rows: Sequence[Sequence[Cell | None]],
    *,
    title: str = "",
    row_titles: Sequence[str] = (),
    footer: str = "",
    scale: bool = True,
    cell_width: float = 2.6,
) -> Image.Image:
    """Draw rows of cells.

    Args:
        rows: Each a row of cells; None leaves a place empty.
        title: Of the whole panel.
        row_titles: One for each row, written along its left side.
        footer: A sentence or more at the foot, wrapped.
        scale: Draw the color scale of heat maps at the foot.
        cell_width: Width of a cell, in inches of 130 pixels.

    Returns:
        RGB.
    """
    columns = max(len(row) for row in rows)
    left = 0.5 if row_titles else GAP
    width = left + columns * (cell_width + GAP)
    foot = textwrap.wrap(footer, int(14.5 * width))
    below = SCALE * scale + (len(foot) * LINE_HEIGHT + GAP) * bool(foot) + GAP
    heights = [_height(row, cell_width) for row in rows]
    height = TITLE * bool(title) + sum(heights) + below
    figure = Figure((width, height), DPI)

    def place(x: float, top: float, wide: float, tall: float) -> Axes:
        return figure.add_axes((x / width, 1 - (top + tall) / height, wide / width, tall / height))

    if title:
        figure.text(
            0.5, 1 - TITLE / 2 / height, title, size=12, weight="bold", ha="center", va="center"
        )
    top = TITLE * bool(title)
    for number, (row, row_height) in enumerate(zip(rows, heights, strict=True)):
        tall = _picture_height(row, cell_width)
        for column, cell in enumerate(row):
            if cell is not None:
                x = left + column * (cell_width + GAP)
                _draw(place(x, top + HEADING, cell_width, tall), cell)
        if number < len(row_titles):
            middle = 1 - (top + HEADING + tall / 2) / height
            figure.text(
                0.5 * left / width, middle, row_titles[number], rotation=90, size=9, weight="bold",
                ha="center", va="center",
            )  # fmt: skip
        top += row_height
    if scale:
        long = min(4.5, 0.8 * width)
        bar = figure.colorbar(
            ScalarMappable(cmap=COLORS),
            cax=place((width - long) / 2, top + GAP, long, 0.12),
            orientation="horizontal",
        )
        bar.set_label("share of the map's largest value", size=8, labelpad=1)
        bar.ax.tick_params(labelsize=8, pad=2, length=2)
    if foot:
        low = GAP / height
        figure.text(0.5, low, "\n".join(foot), size=8, color="#444444", ha="center", va="bottom")
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return Image.open(stream).convert("RGB")


def _picture_height(row: Sequence[Cell | None], width: float) -> float:
    """Of the pictures of a row of cells of a width, in inches."""
    tallest = max((cell.image.height / cell.image.width for cell in row if cell), default=0.3)
    return width * float(np.clip(tallest, 0.3, 1.6))


def _height(row: Sequence[Cell | None], width: float) -> float:
    """Of a row with its headings and captions, in inches."""
    lines = max((len(cell.caption.splitlines()) for cell in row if cell), default=0)
    return HEADING + _picture_height(row, width) + LINE_HEIGHT * lines + GAP


def _draw(axes: Axes, cell: Cell) -> None:
    axes.set_axis_off()
    axes.set_anchor("N")
    axes.imshow(np.asarray(cell.image), interpolation="lanczos")
    halo: list[Any] = [patheffects.withStroke(linewidth=3, foreground="black", alpha=0.6)]
    style: dict[str, Any] = {
        "fill": False, "edgecolor": LINE, "linewidth": 1.3, "path_effects": halo,
    }  # fmt: skip
    for polygon in cell.polygons:  # here a pixel's center, not its corner, is a whole number
        corners = np.asarray(polygon, dtype=float) - 0.5
        axes.add_patch(Polygon(corners, closed=True, **style))
    for left, top, right, bottom in cell.boxes:
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, **style))
    if cell.mask is not None and cell.mask.any() and not cell.mask.all():
        padded = np.pad(cell.mask, 1).astype(float)  # closed along the picture's border as well
        rows, columns = (np.arange(-1, side + 1) for side in cell.mask.shape)
        lines = axes.contour(columns, rows, padded, levels=[0.5], colors=LINE, linewidths=1.3)
        lines.set_path_effects(halo)
        axes.set_xlim(-0.5, cell.image.width - 0.5)
        axes.set_ylim(cell.image.height - 0.5, -0.5)
    axes.set_title(cell.title, size=9.5, pad=3)
    axes.annotate(
        cell.caption, (0.5, 0), (0, -3), xycoords="axes fraction", textcoords="offset points",
        ha="center", va="top", size=8, color="#222222", linespacing=1.2,
    )  # fmt: skip
