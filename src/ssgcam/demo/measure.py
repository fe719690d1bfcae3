"""How well a map agrees with an outline: the demo's two measures, and their tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ssgcam.metrics import pixel_average_precision, score_histograms
from ssgcam.report.heatmap import resized


@dataclass(frozen=True)
class Measured:
    """One map's measurements.

    Attributes:
        photo: The photo.
        object: What is outlined in it.
        index: The explained class.
        method: The method's title.
        layer: The target layer.
        mass: Share of the map's sum that lies inside the outline, in [0, 1]. A map with a sharper
            peak scores higher, also if it ranks the pixels in the same order.
        precision: Average precision of the pixels, in [0, 1]. Only their order counts.
        area: Share of the photo inside the outline: what a map without knowledge scores in both.
    """

    photo: str
    object: str
    index: int
    method: str
    layer: str
    mass: float
    precision: float
    area: float


def mass_inside(values: NDArray[np.floating[Any]], inside: NDArray[np.bool_]) -> float:
    """The share of a map's sum that lies inside an outline.

    Args:
        values: ``[h, w]``, not negative; resized (bilinear) to the outline's size.
        inside: ``[H, W]``, whether each pixel lies inside.

    Returns:
        In [0, 1]; 0 for a map without evidence.

    Example:
        >>> inside = np.zeros((4, 4), bool); inside[:2] = True
        >>> mass_inside(np.repeat([[3.0], [3.0], [1.0], [1.0]], 4, axis=1), inside)
        0.75
    """
    whole = resized(values, (inside.shape[1], inside.shape[0])).astype(np.float64)
    total = whole.sum()
    return float(whole[inside].sum() / total) if total > 0 else 0.0


def precision_inside(values: NDArray[np.floating[Any]], inside: NDArray[np.bool_]) -> float:
    """The average precision of a map's pixels against an outline, in [0, 1]; arguments as above."""
    mask = torch.from_numpy(inside)
    histogram = score_histograms(torch.from_numpy(np.asarray(values))[None], [mask])[0]
    return float(pixel_average_precision(histogram))


def markdown(measured: Sequence[Measured], what: Literal["mass", "precision"]) -> str:
    """A table with a row for each layer and method and a column for each object."""
    things = list(dict.fromkeys((entry.photo, entry.object) for entry in measured))
    names = [f"{photo.split('.')[0]}: {thing}" for photo, thing in things]
    lines = [
        f"| layer | method | {' | '.join(names)} | mean |",
        f"| --- | --- |{' ---: |' * (len(names) + 1)}",
    ]
    for layer, method in dict.fromkeys((entry.layer, entry.method) for entry in measured):
        row = {
            (entry.photo, entry.object): getattr(entry, what)
            for entry in measured
            if (entry.layer, entry.method) == (layer, method)
        }
        lines.append(_row(layer, method, [row[thing] for thing in things]))
    areas = {(entry.photo, entry.object): entry.area for entry in measured}
    lines.append(_row("-", "the object's share of the photo", [areas[thing] for thing in things]))
    return "\n".join(lines) + "\n"


def _row(layer: str, method: str, shares: Sequence[float]) -> str:
    cells = " | ".join(f"{share:.3f}" for share in [*shares, float(np.mean(shares))])
    return f"| {layer} | {method} | {cells} |"
