"""The parasite benchmark from windows to scores, on synthetic fields and small networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ssgcam.core.augment import Augmentation
from ssgcam.models import LoadedModel
from ssgcam.preprocessing import Preprocessing
from ssgcam.search import SearchSettings

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import malaria_parasites
from parasite_contenders import Part, recipe_file
from parasite_fields import CLASS_NAMES, Field
from parasite_offset import MOVED
from parasite_whole import run_fields
from study import FINAL

SETTINGS = SearchSettings(
    generations=2,
    population=10,
    size=(16, 16),
    grid=malaria_parasites.SMALL_GRID,
    views=(Augmentation("horizontal"),),
    augmentations=(Augmentation("none"),),
)


class TwoSmall(Part):
    """Two networks that are in no file."""

    @property
    def models(self) -> list[LoadedModel]:
        found = []
        for seed in range(2):
            torch.manual_seed(seed)
            network = nn.Sequential(
                nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(),
                nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2),
            ).eval()  # fmt: skip
            found.append(LoadedModel(network, "small", Preprocessing((32, 32)), CLASS_NAMES))
        return found


def field(name: str, half: int) -> Field:
    """120x120 px with three dark parasites; outlines are ``half`` px to each side of the middle."""
    generator = np.random.default_rng([*name.encode()])
    pixels = generator.integers(170, 220, (120, 120, 3), dtype=np.uint8)
    mask = np.zeros((120, 120), np.uint8)
    for y, x in ((30, 35), (60, 90), (90, 40)):
        pixels[y - 4 : y + 5, x - 4 : x + 5] = (90, 0, 90)
        mask[y - half : y + half + 1, x - half : x + half + 1] = 1
    return Field(name, pixels, mask)


@pytest.fixture(scope="module")
def results(tmp_path_factory: Any) -> dict[str, Any]:
    """What the study says of ``mpidb_00``: as drawn, drawn wider, and with another's drawn wider."""
    names = ["mpidb_00", "mpidb_01", "radboud_00", "radboud_01"]
    found = {}
    drawings = {"as drawn": None, "own wider": "mpidb_00", "other wider": "mpidb_01"}
    for title, wide in drawings.items():
        work = tmp_path_factory.mktemp("work")
        part = TwoSmall("small, zero-shot", "small", (), ("mpidb_00",))
        fields = {name: field(name, 7 if name == wide else 4) for name in names}
        windows = malaria_parasites.run_windows(fields, part, SETTINGS, work)["fields"]["mpidb_00"]
        titles = (FINAL, *malaria_parasites.SINGLES)
        recipes = [recipe_file(work, part, "mpidb_00", each).read_text() for each in titles]
        whole = run_fields(fields, part, work)["fields"]["mpidb_00"]
        found[title] = windows | {"recipes": recipes, "whole": whole}
    return found


def test_outlines_of_the_tested_field_choose_nothing(results: dict[str, Any]) -> None:
    chosen = ("recipes", "calibration", "moves", "notes", "layers", "chosen", "kinds")
    plain, own, other = results.values()
    assert {key: plain[key] for key in chosen} == {key: own[key] for key in chosen}
    assert torch.equal(plain["masks"], own["masks"])
    assert not torch.equal(plain["truth"], own["truth"])
    assert plain["parts"][FINAL].tolist() != own["parts"][FINAL].tolist()
    assert plain["calibration"] != other["calibration"]  # and those of the others do
    assert plain["whole"]["cuts"] == own["whole"]["cuts"] != other["whole"]["cuts"]
    assert plain["whole"]["parts"][FINAL].tolist() != own["whole"]["parts"][FINAL].tolist()


def test_all_contenders_are_scored_on_the_tested_field_alone(results: dict[str, Any]) -> None:
    found = results["as drawn"]
    windows, *_ = found["truth"].shape
    assert windows == 3 * malaria_parasites.COPIES
    pixels = {int(sum(part.sum() for part in parts)) for parts in found["parts"].values()}
    assert pixels == {found["truth"].numel()}
    assert {FINAL, MOVED, "Otsu on color", "Recipe, plain"} <= {*found["parts"]}
    assert set(found["kinds"]) == set(found["parts"])
    assert {int(part.sum()) for part in found["whole"]["parts"].values()} == {120 * 120}
    assert {FINAL, *malaria_parasites.SINGLES} <= {*found["whole"]["parts"]}
