"""A small labeled set that code makes: a cup, cut out of a photo, pasted onto other photos.

    python examples/pasted.py --out docs/images     draws masks.jpg, search.jpg and guarantee.jpg

All photos are scikit-image's. Since the cup is pasted, its true mask is known.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image

from demo import NETWORK, outlined_objects
from ssgcam import CAM, CalibrationSet, LoadedModel, load_model, search_recipe
from ssgcam.core.augment import Augmentation
from ssgcam.recipe import BoundRecipe
from ssgcam.report import Cell, overlay, panel
from ssgcam.report.heatmap import resized
from ssgcam.search import SearchSettings

CUP, CLASS = "the cup with the espresso", "espresso"
GROUNDS = (
    "brick.png", "chelsea.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png",
    "moon.png", "rocket.jpg",
)  # fmt: skip
SIDE = 320
LABELED, NEW = 48, 4
MANY = 200  # further photos, on which the means are measured
SEEDS = (0, 2, 3)  # of the labeled, the new and the further photos
PLAIN = (Augmentation(),)
SETTINGS = SearchSettings(views=PLAIN, augmentations=PLAIN, folds=0, guarantee=0.95)
INNER, UNDECIDED = (0, 190, 90), (255, 200, 0)
Mask = NDArray[np.bool_]
Photo = tuple[Image.Image, Mask]


def pasted_photos(count: int, seed: int) -> Iterator[Photo]:
    """Photos with a cup of random place, size and tilt, and the mask of the cup."""
    random = np.random.default_rng(seed)
    cup = next(thing for thing in outlined_objects() if thing.name == CUP)
    cutout = cup.image.convert("RGBA")
    cutout.putalpha(Image.fromarray(cup.mask))
    cutout = cutout.crop(cutout.getbbox())
    for _ in range(count):
        with Image.open(Path(skimage.data_dir) / GROUNDS[random.integers(len(GROUNDS))]) as file:
            ground = file.convert("RGB")
        side = int(random.uniform(0.5, 1) * min(ground.size))
        left, top = (int(random.integers(length - side + 1)) for length in ground.size)
        photo = ground.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))
        width = int(random.uniform(0.35, 0.7) * SIDE)
        small = cutout.resize((width, width * cutout.height // cutout.width))
        tilt = random.uniform(-25, 25)
        small = small.rotate(tilt, Image.Resampling.BICUBIC, expand=True)
        place = tuple(int(random.integers(max(1, SIDE - length))) for length in small.size)
        photo.paste(small, place, small)
        mask = Image.new("L", photo.size)
        mask.paste(small.getchannel("A"), place)
        yield photo, np.asarray(mask) > 127


def masks(
    model: LoadedModel, recipe: BoundRecipe, labeled: list[Photo], new: list[Photo]
) -> Image.Image:
    """Outlines that a person gives, and maps and masks of new photos."""
    rows = [[Cell(photo, "outlined", mask=mask) for photo, mask in labeled[:NEW]], [], []]
    for photo, mask in new:
        values = map_of(model, recipe, photo)
        found = values >= recipe.recipe.threshold
        rows[1].append(Cell(overlay(photo, values), "map"))
        rows[2].append(Cell(photo, f"mask, IoU {iou(found, mask):.2f}", mask=found))
    titles = [f"labeled photos\n({NEW} of {len(labeled)})", "new photos", "the same"]
    return panel(rows, row_titles=titles, scale=False, cell_width=2)


def search(
    model: LoadedModel, recipe: BoundRecipe, labeled: list[Photo], new: list[Photo]
) -> Image.Image:
    """The layers of a recipe, what it makes of them, and the default layers before the search."""
    rows = []
    for photo, mask in new[:2]:
        images, index = model.preprocessing([photo]), model.class_index(CLASS)
        result = recipe(images, index)
        default = resized(CAM(model)(images, index).maps[0].numpy(), photo.size)
        level = max(np.linspace(0.02, 0.98, 49), key=lambda level: iou(default >= level, mask))
        values = map_of(model, recipe, photo)
        cells = [
            Cell(overlay(photo, default), "before the search",
                 f"mean of default layers\nat its best threshold IoU {iou(default >= level, mask):.2f}",
                 mask=default >= level)
        ]  # fmt: skip
        for layer in recipe.recipe.layers:
            one = result.layer_maps[layer.name][0]
            about = f"weight {layer.weight:.2f}, {layer.ssg.form},\n"
            about += f"sigma {layer.ssg.sigma:g}, gamma {layer.gamma:g}"
            cells.append(Cell(overlay(photo, (one / one.max()).numpy()), layer.name, about))
        found = values >= recipe.recipe.threshold
        about = f"threshold {recipe.recipe.threshold:.2f}\nIoU {iou(found, mask):.2f}"
        rows.append([*cells, Cell(overlay(photo, values), "recipe: fused", about, mask=found)])
    return panel(rows, scale=False, cell_width=1.95)


def guarantee(
    model: LoadedModel, recipe: BoundRecipe, labeled: list[Photo], new: list[Photo]
) -> Image.Image:
    """Inner mask, undecided band and true outline of new photos."""
    cells = []
    for photo, mask in new:
        inner, outer = bounds(model, recipe, photo)
        pixels = np.asarray(photo.convert("L").convert("RGB")).astype(float)
        for part, color in ((inner, INNER), (outer & ~inner, UNDECIDED)):
            pixels[part] = 0.45 * pixels[part] + 0.55 * np.array(color)
        missed, spilled = errors(inner, outer, mask)
        text = f"outer mask misses {missed:.0%}\ninner mask spills over {spilled:.0%}"
        cells.append(Cell(Image.fromarray(pixels.astype(np.uint8)), "", text, mask=mask))
    title = "green: inner mask; yellow: undecided; both: outer mask; line: true outline"
    return panel([cells], title=title, scale=False, cell_width=2.4)


def means(model: LoadedModel, recipe: BoundRecipe) -> str:
    """Mean IoU and mean errors of the bounds on further photos, in a sentence."""
    rows = []
    for photo, mask in pasted_photos(MANY, SEEDS[2]):
        found = map_of(model, recipe, photo) >= recipe.recipe.threshold
        inner, outer = bounds(model, recipe, photo)
        rows.append((iou(found, mask), *errors(inner, outer, mask), (outer & ~inner).mean()))
    each = np.mean(rows, 0)
    return (
        f"means of {MANY} photos: IoU {each[0]:.3f}, outer mask misses {each[1]:.1%}, inner mask spills "
        f"over {each[2]:.1%}, undecided {each[3]:.1%} of the photo"
    )


def bounds(model: LoadedModel, recipe: BoundRecipe, photo: Image.Image) -> tuple[Mask, Mask]:
    """The inner and the outer mask."""
    limits, values = recipe.recipe.guarantee, map_of(model, recipe, photo)
    assert limits is not None
    assert limits.inner_threshold is not None
    return values >= limits.inner_threshold, values >= limits.outer_threshold


def errors(inner: Mask, outer: Mask, mask: Mask) -> tuple[float, float]:
    """Shares of the object that the outer mask misses and by which the inner mask spills over."""
    return float((mask & ~outer).sum() / mask.sum()), float((inner & ~mask).sum() / mask.sum())


def map_of(model: LoadedModel, recipe: BoundRecipe, photo: Image.Image) -> NDArray[np.float32]:
    """The recipe's map at the photo's size."""
    result = recipe(model.preprocessing([photo]), model.class_index(CLASS))
    return resized(result.maps[0].numpy(), photo.size)


def iou(found: Mask, mask: Mask) -> float:
    """Intersection over union."""
    return float((found & mask).sum() / (found | mask).sum())


def main() -> None:
    """Search a recipe on the labeled set and draw the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    out = parser.parse_args().out
    model = load_model(NETWORK)
    labeled, new = list(pasted_photos(LABELED, SEEDS[0])), list(pasted_photos(NEW, SEEDS[1]))
    data = CalibrationSet(
        [photo for photo, _ in labeled],
        [mask for _, mask in labeled],
        model.class_index(CLASS),
        preprocessing=model.preprocessing,
    )
    recipe = search_recipe(model, data, settings=SETTINGS).recipe.bind(model)
    for draw in (masks, search, guarantee):
        picture = draw(model, recipe, labeled, new)
        picture.save(out / f"{draw.__name__}.jpg", quality=80)
        print(f"wrote {out / draw.__name__}.jpg, {picture.width}x{picture.height}")
    print(means(model, recipe))


if __name__ == "__main__":
    main()
