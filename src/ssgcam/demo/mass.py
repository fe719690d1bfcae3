"""How much of a map lies on the object: the demo's measure, and its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssgcam.render.heatmap import resized


@dataclass(frozen=True)
class Mass:
    """One measurement.

    Attributes:
        photo: The photo.
        object: What is outlined in it.
        index: The explained class.
        method: The method's title, with its gamma where that is not the drawn one.
        layer: The target layer.
        share: Share of the map's sum that lies inside the outline, in [0, 1].
        area: Share of the photo that does: what a map without any knowledge would score.
    """

    photo: str
    object: str
    index: int
    method: str
    layer: str
    share: float
    area: float


def share_inside(values: NDArray[np.floating[Any]], inside: NDArray[np.floating[Any]]) -> float:
    """The share of a map's sum that lies inside an outline.

    Args:
        values: ``[h, w]``, not negative; resized (bilinear) to the outline's size.
        inside: ``[H, W]``, the share of each pixel that lies inside.

    Returns:
        In [0, 1]; 0 for a map without evidence.

    Example:
        >>> inside = np.zeros((4, 4)); inside[:2] = 1
        >>> share_inside(np.array([[3.0, 3.0], [1.0, 1.0]]), inside) > 0.6
        True
    """
    whole = resized(values, (inside.shape[1], inside.shape[0])).astype(np.float64)
    total = whole.sum()
    return float((whole * inside).sum() / total) if total > 0 else 0.0


def markdown(masses: Sequence[Mass]) -> str:
    """A table with a row for each method and layer and a column for each object."""
    objects = list(dict.fromkeys((mass.photo, mass.object) for mass in masses))
    names = [f"{photo.split('.')[0]}: {thing}" for photo, thing in objects]
    lines = [
        f"| layer | method | {' | '.join(names)} | mean |",
        f"| --- | --- |{' ---: |' * (len(names) + 1)}",
    ]
    for layer, method in dict.fromkeys((mass.layer, mass.method) for mass in masses):
        row = {
            (m.photo, m.object): m.share for m in masses if (m.layer, m.method) == (layer, method)
        }
        lines.append(_row(layer, method, [row[key] for key in objects]))
    areas = {(mass.photo, mass.object): mass.area for mass in masses}
    lines.append(_row("-", "the object's share of the photo", [areas[key] for key in objects]))
    return "\n".join(lines) + "\n"


def _row(layer: str, method: str, shares: Sequence[float]) -> str:
    cells = " | ".join(f"{share:.3f}" for share in [*shares, float(np.mean(shares))])
    return f"| {layer} | {method} | {cells} |"
