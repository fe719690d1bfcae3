"""Masks of infected cells beyond the recipe: a second stage, whole fields, and unlike images.

    python benchmarks/cell_masks.py second --data DATA --network resnet18 --work runs
    python benchmarks/cell_masks.py fields --data DATA --network resnet18 --work runs
    python benchmarks/cell_masks.py unlike --data DATA --network resnet18 --work runs

All need the networks and recipes of ``cells.py``. ``second``: a segmentation network that learns from the
recipe's masks of the infected training windows, and from 60 healthy ones. Its encoder starts from the
classifier. All are scored on the infected windows of the test fields, at 160 px.

``fields`` segments whole fields by overlapping windows of 160 px, with a recipe of 40 infected and 20
healthy windows: by its own threshold and gate, and by the window rule that the uninfected fields of the
training and calibration parts give (at most .1 false objects in each). An object is false if it touches
no infected cell's box. Test fields: all without an infected or undecided cell, and 20 with infected ones.

``unlike`` asks whether a recipe's statistics tell windows of other laboratories, and changed windows of
its own, from the infected windows of the fold's test fields. Windows of other laboratories
(``malaria_masks``) lie around parasites: of 160 px as they are, and of two cell diameters with the white
balance of ``parasites.py``, so that neither cell size nor background differ. The largest statistic, in
units of its limit, orders the windows; above 1 a window is flagged. Intervals resample fields.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter
from scipy.stats import mannwhitneyu

import parasites
from cells import CALIBRATION, HEALTHY, INPUT, WINDOW, Box, Fields, Window, labeled_windows, spread
from common import (
    Pictures,
    group_intervals,
    opening,
    row,
    second_stage,
    second_stage_page,
    study_parser,
    table,
    with_interval,
    write_page,
)
from ssgcam import LoadedModel, Recipe, load_model
from ssgcam.bulk.false_objects import choose_window_rule
from ssgcam.bulk.segment import segment_images
from ssgcam.bulk.windows import Windows
from ssgcam.images import read_image
from ssgcam.metrics import Interval, bootstrap_interval, identity, ratio
from ssgcam.search import SearchSettings, search_recipe
from ssgcam.search.window_scores import window_scores
from ssgcam.shift import in_limits
from ssgcam.training import SegmenterSettings

UNCHANGED = "held out, unchanged"


def recipes_of_folds(options: argparse.Namespace) -> dict[int, tuple[Path, Path]]:
    """For each fold that has a recipe: the start of its files' names, and the recipe."""
    found = {}
    for fold in range(Fields.folds):
        stem = options.work / f"cells_{options.network}_fold{fold}"
        recipe = stem.with_name(f"{stem.name}_{3 if options.quick else 150}.recipe.json")
        if recipe.exists():
            found[fold] = (stem, recipe)
        else:
            print(f"no '{recipe}', so fold {fold} is left out: run 'cells.py study' for it")
    return found


def second(options: argparse.Namespace) -> None:
    """Compare the recipe's masks, the second stage and the calibration masks alone; write the page."""
    fields, network, folds = Fields.read(options.data), options.network, {}

    def pictures(windows: Sequence[Window]) -> Pictures:
        masks = [fields.mask(window, WINDOW) for window in windows]
        return [*map(fields.photo, windows)], masks, [window.cell.field for window in windows]

    for fold, (stem, recipe) in recipes_of_folds(options).items():
        train = fields.windows(fold, "train", healthy=60)
        parts = ([w for w in train if w.cell.infected is infected] for infected in (True, False))
        shown, without = (pictures(part)[0] for part in parts)
        known = pictures(spread(fields.windows(fold, "calibration"), CALIBRATION))
        tested = pictures(fields.windows(fold, "test"))
        epochs = 1 if options.quick else 12
        settings = SegmenterSettings(network, f"{stem}.pth", 96, epochs, seed=fold)
        model = load_model(f"{stem}.pth")
        folds[fold] = second_stage(model, recipe, shown, without, known, tested, settings)
    title = "Masks of infected cells: recipe, second stage, and how sure they are"
    second_stage_page("masks", network, opening(title, __doc__), folds, options.out)


def count_objects(mask: np.ndarray[Any, Any], boxes: Sequence[Box]) -> tuple[int, int]:
    """How many objects of a mask touch no box, and how many boxes an object touches."""
    count, labels = cv2.connectedComponents((mask > 0).astype(np.uint8), connectivity=4)
    inside = [labels[int(y0) : int(y1), int(x0) : int(x1)] for x0, y0, x1, y1 in boxes]
    touching = [{*np.unique(each).tolist()} - {0} for each in inside]
    return count - 1 - len(set().union(*touching)), sum(map(bool, touching))


def whole_fields(options: argparse.Namespace) -> None:
    """Count false objects and found cells in whole test fields, with and without a window rule."""
    fields, fold, network = Fields.read(options.data), options.fold, options.network
    stem = options.work / f"cells_{network}_fold{fold}"
    model, photos = load_model(f"{stem}.pth"), fields.folder / "images"
    known = spread(fields.windows(fold, "calibration"), CALIBRATION)
    healthy = fields.windows(fold, "calibration", healthy=20)
    known += [window for window in healthy if not window.cell.infected]
    data = labeled_windows(fields, known, model).with_predictions(model)
    settings = SearchSettings(generations=3 if options.quick else 150, folds=0)
    file = stem.with_name(f"{stem.name}_fields_{settings.generations}.recipe.json")
    if not file.exists():
        search_recipe(model, data, settings=settings, progress=True).recipe.save(file)
    recipe = Recipe.load(file)

    def uninfected(split: Any) -> list[str]:
        names = fields.names(fold, split)
        return [n for n in names if all(cell.type == HEALTHY for cell in fields.cells[n])]

    negatives = [photos / name for split in ("calibration", "train") for name in uninfected(split)]
    on_labeled, smallest = window_scores(model, recipe, data, settings)
    rule = choose_window_rule(model, recipe, negatives, Windows(WINDOW), on_labeled, smallest)
    names = fields.names(fold, "test")
    infected = [name for name in names if any(cell.infected for cell in fields.cells[name])]
    tested = {"uninfected": uninfected("test"), "infected": infected[:: -(-len(infected) // 20)]}
    rows, lines = [], []
    rules = {"own threshold and gate": recipe, "window rule": replace(recipe, window_rule=rule)}
    for title, own in rules.items():
        scores = {}
        for kind, chosen in tested.items():
            out = stem.with_name(f"{stem.name}_fields") / title / kind
            files = [photos / name for name in chosen]
            segment_images(files, model, out, recipe=own, window=WINDOW)
            counts = []
            for name in chosen:
                boxes = [cell.box for cell in fields.cells[name] if cell.infected]
                mask = np.asarray(Image.open(out / f"{Path(name).stem}.png"))
                counts.append((*count_objects(mask, boxes), len(boxes)))
            parts = torch.tensor(counts, dtype=torch.float64)
            scores[f"false objects in each {kind} field"] = parts[:, 0], identity
        scores["share of infected cells found"] = parts[:, 1:], ratio
        found = {metric: bootstrap_interval(*each, seed=0) for metric, each in scores.items()}
        rows += [row(network, title, "", metric, each) for metric, each in found.items()]
        lines.append([title, *map(with_interval, found.values())])
    header = ["rule", *(f"{name} [95 %]" for name in dict.fromkeys(each.metric for each in rows))]
    cells = sum(cell.infected for name in tested["infected"] for cell in fields.cells[name])
    sections = [
        *opening("Infected cells in whole fields", __doc__, 3),
        f"## {network}, fold {fold}: {len(tested['uninfected'])} uninfected and "
        f"{len(tested['infected'])} infected fields with {cells} infected cells",
        table(header, lines),
        f"{rule.photos} uninfected fields chose the rule: gate {rule.gate:.3f}, threshold "
        f"{rule.threshold:.2f}, objects of at least {rule.smallest_object} pixels.",
    ]
    write_page("fields", sections, rows, options.out)


def square(photo: Image.Image, center: Sequence[int], side: int) -> Image.Image:
    """A square around a point (x, y), moved inside the photo where it would reach past it."""
    left, top = (
        min(max(at - side // 2, 0), length - side)
        for at, length in zip(center, photo.size, strict=True)
    )
    return photo.crop((left, top, left + side, top + side)).convert("RGB")


def changes(fields: Fields) -> dict[str, Callable[[Window], Image.Image]]:
    """How test windows are changed: by name, the picture of a window."""

    def rescaled(window: Window, factor: float) -> Image.Image:
        center = (window.left + WINDOW // 2, window.top + WINDOW // 2)
        with Image.open(fields.folder / "images" / window.cell.field) as field:
            return square(field, center, round(WINDOW / factor))

    def balanced(window: Window) -> Image.Image:
        values = np.asarray(fields.photo(window)) * (1.15, 1.0, 0.85)
        return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))

    return {
        UNCHANGED: fields.photo,
        "blurred, sigma 2 px": lambda w: fields.photo(w).filter(ImageFilter.GaussianBlur(2)),
        "cells 1.5 times as large": lambda w: rescaled(w, 1.5),
        "cells 1.5 times as small": lambda w: rescaled(w, 1 / 1.5),
        "red 1.15 times, blue .85 times": balanced,
    }


def foreign_windows(data: Path) -> dict[str, tuple[list[Image.Image], list[str]]]:
    """Windows around the parasites of other laboratories, and their fields."""
    as_they_are, alike = list[Image.Image](), list[Image.Image]()
    names = list[str]()
    for field in parasites.read_fields(data):
        photo = read_image(data / "malaria_masks" / "images" / f"{field.name}.png")
        for box in field.around():
            center = ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2)
            as_they_are.append(square(photo, center, WINDOW))
            alike.append(field.photo(box))
            names.append(field.name)
    return {
        "other laboratories, as they are": (as_they_are, names),
        "other laboratories, same cell size and white balance": (alike, names),
    }


def unlikeness(
    model: LoadedModel, recipe: Recipe, photos: Sequence[Image.Image]
) -> np.ndarray[Any, Any]:
    """For each photo the largest statistic of the recipe, in units of its limit, ``[N]``."""
    bound = recipe.bind(model)
    largest = []
    for start in range(0, len(photos), 32):
        small = [photo.resize((INPUT, INPUT)) for photo in photos[start : start + 32]]
        inputs = model.preprocessing(small)
        values = bound.statistics(bound(inputs))
        largest.append(in_limits(recipe.calibration_statistics, values).amax(1))
    return torch.cat(largest).numpy()


def roc_area(usual: Any, unlike: Any, groups: Sequence[str]) -> list[Interval]:
    """Area under the ROC curve: how often an unlike image has the higher score. Groups: of both."""
    scores = np.concatenate([usual, unlike])
    is_unlike = np.repeat([False, True], (len(usual), len(unlike)))

    def area(chosen: Any) -> list[float]:
        high, low = scores[chosen][is_unlike[chosen]], scores[chosen][~is_unlike[chosen]]
        if not len(high) or not len(low):
            return [np.nan]
        return [float(mannwhitneyu(high, low).statistic) / (len(high) * len(low))]

    return group_intervals(area, groups)


def unlike_images(options: argparse.Namespace) -> None:
    """How well the recipes' statistics tell unlike windows from those of the test fields."""
    fields, network = Fields.read(options.data), options.network
    foreign = foreign_windows(options.data)
    found: dict[str, tuple[list[Any], list[str]]] = {}
    folds = recipes_of_folds(options)
    for fold, (stem, file) in folds.items():
        model, recipe = load_model(f"{stem}.pth"), Recipe.load(file)
        tested = fields.windows(fold, "test")
        names = [window.cell.field for window in tested]
        photos = {name: ([*map(of, tested)], names) for name, of in changes(fields).items()}
        for name, (pictures, groups) in (photos | foreign).items():
            values, fields_of = found.setdefault(name, ([], []))
            values.append(unlikeness(model, recipe, pictures))
            fields_of.extend(groups)
    scores = {name: np.concatenate(parts) for name, (parts, _) in found.items()}
    rows, lines = [], []
    for name, (_, groups) in found.items():
        flagged = scores[name] > 1
        (share,) = group_intervals(lambda k, own=flagged: [float(own[k].mean())], groups)
        rows.append(row(network, name, "", "share that is flagged", share))
        lines.append([name, len(groups), with_interval(share), "-"])
        if name != UNCHANGED:
            usual, unlike = scores[UNCHANGED], scores[name]
            (area,) = roc_area(usual, unlike, found[UNCHANGED][1] + groups)
            rows.append(row(network, name, "", "area under the ROC curve", area))
            lines[-1][-1] = with_interval(area)
    header = ["windows", "n", "share that is flagged [95 %]", "area under the ROC curve [95 %]"]
    sections = [
        *opening("Windows that are unlike the calibration images", __doc__, 4),
        f"## {network}, folds {', '.join(map(str, folds))}; other laboratories count in each",
        table(header, lines),
    ]
    write_page("unlike", sections, rows, options.out)


def main() -> None:
    parser = study_parser(__doc__, "malaria_iml")
    parser.add_argument("step", choices=("second", "fields", "unlike"))
    parser.add_argument("--network", default="resnet18", help="one that 'cells.py train' trained")
    parser.add_argument("--fold", type=int, default=0, choices=range(3), help="of 'fields'")
    options = parser.parse_args()
    {"second": second, "fields": whole_fields, "unlike": unlike_images}[options.step](options)


if __name__ == "__main__":
    main()
