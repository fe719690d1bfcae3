"""Magnetic tiles: masks of surface defects from the labels "defect" and "free" alone.

    python benchmarks/tiles.py --data DATA --work runs
    python benchmarks/tiles.py second --data DATA --work runs

EfficientNet-Lite0 with its ImageNet weights is fine-tuned on labels, in three folds by tile. A tile is
photographed under up to six exposures, so tiles, not photos, are split and resampled. A quarter of the
training tiles is set aside: their masks calibrate the recipe and every threshold. Foreground IoU on the
test tiles, pooled and for each kind of defect; kinds have few tiles, so those numbers are descriptive.

``second`` needs the networks and recipes: a U-Net whose encoder has the classifier's weights learns, at
128 px, from the recipe's masks of the photos that the classifier was trained on. All are scored on the
test photos with and without a defect, at 256x256.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from common import (
    RECIPE,
    Pictures,
    Row,
    calibration_set,
    evenly,
    fold_tables,
    opening,
    pooled_iou,
    pooled_parts,
    row,
    search_fold,
    second_stage,
    second_stage_page,
    study_parser,
    table,
    trained,
    with_interval,
    write_page,
)
from ssgcam import LoadedModel
from ssgcam.images import read_image
from ssgcam.metrics import bootstrap_interval, identity
from ssgcam.search import SearchSettings
from ssgcam.training import LabeledImages, SegmenterSettings, TrainingSettings, predict

FOLDS, INPUT, CLASS_NAMES = 3, 256, ("free", "defect")
#: Calibration photos with a defect, and without.
CALIBRATION = (48, 24)


@dataclass(frozen=True)
class Photo:
    """A photo of a tile: its file, the kind of defect or ``free``, and the tile."""

    file: Path
    kind: str
    tile: str

    @property
    def label(self) -> int:
        """0 free, 1 defect."""
        return int(self.kind != "free")

    def mask(self) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        """1 defect, 0 background, ``[H, W]``."""
        file = self.file.parents[1] / "masks" / f"{self.file.stem}.png"
        with Image.open(file) as mask:
            return (np.asarray(mask) > 127).astype(np.uint8)


def read_photos(data: Path) -> list[Photo]:
    """All photos."""
    folder = data / "magnetic_tiles"
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    return [Photo(folder / "images" / r["image"], r["label"], r["group"]) for r in lines]


def split(photos: Sequence[Photo], fold: int) -> tuple[list[Photo], list[Photo], list[Photo]]:
    """Photos to train on, to calibrate with and to test, by tile; every kind in each part."""
    parts: dict[str, int] = {}
    for number, kind in enumerate(sorted({photo.kind for photo in photos})):
        tiles = sorted({photo.tile for photo in photos if photo.kind == kind} - set(parts))
        order = np.random.default_rng((0, number)).permutation(len(tiles))
        for place, index in enumerate(order):
            turn = (place + number - fold) % FOLDS
            held = place // FOLDS % 2 == 0 and turn == 1  # a sixth of all, a quarter of the rest
            parts[tiles[index]] = 2 if turn == 0 else 1 if held else 0
    return tuple([p for p in photos if parts[p.tile] == part] for part in range(3))  # type: ignore[return-value]


def labeled(photos: Sequence[Photo]) -> LabeledImages:
    """Photos with their labels; the group is the tile."""
    return LabeledImages(
        [photo.label for photo in photos],
        [photo.tile for photo in photos],
        CLASS_NAMES,
        lambda index, _: read_image(photos[index].file),
    )


def calibration_photos(photos: Sequence[Photo], fold: int) -> list[Photo]:
    """Photos with a defect and without, evenly over the tiles."""
    chosen: list[Photo] = []
    for label, count in zip((1, 0), CALIBRATION, strict=True):
        own = [photo for photo in photos if photo.label == label]
        chosen += evenly(own, lambda photo: photo.tile, count, (fold, label))
    return chosen


def pictures(photos: Sequence[Photo]) -> Pictures:
    """Photos, the masks of their defects, and their tiles, at the network's input size."""
    size, nearest = (INPUT, INPUT), Image.Resampling.NEAREST
    masks = [Image.fromarray(photo.mask()).resize(size, nearest) for photo in photos]
    images = [read_image(photo.file).resize(size) for photo in photos]
    return images, [*map(np.asarray, masks)], [photo.tile for photo in photos]


def network_of_fold(photos: Sequence[Photo], fold: int, options: argparse.Namespace) -> LoadedModel:
    """The fold's network, fine-tuned once."""
    settings = TrainingSettings(
        model="efficientnet_lite0",
        weights="DEFAULT",
        input_size=INPUT,
        epochs=1 if options.quick else 6,
        samples_per_epoch=32 if options.quick else 320,
        batch_size=16,
        learning_rate=5e-4,
        held_out=0.0,
        patience=6,
        seed=fold,
    )
    return trained(options.work / f"tiles_fold{fold}.pth", labeled(photos), settings)


def classifier_rows(folds: Sequence[tuple[list[Photo], torch.Tensor]]) -> tuple[list[Row], str]:
    """How well the labels are learned: ROC AUC and, at one half, recall for each kind."""
    photos = [photo for own, _ in folds for photo in own]
    scores = torch.cat([own for _, own in folds])
    auc = roc_auc_score([photo.label for photo in photos], scores.numpy())
    lines, rows = [], []
    for kind in sorted({photo.kind for photo in photos}):
        chosen = [index for index, photo in enumerate(photos) if photo.kind == kind]
        right = (scores[chosen] >= 0.5) == (kind != "free")
        tiles = [photos[index].tile for index in chosen]
        found = bootstrap_interval(right.double(), identity, seed=0, groups=tiles)
        name = "specificity" if kind == "free" else f"recall of {kind}"
        lines.append([name, with_interval(found), len(chosen), found.groups])
        rows.append(row("efficientnet_lite0", "classifier", "", name, found))
    text = table(["fine-tuned classifier, test tiles", "value [95 %]", "photos", "tiles"], lines)
    return rows, f"ROC AUC of defect against free: {auc:.3f} ({len(photos)} photos).\n\n{text}"


def kind_rows(
    folds: Sequence[dict[str, Any]], scored: Sequence[Row], kinds: Sequence[str]
) -> tuple[list[Row], str]:
    """The pooled IoU of the recipe and of the best rivals for each kind of defect."""
    parts, of = pooled_parts(folds), folds[0]["kinds"]
    groups = [group for fold in folds for group in fold["groups"]]
    best = (next(r.method for r in scored if of.get(r.method) == k) for k in ("single", "ssg"))
    names = [RECIPE, *best, "Color threshold"]
    lines, rows = [], []
    for kind in sorted(set(kinds) - {"free"}):
        chosen = [index for index, own in enumerate(kinds) if own == kind]
        tiles = [groups[index] for index in chosen]
        line = [kind, str(len(chosen)), str(len(set(tiles)))]
        for name in names:
            found = pooled_iou(parts[name][chosen], tiles)
            rows.append(row("efficientnet_lite0", name, "", f"foreground IoU, {kind}", found))
            line.append(with_interval(found))
        lines.append(line)
    return rows, table(["kind", "photos", "tiles", *names], lines)


def study(options: argparse.Namespace) -> None:
    """Search a recipe in each fold and write the page."""
    photos = read_photos(options.data)
    settings = SearchSettings(generations=options.generations, folds=0)
    predicted, folds, kinds = [], [], []
    for fold in range(options.folds):
        known, held, tested = split(photos, fold)
        model = network_of_fold(known, fold, options)
        predicted.append((tested, predict(model, labeled(tested))[:, 1]))
        parts = (calibration_photos(held, fold), tested)
        calibration, held_out = (calibration_set(pictures(part), model) for part in parts)
        kinds += [photo.kind for photo in tested]
        stem = options.work / f"tiles_fold{fold}_{options.generations}"
        folds.append(search_fold(model, calibration, held_out, settings, stem, guarantee=True))
    classifier, learned = classifier_rows(predicted)
    rows, sections = fold_tables("efficientnet_lite0", folds)
    by_kind, text = kind_rows(folds, rows, kinds)
    sections = [
        *opening("Magnetic tiles", __doc__),
        "## The classifier",
        learned,
        *sections,
        "By kind of defect (descriptive; photos without a defect are left out):",
        text,
    ]
    write_page("tiles", sections, classifier + rows + by_kind, options.out)


def second(options: argparse.Namespace) -> None:
    """Compare the recipe's masks, the second stage and the calibration masks alone; write the page."""
    photos, folds = read_photos(options.data), {}
    for fold in range(options.folds):
        known, held, tested = split(photos, fold)
        model = network_of_fold(known, fold, options)
        if options.quick:
            known, tested = known[::6], tested[::6]
        recipe = options.work / f"tiles_fold{fold}_{options.generations}.recipe.json"
        shown, without = (pictures([p for p in known if p.label == k])[0] for k in (1, 0))
        parts = shown, without, pictures(calibration_photos(held, fold)), pictures(tested)
        encoder, weights = "tu-tf_efficientnet_lite0", options.work / f"tiles_fold{fold}.pth"
        epochs = 1 if options.quick else 8
        settings = SegmenterSettings(encoder, str(weights), 128, epochs, seed=fold)
        folds[fold] = second_stage(model, recipe, *parts, settings)
    about = opening("Masks of magnetic tiles: recipe and second stage", __doc__, 3)
    second_stage_page("masks_tiles", "efficientnet_lite0", about, folds, options.out)


def main() -> None:
    parser = study_parser(__doc__, "magnetic_tiles")
    parser.add_argument("step", nargs="?", choices=("study", "second"), default="study")
    parser.add_argument("--folds", type=int, default=FOLDS, help="how many of the three")
    options = parser.parse_args()
    options.generations = 3 if options.quick else 150
    {"study": study, "second": second}[options.step](options)


if __name__ == "__main__":
    main()
