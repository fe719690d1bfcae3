"""The demo's panels: methods side by side, two classes of one photo, before and after a search."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from ssgcam import __version__
from ssgcam.core.methods import METHODS
from ssgcam.demo.explained import DRAWN, Explained
from ssgcam.demo.objects import Outlined
from ssgcam.demo.transfer import Transfer
from ssgcam.report import Cell, overlay, panel

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


def transfer_panel(transfers: Sequence[Transfer]) -> Image.Image:
    """Each object in a column: its outline, the default SSG-CAM, and the recipe of the other photos."""
    rows = [[_outlined(transfer.thing) for transfer in transfers]]
    for part in ("before", "after"):
        cuts = [(transfer.thing, getattr(transfer, part)) for transfer in transfers]
        rows.append(
            [
                Cell(overlay(thing.image, cut.values), "", f"IoU {cut.iou:.2f}", mask=cut.mask)
                for thing, cut in cuts
            ]
        )
    before, after = (
        sum(getattr(transfer, part).iou for transfer in transfers) / len(transfers)
        for part in ("before", "after")
    )
    return panel(
        rows,
        title=f"Searched on the other photos: mean IoU {before:.2f} before, {after:.2f} after",
        row_titles=["by hand", "before", "after"],
        footer="Before: SSG-CAM by default, mean of the default layers, threshold chosen on the other "
        "photos. After: the recipe that the search found on the other photos. A handful of photos is "
        f"far fewer than a search is made for: this shows how it goes, not how well. {NETWORK}",
        cell_width=2.1,
    )


def _outline(explained: Explained) -> Cell:
    return _outlined(explained.thing, "outlined by hand")


def _outlined(thing: Outlined, title: str = "") -> Cell:
    return Cell(thing.image, title, thing.name, polygons=thing.polygons)


def _map(explained: Explained, layer: str, method: str) -> Cell:
    drawn = explained.maps[layer, method]
    caption = f"mass {drawn.measured.mass:.0%}, precision {drawn.measured.precision:.2f}"
    return Cell(overlay(explained.thing.image, drawn.values), METHODS[method].title, caption)
