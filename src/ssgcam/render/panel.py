"""Pictures side by side with captions, outlines, boxes and one colour scale, as one picture.

Drawn with matplotlib's Figure class without pyplot: no window, no global state, nothing to close.
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
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Polygon, Rectangle
from numpy.typing import NDArray
from PIL import Image

from ssgcam.render.heatmap import COLOURS, Box

LINE = "#00e5ff"  # of outlines and boxes: a colour that neither the scale nor grey photos have
DPI = 130


@dataclass(frozen=True)
class Cell:
    """One picture of a panel.

    Attributes:
        image: RGB.
        title: Above it.
        caption: Below it, one or more lines; the first is set off from the rest.
        polygons: Outlines, each a list of x, y in pixels of the image.
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
        scale: Draw the colour scale of heat maps at the foot.
        cell_width: Width of a cell, in inches of 130 pixels.

    Returns:
        RGB.
    """
    columns = max(len(row) for row in rows)
    shapes = [cell.image.height / cell.image.width for row in rows for cell in row if cell]
    aspect = float(np.clip(max(shapes), 0.3, 1.6))
    lines = max(cell.caption.count("\n") + bool(cell.caption) for r in rows for cell in r if cell)
    wrapped = "\n".join(textwrap.wrap(footer, int(14 * cell_width * columns)))
    height = len(rows) * (cell_width * aspect + 0.3 + 0.17 * lines) + 0.17 * wrapped.count("\n")
    height += 0.5 * bool(title) + 0.75 * scale + 0.3 * bool(footer)
    layout = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.05, wspace=0, hspace=0)
    figure = Figure((columns * cell_width + 0.3, height), dpi=DPI, layout=layout)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row_axes, row in zip(axes, rows, strict=True):
        for index, place in enumerate(row_axes):
            _draw(place, row[index] if index < len(row) else None)
    for place, text in zip(axes[:, 0], row_titles, strict=False):
        place.text(
            -0.04, 0.5, text, rotation=90, ha="right", va="center", transform=place.transAxes,
            fontsize=9, fontweight="bold",
        )  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold")
    if scale:
        bar = figure.colorbar(
            ScalarMappable(cmap=COLOURS), ax=axes, location="bottom", aspect=45, fraction=0.04,
            shrink=min(1.0, 2 / columns),
        )  # fmt: skip
        bar.set_label("share of the map's largest value", fontsize=8)
        bar.ax.tick_params(labelsize=8)
    if footer:
        figure.supxlabel(wrapped, fontsize=8, color="#444444")
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return Image.open(stream).convert("RGB")


def _draw(place: Axes, cell: Cell | None) -> None:
    place.set_axis_off()
    if cell is None:
        return
    place.imshow(np.asarray(cell.image), interpolation="lanczos")
    halo: list[Any] = [patheffects.withStroke(linewidth=3, foreground="black", alpha=0.6)]
    style: dict[str, Any] = {
        "fill": False, "edgecolor": LINE, "linewidth": 1.3, "path_effects": halo,
    }  # fmt: skip
    for polygon in cell.polygons:
        place.add_patch(Polygon(np.asarray(polygon, dtype=float), closed=True, **style))
    for left, top, right, bottom in cell.boxes:
        corner = (left - 0.5, top - 0.5)  # pixel centres are whole numbers
        place.add_patch(Rectangle(corner, right - left, bottom - top, **style))
    if cell.mask is not None:
        lines = place.contour(cell.mask.astype(float), levels=[0.5], colors=LINE, linewidths=1.3)
        lines.set_path_effects(halo)
    if cell.title:
        place.set_title(cell.title, fontsize=9.5, pad=3)
    if cell.caption:
        place.annotate(
            cell.caption, (0.5, 0), (0, -3), xycoords="axes fraction", textcoords="offset points",
            ha="center", va="top", fontsize=8, color="#222222", linespacing=1.25,
        )  # fmt: skip
