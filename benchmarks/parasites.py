"""Malaria parasites in the fields of two other laboratories, by leave-one-field-out.

    python benchmarks/parasites.py --data DATA --network resnet34 --work runs
    python benchmarks/parasites.py second --data DATA --network resnet18 --work runs

Each of the eight fields of ``malaria_masks`` is tested with a recipe that was searched on windows around
the parasites of the other seven. Zero-shot: the network of ``cells.py`` as it is. Adapted: it is first
fine-tuned on windows of six other fields with the label "shows a parasite", in four folds, each of which
leaves out one field of each laboratory. Windows show about two cell diameters; fields are white-balanced
without labels. All thresholds come from the other seven fields; fields are resampled, of which there are
eight, so intervals are wide.

``second`` needs the zero-shot recipes: a U-Net learns, at 96 px, from the recipe's masks of at most 240
training windows with a parasite, about half of them of malaria_iml, and from 60 without. Its encoder
starts from the classifier. All are scored on the field's windows around parasites, at 112x112.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from cells import CLASS_NAMES, INPUT, JITTER, WINDOW, Fields
from common import (
    Pictures,
    calibration_set,
    fold_tables,
    opening,
    search_fold,
    second_stage,
    second_stage_page,
    study_parser,
    trained,
    write_page,
)
from ssgcam import LoadedModel, load_model
from ssgcam.bulk.windows import Windows
from ssgcam.core.augment import Augmentation
from ssgcam.images import read_image
from ssgcam.search import SearchSettings
from ssgcam.training import LabeledImages, SegmenterSettings, TrainingSettings

#: Cell diameters in pixels, by laboratory; that of malaria_iml is 85.
CELLS, CELL = {"mpidb": 20, "radboud": 35}, 85
#: Color of the empty background in malaria_iml: 90th percentile of each channel, median of fields.
BACKGROUND = (189, 217, 190)
FOLDS, COPIES, REACH = 4, 2, 0.35

Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Field:
    """One field: RGB ``[H, W, 3]`` and its mask ``[H, W]`` (1 parasite, 255 ignore)."""

    name: str
    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    mask: np.ndarray[Any, np.dtype[np.uint8]]

    @property
    def fold(self) -> int:
        """The fold whose adapted network was not trained on this field."""
        return int(self.name.rpartition("_")[2]) % FOLDS

    @cached_property
    def side(self) -> int:
        """Side of a window of about two cell diameters."""
        return round(CELLS[self.name.split("_")[0]] * WINDOW / CELL)

    @cached_property
    def parasites(self) -> list[tuple[float, float]]:
        """The center (x, y) of every outlined parasite."""
        labels, count = ndimage.label(self.mask == 1)
        centers = ndimage.center_of_mass(self.mask == 1, labels, range(1, count + 1))
        return [(float(x) + 0.5, float(y) + 0.5) for y, x in centers]

    def window(self, center: tuple[float, float], shift: Sequence[float]) -> Box:
        """A window around a point, moved by a share of its side, inside the field."""
        left, top = (
            int(np.clip(round(at - self.side / 2 + move * self.side), 0, length - self.side))
            for at, move, length in zip(center, shift, self.mask.shape[::-1], strict=True)
        )
        return left, top, left + self.side, top + self.side

    def around(self) -> list[Box]:
        """Windows around each parasite, moved at random, the same every time."""
        reach = JITTER / WINDOW
        boxes = []
        for number, center in enumerate(self.parasites):
            generator = np.random.default_rng([0, number, *self.name.encode()])
            boxes += [
                self.window(center, generator.uniform(-reach, reach, 2)) for _ in range(COPIES)
            ]
        return boxes

    def photo(self, box: Box) -> Image.Image:
        """The pixels of a window."""
        return Image.fromarray(self.pixels[box[1] : box[3], box[0] : box[2]])

    def mask_in(self, box: Box) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The mask of a window."""
        return self.mask[box[1] : box[3], box[0] : box[2]]

    def shows_parasite(self, box: Box) -> bool:
        """The image-level label of a window: any parasite pixel."""
        return bool((self.mask_in(box) == 1).any())


def read_fields(data: Path) -> list[Field]:
    """All fields, white-balanced: the empty background gets the color that it has in malaria_iml."""
    folder = data / "malaria_masks"
    fields = []
    for file in sorted((folder / "images").glob("*.png")):
        with Image.open(folder / "masks" / file.name) as opened:
            values = np.asarray(opened)
        pixels = np.asarray(read_image(file))
        factors = np.array(BACKGROUND) / np.percentile(pixels.reshape(-1, 3), 90, axis=0)
        balanced = np.clip(pixels * factors, 0, 255).round().astype(np.uint8)
        mask = np.select([values == 255, values == 127], [1, 255], 0).astype(np.uint8)
        fields.append(Field(file.stem, balanced, mask))
    assert fields, f"no 'images/*.png' in '{folder}'"
    return fields


def training_windows(fields: Sequence[Field], cells: LabeledImages) -> LabeledImages:
    """Windows of some fields, moved at random as far as their label stays right, and those of ``cells``.

    The fields' windows are repeated until both sources show about as many infected ones. Windows of
    malaria_iml are shrunk to the few pixels of the other laboratories' windows.
    """
    items = [(field, center, 1) for field in fields for center in field.parasites]
    items += [
        (field, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), 0)
        for field in fields
        for box in Windows(field.side, 0.5).boxes(*field.mask.shape)
        if not field.shows_parasite(box)
    ]
    labels = [label for _, _, label in items]
    repeats = max(1, round(sum(cells.labels) / sum(labels)))

    def read(index: int, generator: np.random.Generator | None) -> Image.Image:
        if index >= len(items) * repeats:
            photo = cells.read(index - len(items) * repeats, generator)
            sides = [round(cell * WINDOW / CELL) for cell in CELLS.values()]
            side = sides[0] if generator is None else int(generator.choice(sides))
            return photo.resize((side, side), Image.Resampling.BILINEAR)
        field, center, label = items[index % len(items)]
        box = field.window(center, (0, 0))
        for _ in range(0 if generator is None else 8):
            moved = field.window(center, generator.uniform(-REACH, REACH, 2))
            if field.shows_parasite(moved) == bool(label):
                box = moved
                break
        return field.photo(box)

    groups = [field.name for field, _, _ in items] * repeats + list(cells.groups)
    return LabeledImages(labels * repeats + list(cells.labels), groups, CLASS_NAMES, read)


def adapted(fields: Sequence[Field], fold: int, options: argparse.Namespace) -> LoadedModel:
    """The fold's adapted network: read if it is there, else fine-tuned on the other fields' windows."""
    settings = TrainingSettings(
        model=options.network,
        weights=str(options.start),
        input_size=INPUT,
        epochs=1 if options.quick else 6,
        samples_per_epoch=128 if options.quick else 960,
        learning_rate=3e-4,
        held_out=0.0,
        patience=6,
        seed=fold,
    )
    cells = Fields.read(options.data).moving(0)
    windows = training_windows([f for f in fields if f.fold != fold], cells)
    return trained(options.work / f"{options.stem}_fold{fold}.pth", windows, settings)


def pictures(fields: Sequence[Field]) -> Pictures:
    """The windows around the parasites of some fields, their masks, and the fields' names."""
    windows = [(field, box) for field in fields for box in field.around()]
    size, nearest = (INPUT, INPUT), Image.Resampling.NEAREST
    masks = [Image.fromarray(field.mask_in(box)).resize(size, nearest) for field, box in windows]
    photos = [field.photo(box).resize(size, Image.Resampling.BILINEAR) for field, box in windows]
    return photos, [*map(np.asarray, masks)], [field.name for field, _ in windows]


def study(options: argparse.Namespace) -> None:
    """Search a recipe for each field, zero-shot, adapted or both, and write the page."""
    fields = read_fields(options.data)
    views, generations = (Augmentation("horizontal"),), options.generations
    settings = SearchSettings(generations=generations, folds=0, views=views, augmentations=views)
    rows, sections = [], opening("Malaria parasites", __doc__)
    for variant in options.variants:
        found = []
        for field in fields:
            model = load_model(str(options.start))
            if variant == "adapted":
                model = adapted(fields, field.fold, options)
            parts = [each for each in fields if each is not field], [field]
            others, tested = (calibration_set(pictures(part), model) for part in parts)
            stem = options.work / f"{options.stem}_{variant}_{field.name}_{generations}"
            found.append(search_fold(model, others, tested, settings, stem))
        own, text = fold_tables(f"{options.network}, {variant}", found)
        rows += own
        sections += text
    write_page(options.stem, sections, rows, options.out)


def second(options: argparse.Namespace) -> None:
    """Compare the recipe's masks, the second stage and the calibration masks alone; write the page."""
    fields, folds = read_fields(options.data), {}
    cells, model = Fields.read(options.data).moving(0), load_model(str(options.start))
    for number, field in enumerate(fields):
        others = [each for each in fields if each is not field]
        windows, generator = training_windows(others, cells), np.random.default_rng([5, number])
        order = generator.permutation(len(windows))
        shown, without = (
            [
                windows.read(k, generator).resize((INPUT, INPUT), Image.Resampling.BILINEAR)
                for k in [k for k in order if windows.labels[k] == label][:most]
            ]
            for label, most in zip((1, 0), (24, 6) if options.quick else (240, 60), strict=True)
        )
        name = f"{options.stem}_zero-shot_{field.name}_{options.generations}.recipe.json"
        parts = shown, without, pictures(others), pictures([field])
        epochs = 1 if options.quick else 12
        settings = SegmenterSettings(options.network, str(options.start), 96, epochs, seed=number)
        folds[field.name] = second_stage(model, options.work / name, *parts, settings)
    about = opening("Masks of malaria parasites: recipe and second stage", __doc__, 3)
    second_stage_page("masks_parasites", options.network, about, folds, options.out)


def main() -> None:
    parser = study_parser(__doc__, "malaria_masks and malaria_iml")
    parser.add_argument("step", nargs="?", choices=("study", "second"), default="study")
    parser.add_argument("--network", default="resnet34", help="of cells.py, fold 0")
    variants = ("zero-shot", "adapted")
    parser.add_argument("--variants", nargs="+", choices=variants, default=variants)
    options = parser.parse_args()
    options.generations = 3 if options.quick else 60
    options.stem = f"parasites_{options.network}"
    options.start = options.work / f"cells_{options.network}_fold0.pth"
    {"study": study, "second": second}[options.step](options)


if __name__ == "__main__":
    main()
