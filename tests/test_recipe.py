"""Recipes: JSON in and out, what is refused, and the maps and masks of a bound one."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.networks import Small, state_of
from ssgcam.cam import CAM
from ssgcam.core.augment import Augmentation
from ssgcam.core.fusion import fuse, resize, scale
from ssgcam.core.refine import Refinement, pamr
from ssgcam.core.settings import SSGSettings, TargetSettings
from ssgcam.errors import SsgcamError
from ssgcam.images import Reading
from ssgcam.models import LoadedModel
from ssgcam.recipe import (
    Fingerprint,
    Guarantee,
    Origin,
    Recipe,
    RecipeLayer,
    WindowRule,
    parameter_hash,
)
from ssgcam.shift import Statistic, summarize

SIZE = (24, 24)
IMAGES = torch.rand(4, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(3)
    return Small().eval()


def made_for(network: nn.Module, **changes: Any) -> Recipe:
    layers = (
        RecipeLayer("act1", 0.7, SSGSettings("gradient", 0.1, 1.0, 0.5), 0.5, (4, 24, 24)),
        RecipeLayer("act2", 0.3, SSGSettings("taylor", 0.06, 1.0, 1.0), 0.7, (6, 12, 12)),
    )
    made = Fingerprint("small", SIZE, parameter_hash(network))
    return replace(Recipe(layers, 0.4, 0.0, made, (12, 12)), **changes)


def test_round_trip(network: nn.Module, tmp_path: Path) -> None:
    recipe = made_for(
        network,
        classes=(0, 2),
        target=TargetSettings("odds"),
        augmentation=Augmentation("both", (1.0, 1.5)),
        refinement=Refinement(iterations=3, dilations=(1, 2)),
        gate=0.25,
        origin=Origin(
            "sha256:1",
            40,
            10,
            7,
            3,
            {"a": "b"},
            {"torch": "2"},
            {"calibration": 0.1, "folds": None},
        ),
    )
    recipe = replace(
        recipe,
        guarantee=Guarantee(0.1, 0.2, None, 25, "group", "split"),
        window_rule=WindowRule(64, 0.5, 0.8, 0.3, 40, 7, 0.1, 0.0),
        calibration_statistics=(Statistic("mask area", (0.1,), (0.02,), 3.0),),
    )
    made_of_files = Fingerprint("small", SIZE, "sha256:0", "sigmoid", Reading("0,4095", 2, (3,)))
    recipe = replace(recipe, network=made_of_files)
    path = tmp_path / "recipe.json"
    recipe.save(path)
    assert Recipe.load(path) == recipe
    before = path.read_bytes()
    Recipe.load(path).save(path)
    assert path.read_bytes() == before


def without(content: dict[str, Any], *path: str) -> dict[str, Any]:
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return content


def with_value(content: dict[str, Any], value: Any, *path: str | int) -> dict[str, Any]:
    inner: Any = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: [c], "is not a recipe"),
        (lambda c: with_value(c, "zip", "format"), "is not a recipe"),
        (lambda c: with_value(c, 2, "version"), "version 2, this ssgcam reads version 1"),
        (lambda c: with_value(c, True, "version"), "version True"),
        (lambda c: without(c, "threshold"), "no key 'threshold'"),
        (lambda c: without(c, "network", "parameters"), "no key 'network.parameters'"),
        (lambda c: with_value(c, 1, "spam"), "unknown key 'spam'"),
        (lambda c: with_value(c, 1, "layers", 0, "ssg", "x"), r"unknown key 'layers\[0\].ssg.x'"),
        (lambda c: with_value(c, "a", "threshold"), "'threshold' is text, not a number"),
        (lambda c: with_value(c, None, "gate"), "'gate' is null, not a number"),
        (lambda c: with_value(c, True, "gate"), "'gate' is true or false"),
        (lambda c: with_value(c, float("inf"), "gate"), "finite"),
        (lambda c: with_value(c, 1.5, "threshold"), "threshold is 1.5"),
        (lambda c: with_value(c, "max", "fusion"), "fusion"),
        (lambda c: with_value(c, "x", "layers", 0, "ssg", "form"), "'layers.0..ssg.form' is 'x'"),
        (lambda c: with_value(c, -1, "layers", 0, "ssg", "sigma"), r"layers\[0\].ssg: sigma is -1"),
        (lambda c: with_value(c, 0, "layers", 1, "weight"), "weight of layer 'act2' is 0"),
        (lambda c: with_value(c, [1, 2], "layers", 1, "shape"), "has 2 values; it must have 3"),
        (lambda c: with_value(c, {}, "layers"), "'layers' is an object, not a list"),
        (lambda c: with_value(c, [], "layers"), "at least one layer"),
        (lambda c: with_value(c, "act2", "layers", 0, "name"), "names each layer once"),
        (lambda c: with_value(c, [], "origin"), "'origin' is a list, not an object"),
        (lambda c: with_value(c, [-1], "classes"), "count from 0"),
        (lambda c: with_value(c, 2, "guarantee", "alpha"), "guarantee: alpha is 2"),
        (lambda c: with_value(c, "best", "guarantee", "kind"), "'guarantee.kind' is 'best'"),
    ],
)
def test_a_wrong_file_gets_one_sentence(
    network: nn.Module, tmp_path: Path, change: Any, said: str
) -> None:
    path = tmp_path / "recipe.json"
    guarantee = Guarantee(0.1, 0.2, 0.7, 25, "image", "held-out")
    made_for(network, guarantee=guarantee).save(path)
    content = change(json.loads(path.read_text()))
    path.write_text(json.dumps(content))
    with pytest.raises(SsgcamError, match=said) as error:
        Recipe.load(path)
    assert "recipe.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(SsgcamError, match="can't be read"):
        Recipe.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(SsgcamError, match="is not JSON"):
        Recipe.load(tmp_path / "bad.json")


def test_a_network_that_does_not_fit(network: nn.Module) -> None:
    recipe = made_for(network)
    with pytest.raises(
        SsgcamError, match="needs its layer 'act1', which this network doesn't have"
    ):
        recipe.bind(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    layer = replace(recipe.layers[1], shape=(8, 12, 12))
    with pytest.raises(SsgcamError, match=r"maps of 6x12x12 .* made for 8x12x12"):
        replace(recipe, layers=(layer,)).bind(network)
    with pytest.raises(SsgcamError, match="explains class 3, but this network has 3 classes"):
        replace(recipe, classes=(1, 3)).bind(network)


def test_other_parameters_are_a_warning_or_with_strict_an_error(network: nn.Module) -> None:
    recipe = made_for(network)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recipe.bind(network, strict=True)
    other = Small().eval()
    with pytest.warns(UserWarning, match="parameters of this network are not those"):
        recipe.bind(other)
    with pytest.raises(SsgcamError, match="parameters of this network are not those"):
        recipe.bind(other, strict=True)


def test_the_same_maps_as_cam(network: nn.Module) -> None:
    recipe = made_for(network)
    cam = CAM(
        network,
        ["act1", "act2"],
        ssg=[layer.ssg for layer in recipe.layers],
        gamma=[0.5, 0.7],
        layer_weights=[0.7, 0.3],
        output_size=(12, 12),
    )
    expected = cam(IMAGES)
    found = recipe.bind(network)(IMAGES)
    torch.testing.assert_close(found.maps, resize(expected.maps, SIZE), rtol=0, atol=0)
    assert torch.equal(found.classes, expected.classes)
    masks = recipe.bind(network).masks(IMAGES)
    assert torch.equal(masks, found.maps >= 0.4)
    assert masks.any(dim=(1, 2)).all()


def test_views_are_averaged_before_the_scaling(network: nn.Module) -> None:
    augmentation = Augmentation("horizontal", (1.0, 1.5))
    recipe = made_for(network, augmentation=augmentation)
    found = recipe.bind(network)(IMAGES, 1)
    cam = CAM(network, ["act1", "act2"], ssg=[layer.ssg for layer in recipe.layers])
    parts, probabilities = [], []
    for factor in (1.0, 1.5):
        seen = torch.nn.functional.interpolate(IMAGES, scale_factor=factor, mode="bilinear")
        for flipped in (False, True):
            result = cam(seen.flip(-1) if flipped else seen, 1)
            maps = [m.flip(-1) if flipped else m for m in result.layer_maps.values()]
            parts.append(fuse(maps, (12, 12), gammas=[0.5, 0.7], weights=[0.7, 0.3], scaled=False))
            probabilities.append(result.probabilities)
    expected = resize(scale(torch.stack(parts).mean(0)), SIZE)
    torch.testing.assert_close(found.maps, expected)
    torch.testing.assert_close(found.probabilities, torch.stack(probabilities).mean(0))
    mirrored = recipe.bind(network)(IMAGES.flip(-1), 1).maps.flip(-1)
    torch.testing.assert_close(found.maps, mirrored, atol=1e-5, rtol=1e-4)


def test_refinement_comes_last_and_is_scaled_again(network: nn.Module) -> None:
    plain = made_for(network)
    finer = replace(plain, refinement=Refinement(iterations=2, dilations=(1, 2)))
    maps = plain.bind(network)(IMAGES).maps
    expected = scale(pamr(IMAGES, maps[:, None], finer.refinement)[:, 0])
    torch.testing.assert_close(finer.bind(network)(IMAGES).maps, expected)


def test_the_gate_shuts_masks(network: nn.Module) -> None:
    probabilities = network(IMAGES).detach().softmax(1)[:, 1].sort().values
    gate = float(probabilities[1] + probabilities[2]) / 2
    bound = made_for(network, gate=gate).bind(network)
    masks = bound.masks(IMAGES, 1)
    is_open = network(IMAGES).softmax(1)[:, 1] >= gate
    assert is_open.sum() == 2
    assert torch.equal(masks.flatten(1).any(1), is_open)


def test_a_sigmoid_network_is_gated_by_its_own_probability(network: nn.Module) -> None:
    recipe = made_for(network)
    recipe = replace(recipe, network=replace(recipe.network, output="sigmoid"))
    found = recipe.bind(LoadedModel(network, "small", output="sigmoid"))(IMAGES)
    torch.testing.assert_close(found.probabilities, network(IMAGES).sigmoid())


def test_the_classes_of_a_recipe(network: nn.Module) -> None:
    logits = network(IMAGES)
    worst = logits.argmin(1)
    assert torch.equal(made_for(network).bind(network)(IMAGES).classes, logits.argmax(1))
    one = made_for(network, classes=(2,)).bind(network)
    assert one(IMAGES).classes.tolist() == [2] * 4
    two = made_for(network, classes=(0, 2)).bind(network)
    expected = torch.tensor([0, 2])[logits[:, [0, 2]].argmax(1)]
    assert torch.equal(two(IMAGES).classes, expected)
    assert torch.equal(two(IMAGES, worst).classes, worst)  # asked for: any class


def test_several_classes_of_each_image(network: nn.Module) -> None:
    recipe = made_for(
        network, gate=0.3, augmentation=Augmentation("horizontal"), refinement=Refinement(2, (1, 2))
    )
    bound = recipe.bind(network)
    classes = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 2]])
    together = bound(IMAGES, classes)
    assert together.maps.shape == (4, 2, *SIZE)
    assert together.evidence.shape == (4, 2)
    for k in range(2):
        alone = bound(IMAGES, classes[:, k])
        torch.testing.assert_close(together.maps[:, k], alone.maps)
        assert torch.equal(bound.masks(IMAGES, classes)[:, k], bound.masks(IMAGES, classes[:, k]))


def test_the_network_stays_as_it_came(network: nn.Module) -> None:
    network.train()
    network.fc.weight.requires_grad_(False)
    network.conv1.weight.grad = torch.ones_like(network.conv1.weight)
    before = state_of(network)
    recipe = made_for(network, augmentation=Augmentation("both"), classes=(0, 2))
    bound = recipe.bind(network)
    bound.masks(IMAGES)
    assert state_of(network) == before
    with pytest.raises(SsgcamError):
        bound.masks(IMAGES, 99)
    assert state_of(network) == before


def test_hashes_tell_parameters_apart(network: nn.Module) -> None:
    before = parameter_hash(network)
    assert parameter_hash(nn.DataParallel(network)) == before
    network.norm1.running_mean[0] += 1  # a buffer counts as well
    assert parameter_hash(network) != before


def test_a_bound_recipe_names_what_is_unlike_the_calibration_images(network: nn.Module) -> None:
    bound = made_for(network, classes=(1,)).bind(network)
    calibration = torch.rand(12, 3, *SIZE, generator=torch.Generator().manual_seed(7))
    statistics = summarize(bound.statistics(bound(calibration)))
    names = [one.name for one in statistics]
    assert names[:2] == ["activations of act1", "activations of act2"]
    assert len(statistics[0].center) == 4
    recipe = replace(bound.recipe, calibration_statistics=statistics)
    bound = recipe.bind(network)
    bright = 5 * IMAGES
    assert all("picture intensity" in found for found in bound.unusual(bound(bright)))
    assert sum(map(bool, bound.unusual(bound(calibration)))) <= 1
