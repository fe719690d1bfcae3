"""The demo's panels: the methods side by side on one photo, and two classes of one photo."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from ssgcam import __version__
from ssgcam.core.methods import METHODS
from ssgcam.demo.explained import DRAWN, Explained
from ssgcam.render import Cell, overlay, panel

MEASURES = (
    "Mass: share of the map's sum inside the outline. Precision: average precision of the pixels."
)
NETWORK = f"EfficientNet-Lite0 with ImageNet weights; ssgcam {__version__}."


def photo_panel(explained: Explained, layers: Sequence[str]) -> Image.Image:
    """Photo, guesses and outline, and every method for a deep and a shallow layer."""
    thing = explained.thing
    guesses = "\n".join(f"{name}  {value:.1%}" for name, value in explained.guesses)
    first = [Cell(thing.image, "the photo", guesses), _outline(explained)]
    return panel(
        [
            [cell, *(_map(explained, layer, method) for method in DRAWN)]
            for cell, layer in zip(first, layers, strict=True)
        ],
        title=f"{thing.photo}: what speaks for '{explained.class_name}' "
        f"({explained.probability:.1%})",
        row_titles=[f"deep layer\n{layers[0]}", f"shallow layer\n{layers[1]}"],
        footer=f"{thing.note} {MEASURES} The outline covers {thing.inside.mean():.1%} of the photo. "
        f"{NETWORK}",
    )


def classes_panel(classes: Sequence[Explained], layer: str) -> Image.Image:
    """Several classes of one photo, a row for each."""
    return panel(
        [
            [_outline(explained), *(_map(explained, layer, method) for method in DRAWN)]
            for explained in classes
        ],
        title=f"{classes[0].thing.photo}: two classes of one photo, layer {layer}",
        row_titles=[f"{entry.class_name}\n{entry.probability:.1%}" for entry in classes],
        footer=f"{MEASURES} {NETWORK}",
    )


def _outline(explained: Explained) -> Cell:
    thing = explained.thing
    return Cell(thing.image, "outlined by hand", thing.name, polygons=thing.polygons)


def _map(explained: Explained, layer: str, method: str) -> Cell:
    drawn = explained.maps[layer, method]
    caption = f"mass {drawn.measured.mass:.0%}, precision {drawn.measured.precision:.2f}"
    return Cell(overlay(explained.thing.image, drawn.values), METHODS[method].title, caption)
