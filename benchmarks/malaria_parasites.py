"""Malaria, parasites in the fields of two other laboratories, by leave-one-field-out.

Each of the eight fields is tested with a recipe that was searched on windows of the other seven, two
windows around each outlined parasite, moved at random. Zero-shot: the networks of study 1 as they are
(one of each of its folds), so that outlines of the other fields calibrate the recipe and nothing else.
Adapted: the networks also saw windows of six other fields with the label "shows a parasite"
(``train_parasites.py``; four folds that leave out one field of each laboratory; of VGG16 its last stage
alone, or all of it with ``--whole``, which is the page ``malaria_parasites_vgg16``). A variant's networks
work as one (``ensemble.py``): every contender's maps are averaged over them. Thresholds of all contenders
are chosen on the other seven fields. The recipe is searched on maps averaged over a flip and three input
scales (over the four flips with ``--quick``); flips alone and PAMR are tried on what it found and kept if
the other fields say so. "Moved": the masks are shifted as far as those of the laboratory's other fields
must be to fit their outlines best (``parasite_offset.py``); that was added after the bar for the mean had
been missed without it. Intervals resample fields, of which there are eight.

    python benchmarks/malaria_parasites.py --data DATA --weights runs
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from color import best_otsu, calibrated_cut, mask_counts
from ensemble import averaged, ensemble, written_out
from parasite_contenders import (
    BEST_LAYER,
    LAYER_CAM,
    SINGLES,
    Part,
    field_colors,
    kind_of,
    parts_of,
    recipe_file,
    recipe_maps,
    rivals_of,
)
from parasite_fields import Field, read_fields
from parasite_offset import MOVED, best_move, moved, moved_title, peers_of
from parasite_report import STUDY, write_report
from parasite_whole import run_fields
from ssgcam import LoadedModel
from ssgcam.bound_recipe import refined
from ssgcam.core import fusion as pipeline
from ssgcam.core.augment import Augmentation
from ssgcam.core.blocks import block_layers
from ssgcam.files import write_with
from ssgcam.recipe import Recipe
from ssgcam.search import Calibration, Examples, MapGrid, SearchSettings, build_cache, make_examples
from ssgcam.search.baselines import Rival
from ssgcam.search.scoring import Sweep, choose_cut, sweep
from ssgcam.search.steps import draft, variant_name
from study import DOCS, FINAL

#: Windows around each parasite.
COPIES = 2
FLIPS = Augmentation("both")
SCALES = Augmentation("horizontal", (1.0, 1.5, 2.0))
GRID = MapGrid(sigmas=(0.0, 0.03, 0.06), exponents=((1.0, 0.0), (0.3, 0.3)), gammas=(0.5, 1.0))
SMALL_GRID = MapGrid(sigmas=(0.0, 0.06), exponents=((1.0, 0.0), (0.3, 0.3)), gammas=(0.5, 1.0))


def examples(fields: Sequence[Field], model: LoadedModel) -> Examples:
    """Windows around the parasites of some fields."""
    windows = [(field, box) for field in fields for box in field.around(COPIES)]
    return make_examples(
        Calibration(
            [field.photo(box) for field, box in windows],
            [field.truth(box) for field, box in windows],
            1,
            [field.name for field, _ in windows],
            [f"{field.name} {box}" for field, box in windows],
        ),
        model,
    )


def window_colors(fields: Sequence[Field], size: tuple[int, int]) -> dict[str, Tensor]:
    """The same in the windows of :func:`examples`, ``[N, *size]``."""
    found: dict[str, list[Tensor]] = {}
    for field in fields:
        for name, maps in field_colors(field).items():
            for left, top, right, bottom in field.around(COPIES):
                cut = pipeline.resize(maps[None, top:bottom, left:right], size)
                found.setdefault(name, []).append(cut[0])
    return {name: torch.stack(maps) for name, maps in found.items()}


def run_windows(
    fields: dict[str, Field], part: Part, settings: SearchSettings, work: Path
) -> dict[str, Any]:
    """For each tested field: a search on the others' windows, and everything scored on its own."""
    models = part.models
    model = ensemble(models)
    known = examples(list(fields.values()), model)
    names = block_layers(models[0].network, known.images[:1])
    cache = averaged(
        [
            build_cache(
                each,
                known,
                names,
                grid=settings.grid,
                size=settings.size,
                augmentation=settings.views[0],
                batch_size=4,
            )
            for each in models
        ]
    )
    swept: dict[str, Sweep] = {}
    kinds: dict[str, str] = {}
    gathered: dict[Rival, list[Tensor]] = {}
    rivals = rivals_of(models, names)
    for images in known.images.split(8):
        for rival, made in rivals(images).items():
            gathered.setdefault(rival, []).append(made.half())
    for rival, parts_ in gathered.items():
        maps_ = torch.cat(parts_).float()
        swept[rival.name] = sweep(maps_, known.masks, known.probabilities, "pooled")
        kinds[rival.name] = kind_of(rival)
    rows, others = (
        {
            name: torch.tensor([i for i, each in enumerate(known.groups) if (each == name) == own])
            for name in part.fields
        }
        for own in (True, False)
    )
    recipes: dict[str, Recipe] = {}
    for name in part.fields:
        found = draft(
            model,
            cache,
            known,
            settings,
            settings.views[0],
            rows=others[name].tolist(),
            progress=True,
        )
        plain = written_out(found.recipe, len(models))
        recipes[f"{name}: Recipe"] = plain
        for number, views in enumerate(settings.augmentations):
            recipes[f"{name}: {number}"] = replace(plain, augmentation=views)
        recipes[f"{name}: {BEST_LAYER}"] = written_out(found.best_layer, len(models))
        assert found.layer_cam is not None
        recipes[f"{name}: {LAYER_CAM}"] = written_out(found.layer_cam, len(models))
    del cache
    maker = recipe_maps(model, recipes)
    assert settings.refinement is not None
    batches = []
    for images in known.images.split(8):
        made = maker(images)
        found_ = [made[f"{name}: Recipe"] for name in part.fields]
        stacked = torch.stack(found_, 1)  # all fields' at once: they share affinities
        polished = refined(images, stacked.flatten(0, 1), settings.refinement).view(stacked.shape)
        finer = zip(part.fields, polished.unbind(1), strict=True)
        batches.append(made | {f"{name}: PAMR": each for name, each in finer})
    maps = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    colors = window_colors(list(fields.values()), known.size)
    result: dict[str, Any] = {"fields": {}}
    for name in part.fields:
        test, rest = rows[name], others[name]
        versions = _versions(recipes, maps, name, settings)
        candidates = swept | {
            title: sweep(made, known.masks, known.probabilities, "pooled")
            for title, (_, made) in versions.items()
        }
        cuts = {
            title: choose_cut(counts, "pooled", rest, 0.0) for title, counts in candidates.items()
        }
        tried = [title for title in versions if title not in SINGLES]
        best = max(tried, key=lambda title: cuts[title][2])
        if cuts[best][2] <= cuts[tried[0]][2] + settings.margin:
            best = tried[0]
        final = replace(versions[best][0], threshold=cuts[best][0])
        kept = {FINAL: final} | {title: versions[title][0] for title in SINGLES}
        for title, each in kept.items():
            each.save(recipe_file(work, part, name, title))
        parts = {
            title: counts.at(cuts[title][0], 0.0, test).confusions
            for title, counts in candidates.items()
        }
        parts[FINAL] = parts[best]
        peers, moves = peers_of(name, known.groups), {}
        for title, source in {MOVED: best, **{moved_title(each): each for each in SINGLES}}.items():
            drawn = pipeline.threshold(versions[source][1], cuts[source][0])
            moves[title] = best_move(drawn[peers], known.masks[peers])
            fitted = moved(drawn[test], moves[title])
            parts[title] = mask_counts(fitted, known.masks[test]).confusions
        notes = {}
        for title, chosen in {
            "Color threshold from the other fields": calibrated_cut(
                {key: values[rest] for key, values in colors.items()},
                known.masks[rest],
                {key: values[test] for key, values in colors.items()},
            ),
            "Otsu on color": best_otsu(
                {key: values[rest] for key, values in colors.items()},
                known.masks[rest],
                {key: values[test] for key, values in colors.items()},
            ),
        }.items():
            notes[title] = chosen[0]
            parts[title] = mask_counts(chosen[1], known.masks[test]).confusions
        result["fields"][name] = {
            "parts": parts,
            "kinds": kinds
            | dict.fromkeys([*tried, FINAL], "recipe")
            | dict.fromkeys(notes, "no network")
            | dict.fromkeys(moves, "moved")
            | SINGLES,
            "calibration": {title: cut[2] for title, cut in cuts.items()},
            "notes": notes,
            "layers": [layer.name for layer in final.layers],
            "chosen": best,
            "moves": moves,
            "masks": pipeline.threshold(versions[best][1][test], final.threshold),
            "truth": known.masks[test],
        }
    return result


def _versions(
    recipes: dict[str, Recipe], maps: dict[str, Tensor], field: str, settings: SearchSettings
) -> dict[str, tuple[Recipe, Tensor]]:
    """A field's recipe, with PAMR as well, with other views instead, and single layers."""
    plain = recipes[f"{field}: Recipe"]
    versions = {"Recipe": plain, "PAMR": replace(plain, refinement=settings.refinement)}
    versions |= {str(k): recipes[f"{field}: {k}"] for k in range(len(settings.augmentations))}
    found = {
        f"Recipe, {variant_name(each.augmentation, each.refinement)}": (
            each,
            maps[f"{field}: {key}"],
        )
        for key, each in versions.items()
    }
    return found | {t: (recipes[f"{field}: {t}"], maps[f"{field}: {t}"]) for t in SINGLES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="folder of train_malaria.py")
    parser.add_argument("--networks", default="resnet34,vgg16_bn")
    parser.add_argument("--starts", default="0,1,2", help="folds of study 1 whose networks serve")
    parser.add_argument("--adapted", default="0,1", help="the same, of the adapted networks")
    parser.add_argument("--seeds", default="0", help="of the adapted networks from each start")
    parser.add_argument("--variants", default="zero-shot,adapted")
    parser.add_argument("--only", default="", help="run this part, such as fold0_; write no page")
    parser.add_argument("--stage", default="all", choices=["windows", "all"])
    parser.add_argument("--generations", type=int, default=60)
    parser.add_argument("--size", type=int, default=56, help="working side of the search")
    parser.add_argument("--balance", default="white", choices=["white", "none"], help="of fields")
    parser.add_argument("--quick", action="store_true", help="a small search without input scales")
    parser.add_argument("--work", type=Path, default=Path("runs/parasites"), help="checkpoints")
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--page", default=STUDY, help="name of what is written there")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    fields = read_fields(options.data / "malaria_masks", options.balance == "white")
    settings = SearchSettings(
        generations=20 if options.quick else options.generations,
        population=60 if options.quick else 160,
        seed=options.seed,
        size=(options.size, options.size),
        grid=SMALL_GRID if options.quick else GRID,
        views=(FLIPS if options.quick else SCALES,),
        augmentations=() if options.quick else (FLIPS,),
    )
    tag = (
        f"{options.balance}_size{options.size}_seed{options.seed}_{settings.generations}"
        + "_quick" * options.quick
    )
    results: dict[str, dict[str, dict[str, Any]]] = {}
    networks: dict[str, list[Path]] = {}
    for part in parts_of(options, list(fields)):
        if options.only not in part.name:
            continue
        missing = [file for file in part.files if not file.exists()]
        if missing:
            print(f"no '{missing[0]}', so {', '.join(part.fields)} are left out")
            continue
        kept = results.setdefault(part.variant, {"windows": {}, "fields": {}})
        networks.setdefault(part.variant, []).extend(part.files)
        folder = options.work / tag

        def windows(part: Part = part, folder: Path = folder) -> dict[str, Any]:
            return run_windows(fields, part, settings, folder)

        def whole(part: Part = part, folder: Path = folder) -> dict[str, Any]:
            return run_fields(fields, part, folder)

        kept["windows"] |= _kept(folder / f"{part.name}_windows.pt", windows)["fields"]
        done = folder / f"{part.name}_fields.pt"
        if options.stage == "all" or done.exists():
            kept["fields"] |= _kept(done, whole)["fields"]
    if not options.only:
        about = (__doc__ or "").split("\n\n")[1]
        write_report(results, list(fields), networks, options.out, about, options.page)


def _kept(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A finished part: read if it is there, else made and written."""
    if not file.exists():
        content = make()
        write_with(file, lambda path: torch.save(content, path))
    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


if __name__ == "__main__":
    main()
