"""Malaria, infected cells: what a recipe searched on 40 windows finds on fields it never saw.

For each network and fold (``train_malaria.py`` trained it on image-level labels alone): differential
evolution on 40 infected windows of the fold's calibration fields, then every contender on the infected
windows of its test fields, thresholds from the calibration windows. The folds are pooled: each infected
cell is tested once. Foreground IoU against the ellipse in each box, and, cut anew, against the box itself
(where a perfect round cell scores only .785); intervals resample fields.

    python benchmarks/malaria_cells.py --data DATA --weights runs --networks resnet34 --folds 0,1,2
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from malaria_windows import Window, WindowSet
from ssgcam import Recipe, load_model
from ssgcam.core.methods import METHODS
from ssgcam.files import write_with
from ssgcam.metrics import bootstrap_interval, paired_difference
from ssgcam.search import Calibration, search_recipe
from ssgcam.search.baselines import Mapped, rival_sweeps
from ssgcam.search.calibration import make_examples
from ssgcam.search.evidence import BEST_LAYER
from ssgcam.search.scoring import statistic
from ssgcam.search.steps import variant_name
from ssgcam.search.validation import Contender, compare
from study import DOCS, FINAL, Row, command, row, signed, table, with_interval, write_study

WINDOWS = 40
VIEWS = "same views"


def examples(
    windows: WindowSet, chosen: Sequence[Window], size: int, boxes: bool = False
) -> Calibration:
    """Windows with the ellipses (or boxes) of their infected cells; undecided cells are ignored."""
    drawn = windows.filled if boxes else windows.mask
    masks = np.stack(
        [np.where(drawn(w, size), 1, np.where(windows.difficult(w, size), 255, 0)) for w in chosen]
    ).astype(np.uint8)
    photos = [windows.image(window).resize((size, size)) for window in chosen]
    names = [f"{window.field} {window.box}" for window in chosen]
    return Calibration(photos, masks, 1, [window.field for window in chosen], names)


def spread(chosen: Sequence[Window], count: int, seed: int) -> list[Window]:
    """At most ``count`` windows, drawn evenly over the fields."""
    order = np.random.default_rng(seed).permutation(len(chosen))
    seen: dict[str, int] = {}
    ranked = []
    for index in order:
        window = chosen[index]
        seen[window.field] = seen.get(window.field, 0) + 1
        ranked.append((seen[window.field], len(ranked), window))
    return [window for _, _, window in sorted(ranked, key=lambda item: item[:2])[:count]]


def windows_of(windows: WindowSet, fold: int) -> tuple[list[Window], tuple[Window, ...]]:
    """The infected windows that calibrate and those that are tested."""
    calibration = spread(windows.fixed(fold, "calibration", healthy=0), WINDOWS, windows.seed)
    return calibration, windows.fixed(fold, "test", healthy=0)


def searched(
    windows: WindowSet, file: Path, fold: int, seed: int, generations: int, kept: Path, rivals: bool
) -> dict[str, Any]:
    """Search on the calibration windows, score on the test windows; keep the recipe.

    Args:
        windows: The data.
        file: The fold's network.
        fold: From 0.
        seed: Of the search.
        generations: Of the search.
        kept: Where the result will be; the recipe goes beside it.
        rivals: Whether to score all contenders, or the recipe alone.
    """
    model = load_model(str(file))
    size = model.preprocessing.size[0]
    calibration, tested = (examples(windows, w, size) for w in windows_of(windows, fold))
    found = search_recipe(
        model,
        calibration,
        held_out=tested if rivals else None,
        generations=generations,
        seed=seed,
        folds=0,
        cache=kept.parent / "cache",
        progress=True,
    )
    recipe = found.recipe
    recipe.save(kept.with_suffix(".json"))
    final = f"Recipe, {variant_name(recipe.augmentation, recipe.refinement)}"
    if rivals:
        rows, parts = found.report.table.rows, found.report.table.parts
        scored = {r.name: parts[r.name, "held_out"] for r in rows}
        scored[FINAL] = scored[final]
        kinds = {r.name: r.kind for r in rows}
    else:
        far, kinds = make_examples(tested, model), {}
        parts_of, _ = statistic("pooled")
        swept = Mapped.of(recipe.bind(model), far, 32).sweep(far, "pooled")
        scored = {FINAL: parts_of(swept.at(recipe.threshold, recipe.gate))}
    return {
        "parts": scored,
        "kinds": {**kinds, FINAL: "recipe"},
        "fields": list(tested.groups or ()),
        "final": final,
        "layers": [layer.name for layer in recipe.layers],
        "warnings": list(found.report.warnings),
    }


def against_boxes(
    windows: WindowSet, file: Path, fold: int, recipe: Recipe, layers: Sequence[str]
) -> dict[str, Any]:
    """The recipe and every single layer against whole boxes, cut anew on the calibration windows."""
    model = load_model(str(file))
    size = model.preprocessing.size[0]
    calibration, tested = (
        make_examples(examples(windows, part, size, boxes=True), model)
        for part in windows_of(windows, fold)
    )
    near, far = (rival_sweeps(model, part, layers, "pooled", 32) for part in (calibration, tested))
    contenders = [
        Contender(
            rival.name,
            "mean" if rival.layer is None else "ssg" if rival.method == "ssg_cam" else "single",
            near[rival],
            far[rival],
        )
        for rival in near
    ]
    bound = recipe.bind(model)
    swept = (Mapped.of(bound, part, 32).sweep(part, "pooled") for part in (calibration, tested))
    contenders.append(Contender(FINAL, "recipe", *swept))
    scored = compare(
        contenders, calibration, tested, [], "pooled", final=FINAL, gate=recipe.gate, seed=0
    )
    return {
        "parts": {row.name: scored.parts[row.name, "held_out"] for row in scored.rows},
        "kinds": {row.name: row.kind for row in scored.rows},
        "fields": list(tested.groups),
    }


def candidates(fold: dict[str, Any]) -> list[str]:
    """The candidate layers of a search, from the names of the single layers in its table."""
    prefix = f"{METHODS['ssg_cam'].title}, "
    names = [name.removeprefix(prefix) for name in fold["parts"] if fold["kinds"][name] == "ssg"]
    return [name for name in names if name != BEST_LAYER.removeprefix(prefix)]


def pooled(folds: Sequence[dict[str, Any]], name: str) -> Tensor:
    """A contender's parts on the test windows of all folds."""
    return torch.cat([fold["parts"][name] for fold in folds])


def study(
    network: str, folds: Sequence[dict[str, Any]], seed: int, truth: str = "ellipse"
) -> tuple[list[Row], str]:
    """The table of one network."""
    _, number = statistic("pooled")
    fields = [field for fold in folds for field in fold["fields"]]
    names = [n for n in folds[0]["parts"] if all(n in fold["parts"] for fold in folds)]
    kinds = folds[0]["kinds"]
    found = {
        n: bootstrap_interval(pooled(folds, n), number, seed=seed, groups=fields) for n in names
    }
    order = sorted(names, key=lambda n: -found[n].value)
    lines = [[n, kinds[n], with_interval(found[n])] for n in order]
    rows = [row("malaria_cells", network, n, "", f"IoU, {truth}", found[n], seed) for n in order]
    singles = [n for n in order if kinds[n] == "single"]
    rivals = {
        "the best single layer of another method": next(n for n in singles if VIEWS not in n),
        "the same with the recipe's views": next((n for n in singles if VIEWS in n), None),
        "the best single SSG-CAM layer": next(n for n in order if kinds[n] == "ssg"),
        "the best naive mean of all layers": next(n for n in order if kinds[n] == "mean"),
    }
    gaps = []
    for what, name in rivals.items():
        if name is None:  # plain recipes
            continue
        gap = paired_difference(
            pooled(folds, FINAL), pooled(folds, name), number, seed=seed, groups=fields
        )
        gaps.append([f"{what} ({name})", signed(gap)])
        metric = f"IoU difference, {truth}"
        rows.append(row("malaria_cells", network, f"{FINAL} - {name}", "", metric, gap, seed))
    n, groups = found[FINAL].n, found[FINAL].groups
    text = [
        f"## {network}, against the {truth}: {n} test windows of {groups} fields, {len(folds)} fold(s)",
        table(["contender", "kind", "IoU [95 %]"], lines),
        "The recipe less its rivals, paired, fields resampled:",
        table(["rival", "difference"], gaps),
    ]
    return rows, "\n\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="folder of train_malaria.py")
    parser.add_argument("--networks", default="resnet34,vgg16_bn")
    parser.add_argument("--folds", default="0,1,2", help="those without weights are left out")
    parser.add_argument(
        "--seeds", default="0", help="of the search; further ones on the first network and fold"
    )
    parser.add_argument("--generations", type=int, default=150)
    parser.add_argument("--quick", action="store_true", help="3 generations, for a smoke test")
    parser.add_argument("--work", type=Path, default=Path("runs/cells"), help="checkpoints")
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    windows = WindowSet.read(options.data / "malaria_iml")
    generations = 3 if options.quick else options.generations
    seeds = [int(seed) for seed in options.seeds.split(",")]
    all_rows: list[Row] = []
    text = ["# Malaria, infected cells", f"`{command()}`", *(__doc__ or "").split("\n\n")[1:2]]
    seeds_of = dict.fromkeys(options.networks.split(","), seeds[:1])
    seeds_of[next(iter(seeds_of))] = seeds
    for network, own_seeds in seeds_of.items():
        trained = [
            fold
            for fold in map(int, options.folds.split(","))
            if (options.weights / f"malaria_{network}_fold{fold}.pth").is_file()
        ]
        if not trained:
            parser.error(f"no malaria_{network}_fold*.pth in '{options.weights}'; train it first")
        results: dict[tuple[int, int], dict[str, Any]] = {}
        wanted = [(fold, seeds[0]) for fold in trained]
        wanted += [(trained[0], seed) for seed in own_seeds[1:]]
        for fold, seed in wanted:
            kept = options.work / f"{network}_fold{fold}_seed{seed}_{generations}.pt"
            if not kept.exists():
                file = options.weights / f"malaria_{network}_fold{fold}.pth"
                rivals = seed == seeds[0]
                content = searched(windows, file, fold, seed, generations, kept, rivals)
                write_with(kept, lambda path, content=content: torch.save(content, path))
            results[fold, seed] = torch.load(kept, weights_only=True)
        folds = [results[fold, seeds[0]] for fold in trained]
        rows, section = study(network, folds, seeds[0])
        all_rows += rows
        used = "; ".join(
            f"fold {k}: {', '.join(f['layers'])} ({f['final']})"
            for k, f in zip(trained, folds, strict=True)
        )
        text += [section, f"Layers of the recipes: {used}."]
        if len(own_seeds) > 1:
            _, number = statistic("pooled")
            first = trained[0]
            values = [
                float(number(results[first, s]["parts"][FINAL].double().mean(0)[None])[0])
                for s in seeds
            ]
            text.append(
                f"Seeds {options.seeds} of the search on fold {first}: IoU "
                f"{', '.join(f'{v:.3f}' for v in values)}; highest less lowest "
                f"{max(values) - min(values):.3f}."
            )
        boxed = []
        for fold in trained:
            kept = options.work / f"{network}_fold{fold}_seed{seeds[0]}_{generations}.pt"
            file = kept.with_name(f"{kept.stem}_boxes.pt")
            if not file.exists():
                recipe = Recipe.load(kept.with_suffix(".json"))
                weights = options.weights / f"malaria_{network}_fold{fold}.pth"
                layers = candidates(results[fold, seeds[0]])
                content = against_boxes(windows, weights, fold, recipe, layers)
                write_with(file, lambda path, content=content: torch.save(content, path))
            boxed.append(torch.load(file, weights_only=True))
        rows, section = study(network, boxed, seeds[0], "box")
        all_rows += rows
        text.append(section)
    write_study("malaria_cells", all_rows, "\n\n".join(text), options.out)
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
