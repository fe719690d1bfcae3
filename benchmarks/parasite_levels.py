"""What was scored in the benchmark of parasites: windows or whole fields, all contenders, by field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssgcam.metrics import (
    Interval,
    bootstrap_interval,
    foreground_iou,
    image_ious,
    mean_iou,
    paired_difference,
    ratio,
)
from study import FINAL

METRICS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "foreground IoU": (torch.Tensor.double, foreground_iou),
    "mean with background": (torch.Tensor.double, mean_iou),
    "mean per image": (image_ious, ratio),
}
#: Families of which one is chosen on the other fields: a name's beginning and the title.
FAMILIES = {
    "Color: ": "Color threshold from the other fields",
    "Color in windows called infected: ": "Color in windows called infected",
}


@dataclass(frozen=True)
class Level:
    """What was scored in one variant at one level.

    Attributes:
        parts: Confusions ``[N, 2, 2]`` by contender.
        kinds: Kind by contender.
        groups: The field of each of the N.
    """

    parts: dict[str, Tensor]
    kinds: dict[str, str]
    groups: list[str]

    def found(self, name: str, metric: str) -> Interval:
        """A contender's score with its interval over fields."""
        to_parts, number = METRICS[metric]
        return bootstrap_interval(to_parts(self.parts[name]), number, seed=0, groups=self.groups)

    def lead(self, name: str, rival: str, metric: str = "foreground IoU") -> Interval:
        """Paired difference over the same resampled fields."""
        to_parts, number = METRICS[metric]
        pair = to_parts(self.parts[name]), to_parts(self.parts[rival])
        return paired_difference(*pair, number, seed=0, groups=self.groups)

    def value(self, name: str, field: str | None = None) -> float:
        """Foreground IoU, of all or of one field."""
        rows = [i for i, group in enumerate(self.groups) if field in (None, group)]
        return float(foreground_iou(self.parts[name][rows].sum(0)))

    def best(self, kind: str) -> str | None:
        """The contender of a kind that scores best on these very images."""
        names = [
            name
            for name, each in self.kinds.items()
            if each == kind or (kind == "layer_cam" and name.startswith("LayerCAM, layer"))
        ]
        return max(names, key=self.value, default=None)


def window_level(found: dict[str, dict[str, Any]]) -> Level:
    """All fields' windows; contenders that every field has."""
    folds = list(found.values())
    names = [n for n in folds[0]["parts"] if all(n in fold["parts"] for fold in folds)]
    parts = {n: torch.cat([fold["parts"][n].double() for fold in folds]) for n in names}
    groups = [name for name, fold in found.items() for _ in fold["truth"]]
    return Level(parts, {n: folds[0]["kinds"][n] for n in names}, groups)


def field_level(found: dict[str, dict[str, Any]]) -> Level:
    """Whole fields; of a family the member that scored best on the other fields."""
    folds = list(found.values())
    parts: dict[str, list[Tensor]] = {}
    for fold in folds:
        for name, each in fold["parts"].items():
            if not name.startswith(tuple(FAMILIES)):
                parts.setdefault(name, []).append(each)
        for start, title in FAMILIES.items():
            members = [name for name in fold["cuts"] if name.startswith(start)]
            chosen = max(members, key=lambda name: fold["cuts"][name][0])
            parts.setdefault(title, []).append(fold["parts"][chosen])
    kept = {n: torch.cat(each).double() for n, each in parts.items() if len(each) == len(folds)}
    return Level(kept, {name: _kind(name) for name in kept}, list(found))


def _kind(name: str) -> str:
    if name == FINAL:
        return "recipe"
    if name.startswith("Color in"):
        return "color and network"
    if name.startswith("Color"):
        return "no network"
    if name.endswith("mean of all layers"):
        return "mean"
    return "ssg" if name.startswith("SSG-CAM") else "single"
