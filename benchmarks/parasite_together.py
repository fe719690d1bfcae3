"""Parasites: the recipes of the study together, their maps averaged.

Networks of one architecture and training err alike (nine adapted ResNet34 are no better than three),
others less. The recipes are those that ``malaria_parasites.py`` found for each field, of three networks
each, all that reach the bar for the foreground: ResNet34 zero-shot and adapted, VGG16 adapted. Nothing is
searched here. Of every window the map of several is the mean of theirs, each by its largest value, at
ResNet34's input size. Thresholds come from the other seven fields, "moved" as there; intervals resample
fields. The adapted ones were averaged first; that the zero-shot one joins them is of after their score.

    python benchmarks/parasite_together.py --data DATA
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from color import mask_counts
from ensemble import ensemble
from malaria_parasites import examples
from parasite_contenders import parts_of, recipe_file, recipe_maps
from parasite_fields import Field, read_fields
from parasite_levels import METRICS, Level
from parasite_offset import best_move, moved, moved_title, peers_of
from parasite_report import BARS
from ssgcam import Recipe
from ssgcam.core import fusion as pipeline
from ssgcam.search import Examples
from ssgcam.search.scoring import choose_cut, sweep
from study import DOCS, FINAL, command, row, signed, table, with_interval, write_study

STUDY = "parasite_together"
#: Network and variant of each recipe, and the folder of its networks and recipes inside ``--runs``.
RECIPES = {
    "ResNet34, adapted": ("resnet34", "adapted", "parasites"),
    "VGG16, adapted": ("vgg16_bn", "adapted", "parasites_whole"),
    "ResNet34, zero-shot": ("resnet34", "zero-shot", "parasites"),
}
BOTH, ALL = "Both adapted", "All three"
#: Of ``malaria_parasites.py``'s recipes, as it ran for its page.
TAG = "white_size56_seed0_60"


def maps_of(title: str, fields: dict[str, Field], runs: Path) -> tuple[dict[str, Tensor], Examples]:
    """By field the maps of its recipe on all windows, ``[N, *input]``, and the windows."""
    network, variant, folder = RECIPES[title]
    options = argparse.Namespace(
        networks=network, variants=variant, weights=runs, work=runs / folder,
        starts="0,1,2", adapted="0,1,2", seeds="0",
    )  # fmt: skip
    found: dict[str, Tensor] = {}
    for part in parts_of(options, list(fields)):
        model = ensemble(part.models)
        known = examples(list(fields.values()), model)
        recipes = {
            name: Recipe.load(recipe_file(runs / folder / TAG, part, name, FINAL))
            for name in part.fields
        }
        maker = recipe_maps(model, recipes)
        made = [maker(images) for images in known.images.split(8)]
        found |= {name: torch.cat([each[name] for each in made]) for name in recipes}
    return found, known


def together(several: Sequence[Tensor]) -> Tensor:
    """The mean of several recipes' maps of the same windows."""
    return pipeline.scale(torch.stack([pipeline.scale(maps) for maps in several]).mean(0))


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
    found = {title: maps_of(title, fields, options.runs) for title in RECIPES}
    _, known = found["ResNet34, adapted"]
    contenders = {
        title: {field: pipeline.resize(each, known.size) for field, each in maps.items()}
        for title, (maps, _) in found.items()
    }
    adapted = [title for title, (_, variant, _) in RECIPES.items() if variant == "adapted"]
    for title, members in ((BOTH, adapted), (ALL, list(RECIPES))):
        contenders[title] = {f: together([contenders[m][f] for m in members]) for f in fields}
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
    for rival in (*RECIPES, BOTH):
        for metric in BARS:
            gap = level.lead(ALL, rival, metric)
            title = f"{ALL} - {rival}"
            leads.append([title, metric, signed(gap)])
            rows.append(row(STUDY, "resnet34 and vgg16_bn", title, "", f"{metric} difference", gap))
    text = [
        "# Malaria, parasites: recipes together",
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
