"""Draw the pictures of the README and the docs.

    python examples/pictures.py overview choosing --out docs/images

Photos are scikit-image's, as in the demo; maps are EfficientNet-Lite0's with ImageNet weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageEnhance

from demo import NETWORK, OutlinedObject, outlined_objects
from ssgcam import CAM, LoadedModel, load_model
from ssgcam.core.methods import METHODS
from ssgcam.core.refine import pamr
from ssgcam.report import Cell, overlay, panel
from ssgcam.report.heatmap import resized

MOTORCYCLE = "the motorcycle"
HELMET, SHUTTLE = "the helmet", "the model of the space shuttle"
CAT = "the cat"
LAST = "_swish@2"
Objects = dict[str, OutlinedObject]


def overview(model: LoadedModel, objects: Objects) -> Image.Image:
    """Photo, map and mask of two objects; the mask is the map, refined by the photo, above 0.3."""
    rows = []
    for name in (MOTORCYCLE, SHUTTLE):
        thing = objects[name]
        result = CAM(model, method="discriminate")(model.preprocessing([thing.image]), thing.index)
        pictures = {
            f"photo, explained for '{model.class_names[thing.index]}'": thing.image,
            "map": overlay(thing.image, result.maps[0].numpy()),
            "mask": refined_mask(model, thing, result.maps),
        }
        rows.append([Cell(square(picture), title) for title, picture in pictures.items()])
    return panel(rows, scale=False, cell_width=2.4)


def cancellation(model: LoadedModel, objects: Objects) -> Image.Image:
    """What speaks for a class, what against it (both on one color scale), and the difference."""
    captions = {
        SHUTTLE: ("shuttle, suit and helmet", "suit and helmet", "the shuttle is left"),
        HELMET: ("helmet and some of the suit", "a little, everywhere", "the helmet is left"),
    }
    rows = []
    for name, texts in captions.items():
        thing = objects[name]
        images = model.preprocessing([thing.image])
        signals, _ = CAM(model, [LAST], "hires_cam").signals(images, torch.tensor([thing.index]))
        (signal,) = signals.values()
        assert signal.first is not None
        terms = (signal.first * signal.activation)[0]
        positive, negative = terms.clamp_min(0).sum(0), (-terms).clamp_min(0).sum(0)
        difference = (positive - negative).clamp_min(0)
        scale = max(float(positive.max()), float(negative.max()))
        maps = (positive / scale, negative / scale, difference / difference.max())
        titles = ("channels FOR the class", "channels AGAINST the class", "FOR minus AGAINST")
        rows.append(
            [
                Cell(thing.image, "photo", name, polygons=thing.polygons),
                *(
                    Cell(overlay(thing.image, values.numpy()), title, text)
                    for values, title, text in zip(maps, titles, texts, strict=True)
                ),
            ]
        )
    names = [model.class_names[objects[name].index] for name in captions]
    return panel(rows, row_titles=[f"class:\n{name}" for name in names], scale=False)


def layers(model: LoadedModel, objects: Objects) -> Image.Image:
    """One class of one photo in each default layer, and all of them fused, by four methods."""
    thing = objects[MOTORCYCLE]
    images = model.preprocessing([thing.image])
    names = CAM(model).layers(images)
    rows = []
    for method, title in (
        ("discriminate", "SSG-CAM"),
        ("localize", "SSG-CAM\n(localize)"),
        ("layer_cam", "LayerCAM"),
        ("grad_cam", "Grad-CAM"),
    ):
        maps = {
            name: CAM(model, [name], method)(images, thing.index).layer_maps[name][0]
            for name in names
        }
        maps["all four fused"] = CAM(model, method=method)(images, thing.index).maps[0]
        cells = []
        for number, (name, values) in enumerate(maps.items()):
            height, width = values.shape
            note = f"{name}\n{height}x{width} cells" if number < len(names) else f"{name}\n "
            shown = overlay(thing.image, (values / values.max()).numpy())
            cells.append(Cell(shown, "", note if method == "grad_cam" else ""))
        rows.append((title, cells))
    return panel(
        [cells for _, cells in rows],
        row_titles=[title for title, _ in rows],
        scale=False,
        cell_width=2.1,
    )


def choosing(model: LoadedModel, objects: Objects) -> Image.Image:
    """One class of one photo by methods that docs/choosing.md names, a row for each question."""
    thing = objects[SHUTTLE]
    images = model.preprocessing([thing.image])
    names = CAM(model).layers(images)
    early, middle, before, last = ([name] for name in names)
    places = (
        "an early layer",
        "a layer in the middle",
        "a layer before the last",
        "the last layer",
    )
    rows: dict[str, list[tuple[str, str, str | list[str]]]] = {
        "Where is it?": [
            ("use", "ssg_cam", before),
            ("use", "localize", "auto"),
            ("do not use", "grad_cam", early),
            ("do not use", "grad_cam_plus_plus", early),
        ],
        "Which pixels\ncount?": [
            ("use", "grad_cam_elementwise", middle),
            ("use", "hires_cam", middle),
            ("use", "ssg_cam", "auto"),
            ("do not use", "ssg_cam", middle),
        ],
        "Why the shuttle,\nnot the helmet?": [
            ("use", "hires_cam", last),
            ("use", "ssg_cam", before),
            ("do not use", "layer_cam", last),
            ("do not use", "localize", last),
        ],
    }
    cells: list[list[Cell]] = []
    for row in rows.values():
        cells.append([])
        for advice, method, layers in row:
            values = CAM(model, layers, method)(images, thing.index).maps[0].numpy()
            title = f"{advice}: {METHODS[method].title}"
            place = "all layers fused"
            if layers != "auto":
                place = f"{places[names.index(layers[0])]}, {layers[0]}"
            cells[-1].append(Cell(overlay(thing.image, values), title, place))
    return panel(cells, row_titles=list(rows), scale=False, cell_width=2.1)


def limits(model: LoadedModel, objects: Objects) -> Image.Image:
    """Maps and masks that mislead."""
    cat, helmet, shuttle = objects[CAT], objects[HELMET], objects[SHUTTLE]
    images = model.preprocessing([cat.image])
    absent = model.class_names.index("airliner")
    explained = CAM(model, method="discriminate")(images, absent)
    assert explained.probabilities is not None
    share = float(explained.probabilities[0, absent])
    suit = model.preprocessing([helmet.image])
    both = [
        CAM(model, [LAST], "localize")(suit, thing.index).maps[0] for thing in (helmet, shuttle)
    ]
    coarse = CAM(model, [LAST], "discriminate")(images, cat.index).maps[0]
    refined = CAM(model, method="discriminate")(suit, helmet.index).maps
    return panel(
        [
            [
                Cell(
                    square(overlay(cat.image, explained.maps[0].numpy())),
                    "1. A class that is not there",
                    f"'airliner', probability {share:.3%}:\nthe map is as bright as any other",
                ),
                Cell(
                    square(overlay(cat.image, coarse.numpy())),
                    "2. A coarse layer",
                    "7x7 cells show a place,\nnot an outline",
                ),
                Cell(
                    refined_mask(model, helmet, refined),
                    "3. A mask that spills over",
                    "refining follows the edges of the photo,\nalso those of the suit",
                ),
            ],
            [
                Cell(
                    overlay(helmet.image, both[0].numpy()),
                    "4. Two classes, one map",
                    "'localize' in the last layer:\nfootball helmet",
                ),
                Cell(
                    overlay(helmet.image, both[1].numpy()),
                    "",
                    "the same for space shuttle:\nthe shuttle, and the helmet again",
                ),
                Cell(
                    overlay(helmet.image, top_map(model, helmet)),
                    "5. The network is wrong",
                    "its first guess is 'bobsled': the map shows\nwhat it used, not what is there",
                ),
            ],
        ],
        scale=False,
        cell_width=2.9,
    )


def top_map(model: LoadedModel, thing: OutlinedObject) -> torch.Tensor:
    """The map of a photo's most probable class."""
    return CAM(model)(model.preprocessing([thing.image])).maps[0].numpy()


def refined_mask(model: LoadedModel, thing: OutlinedObject, maps: torch.Tensor) -> Image.Image:
    """The photo, dark outside the mask that a map, refined by the photo, makes above 0.3."""
    pixels = model.preprocessing.pixels(thing.image)[None] / 255
    refined = resized(pamr(pixels, maps[:, None])[0, 0].numpy(), thing.image.size)
    outside = ImageEnhance.Brightness(thing.image.convert("L")).enhance(0.35).convert("RGB")
    mask = Image.fromarray(refined >= 0.3 * refined.max())
    return Image.composite(thing.image, outside, mask)


def square(picture: Image.Image) -> Image.Image:
    """The middle of a picture, as wide as high."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


PICTURES: dict[str, Callable[[LoadedModel, Objects], Image.Image]] = {
    "overview": overview,
    "cancellation": cancellation,
    "layers": layers,
    "choosing": choosing,
    "limits": limits,
}


def main() -> None:
    """Draw the pictures that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *PICTURES], help="all by default")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    model, objects = load_model(NETWORK), {thing.name: thing for thing in outlined_objects()}
    for name in arguments.names or PICTURES:
        picture = PICTURES[name](model, objects)
        picture.save(arguments.out / f"{name}.jpg", quality=80, optimize=True)
        print(f"wrote {arguments.out / name}.jpg, {picture.width}x{picture.height}")


if __name__ == "__main__":
    main()
