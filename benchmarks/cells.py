"""Infected red blood cells: masks from infected/healthy labels, and a recipe against all rivals.

    python benchmarks/cells.py train --data DATA --network resnet34 --fold 0 --work runs
    python benchmarks/cells.py study --data DATA --networks resnet34,vgg16_bn --work runs
    python benchmarks/cells.py strokes --data DATA --network resnet18 --work runs

A window of 160 px, about two cell diameters, lies around a red cell of ``malaria_iml``, moved by up to
35 px. ``train`` fits a network to the windows' labels, infected or healthy, on two thirds of the fields.
``study`` searches a recipe on 40 infected windows of the fold's calibration fields and scores it and
every rival on the infected windows of its test fields: foreground IoU against the ellipse in each cell's
box, thresholds chosen on the calibration windows. Test windows of all folds are pooled; fields are
resampled. The search is run once more with the grid of version 0.1, without the sum form.

``strokes`` is the page's tab 'Correct and search again' without a hand: ten infected windows get a few
straight strokes on the cell and beside it, at most 5 % of the pixels, and the page's search runs on
them and on the full masks. Both recipes are scored on the infected windows of the test fields.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image

from common import (
    RECIPE,
    calibration_set,
    evenly,
    fold_tables,
    opening,
    pooled_iou,
    pooled_parts,
    row,
    search_fold,
    study_parser,
    table,
    with_interval,
    write_page,
)
from ssgcam import LoadedModel, load_model, save_model
from ssgcam.app.state import QUICK, Correction, correction_set, quick_search
from ssgcam.errors import SsgcamError
from ssgcam.files import write_json
from ssgcam.search import CalibrationSet, MapGrid, SearchSettings
from ssgcam.search.maps import sweep_maps
from ssgcam.training import LabeledImages, TrainingSettings, evaluate, predict, train_classifier

WINDOW, JITTER, INPUT = 160, 35, 112
INFECTED = frozenset({"ring", "trophozoite", "schizont", "gametocyte"})
HEALTHY = "red blood cell"
CLASS_NAMES = ("healthy", "infected")
#: A healthy window shows at most this share of an infected or difficult cell, wherever it is moved.
TOLERATED = 0.1
#: Windows that calibrate a recipe, and infected cells in a fold's calibration fields, about.
CALIBRATION, CALIBRATION_CELLS = 40, 45
#: The settings of a layer in version 0.1.
OLD_GRID = MapGrid(forms=("taylor", "gradient"))

Split = Literal["train", "calibration", "test"]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Cell:
    """One annotated cell: its field, type and box (right and bottom edge exclusive), in pixels."""

    field: str
    type: str
    box: Box

    @property
    def infected(self) -> bool:
        """Whether the type is a stage of the parasite."""
        return self.type in INFECTED


@dataclass(frozen=True)
class Window:
    """A window of :data:`WINDOW` px around a cell: its place in the field."""

    cell: Cell
    left: int
    top: int


@dataclass(frozen=True)
class Fields:
    """The fields of ``malaria_iml`` with their cells, split into three folds by field."""

    folder: Path
    cells: dict[str, tuple[Cell, ...]]
    sizes: dict[str, tuple[int, int]]
    folds: int = 3
    seed: int = 0

    @classmethod
    def read(cls, data: Path) -> Fields:
        """Read ``annotations.json``; photos are read when they are needed."""
        file = data / "malaria_iml" / "annotations.json"
        if not file.is_file():
            raise SsgcamError(f"no '{file}'; give --data the folder that holds 'malaria_iml'")
        cells, sizes = {}, {}
        for entry in json.loads(file.read_text(encoding="utf-8")):
            name = entry["image"]
            cells[name] = tuple(
                Cell(name, item["type"], tuple(item["box"])) for item in entry["objects"]
            )
            sizes[name] = (entry["width"], entry["height"])
        return cls(file.parent, cells, sizes)

    @cached_property
    def fold_of(self) -> dict[str, int]:
        """The fold that tests each field: infected cells are spread evenly, then fields."""
        names = sorted(self.cells)
        order = np.random.default_rng(self.seed).permutation(len(names))
        counts = [(0, 0)] * self.folds
        result = {}
        for name in sorted((names[index] for index in order), key=self._infected, reverse=True):
            fold = counts.index(min(counts))
            result[name] = fold
            counts[fold] = (counts[fold][0] + self._infected(name), counts[fold][1] + 1)
        return result

    def names(self, fold: int, split: Split) -> list[str]:
        """The fields of one part of a fold, sorted. The three parts are disjoint."""
        test = {name for name, number in self.fold_of.items() if number == fold}
        rest = sorted(set(self.cells) - test)
        calibration: set[str] = set()
        for index in np.random.default_rng((self.seed, 1, fold)).permutation(len(rest)):
            if sum(map(self._infected, calibration)) >= CALIBRATION_CELLS:
                break
            calibration.add(rest[index])
        parts = {"test": test, "calibration": calibration, "train": {*rest} - calibration}
        return sorted(parts[split])

    def windows(self, fold: int, split: Split, healthy: int = 0) -> list[Window]:
        """One fixed window of each infected cell, and of some healthy cells spread over the fields."""
        names = self.names(fold, split)
        cells = [cell for name in names for cell in self.cells[name] if cell.infected]
        queues = []
        for name in names:
            own = self.healthy(name)
            order = np.random.default_rng([self.seed, 3, *name.encode()]).permutation(len(own))
            queues.append([own[index] for index in order])
        turns = range(max(map(len, queues)))
        cells += [queue[turn] for turn in turns for queue in queues if turn < len(queue)][:healthy]
        keys = ([self.seed, 2, *cell.field.encode(), *map(int, cell.box)] for cell in cells)
        generators = map(np.random.default_rng, keys)
        return [*map(self.window, cells, generators)]

    def window(self, cell: Cell, generator: np.random.Generator | None) -> Window:
        """A window around a cell, moved at random if there is a generator, inside the field."""
        shift = (0, 0) if generator is None else generator.integers(-JITTER, JITTER + 1, 2)
        x0, y0, x1, y1 = cell.box
        corners = ((x0 + x1 - WINDOW) / 2 + shift[0], (y0 + y1 - WINDOW) / 2 + shift[1])
        left, top = (
            int(np.clip(round(corner), 0, side - WINDOW))
            for corner, side in zip(corners, self.sizes[cell.field], strict=True)
        )
        return Window(cell, left, top)

    def photo(self, window: Window) -> Image.Image:
        """The window's pixels: RGB, 160x160."""
        with Image.open(self.folder / "images" / window.cell.field) as field:
            corners = (window.left, window.top, window.left + WINDOW, window.top + WINDOW)
            return field.crop(corners).convert("RGB")

    def mask(self, window: Window, size: int = INPUT) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """1 in the ellipses of infected cells, 255 in the boxes of undecided ones: ``[size, size]``."""
        centers = (np.arange(size) + 0.5) * WINDOW / size
        x, y = window.left + centers[None, :], window.top + centers[:, None]
        mask = np.zeros((size, size), dtype=np.uint8)
        for cell in self.cells[window.cell.field]:
            x0, y0, x1, y1 = cell.box
            if cell.type == "difficult":
                mask[(x >= x0) & (x < x1) & (y >= y0) & (y < y1) & (mask == 0)] = 255
            elif cell.infected:
                across = (2 * x - x0 - x1) / (x1 - x0)
                mask[across**2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1] = 1
        return mask

    def healthy(self, name: str) -> list[Cell]:
        """Healthy cells of a field whose window shows no infected or undecided cell, however moved."""
        others = [cell.box for cell in self.cells[name] if cell.type != HEALTHY]
        size = np.array(self.sizes[name])
        found = []
        for cell in self.cells[name]:
            if cell.type == HEALTHY:
                corners = np.array(cell.box).reshape(2, 2)
                center = corners.mean(0)
                inside = np.clip(center, WINDOW / 2, size - WINDOW / 2)
                low = np.minimum(center - WINDOW / 2 - JITTER, inside - WINDOW / 2)
                high = np.maximum(center + WINDOW / 2 + JITTER, inside + WINDOW / 2)
                if all(_share_inside(box, (*low, *high)) <= TOLERATED for box in others):
                    found.append(cell)
        return found

    def moving(self, fold: int) -> LabeledImages:
        """The training windows of a fold, moved at random in each epoch."""
        cells = [
            cell
            for name in self.names(fold, "train")
            for cell in (*(c for c in self.cells[name] if c.infected), *self.healthy(name))
        ]
        return self._labeled(cells, lambda i, generator: self.window(cells[i], generator))

    def fixed(self, windows: Sequence[Window]) -> LabeledImages:
        """Fixed windows with their labels."""
        return self._labeled([window.cell for window in windows], lambda i, _: windows[i])

    def _labeled(self, cells: Sequence[Cell], window: Any) -> LabeledImages:
        return LabeledImages(
            [int(cell.infected) for cell in cells],
            [cell.field for cell in cells],
            CLASS_NAMES,
            lambda index, generator: self.photo(window(index, generator)),
        )

    def _infected(self, name: str) -> int:
        return sum(cell.infected for cell in self.cells[name])


def _share_inside(box: Box, area: Sequence[float]) -> float:
    """The share of a box that lies in another."""
    width = min(box[2], area[2]) - max(box[0], area[0])
    height = min(box[3], area[3]) - max(box[1], area[1])
    return float(max(width, 0) * max(height, 0) / ((box[2] - box[0]) * (box[3] - box[1])))


def spread(windows: Sequence[Window], count: int, seed: int = 0) -> list[Window]:
    """At most ``count`` windows, evenly over the fields."""
    return evenly(windows, lambda window: window.cell.field, count, seed)


def labeled_windows(
    fields: Fields, windows: Sequence[Window], model: LoadedModel
) -> CalibrationSet:
    """Windows with the masks of their infected cells."""
    photos = [fields.photo(window).resize((INPUT, INPUT)) for window in windows]
    masks = [fields.mask(window) for window in windows]
    return calibration_set((photos, masks, [w.cell.field for w in windows]), model)


def drawn_strokes(
    mask: np.ndarray[Any, np.dtype[np.uint8]], seed: int, share: float = 0.05
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Straight strokes inside the object (1) and beside it (0); all other pixels are unknown (255).

    Each of the two gets strokes between random points until the next one would pass half the share.
    """
    generator = np.random.default_rng([11, seed])
    width = max(2, min(mask.shape) // 40)
    found = np.full_like(mask, 255)
    for value in (1, 0):
        region = (mask == value).astype(np.uint8)
        inner = np.argwhere(cv2.distanceTransform(np.pad(region, 1), cv2.DIST_L2, 3) > width) - 1
        painted = np.zeros_like(mask)
        for _ in range(1000 if len(inner) else 0):
            ends = inner[generator.integers(0, len(inner), 2)][:, ::-1].tolist()
            longer = cv2.line(painted.copy(), *map(tuple, ends), 1, width) & region
            if longer.sum() > share / 2 * mask.size:
                break
            painted = longer
        found[painted == 1] = value
    return found


def strokes(options: argparse.Namespace) -> None:
    """Compare the recipes of strokes and of full masks on the test windows; write the page."""
    fields, stem = Fields.read(options.data), f"cells_{options.network}_fold{options.fold}"
    model = load_model(str(options.work / f"{stem}.pth"))
    windows = spread(fields.windows(options.fold, "calibration"), 10)
    photos = [fields.photo(window) for window in windows]
    masks = [fields.mask(window, WINDOW) for window in windows]
    tested = labeled_windows(fields, fields.windows(options.fold, "test"), model)
    tested = tested.with_predictions(model)

    def score(kind: str, known: Sequence[Any]) -> Any:
        corrections = [
            Correction(f"{kind} {k}", photo, each, 1)
            for k, (photo, each) in enumerate(zip(photos, known, strict=True))
        ]
        data = correction_set(model, corrections)
        recipe = quick_search(model, data, cache=options.work / "cache").recipe
        sweep = sweep_maps(model, tested, QUICK, {kind: recipe})[kind]
        return pooled_iou(sweep.at(recipe.threshold, recipe.gate), tested.groups)

    full = score("full masks", masks)
    rows = [row(options.network, "full masks", "", "foreground IoU", full)]
    lines = [["full masks", "100 %", with_interval(full), ""]]
    for seed in range(1 if options.quick else 5):
        known = [drawn_strokes(mask, 100 * seed + k) for k, mask in enumerate(masks)]
        found = score("strokes", known)
        rows.append(row(options.network, "strokes", "", "foreground IoU", found, seed))
        painted = max(float((each != 255).mean()) for each in known)
        ratio = f"{found.value / full.value:.1%}"
        lines.append([f"strokes, seed {seed}", f"{painted:.1%}", with_interval(found), ratio])
    header = ["known", "most pixels of a window", "foreground IoU [95 %]", "of full masks"]
    title = f"## {options.network}, fold {options.fold}: {len(tested)} test windows"
    sections = [*opening("Strokes instead of masks", __doc__, 3), title, table(header, lines)]
    write_page("strokes", sections, rows, options.out)


def train(options: argparse.Namespace) -> None:
    """Train one network of one fold; print and keep its recalls on the test windows."""
    fields = Fields.read(options.data)
    settings = TrainingSettings(
        model=options.network,
        input_size=INPUT,
        epochs=1 if options.quick else options.epochs,
        samples_per_epoch=128 if options.quick else 1920,
        learning_rate=2e-4
        if options.network == "vgg16_bn"
        else 1e-3,  # its wide head needs a low one
        patience=options.epochs,
        seed=options.fold,
    )
    file = options.work / f"cells_{options.network}_fold{options.fold}.pth"
    result = train_classifier(
        fields.moving(options.fold),
        settings,
        held_out=fields.fixed(fields.windows(options.fold, "calibration", healthy=90)),
        checkpoint=file.with_suffix(".checkpoint"),
        resume=file.with_suffix(".checkpoint").exists(),
    )
    save_model(result.model, file)
    tested = fields.fixed(fields.windows(options.fold, "test", healthy=600))
    scores = evaluate(predict(result.model, tested), tested)
    write_json(file.with_suffix(".json"), asdict(scores))
    print(scores)


def study(options: argparse.Namespace) -> None:
    """Search in each fold and write the page."""
    fields = Fields.read(options.data)
    settings = SearchSettings(generations=3 if options.quick else 150, folds=0)
    rows, sections = [], opening("Infected red blood cells", __doc__)
    for network in options.networks.split(","):
        folds, with_old_grid = [], []
        for fold in range(fields.folds):
            file = options.work / f"cells_{network}_fold{fold}.pth"
            if not file.exists():
                print(f"no '{file}', so fold {fold} of {network} is left out: run 'train' for it")
                continue
            model = load_model(str(file))
            known = spread(fields.windows(fold, "calibration"), CALIBRATION)
            parts = (known, fields.windows(fold, "test"))
            calibration, tested = (labeled_windows(fields, part, model) for part in parts)
            stem = options.work / f"cells_{network}_fold{fold}_{settings.generations}"
            searched = partial(search_fold, model, calibration, tested)
            folds.append(searched(settings, stem, guarantee=True))
            old = stem.with_name(f"{stem.name}_old")
            with_old_grid.append(searched(replace(settings, grid=OLD_GRID), old))
        if folds:
            own, text = fold_tables(network, folds)
            new_parts, old_parts = (pooled_parts(each)[RECIPE] for each in (folds, with_old_grid))
            groups = [group for fold in folds for group in fold["groups"]]
            old_score = pooled_iou(old_parts, groups)
            gap = pooled_iou(new_parts, groups, old_parts)
            rows += [*own, row(network, "Recipe, old grid", "", "foreground IoU", old_score)]
            rows.append(row(network, f"{RECIPE} - old grid", "", "IoU difference", gap))
            compared = f"With the grid of version 0.1 the recipe has {with_interval(old_score)}; "
            compared += f"the present one less that: {with_interval(gap, '+')}."
            sections += [*text, compared]
    write_page("cells", sections, rows, options.out)


def main() -> None:
    parser = study_parser(__doc__, "malaria_iml")
    parser.add_argument("step", choices=("train", "study", "strokes"))
    parser.add_argument("--network", default="resnet34", help="to train")
    parser.add_argument("--networks", default="resnet34,vgg16_bn", help="to study")
    parser.add_argument("--fold", type=int, default=0, choices=range(3))
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    {"train": train, "study": study, "strokes": strokes}[options.step](options)


if __name__ == "__main__":
    main()
