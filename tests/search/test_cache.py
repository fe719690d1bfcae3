"""The cache holds the maps of CAM, and keeping it in a file changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.networks import state_of
from helpers.search_sets import GRID, small, squares
from ssgcam.cam import CAM
from ssgcam.core.augment import Augmentation, View
from ssgcam.core.fusion import prepare
from ssgcam.core.settings import TargetSettings
from ssgcam.search.cache import build_cache, mean_of
from ssgcam.search.settings import MapGrid, SearchSettings

PLAIN_VIEW = View(1.0, ())
#: Values are rounded to 1/255.
ROUNDING = 0.5 / 255 + 1e-5


@pytest.mark.parametrize("target", ["exp", "odds"])
def test_the_cache_gives_the_maps_of_cam(target: str) -> None:
    network = small()
    data = squares(5).with_predictions(network)
    before = state_of(network.network)
    layers = ["act1", "act2"]
    grid = MapGrid(("taylor", "gradient"), (0.0, 0.1), ((1.0, 0.0), (0.5, 0.5)), (0.5, 1.0))
    settings = SearchSettings(
        grid=grid, working_size=(10, 12), target=TargetSettings(target), batch_size=2
    )
    cache = build_cache(network, data, layers, settings, PLAIN_VIEW)
    assert state_of(network.network) == before
    for entry, (ssg, gamma) in enumerate(grid.entries):
        cam = CAM(network, layers, ssg=ssg, target=settings.target)
        found = cam(data.images, data.classes)
        for k, layer in enumerate(layers):
            expected = prepare(found.layer_maps[layer], (10, 12), gamma)
            row = cache.values[:, k * len(grid) + entry].view(5, 10, 12) / 255
            torch.testing.assert_close(row, expected, atol=ROUNDING, rtol=0)


def test_the_mean_over_views_is_that_of_a_recipe() -> None:
    network = small()
    data = squares(5).with_predictions(network)
    settings = SearchSettings(grid=GRID, working_size=(16, 16))
    views = list(Augmentation("horizontal", (1.0, 1.5)))
    caches = [build_cache(network, data, ["act2"], settings, view) for view in views]
    ssg, gamma = GRID.entries[3]
    cam = CAM(network, ["act2"], ssg=ssg)
    parts = [
        prepare(view.undo(cam(view.apply(data.images), 1).layer_maps["act2"]), (16, 16), gamma)
        for view in views
    ]
    found = mean_of(caches, settings.memory).values[:, 3].view(5, 16, 16) / 255
    torch.testing.assert_close(found, torch.stack(parts).mean(0), atol=2 * ROUNDING, rtol=0)
    assert mean_of(caches[:1], settings.memory) is caches[0]


def test_a_file_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small()
    data = squares(5).with_predictions(network)
    settings = SearchSettings(grid=GRID, working_size=(8, 8))
    done = []

    def values(changed: SearchSettings = settings, **options) -> Tensor:
        options = {"progress": done.append, **options}
        return build_cache(network, data, ["act1", "act2"], changed, PLAIN_VIEW, **options).values

    held = values()
    assert held.dtype == torch.uint8
    assert held.shape == (5, 2 * len(GRID), 64)
    assert torch.equal(values(replace(settings, memory=10)), held)  # a temporary file
    assert torch.equal(values(folder=tmp_path), held)
    (kept,) = tmp_path.glob("*.npy")
    monkeypatch.setattr(CAM, "signals", None)  # no network pass from here on
    assert torch.equal(values(folder=tmp_path), held)
    assert sum(done) == 4 * 5
    with pytest.raises(TypeError):
        values(replace(settings, target=TargetSettings("odds")), folder=tmp_path)
    monkeypatch.undo()
    with torch.no_grad():
        network.network.fc.weight[0] += 1
    values(folder=tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2
    assert kept.is_file()
