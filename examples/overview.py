"""Draw the README's picture: photos of the demo, their maps, and masks made of the maps.

    python examples/overview.py --out docs/images/overview.jpg

The maps are those of the method ``discriminate``, all default layers fused. The masks are the maps,
refined by the photo (PAMR), above 0.3; no label or outline is used except the names of the classes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageEnhance

from demo import NETWORK, OutlinedObject, outlined_objects
from ssgcam import CAM, load_model
from ssgcam.core.refine import pamr
from ssgcam.report import Cell, overlay, panel
from ssgcam.report.heatmap import resized

OBJECTS = (
    "the cup with the espresso",
    "the motorcycle",
    "the helmet",
    "the model of the space shuttle",
)
THRESHOLD = 0.3


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images/overview.jpg"))
    arguments = parser.parse_args()
    objects = {thing.name: thing for thing in outlined_objects()}
    columns = [column(objects[name]) for name in OBJECTS]
    picture = panel(
        [list(row) for row in zip(*columns, strict=True)],
        title="",
        row_titles=["photo", "map", "mask"],
        cell_width=2.4,
    )
    picture.convert("RGB").save(arguments.out, quality=88)
    print(f"wrote {arguments.out}, {picture.width}x{picture.height}")


def column(thing: OutlinedObject) -> tuple[Cell, Cell, Cell]:
    """Photo, map and mask of one object's class."""
    model = load_model(NETWORK)
    result = CAM(model, method="discriminate")(model.preprocessing([thing.image]), thing.index)
    pixels = model.preprocessing.pixels(thing.image)[None] / 255
    refined = resized(pamr(pixels, result.maps)[0].numpy(), thing.image.size)
    mask = refined >= THRESHOLD * refined.max()
    outside = ImageEnhance.Brightness(thing.image.convert("L")).enhance(0.35).convert("RGB")
    cut = Image.composite(thing.image, outside, Image.fromarray(mask))
    name = f"class: {model.class_names[thing.index]}"
    return Cell(thing.image, name), Cell(overlay(thing.image, result.maps[0].numpy())), Cell(cut)


if __name__ == "__main__":
    main()
