"""Whole fields of the benchmark of parasites: averaged windows, thresholds from other fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ensemble import ensemble
from parasite_contenders import (
    SINGLES,
    Maps,
    Part,
    field_colors,
    recipe_file,
    recipe_maps,
    rivals_of,
)
from parasite_fields import Field
from ssgcam import LoadedModel, Recipe
from ssgcam.core import fusion as pipeline
from ssgcam.core.blocks import block_layers
from ssgcam.search.scoring import Sweep, choose_cut, sweep
from study import FINAL

#: Lowest class probabilities of a window that are tried.
GATES = (0.1, 0.5, 0.9)
GATED = "Color in windows called infected"


def field_sweeps(
    model: LoadedModel, field: Field, makers: Sequence[Maps]
) -> dict[str, dict[float, Sweep]]:
    """By contender and gate: counts of a whole field at every threshold.

    A pixel's score is the average over windows of the window's probability times its map, zero in a
    window below the gate, as :mod:`ssgcam.bulk.segmenter` does it.
    """
    inputs = model.preprocessing([field.photo(box) for box in field.grid])
    with torch.inference_mode():
        logits = torch.cat([model.network(part) for part in inputs.split(32)])
    sure = model.probabilities(logits)[:, 1].tolist()
    colors = field_colors(field)
    averages: dict[tuple[str, float], Any] = {}
    names = {f"{GATED}: {name}" for name in colors}
    names |= {name for maker in makers for name in maker(inputs[:1])}  # where no window passes, too
    passed = [number for number, probability in enumerate(sure) if probability >= GATES[0]]
    for start in range(0, len(passed), 8):
        numbers = passed[start : start + 8]
        maps = {n: each for maker in makers for n, each in maker(inputs[numbers]).items()}
        for row, number in enumerate(numbers):
            left, top, right, bottom = box = field.grid[number]
            size = (bottom - top, right - left)
            cut = {name: pipeline.resize(each[row][None], size)[0] for name, each in maps.items()}
            for name, each in colors.items():
                cut[f"{GATED}: {name}"] = each[top:bottom, left:right]
            for name, values in cut.items():
                for gate in GATES:
                    if sure[number] >= gate:
                        if (name, gate) not in averages:
                            averages[name, gate] = field.windows.average(*field.size)
                        averages[name, gate].add(box, sure[number] * values)
    truth, always = torch.from_numpy(field.mask)[None], torch.ones(1)
    found: dict[str, dict[float, Sweep]] = {}
    for name in sorted(names):
        for gate in GATES:
            made = averages.get((name, gate))
            scores = torch.zeros(1, *field.size) if made is None else made.finished()[None]
            found.setdefault(name, {})[gate] = sweep(scores, truth, always, "pooled")
    for name, values in colors.items():
        found[f"Color: {name}"] = {0.0: sweep(values[None], truth, always, "pooled")}
    return found


def run_fields(fields: dict[str, Field], part: Part, work: Path) -> dict[str, Any]:
    """Gates and thresholds from the other whole fields, scored on each tested one.

    A field's recipe, and the single layers that the search gave their settings, see each window in the
    recipe's flips, without its input scales; all else sees it once: more would take hours on two cores.
    """
    models = part.models
    model = ensemble(models)
    titles = [FINAL, *SINGLES]
    recipes = {}
    for name in part.fields:
        known = {title: Recipe.load(recipe_file(work, part, name, title)) for title in titles}
        flips = replace(known[FINAL].augmentation, scales=(1.0,))
        for title, each in known.items():
            recipes[f"{title}: {name}"] = replace(each, augmentation=flips, refinement=None)
    layers = block_layers(models[0].network, torch.zeros(1, 3, *model.preprocessing.size))
    rivals = rivals_of(models, layers)
    makers = [
        lambda images: {rival.name: maps for rival, maps in rivals(images).items()},
        recipe_maps(model, recipes),
    ]
    sweeps = {name: field_sweeps(model, field, makers) for name, field in fields.items()}
    result: dict[str, Any] = {"fields": {}}
    for tested in part.fields:
        parts, cuts = {}, {}
        for name, by_gate in sweeps[tested].items():
            title = next((t for t in titles if name.startswith(f"{t}: ")), None)
            if title is not None and name != f"{title}: {tested}":
                continue
            best = (-1.0, 0.0, 0.0)
            for gate in by_gate:
                rest = [sweeps[other] for other in fields if other != tested]
                joined = Sweep.joined([each[name][gate] for each in rest if name in each])
                threshold, _, score = choose_cut(joined, "pooled", gate=0.0)
                best = max(best, (score, threshold, gate))
            parts[title or name] = by_gate[best[2]].at(best[1], 0.0).confusions
            cuts[title or name] = best
        result["fields"][tested] = {"parts": parts, "cuts": cuts}
    return result
