"""White blood cells: does a network that was told cell types alone find the cell and its nucleus?

Each fold's ResNet34 (``train_wbc.py``) saw four types and no mask. Two recipes are searched with the
masks of 40 crops that it was trained on (it saw their types alone): one for the whole cell (mask > 0),
one for the nucleus (mask == 2). Both, and every rival, are then scored on the fold's own crops, with
thresholds from the 40. The class that is explained is the network's own most probable one, so no label
of a test crop is used. Masks are compared at the network's input, 112x112; intervals resample crops.

    python benchmarks/wbc.py --data DATA --weights runs
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from color import best_otsu, calibrated_cut, centered_disc, color_maps, mask_counts
from ssgcam import CAM, LoadedModel, load_model
from ssgcam.core.augment import Augmentation
from ssgcam.core.fusion import threshold
from ssgcam.files import write_with
from ssgcam.metrics import confusion_matrix
from ssgcam.search import Calibration, Examples, MapGrid, make_examples, search_recipe
from ssgcam.search.baselines import AVERAGED, SINGLE, Rival
from ssgcam.search.validation import Table
from study import DOCS, FINAL, command, write_study
from wbc_report import (
    draw,
    recalls,
    regions_section,
    target_section,
    verdict,
)
from wbc_samples import REGIONS, TARGETS, Cells

WINDOWS = 40
#: Crops have no up: maps are averaged over the four flips from the start.
VIEWS = (Augmentation("both"),)
GRID = MapGrid(sigmas=(0.0, 0.03, 0.06, 0.1), gammas=(0.5, 0.7, 1.0))
#: Rivals of the table of three regions, by kind.
KINDS = {"single": "best other single layer", "ssg": "best single SSG-CAM layer"}


def examples(
    cells: Cells, chosen: Sequence[int], values: Sequence[int], model: LoadedModel
) -> Examples:
    """Crops with the mask of one target; explained for whatever type the network sees."""
    masks = [np.isin(cells.regions(index), values) for index in chosen]
    photos = [cells.photo(index) for index in chosen]
    names = [cells.photos.groups[index] for index in chosen]
    return make_examples(Calibration(photos, masks, None, names, names), model)


def run_fold(
    cells: Cells, model: LoadedModel, fold: int, seed: int, generations: int, cache: Path
) -> dict[str, Any]:
    """Both targets of one fold: counts of every contender, and masks of some, on the fold's crops."""
    calibration = cells.calibration(fold, WINDOWS)
    tested = cells.indices(fold, tested=True)
    found: dict[str, Any] = {"crops": [cells.photos.groups[index] for index in tested]}
    masks: dict[str, dict[str, Tensor]] = {}
    for target, values in TARGETS.items():
        known, other = (examples(cells, part, values, model) for part in (calibration, tested))
        search = search_recipe(
            model,
            known,
            held_out=other,
            generations=generations,
            seed=seed,
            folds=0,
            grid=GRID,
            views=VIEWS,
            augmentations=VIEWS,
            cache=cache,
            progress=True,
        )
        rows = search.report.table
        final = search.recipe
        masks[target] = {FINAL: _recipe_masks(final, model, other)}
        masks[target] |= _rival_masks(rows, model, other)
        plain, notes = _simple_masks(known, other, model)
        masks[target] |= plain
        parts = {r.name: rows.parts[r.name, "held_out"] for r in rows.rows}
        simple = {name: mask_counts(made, other.masks).confusions for name, made in plain.items()}
        parts[FINAL] = mask_counts(masks[target][FINAL], other.masks).confusions
        found[target] = {
            "parts": parts | simple,
            "kinds": {r.name: r.kind for r in rows.rows}
            | dict.fromkeys(simple, "no network")
            | {FINAL: "recipe"},
            "notes": notes,
            "layers": [layer.name for layer in final.layers],
            "views": final.augmentation.views,
            "refined": final.refinement is not None,
        }
    truth = [
        torch.from_numpy(_squashed(cells.regions(index), other.size)).long() for index in tested
    ]
    found["truth"] = torch.stack(truth).to(torch.uint8)
    found["masks"] = {target: made[FINAL] for target, made in masks.items()}
    found["regions"] = {
        name: torch.stack(
            [
                confusion_matrix(torch.where(core, 2, whole.long()), real, len(REGIONS), None)
                for core, whole, real in zip(
                    masks["nucleus"][name], masks["whole cell"][name], truth, strict=True
                )
            ]
        )
        for name in masks["nucleus"]
    }
    return found


def _squashed(mask: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Nearest, as ``make_examples`` does it."""
    rows = (2 * np.arange(size[0]) + 1) * mask.shape[0] // (2 * size[0])
    columns = (2 * np.arange(size[1]) + 1) * mask.shape[1] // (2 * size[1])
    return mask[rows][:, columns]


def _recipe_masks(recipe: Any, model: LoadedModel, other: Examples) -> Tensor:
    bound = recipe.bind(model)
    parts = zip(other.images.split(16), other.classes.split(16), strict=True)
    return torch.cat([bound.masks(images, classes) for images, classes in parts])


def _rival_masks(rows: Table, model: LoadedModel, other: Examples) -> dict[str, Tensor]:
    """Of the single layers that were best on the calibration crops, and of the naive means."""
    layers = [r.name.split(", ")[1] for r in rows.rows if r.name.startswith("LayerCAM, layer")]
    rivals = {Rival(method, name).name: (method, [name]) for method in SINGLE for name in layers}
    chosen = {}
    for kind, title in KINDS.items():
        scored = [r for r in rows.rows if r.kind == kind and r.name in rivals]
        best = max(scored, key=lambda r: r.calibration)
        chosen[title] = (best, rivals[best.name])
    for method in AVERAGED:
        name = Rival(method, None).name
        chosen[name] = (rows.row(name), (method, layers))
    found = {}
    for title, (best, (method, used)) in chosen.items():
        cam = CAM(model, used, method, gamma=1.0)
        parts = zip(other.images.split(16), other.classes.split(16), strict=True)
        maps = torch.cat([cam(images, classes).maps for images, classes in parts])
        found[title] = threshold(maps, best.threshold)
    return found


def _simple_masks(
    known: Examples, other: Examples, model: LoadedModel
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Without a network: color cut where the 40 crops say, Otsu, a disc in the middle."""
    shape = model.preprocessing
    pixels = []
    for part in (known, other):
        mean, std = (part.images.new_tensor(v).view(3, 1, 1) for v in (shape.mean, shape.std))
        pixels.append((part.images * std + mean).clamp(0, 1))
    maps, others = (color_maps(part) for part in pixels)
    notes, masks = {}, {}
    for title, chosen in {
        "Color threshold from the calibration crops": calibrated_cut(maps, known.masks, others),
        "Otsu on color": best_otsu(maps, known.masks, others),
        "Centered disc": calibrated_cut(
            {"disc": centered_disc(known)}, known.masks, {"disc": centered_disc(other)}
        ),
    }.items():
        notes[title], masks[title] = chosen
    return masks, notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="folder of train_wbc.py")
    parser.add_argument("--folds", default="0,1,2")
    parser.add_argument("--generations", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="3 generations, for a smoke test")
    parser.add_argument("--only", action="store_true", help="search these folds, write no page")
    parser.add_argument("--work", type=Path, default=Path("runs/wbc"), help="checkpoints")
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cells = Cells.read(options.data / "wbc")
    generations = 3 if options.quick else options.generations
    folds, numbers = [], [int(fold) for fold in options.folds.split(",")]
    for fold in numbers:
        kept = options.work / f"fold{fold}_seed{options.seed}_{generations}.pt"
        if not kept.exists():
            model = load_model(str(options.weights / f"wbc_resnet34_fold{fold}.pth"))
            content = run_fold(
                cells, model, fold, options.seed, generations, options.work / "cache"
            )
            write_with(kept, lambda path, content=content: torch.save(content, path))
        folds.append(torch.load(kept, weights_only=True))
    if options.only:
        return
    rows, text = regions_section(folds, options.seed)
    for target in TARGETS:
        more, section = target_section(folds, target, options.seed)
        rows += more
        text += section
    picture = draw(folds, rows)
    write_with(options.out / "wbc.png", lambda path: picture.savefig(path, dpi=130, format="png"))
    head = [
        "# White blood cells",
        f"`{command()}`",
        *(__doc__ or "").split("\n\n")[1:2],
        "The network on the crops that it did not see:",
        recalls(options.weights, numbers),
        verdict(rows),
        "![Intervals and outlines](wbc.png)",
    ]
    write_study("wbc", rows, "\n\n".join([*head, *text]), options.out)
    print("\n\n".join([*head, *text]))


if __name__ == "__main__":
    main()
