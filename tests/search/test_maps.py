"""The maps that are compared are those of ``CAM`` and of a bound recipe."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from helpers.search_sets import small, squares
from ssgcam.cam import CAM
from ssgcam.core.augment import Augmentation
from ssgcam.core.methods import METHODS
from ssgcam.core.refine import Refinement
from ssgcam.core.settings import SSGSettings
from ssgcam.fingerprint import Fingerprint, parameter_hash
from ssgcam.recipe import Recipe, RecipeLayer
from ssgcam.search.fitness import sweep_thresholds
from ssgcam.search.maps import baseline_maps, batch_maps, sweep_maps
from ssgcam.search.settings import SearchSettings

LAYERS = ["act1", "act2"]


def test_baselines_are_the_maps_of_cam_with_its_defaults() -> None:
    network = small()
    data = squares(3).with_predictions(network)
    signals, _ = CAM(network, LAYERS).signals(data.images, data.classes)
    found = dict(baseline_maps(signals, (32, 32)))
    methods = [
        "ssg_cam", "localize", "grad_cam", "grad_cam_plus_plus", "xgrad_cam",
        "hires_cam", "layer_cam", "grad_cam_elementwise", "smoothed_hires_cam",
    ]  # fmt: skip
    for method in methods:
        for layer in LAYERS:
            expected = CAM(network, [layer], method)(data.images, data.classes).maps
            torch.testing.assert_close(found.pop(f"{METHODS[method].title}, {layer}"), expected)
    for method in ("ssg_cam", "localize", "layer_cam"):
        expected = CAM(network, LAYERS, method)(data.images, data.classes).maps
        name = f"{METHODS[method].title}, mean of all layers"
        torch.testing.assert_close(found.pop(name), expected)
    assert not found


@pytest.fixture
def recipes() -> list[Recipe]:
    network = small()
    made_for = Fingerprint("small", (32, 32), parameter_hash(network.network))
    layers = (
        RecipeLayer("act1", 0.3, SSGSettings("gradient", 0.1, 1.0, 0.0), 0.5, (4, 32, 32)),
        RecipeLayer("act2", 0.7, SSGSettings("taylor", 0.0, 0.5, 0.5), 1.0, (6, 16, 16)),
    )
    plain = Recipe(layers, 0.4, 0.0, made_for, (16, 16))
    flipped = replace(plain, augmentation=Augmentation("both", (1.0, 1.5)))
    refined = replace(flipped, refinement=Refinement(iterations=2, dilations=(1, 2)))
    return [plain, flipped, refined, replace(plain, layers=layers[1:])]


def test_recipes_with_shared_passes_give_the_maps_of_bound_recipes(recipes: list[Recipe]) -> None:
    network = small()
    data = squares(4).with_predictions(network)
    found = batch_maps(CAM(network, LAYERS), dict(enumerate(recipes)), data, slice(0, 4))
    for key, (maps, probabilities) in found.items():
        expected = recipes[key].bind(network)(data.images, data.classes)
        torch.testing.assert_close(maps, expected.maps, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(probabilities, expected.probabilities[range(4), data.classes])


def test_batches_are_joined(recipes: list[Recipe]) -> None:
    network = small()
    data = squares(5).with_predictions(network)
    settings = SearchSettings(batch_size=2)
    done = []
    by_key = {"a": recipes[0], ("b", 0): recipes[1], ("b", 1): recipes[2]}
    found = sweep_maps(network, data, settings, by_key, ["act2"], done.append)
    assert done == [2, 2, 1]
    cam = CAM(network, LAYERS)
    for key, recipe in by_key.items():
        maps, probabilities = batch_maps(cam, {key: recipe}, data, slice(0, 5))[key]
        expected = sweep_thresholds(maps, data.masks, probabilities, "pooled")
        for part, whole in zip(found[key], expected, strict=True):
            torch.testing.assert_close(part.double(), whole.double(), atol=2, rtol=0)
    assert "Grad-CAM, act2" in found
    assert "Grad-CAM, act1" not in found
