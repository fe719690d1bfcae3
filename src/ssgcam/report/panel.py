"""Pictures side by side with captions, outlines, boxes and one color scale, as one picture.

Drawn with matplotlib's Figure class without pyplot: no window, no global state, nothing to close.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from numpy.typing import NDArray
from PIL import Image

from ssgcam.report.heatmap import COLORS, Box, figure_picture

DPI = 130
LINE = "#00e5ff"  # of outlines and boxes: a color that neither the scale nor gray photos have
TITLE, HEADING, LINE_HEIGHT, SCALE = 0.3, 0.34, 0.155, 0.55  # inches


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
    columns = max(map(len, rows))
    foot = textwrap.wrap(footer, int(14.5 * columns * cell_width))
    heights = [cell_width * _shape(row) for row in rows]
    lines = [max((len(c.caption.splitlines()) for c in row if c), default=0) for row in rows]
    texts = LINE_HEIGHT * (sum(lines) + len(foot)) + HEADING * len(rows)
    height = sum(heights) + texts + TITLE * bool(title) + SCALE * scale
    width = columns * (cell_width + 0.08) + 0.3 * bool(row_titles)
    figure = Figure((width, height), DPI, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for number, (row, places) in enumerate(zip(rows, grid, strict=True)):
        for axes, cell in zip_longest(places, row):
            axes.set(xticks=[], yticks=[], anchor="N")
            axes.spines[:].set_visible(False)
            if cell is not None:
                _draw(axes, cell)
        if number < len(row_titles):
            places[0].set_ylabel(row_titles[number], size=9, weight="bold")
    figure.suptitle(title, size=12, weight="bold")
    figure.supxlabel("\n".join(foot), size=8, color="#444444")
    if scale:
        colors = ScalarMappable(cmap=COLORS)
        bar = figure.colorbar(colors, ax=grid, location="bottom", aspect=40, shrink=0.8, pad=0.02)
        bar.set_label("share of the map's largest value", size=8, labelpad=1)
        bar.ax.tick_params(labelsize=8, pad=2, length=2)
    return figure_picture(figure)


def _shape(row: Sequence[Cell | None]) -> float:
    """Height of a row's pictures in cell widths."""
    tallest = max((cell.image.height / cell.image.width for cell in row if cell), default=0.3)
    return float(np.clip(tallest, 0.3, 1.6))


def _draw(axes: Axes, cell: Cell) -> None:
    axes.imshow(np.asarray(cell.image), interpolation="lanczos")
    halo: list[Any] = [patheffects.withStroke(linewidth=3, foreground="black", alpha=0.6)]
    style: dict[str, Any] = {"fill": False, "edgecolor": LINE, "linewidth": 1.3}
    for polygon in cell.polygons:  # here a pixel's center, not its corner, is a whole number
        corners = np.asarray(polygon, dtype=float) - 0.5
        axes.add_patch(Polygon(corners, path_effects=halo, **style))
    for left, top, right, bottom in cell.boxes:
        corner = (left - 0.5, top - 0.5)
        axes.add_patch(Rectangle(corner, right - left, bottom - top, path_effects=halo, **style))
    if cell.mask is not None and cell.mask.any() and not cell.mask.all():
        padded = np.pad(cell.mask, 1).astype(float)  # closed along the picture's border as well
        rows, columns = (np.arange(-1, side + 1) for side in cell.mask.shape)
        lines = axes.contour(columns, rows, padded, levels=[0.5], colors=LINE, linewidths=1.3)
        lines.set_path_effects(halo)
        axes.set_xlim(-0.5, cell.image.width - 0.5)
        axes.set_ylim(cell.image.height - 0.5, -0.5)
    axes.set_title(cell.title, size=9.5, pad=3)
    axes.set_xlabel(cell.caption, size=8, color="#222222", labelpad=3, linespacing=1.2)
