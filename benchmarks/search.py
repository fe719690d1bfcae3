"""The search: time of a candidate, and how many calibration images it needs.

    python benchmarks/search.py --quick                       # time alone, under a minute; prints only
    python benchmarks/search.py --data DATA --work runs       # also IoU by number of images

Time: one candidate is one recipe: pick, weight, sum, threshold, IoU on 40 images at 56x56 cells, from
cached maps. Number of images: infected cells (the network of ``cells.py``, fold 0), plain maps, recipes
searched on 5 to 40 windows of the calibration fields, foreground IoU on the windows of the test fields.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torchvision import models

from cells import CALIBRATION, Fields, labeled_windows, spread
from common import DOCS, RECIPE, command, fold_tables, search_fold, table, write_page
from ssgcam import CAM, LoadedModel, Preprocessing, load_model
from ssgcam.core.augment import Augmentation
from ssgcam.search import CalibrationSet, MapCache, MapGrid, SearchSettings
from ssgcam.search.objective import Objective

COUNTS = (5, 10, 20, 40)
SEEDS = range(3)


def time_of_a_candidate(layers: int = 12, images: int = 40, rounds: int = 5) -> tuple[float, float]:
    """Milliseconds for one candidate, and for the network's passes on the images (ResNet34)."""
    generator = torch.Generator().manual_seed(0)
    grid = MapGrid()
    size = (56, 56)
    values = torch.randint(
        0, 256, (images, layers * len(grid), *size), generator=generator, dtype=torch.uint8
    )
    names = tuple(f"layer {number}" for number in range(layers))
    masks = (torch.rand(images, *size, generator=generator) > 0.8).to(torch.uint8)
    data = CalibrationSet(torch.zeros(images, 3, 112, 112), masks, 0)
    model = LoadedModel(models.resnet34().eval(), "resnet34", Preprocessing((112, 112)))
    data = data.with_predictions(model)
    objective = Objective(
        MapCache(values.flatten(2), names, ((1, 1, 1),) * layers, grid, size), data
    )
    low, high = np.array(objective.bounds).T
    genomes = low[:, None] + (high - low)[:, None] * np.random.default_rng(0).random(
        (len(low), 160)
    )
    for index in np.flatnonzero(objective.integrality):
        genomes[index] = np.floor(genomes[index])
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        objective(genomes)
        seconds.append((time.perf_counter() - start) / genomes.shape[1])
    cam = CAM(model, [f"layer{k}" for k in range(1, 5)])
    inputs = torch.zeros(8, 3, 112, 112)
    cam(inputs)
    start = time.perf_counter()
    cam(inputs)
    return 1000 * sorted(seconds)[rounds // 2], 1000 * (time.perf_counter() - start) * images / 8


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder that holds malaria_iml")
    parser.add_argument("--quick", action="store_true", help="time alone, prints only")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="networks and results")
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    candidate, passes = time_of_a_candidate()
    header = ["12 layers, 40 images", "ms"]
    rows_of_time = [["one candidate", f"{candidate:.2f}"], ["maps by ResNet34", f"{passes:.0f}"]]
    sections = [
        "# The search",
        f"`{command()}`",
        (__doc__ or "").split("\n\n")[2],
        table(header, rows_of_time),
    ]
    if options.quick:
        print("\n\n".join(sections))
        return
    fields = Fields.read(options.data)
    model = load_model(str(options.work / "cells_resnet34_fold0.pth"))
    tested = labeled_windows(fields, fields.windows(0, "test"), model)
    plain = (Augmentation(),)
    rows, lines = [], []
    for count in COUNTS:
        values = []
        for seed in SEEDS:
            windows = spread(fields.windows(0, "calibration"), CALIBRATION, seed)[:count]
            calibration = labeled_windows(fields, windows, model)
            settings = SearchSettings(
                seed=seed, folds=0, views=plain, augmentations=plain, refinement=None
            )
            stem = options.work / f"search_{count}_{seed}"
            found = search_fold(model, calibration, tested, settings, stem)
            own, _ = fold_tables(f"resnet34, {count} images, draw {seed}", [found], seed=seed)
            recipe = next(each for each in own if each.method == RECIPE)
            rows.append(recipe)
            values.append(recipe.value)
        spread_of = f"{min(values):.3f} to {max(values):.3f}"
        lines.append([str(count), f"{np.mean(values):.3f}", spread_of])
    header = ["calibration images", "test IoU, mean of draws", "lowest to highest draw"]
    write_page("search", [*sections, table(header, lines)], rows, options.out)


if __name__ == "__main__":
    main()
