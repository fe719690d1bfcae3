"""Parasites, adapted: ResNet34's recipe and VGG16's together, their maps averaged.

Networks of one architecture err alike (nine ResNet34 are no better than three), those of two less. The
recipes are those that ``malaria_parasites.py`` found for each field and each architecture, three adapted
networks each; nothing is searched here. Of every window the map of both is the mean of theirs, each by
its largest value, at ResNet34's input size. Thresholds come from the other seven fields, "moved" as
there; intervals resample fields.

    python benchmarks/parasite_both.py --data DATA
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from colour import mask_counts
from ensemble import ensemble
from malaria_parasites import examples
from parasite_contenders import Part, parts_of, recipe_file, recipe_maps
from parasite_fields import Field, read_fields
from parasite_levels import METRICS, Level
from parasite_offset import best_move, moved, moved_title, peers_of
from parasite_report import BARS
from ssgcam import Recipe
from ssgcam.core import maps as pipeline
from ssgcam.search import Examples
from ssgcam.search.scoring import choose_cut, sweep
from study import DOCS, FINAL, command, row, signed, table, with_interval, write_study

STUDY = "parasite_both"
BOTH = "Both"
#: Folder of each architecture's adapted networks, inside ``--runs``.
FOLDERS = {"resnet34": "parasites", "vgg16_bn": "parasites_whole"}
#: Of ``malaria_parasites.py``'s recipes, as it ran for its page.
TAG = "white_size56_seed0_60"


def parts(network: str, fields: dict[str, Field], runs: Path) -> list[Part]:
    """Three adapted networks for each fold."""
    options = argparse.Namespace(
        networks=network,
        variants="adapted",
        work=runs / FOLDERS[network],
        seeds="0",
        adapted="0,1,2",
    )
    return parts_of(options, list(fields))


def maps_of(
    network: str, fields: dict[str, Field], runs: Path
) -> tuple[dict[str, Tensor], Examples]:
    """By field the maps of its recipe on all windows, ``[N, *input]``, and the windows."""
    found: dict[str, Tensor] = {}
    for part in parts(network, fields, runs):
        model = ensemble(part.models)
        known = examples(list(fields.values()), model)
        folder = runs / FOLDERS[network] / TAG
        recipes = {n: Recipe.load(recipe_file(folder, part, n, FINAL)) for n in part.fields}
        maker = recipe_maps(model, recipes)
        made = [maker(images) for images in known.images.split(8)]
        found |= {name: torch.cat([each[name] for each in made]) for name in recipes}
    return found, known


def together(one: Tensor, other: Tensor) -> Tensor:
    """The mean of two recipes' maps of the same windows."""
    return pipeline.scale(pipeline.scale(one) + pipeline.scale(other))


def level_of(
    maps: dict[str, dict[str, Tensor]], masks: Tensor, groups: Sequence[str], probabilities: Tensor
) -> Level:
    """Score contenders, leave-one-field-out.

    Args:
        maps: By contender and field: all windows' maps ``[N, H, W]``, of a recipe that did not see it.
        masks: ``[N, H, W]``, 255 is ignored.
        groups: The field of each window.
        probabilities: ``[N]``; no gate is used.
    """
    titles = [*maps, *map(moved_title, maps)]
    found = {title: torch.zeros(len(groups), 2, 2, dtype=torch.float64) for title in titles}
    for field in dict.fromkeys(groups):
        own = torch.tensor([group == field for group in groups])
        test, rest = own.nonzero()[:, 0], (~own).nonzero()[:, 0]
        for title, by_field in maps.items():
            made = by_field[field]
            cut = choose_cut(sweep(made, masks, probabilities, "pooled"), "pooled", rest, 0.0)[0]
            drawn = pipeline.threshold(made, cut)
            peers = peers_of(field, groups)
            move = best_move(drawn[peers], masks[peers])
            for name, each in (
                (title, drawn[test]),
                (moved_title(title), moved(drawn[test], move)),
            ):
                found[name][test] = mask_counts(each, masks[test]).confusions.double()
    return Level(found, dict.fromkeys(found, "recipe"), list(groups))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="holds both studies' folders"
    )
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    fields = read_fields(options.data / "malaria_masks")
    resnet, known = maps_of("resnet34", fields, options.runs)
    vgg, _ = maps_of("vgg16_bn", fields, options.runs)
    vgg = {field: pipeline.resize(each, known.size) for field, each in vgg.items()}
    both = {field: together(each, vgg[field]) for field, each in resnet.items()}
    contenders = {"resnet34": resnet, "vgg16_bn": vgg, BOTH: both}
    level = level_of(contenders, known.masks, known.groups, known.probabilities)
    names = list(fields)
    rows = [
        row(STUDY, "resnet34 and vgg16_bn", name, "", metric, level.found(name, metric))
        for name in level.parts
        for metric in METRICS
    ]
    lines = [
        [n, *(with_interval(level.found(n, metric)) for metric in METRICS)] for n in level.parts
    ]
    by_field = [[n, *(f"{level.value(n, field):.2f}" for field in names)] for n in level.parts]
    leads = []
    for network in FOLDERS:
        for metric in BARS:
            gap = level.lead(BOTH, network, metric)
            title = f"{BOTH} - {network}"
            leads.append([title, metric, signed(gap)])
            rows.append(row(STUDY, "resnet34 and vgg16_bn", title, "", f"{metric} difference", gap))
    text = [
        "# Malaria, parasites: two architectures together",
        f"`{command()}`",
        (__doc__ or "").split("\n\n")[1],
        f"{len(level.groups)} windows with a parasite of {len(names)} fields. The bars: "
        + ", ".join(f"{metric} {bar}" for metric, bar in BARS.items())
        + ".",
        table(["maps", *METRICS], lines),
        table(["difference", "of", "[95 %]"], leads),
        table(["foreground IoU", *names], by_field),
    ]
    write_study(STUDY, rows, "\n\n".join(text), options.out)
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
