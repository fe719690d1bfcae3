"""Explain five real photos with a real network, and measure how well the maps find the objects.

Network and photos come with pip (``pip install 'ssgcam[demo]'``); nothing is downloaded. The folder
gets a panel of maps for each photo, the recipes searched on the other photos, and two tables.

    python examples/demo.py --out demo
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
import skimage
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.draw import polygon2mask

from ssgcam import CAM, LoadedModel, Recipe, __version__, load_model
from ssgcam.core.augment import Augmentation
from ssgcam.core.methods import METHODS
from ssgcam.files import write_json, write_png, write_text
from ssgcam.images import read_image
from ssgcam.metrics import pixel_average_precision, pxap_histograms
from ssgcam.report import Cell, overlay, panel
from ssgcam.report.heatmap import resized
from ssgcam.result import Result
from ssgcam.search import CalibrationSet, SearchSettings, search_recipe

NETWORK = "efficientnet_lite0"
SHOWN_METHODS = ("grad_cam", "grad_cam_plus_plus", "layer_cam", "ssg_cam")
SEARCH = SearchSettings(
    generations=30,
    folds=0,
    fitness="per_image",
    augmentations=(Augmentation(),),
    refinement=None,
    gate=0.0,
)
THRESHOLDS = np.linspace(0.02, 0.98, 49)
FOOTER = (
    "Mass: share of the map's sum inside the outline. Precision: average precision of the pixels. "
    f"EfficientNet-Lite0 with ImageNet weights; ssgcam {__version__}."
)
Map = NDArray[np.float32]


@dataclass(frozen=True)
class OutlinedObject:
    """An object in a photo of scikit-image, outlined by hand.

    Attributes:
        photo: File name in scikit-image's data folder.
        index: The ImageNet class of the object, or the nearest one.
        name: What the object is.
        note: What to know about the outline or the class.
        polygons: The outline: x and y in pixels from the photo's upper left corner.
    """

    photo: str
    index: int
    name: str
    note: str
    polygons: tuple[tuple[tuple[float, float], ...], ...]

    @cached_property
    def image(self) -> Image.Image:
        """The photo, RGB."""
        return read_image(Path(skimage.data_dir) / self.photo)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """``[H, W]``: whether the center of each pixel lies inside the outline."""
        shape = (self.image.height, self.image.width)
        polygons = [np.array(polygon)[:, ::-1] - 0.5 for polygon in self.polygons]
        return np.any([polygon2mask(shape, polygon) for polygon in polygons], axis=0)


@dataclass(frozen=True)
class Measurement:
    """How well one map agrees with an outline.

    Attributes:
        photo: The photo.
        object: The outlined object.
        layer: The target layer.
        method: The method's title.
        mass: Share of the map's sum inside the outline, in [0, 1].
        precision: Average precision of the map's pixels, in [0, 1]; depends on their order only.
        area: Share of the photo inside the outline; a constant map scores this in both measures.
    """

    photo: str
    object: str
    layer: str
    method: str
    mass: float
    precision: float
    area: float


@dataclass(frozen=True)
class Explanation:
    """All maps of one object: ``maps[layer, method]`` is the map and its measurement."""

    thing: OutlinedObject
    class_name: str
    probability: float
    top5: tuple[tuple[str, float], ...]
    maps: dict[tuple[str, str], tuple[Map, Measurement]]


@dataclass(frozen=True)
class Mask:
    """A map and the mask above a threshold, both ``[H, W]``, and the mask's IoU with the outline."""

    values: Map
    mask: NDArray[np.bool_]
    iou: float


@dataclass(frozen=True)
class Comparison:
    """Masks of one object by default settings and by a recipe; both were chosen on the other photos."""

    thing: OutlinedObject
    default: Mask
    recipe: Mask


def outlined_objects() -> list[OutlinedObject]:
    """The objects of ``outlines.json``."""
    entries = json.loads(Path(__file__).with_name("outlines.json").read_text("utf-8"))
    return [
        OutlinedObject(
            entry["photo"],
            entry["class"],
            entry["object"],
            entry["note"],
            tuple(tuple((x, y) for x, y in polygon) for polygon in entry["polygons"]),
        )
        for entry in entries
    ]


def run_demo(
    out: Path, objects: Sequence[OutlinedObject], say: Callable[[str], None] = print
) -> list[Path]:
    """Write the panels and the tables; return the files.

    Args:
        out: The folder to write to.
        objects: What to explain; objects of the same photo are neighbors.
        say: Called with a line of text for each step.
    """
    model = load_model(NETWORK)
    default_layers = CAM(model).layers(model.preprocessing([objects[0].image]))
    layers = (default_layers[-1], default_layers[1])  # a deep one and a shallow one
    panels: dict[str, Image.Image] = {}
    measurements: list[Measurement] = []
    for photo, group in groupby(objects, key=lambda thing: thing.photo):
        explained = [explain_object(model, thing, layers) for thing in group]
        stem = Path(photo).stem
        panels[f"{stem}.png"] = photo_panel(explained[0], layers)
        if len(explained) > 1:
            panels[f"{stem}_two_classes.png"] = classes_panel(explained, layers[0])
        measurements += [found for entry in explained for _, found in entry.maps.values()]
        say(f"{photo} is explained")
    comparisons = []
    if len({thing.photo for thing in objects}) > 2:  # a search needs at least two photos
        comparisons = compare_recipes(model, objects, out, say=say)
        panels["default_and_recipe.png"] = recipe_panel(comparisons)
    text = (
        "Share of each map's sum that lies on the object:\n\n"
        f"{markdown_table(measurements, 'mass')}\n"
        "Average precision of the map's pixels:\n\n"
        f"{markdown_table(measurements, 'precision')}"
    )
    if comparisons:
        default, recipe = (
            np.mean([getattr(entry, name).iou for entry in comparisons])
            for name in ("default", "recipe")
        )
        text += (
            f"\nMean IoU of the masks: {default:.3f} by default, {recipe:.3f} by a recipe searched on "
            "the other photos.\nFive photos are too few to compare methods.\n"
        )
    for name, picture in panels.items():
        write_png(out / name, picture)
    ious = [
        {"object": entry.thing.name, "default": entry.default.iou, "recipe": entry.recipe.iou}
        for entry in comparisons
    ]
    rows = [asdict(found) for found in measurements]
    versions = {"ssgcam": __version__, "network": NETWORK}
    write_json(out / "scores.json", {**versions, "maps": rows, "iou": ious})
    write_text(out / "scores.md", text)
    say(f"\n{text}")
    return [out / name for name in (*panels, "scores.json", "scores.md")]


def explain_object(model: LoadedModel, thing: OutlinedObject, layers: Sequence[str]) -> Explanation:
    """Explain an object's class by every shown method in every layer, and measure each map."""
    images = model.preprocessing([thing.image])
    maps = {}
    for layer in layers:
        for method in SHOWN_METHODS:
            result = CAM(model, [layer], method)(images, thing.index)
            values = result.maps[0].numpy()
            maps[layer, method] = (values, measure(thing, values, METHODS[method].title, layer))
    top = result.probabilities[0].topk(5)
    names = [model.class_names[index] for index in top.indices.tolist()]
    return Explanation(
        thing,
        model.class_names[thing.index],
        float(result.probabilities[0, thing.index]),
        tuple(zip(names, top.values.tolist(), strict=True)),
        maps,
    )


def measure(thing: OutlinedObject, values: Map, method: str, layer: str) -> Measurement:
    """Compare a map ``[h, w]`` with an object's outline."""
    whole = resized(values, thing.image.size).astype(np.float64)
    mask = torch.from_numpy(thing.mask)
    histogram = pxap_histograms(torch.from_numpy(values)[None], [mask])[0]
    return Measurement(
        photo=thing.photo,
        object=thing.name,
        layer=layer,
        method=method,
        mass=float(whole[thing.mask].sum() / max(whole.sum(), 1e-12)),
        precision=float(pixel_average_precision(histogram)),
        area=float(thing.mask.mean()),
    )


def compare_recipes(
    model: LoadedModel,
    objects: Sequence[OutlinedObject],
    out: Path,
    settings: SearchSettings = SEARCH,
    say: Callable[[str], None] = print,
) -> list[Comparison]:
    """For each photo: search a recipe on the other photos, save it, load it and apply it.

    Args:
        model: The network.
        objects: Of three photos or more.
        out: The recipes are saved here as ``recipe_without_PHOTO.json``.
        settings: Of the search.
        say: Called with a line of text for each recipe.
    """
    cam = CAM(model)
    default = {thing: full_size_map(cam, model, thing) for thing in objects}
    comparisons = []
    for photo in dict.fromkeys(thing.photo for thing in objects):
        others = [thing for thing in objects if thing.photo != photo]
        path = out / f"recipe_without_{Path(photo).stem}.json"
        calibration = CalibrationSet(
            images=[thing.image for thing in others],
            masks=[thing.mask for thing in others],
            classes=[thing.index for thing in others],
            groups=[thing.photo for thing in others],
            names=[f"{thing.photo}: {thing.name}" for thing in others],
            preprocessing=model.preprocessing,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the set is small
            search_recipe(model, calibration, settings=settings).recipe.save(path)
        recipe = Recipe.load(path).bind(model)
        say(f"{path.name}: layers {', '.join(layer.name for layer in recipe.recipe.layers)}")
        scores = [
            np.mean([mask_of(thing, default[thing], level).iou for thing in others])
            for level in THRESHOLDS
        ]
        best = float(THRESHOLDS[int(np.argmax(scores))])
        comparisons += [
            Comparison(
                thing,
                mask_of(thing, default[thing], best),
                mask_of(thing, full_size_map(recipe, model, thing), recipe.recipe.threshold),
            )
            for thing in objects
            if thing.photo == photo
        ]
    return comparisons


def full_size_map(explain: Callable[..., Result], model: LoadedModel, thing: OutlinedObject) -> Map:
    """The map of an object's class at the photo's size."""
    result = explain(model.preprocessing([thing.image]), thing.index)
    return resized(result.maps[0].numpy(), thing.image.size)


def mask_of(thing: OutlinedObject, values: Map, threshold: float) -> Mask:
    """The mask of a map at a threshold, and its IoU."""
    mask = values >= threshold
    return Mask(values, mask, float((mask & thing.mask).sum() / max((mask | thing.mask).sum(), 1)))


def photo_panel(explained: Explanation, layers: Sequence[str]) -> Image.Image:
    """Photo, top-5 classes and outline, and every method's map of a deep and a shallow layer."""
    thing = explained.thing
    top5 = "\n".join(f"{name}  {value:.1%}" for name, value in explained.top5)
    first = [Cell(thing.image, "photo", top5), outline_cell(thing, "outline")]
    return panel(
        [
            [cell, *(map_cell(explained, layer, method) for method in SHOWN_METHODS)]
            for cell, layer in zip(first, layers, strict=True)
        ],
        title=f"{thing.photo}: maps of '{explained.class_name}' ({explained.probability:.1%})",
        row_titles=[f"deep layer\n{layers[0]}", f"shallow layer\n{layers[1]}"],
        footer=f"{thing.note} The outline covers {thing.mask.mean():.1%} of the photo. {FOOTER}",
    )


def classes_panel(classes: Sequence[Explanation], layer: str) -> Image.Image:
    """Several classes of one photo, a row for each."""
    return panel(
        [
            [
                outline_cell(entry.thing, "outline"),
                *(map_cell(entry, layer, method) for method in SHOWN_METHODS),
            ]
            for entry in classes
        ],
        title=f"{classes[0].thing.photo}: two classes of one photo, layer {layer}",
        row_titles=[f"{entry.class_name}\n{entry.probability:.1%}" for entry in classes],
        footer=FOOTER,
    )


def recipe_panel(comparisons: Sequence[Comparison]) -> Image.Image:
    """A column for each object: outline, mask by default, mask by the recipe of the other photos."""
    return panel(
        [
            [outline_cell(entry.thing) for entry in comparisons],
            [mask_cell(entry.thing, entry.default) for entry in comparisons],
            [mask_cell(entry.thing, entry.recipe) for entry in comparisons],
        ],
        title="Masks by default settings and by a recipe searched on the other photos",
        row_titles=["outline", "default", "recipe"],
        footer="Default: SSG-CAM, mean of the default layers; the threshold was chosen on the other "
        f"photos. Five photos are too few to compare methods. {FOOTER}",
        cell_width=2.1,
    )


def outline_cell(thing: OutlinedObject, title: str = "") -> Cell:
    """The photo with the outline."""
    return Cell(thing.image, title, thing.name, polygons=thing.polygons)


def map_cell(explained: Explanation, layer: str, method: str) -> Cell:
    """A map over its photo, and its measurement."""
    values, found = explained.maps[layer, method]
    caption = f"mass {found.mass:.0%}, precision {found.precision:.2f}"
    return Cell(overlay(explained.thing.image, values), METHODS[method].title, caption)


def mask_cell(thing: OutlinedObject, found: Mask) -> Cell:
    """A map over its photo, the mask's contour, and its IoU."""
    return Cell(overlay(thing.image, found.values), "", f"IoU {found.iou:.2f}", mask=found.mask)


def markdown_table(measurements: Sequence[Measurement], measure: str) -> str:
    """A Markdown table of ``mass`` or ``precision``: layers and methods by objects."""
    things = list(dict.fromkeys((found.photo, found.object) for found in measurements))
    columns = [f"{photo.split('.')[0]}: {name}" for photo, name in things]
    rows: dict[tuple[str, str], list[float]] = {}
    for found in measurements:
        rows.setdefault((found.layer, found.method), []).append(getattr(found, measure))
    areas = {(found.photo, found.object): found.area for found in measurements}
    rows["-", "share of the photo"] = [areas[thing] for thing in things]
    lines = [
        f"| layer | method | {' | '.join(columns)} | mean |",
        f"| --- | --- |{' ---: |' * (len(columns) + 1)}",
    ]
    for (layer, method), values in rows.items():
        cells = " | ".join(f"{value:.3f}" for value in [*values, float(np.mean(values))])
        lines.append(f"| {layer} | {method} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="the folder to write to")
    files = run_demo(parser.parse_args().out, outlined_objects())
    print("\n".join(["written:", *(f"  {path}" for path in files)]))


if __name__ == "__main__":
    main()
