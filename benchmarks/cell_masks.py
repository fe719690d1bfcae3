"""Masks of infected cells beyond the recipe: a second stage, whole fields, and unlike images.

    python benchmarks/cell_masks.py second --data DATA --network resnet18 --work runs
    python benchmarks/cell_masks.py fields --data DATA --network resnet18 --work runs
    python benchmarks/cell_masks.py unlike --data DATA --network resnet18 --work runs

All need the networks and recipes of ``cells.py``. ``second``: the recipe makes masks of the infected
training windows, of which only the labels are used. 'train-segmenter' learns from them (without the fifth
whose predicted IoU is lowest; healthy windows get empty masks), and the same network learns from the
calibration masks alone, in as many steps. All three are scored on the infected windows of the test
fields, at 160 px. Then: does the predicted IoU of the recipe's masks order them by their true IoU?

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
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter
from scipy.stats import mannwhitneyu, spearmanr
from torch import Tensor

import parasites
from cells import CALIBRATION, HEALTHY, INPUT, WINDOW, Box, Fields, Window, labeled_windows, spread
from common import command, row, study_parser, table, with_interval, write_page
from ssgcam import LoadedModel, Recipe, load_model
from ssgcam.bulk.false_objects import choose_window_rule
from ssgcam.bulk.segment import segment_images
from ssgcam.bulk.windows import Windows
from ssgcam.images import read_image
from ssgcam.metrics import Interval, bootstrap_interval, identity, paired_difference, ratio
from ssgcam.metrics.masks import confusion_matrix, foreground_iou
from ssgcam.search import SearchSettings, search_recipe
from ssgcam.search.fitness import score_of
from ssgcam.search.window_scores import window_scores
from ssgcam.segmentation_model import save_segmenter
from ssgcam.shift import in_limits
from ssgcam.training.segmenter import train_segmenter
from ssgcam.training.settings import SegmenterSettings

RECIPE = "recipe"
SECOND = "second stage, from the recipe's masks"
ALONE = "the same network from the calibration masks alone"
UNCHANGED = "held out, unchanged"
ORDER = ("Spearman's correlation, predicted and true IoU", "share of the perfect order's gain")


def write_windows(folder: Path, fields: Fields, windows: Sequence[Window]) -> list[Path]:
    """Write the windows as PNG files, their masks below ``true``."""
    (folder / "true").mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:04d}.png" for number in range(len(windows))]
    for file, window in zip(files, windows, strict=True):
        fields.photo(window).save(file)
        Image.fromarray(fields.mask(window, WINDOW)).save(folder / "true" / file.name)
    return files


def predicted_ious(folder: Path) -> list[float]:
    """The predicted IoU of the masks that ``segment_images`` wrote, by name; 0 of an empty mask."""
    lines = (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    entries = sorted(map(json.loads, lines), key=lambda entry: entry["outputs"])
    return [entry["classes"][0]["predicted_iou"] or 0.0 for entry in entries]


def mask_parts(found: Sequence[Any], true: Sequence[Any]) -> Tensor:
    """The confusion matrices ``[N, 2, 2]`` of masks."""
    pairs = [(torch.tensor(f > 0), torch.tensor(t)) for f, t in zip(found, true, strict=True)]
    return torch.stack([confusion_matrix(*pair, 2).double() for pair in pairs])


def order_parts(predicted: Sequence[float], true: Tensor, groups: Sequence[str]) -> list[Interval]:
    """How well a predicted IoU orders masks, with intervals that resample groups.

    Returns:
        Spearman's rank correlation with the true IoU, and how much of the gain in mean IoU of a perfect
        order is reached when the fifth with the lowest predicted IoU is set aside.
    """
    values = np.stack([np.asarray(predicted), true.numpy()])

    def statistics(chosen: Any) -> tuple[float, float]:
        guess, iou = values[:, chosen]
        left = [iou[np.argsort(by, kind="stable")][len(iou) // 5 :].mean() for by in (guess, iou)]
        gained, most = (mean - iou.mean() for mean in left)
        return float(spearmanr(guess, iou).statistic), float(gained / most)

    return group_intervals(statistics, groups)


def group_intervals(
    statistics: Callable[[Any], Sequence[float]], groups: Sequence[str]
) -> list[Interval]:
    """Intervals of numbers that are computed from the indices of items, with groups resampled."""
    members = [np.flatnonzero(np.asarray(groups) == name) for name in sorted(set(groups))]
    generator = np.random.default_rng(0)
    drawn = (generator.integers(0, len(members), len(members)) for _ in range(1000))
    samples = [statistics(np.concatenate([members[k] for k in each])) for each in drawn]
    low, high = np.nanpercentile(samples, (2.5, 97.5), axis=0)
    return [
        Interval(value, float(a), float(b), 0.95, len(groups), len(members), 1000, 0, 0)
        for value, a, b in zip(statistics(np.arange(len(groups))), low, high, strict=True)
    ]


def masks_of_fold(
    fields: Fields, fold: int, stem: Path, recipe: Path, network: str, epochs: int
) -> tuple[dict[str, Tensor], list[float]]:
    """Train both networks of a fold and segment its test windows three times.

    Returns:
        The confusion matrices ``[N, 2, 2]`` of each kind of masks; the predicted IoU of the recipe's.
    """
    model, folder = load_model(f"{stem}.pth"), stem.with_name(f"{stem.name}_masks")
    train = fields.windows(fold, "train", healthy=60)
    infected = sum(window.cell.infected for window in train)
    files = write_windows(folder / "train", fields, train)
    known = spread(fields.windows(fold, "calibration"), CALIBRATION)
    known_files = write_windows(folder / "calibration", fields, known)
    tested = fields.windows(fold, "test")
    tested_files = write_windows(folder / "test", fields, tested)
    own = folder / "own"
    segment_images(files[:infected], model, own, recipe=recipe, gate=0.0)
    quality = predicted_ious(own)
    sure = [f for f, q in zip(files, quality, strict=False) if q >= np.quantile(quality, 0.2)]
    for file in files[infected:]:
        Image.fromarray(np.zeros((WINDOW, WINDOW), np.uint8)).save(own / file.name)
    pairs = {
        SECOND: [(file, own / file.name) for file in (*sure, *files[infected:])],
        ALONE: [(file, file.parent / "true" / file.name) for file in known_files],
    }
    segment_images(tested_files, model, folder / RECIPE, recipe=recipe, mirror=True)
    for name, examples in pairs.items():
        rounds = round(epochs * len(pairs[SECOND]) / len(examples))
        settings = SegmenterSettings(network, f"{stem}.pth", 96, rounds, seed=fold)
        trained = folder / f"{name}.pth"
        if not trained.exists():
            save_segmenter(train_segmenter(examples, settings, ("infected",)).model, trained)
        segment_images(tested_files, None, folder / name, segmenter=trained)
    true = [fields.mask(window, WINDOW) for window in tested]
    masks = {
        name: [np.asarray(Image.open(folder / name / file.name)) for file in tested_files]
        for name in (RECIPE, *pairs)
    }
    parts = {name: mask_parts(found, true) for name, found in masks.items()}
    return parts, predicted_ious(folder / RECIPE)


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


def second_stage(options: argparse.Namespace) -> None:
    """Compare the recipe's masks, the second stage and the calibration masks alone; write the page."""
    fields, network = Fields.read(options.data), options.network
    made: dict[str, list[Tensor]] = {}
    guesses, groups = list[float](), list[str]()
    folds = recipes_of_folds(options)
    for fold, (stem, recipe) in folds.items():
        epochs = 1 if options.quick else 12
        parts, quality = masks_of_fold(fields, fold, stem, recipe, network, epochs)
        for name, found in parts.items():
            made.setdefault(name, []).append(found)
        guesses += quality
        groups += [window.cell.field for window in fields.windows(fold, "test")]
    pooled = {name: torch.cat(own) for name, own in made.items()}
    interval = {"statistic": partial(score_of, kind="pooled"), "seed": 0, "groups": groups}
    rows, lines = [], []
    for name, own in pooled.items():
        score = bootstrap_interval(own, **interval)
        rows.append(row(network, name, "", "foreground IoU", score))
        lines.append([name, with_interval(score), ""])
        if name != SECOND:
            gap = paired_difference(pooled[SECOND], own, **interval)
            rows.append(row(network, f"second stage - {name}", "", "IoU difference", gap))
            lines[-1][-1] = with_interval(gap, "+")
    order = order_parts(guesses, foreground_iou(pooled[RECIPE]), groups)
    rows += [row(network, RECIPE, "", name, each) for name, each in zip(ORDER, order, strict=True)]
    sections = [
        "# Masks of infected cells: recipe, second stage, and how sure they are",
        f"`{command()}`",
        (__doc__ or "").split("\n\n")[2],
        f"## {network}: {len(groups)} test windows of the folds {', '.join(map(str, folds))}",
        table(["masks of", "foreground IoU [95 %]", "second stage less this one"], lines),
        "The predicted IoU of the recipe's masks; the gain is that in mean IoU when the fifth with the "
        "lowest predicted IoU is set aside:",
        table(["measure", "value [95 %]"], [*zip(ORDER, map(with_interval, order), strict=True)]),
    ]
    write_page("masks", sections, rows, options.out)


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
    on_labeled = window_scores(model, recipe, data, settings)
    rule = choose_window_rule(
        model, recipe, negatives, Windows(WINDOW), on_labeled.gates, on_labeled.thresholds,
        on_labeled.scores, on_labeled.smallest_object,
    )  # fmt: skip
    names = fields.names(fold, "test")
    infected = [name for name in names if any(cell.infected for cell in fields.cells[name])]
    tested = {"uninfected": uninfected("test"), "infected": infected[:: -(-len(infected) // 20)]}
    rows, lines = [], []
    rules = {"own threshold and gate": recipe, "window rule": replace(recipe, window_rule=rule)}
    for title, own in rules.items():
        scores = {}
        for kind, chosen in tested.items():
            out = stem.with_name(f"{stem.name}_fields") / title / kind
            segment_images(
                [photos / name for name in chosen], model, out, recipe=own, window=WINDOW
            )
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
        "# Infected cells in whole fields",
        f"`{command()}`",
        (__doc__ or "").split("\n\n")[3],
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
        values = bound.statistics(inputs, bound(inputs))
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
        "# Windows that are unlike the calibration images",
        f"`{command()}`",
        (__doc__ or "").split("\n\n")[4],
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
    steps = {"second": second_stage, "fields": whole_fields, "unlike": unlike_images}
    steps[options.step](options)


if __name__ == "__main__":
    main()
