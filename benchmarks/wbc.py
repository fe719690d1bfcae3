"""White blood cells: does a network that learned cell types alone find the cell and its nucleus?

    python benchmarks/wbc.py --data DATA --work runs

In each of three folds a ResNet34 learns four types (the one basophil is left out) without masks. Two
recipes are searched with the masks of 40 crops that it was trained on: one for the whole cell, one for
the nucleus. Both and every rival are scored on the fold's other crops, thresholds from the 40. The class
that is explained is the network's own most probable one. Masks are compared at 112x112; crops are
resampled, as no patients or slides are stated.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from PIL import Image

from common import (
    calibration_set,
    evenly,
    fold_tables,
    opening,
    search_fold,
    study_parser,
    trained,
    write_page,
)
from ssgcam import LoadedModel
from ssgcam.core.augment import Augmentation
from ssgcam.data import Sample, SampleSet
from ssgcam.files import write_json
from ssgcam.images import read_image
from ssgcam.search import CalibrationSet, SearchSettings
from ssgcam.training import TrainingSettings, evaluate, labeled_images, predict

FOLDS, CALIBRATION, INPUT = 3, 40, 112
TYPES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil")
#: The values of an expert mask that are a target.
TARGETS = {"whole cell": (1, 2), "nucleus": (2,)}


def read_crops(data: Path) -> SampleSet:
    """The crops of the four types; labels are 1 to 5 in the file, 0 to 3 here."""
    folder = data / "wbc"
    lines = (folder / "labels.csv").read_text(encoding="utf-8-sig").splitlines()[1:]
    samples = []
    for line in lines:
        number, label = map(int, line.split(","))
        name = f"{number:03d}.png"
        if label <= len(TYPES):
            samples.append(Sample(name, folder / "images" / name, (label - 1,), group=name))
    return SampleSet(tuple(samples), TYPES, folder, "classes")


def fold_of(crops: SampleSet) -> list[int]:
    """The fold that tests each crop: those of a type are dealt out in random order."""
    labels = np.array([sample.labels[0] for sample in crops])
    result = np.zeros(len(labels), dtype=int)
    generator = np.random.default_rng(0)
    dealt = 0
    for label in range(len(TYPES)):
        members = generator.permutation(np.flatnonzero(labels == label))
        result[members] = (np.arange(len(members)) + dealt) % FOLDS
        dealt += len(members)
    return result.tolist()


def labeled_crops(
    crops: Sequence[Sample], values: Sequence[int], model: LoadedModel
) -> CalibrationSet:
    """Crops with the masks of one target, explained for the network's most probable class."""
    photos = [read_image(crop.image) for crop in crops]
    masks = []
    for crop in crops:
        with Image.open(crop.image.parents[1] / "masks" / crop.name) as mask:
            masks.append(np.isin(np.asarray(mask), values))
    return calibration_set((photos, masks, [crop.group for crop in crops]), model, classes=None)


def network_of_fold(
    crops: SampleSet, tested: SampleSet, fold: int, options: argparse.Namespace
) -> LoadedModel:
    """The fold's network, trained once; the file beside it says how well it knows the types."""
    file = options.work / f"wbc_resnet34_fold{fold}.pth"
    settings = TrainingSettings(
        model="resnet34",
        input_size=INPUT,
        epochs=2 if options.quick else 14,
        samples_per_epoch=64 if options.quick else 320,
        held_out=0.0,
        patience=14,
        seed=fold,
    )
    model, images = trained(file, labeled_images(crops), settings), labeled_images(tested)
    write_json(file.with_suffix(".json"), asdict(evaluate(predict(model, images), images)))
    return model


def main() -> None:
    parser = study_parser(__doc__, "wbc")
    parser.add_argument("--folds", type=int, default=FOLDS, help="the first ones alone")
    options = parser.parse_args()
    views = (Augmentation("both"),)  # crops have no upright direction
    generations = 3 if options.quick else 150
    settings = SearchSettings(generations=generations, folds=0, views=views, augmentations=views)
    crops = read_crops(options.data)
    folds = fold_of(crops)
    found: dict[str, list[dict[str, object]]] = {target: [] for target in TARGETS}
    for fold in range(options.folds):
        parts: tuple[list[Sample], list[Sample]] = [], []
        for sample, of in zip(crops, folds, strict=True):
            parts[of == fold].append(sample)
        known, tested = (replace(crops, samples=tuple(part)) for part in parts)
        model = network_of_fold(known, tested, fold, options)
        some = evenly(known.samples, lambda crop: crop.labels[0], CALIBRATION, (0, fold))
        for target, values in TARGETS.items():
            chosen = (some, tested.samples)
            calibration, held_out = (labeled_crops(part, values, model) for part in chosen)
            stem = options.work / f"wbc_{target.replace(' ', '_')}_fold{fold}_{generations}"
            searched = search_fold(model, calibration, held_out, settings, stem, guarantee=True)
            found[target].append(searched)
    rows, sections = [], opening("White blood cells", __doc__)
    for target in TARGETS:
        own, text = fold_tables(f"resnet34, {target}", found[target])
        rows += own
        sections += text
    write_page("wbc", sections, rows, options.out)


if __name__ == "__main__":
    main()
