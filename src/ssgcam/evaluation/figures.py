"""Curves and examples as plain data: evaluations make them, ``plots`` draws them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ssgcam.data.sample import Box


@dataclass(frozen=True)
class Entry:
    """Whose map, from which layers: a line of a table before it has numbers."""

    method: str
    layers: str


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines, one small plot for each choice of layers.

    Attributes:
        name: Of its file, without ending.
        title: Above it.
        x_label: Under the axis.
        y_label: Beside the axis.
        plots: Title of each small plot -> its lines.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    plots: dict[str, tuple[Series, ...]]


def plots_of(lines: Iterable[tuple[Entry, Series]]) -> dict[str, tuple[Series, ...]]:
    """The lines of a chart by their entries' layers."""
    plots: dict[str, tuple[Series, ...]] = {}
    for entry, line in lines:
        plots[entry.layers] = (*plots.get(entry.layers, ()), line)
    return plots


@dataclass(frozen=True, eq=False)
class Picture:
    """A map of an example, and what is drawn on it.

    Attributes:
        entry: Whose map it is.
        values: The map, ``[h, w]`` in [0, 1].
        boxes: Predicted boxes, inclusive, as shares of the sides (x0, y0, x1, y1).
        mask: Predicted mask, ``[H, W]`` bool, at the photo's size.
    """

    entry: Entry
    values: Tensor
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Example:
    """An image, its ground truth and the maps of several methods.

    Attributes:
        image: The photo's file.
        title: The class.
        boxes: True boxes, inclusive, in the photo's pixels.
        mask: True mask, ``[H, W]`` bool, at the photo's size.
        pictures: The maps.
    """

    image: Path
    title: str
    boxes: tuple[Box, ...]
    mask: Tensor | None
    pictures: tuple[Picture, ...]
