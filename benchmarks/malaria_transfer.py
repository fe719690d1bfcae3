"""Does a recipe that was searched on one network serve another?

Each recipe of ``malaria_cells.py`` is carried to the other architecture of the same fold (each layer to
the block of the nearest resolution, then depth) and to the same architecture of the next fold, which is
another network, trained on other fields. Its threshold is kept, or chosen anew on the 40 calibration
windows of the target's fold; layers, weights and settings stay. IoU against the ellipse on infected
windows of the target's test fields, beside the target's own recipe and the best single layer of
another method (on the same windows). Windows whose fields calibrated the recipe are left out.

    python benchmarks/malaria_transfer.py --data DATA --weights runs --work runs/cells
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from malaria_cells import examples, windows_of
from malaria_windows import WindowSet
from ssgcam import CAM, LoadedModel, Recipe, load_model
from ssgcam.core.blocks import block_layers
from ssgcam.files import write_with
from ssgcam.fingerprint import Fingerprint, parameter_hash
from ssgcam.metrics import bootstrap_interval, paired_difference
from ssgcam.recipe import RecipeLayer
from ssgcam.search.baselines import Mapped
from ssgcam.search.calibration import Examples, make_examples
from ssgcam.search.scoring import choose_cut, statistic
from study import DOCS, FINAL, Row, command, row, signed, table, with_interval, write_study

Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Target:
    """A network with its calibration and test windows."""

    network: str
    fold: int
    model: LoadedModel
    near: Examples
    far: Examples
    shapes: dict[str, Shape]

    @classmethod
    def read(cls, windows: WindowSet, weights: Path, network: str, fold: int) -> Target:
        """Load the network and run it once over its windows."""
        model = load_model(str(weights / f"malaria_{network}_fold{fold}.pth"))
        size = model.preprocessing.size[0]
        near, far = (
            make_examples(examples(windows, part, size), model)
            for part in windows_of(windows, fold)
        )
        names = block_layers(model.network, near.images[:1])
        signals, _ = CAM(model, names).signals(near.images[:1], near.classes[:1])
        shapes = {
            name: (each.activation.shape[1], each.activation.shape[2], each.activation.shape[3])
            for name, each in signals.items()
        }
        return cls(network, fold, model, near, far, shapes)

    def parts(self, recipe: Recipe) -> dict[str, Tensor]:
        """``[N, 2, 2]`` of the test windows, cut as the recipe says and anew."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*parameters.*")
            bound = recipe.bind(self.model)
        parts_of, _ = statistic("pooled")
        near, far = (
            Mapped.of(bound, part, 32).sweep(part, "pooled") for part in (self.near, self.far)
        )
        anew, gate, _ = choose_cut(near, "pooled", gate=recipe.gate)
        cuts = {"as it is": recipe.threshold, "threshold anew": anew}
        return {name: parts_of(far.at(cut, gate)) for name, cut in cuts.items()}


def carried(recipe: Recipe, source: Target, target: Target) -> Recipe:
    """The recipe for another network: its layers go to the blocks that are most alike.

    Nearest resolution relative to the input first, then nearest relative depth. Of layers that meet in
    one block the heavier gives its settings; their weights are added.
    """
    depth = {name: k / len(source.shapes) for k, name in enumerate(source.shapes)}
    places = {name: k / len(target.shapes) for k, name in enumerate(target.shapes)}

    def distance(layer: RecipeLayer, name: str) -> tuple[float, float]:
        strides = (
            source.near.size[0] / layer.shape[1],
            target.near.size[0] / target.shapes[name][1],
        )
        return round(abs(math.log2(strides[0] / strides[1])), 1), abs(
            depth[layer.name] - places[name]
        )

    found: dict[str, RecipeLayer] = {}
    for layer in sorted(recipe.layers, key=lambda each: -each.weight):
        name = min(places, key=lambda each: distance(layer, each))
        settled = found.get(name)
        weight = layer.weight + (settled.weight if settled else 0.0)
        found[name] = replace(settled or layer, name=name, shape=target.shapes[name], weight=weight)
    model = target.model
    network = Fingerprint(
        Path(model.name).name, target.near.size, parameter_hash(model.network), model.output
    )
    return replace(recipe, layers=tuple(found.values()), network=network)


def unseen(windows: WindowSet, folds: Sequence[int], shift: int) -> list[int]:
    """The test windows of these folds whose fields did not calibrate the recipe they are given."""
    found, start = [], 0
    for k, fold in enumerate(folds):
        used = {window.field for window in windows_of(windows, folds[k + shift])[0]}
        tested = windows_of(windows, fold)[1]
        found += [start + row for row, window in enumerate(tested) if window.field not in used]
        start += len(tested)
    return found


def best_rival(folds: Sequence[dict[str, Tensor]], kinds: dict[str, str]) -> str:
    """The single layer of another method that scores best on the test windows."""
    _, number = statistic("pooled")
    names = [n for n, kind in kinds.items() if kind == "single" and all(n in f for f in folds)]
    return max(
        names, key=lambda n: float(number(torch.cat([f[n] for f in folds]).double().mean(0)[None]))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="folder of train_malaria.py")
    parser.add_argument("--work", type=Path, required=True, help="folder of malaria_cells.py")
    parser.add_argument("--networks", default="resnet34,vgg16_bn")
    parser.add_argument("--folds", default="0,1,2")
    parser.add_argument("--generations", type=int, default=150, help="of the recipes in --work")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two folds")
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args()
    numbers = [int(fold) for fold in options.folds.split(",")][: 2 if options.quick else None]
    names = options.networks.split(",")
    windows = WindowSet.read(options.data / "malaria_iml")

    @cache
    def target(name: str, fold: int) -> Target:
        return Target.read(windows, options.weights, name, fold)

    def kept(name: str, fold: int) -> Path:
        return Path(options.work / f"{name}_fold{fold}_seed{options.seed}_{options.generations}.pt")

    _, number = statistic("pooled")
    rows: list[Row] = []
    text = [
        "# Malaria, infected cells: carrying a recipe to another network",
        f"`{command()}`",
        *(__doc__ or "").split("\n\n")[1:2],
    ]
    for name in names:
        own = [torch.load(kept(name, fold), weights_only=True) for fold in numbers]
        fields = [field for fold in own for field in fold["fields"]]
        rival = best_rival([fold["parts"] for fold in own], own[0]["kinds"])
        found = {
            "its own recipe": torch.cat([fold["parts"][FINAL] for fold in own]),
            f"best single layer of another method ({rival})": torch.cat(
                [fold["parts"][rival] for fold in own]
            ),
        }
        fresh: dict[str, list[int]] = {}
        sources = {f"recipe of {other}, same fold": (other, 0) for other in names if other != name}
        sources["recipe of the previous fold's network"] = (name, -1)
        for title, (other, shift) in sources.items():
            parts = []
            for k, fold in enumerate(numbers):
                source = other, numbers[k + shift]
                file = options.work / f"{name}_fold{fold}_by_{other}_fold{source[1]}.pt"
                if not file.exists():
                    recipe = Recipe.load(kept(*source).with_suffix(".json"))
                    theirs, own_ = target(*source), target(name, fold)
                    content = own_.parts(carried(recipe, theirs, own_))
                    write_with(file, lambda path, content=content: torch.save(content, path))
                parts.append(torch.load(file, weights_only=True))
            for cut in parts[0]:
                found[f"{title}, {cut}"] = torch.cat([part[cut] for part in parts])
                fresh[f"{title}, {cut}"] = unseen(windows, numbers, shift)
        lines = []
        for title, parts_ in found.items():
            rows_ = fresh.get(title, list(range(len(fields))))
            groups = [fields[k] for k in rows_]
            value = bootstrap_interval(parts_[rows_], number, seed=0, groups=groups)
            rows.append(row("malaria_cells", name, title, "", "IoU, ellipse, transfer", value))
            against = list(found.values())[1][rows_]
            gap = paired_difference(parts_[rows_], against, number, seed=0, groups=groups)
            lines.append(
                [
                    title,
                    str(len(rows_)),
                    with_interval(value),
                    signed(gap),
                ]
            )
        text += [
            f"## On {name}: {len(fields)} windows, {len(numbers)} folds",
            table(["recipe", "windows", "IoU [95 %]", "less the best single layer"], lines),
        ]
    write_study("malaria_transfer", rows, "\n\n".join(text), options.out)
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
