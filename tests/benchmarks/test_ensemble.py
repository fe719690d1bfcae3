"""The benchmark's ensembles: maps averaged over networks, and the recipe written out for them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from helpers.networks import Small
from helpers.search_sets import squares
from ssgcam.core.fusion import scale
from ssgcam.core.settings import SSGSettings
from ssgcam.fingerprint import Fingerprint, parameter_hash
from ssgcam.models import LoadedModel
from ssgcam.preprocessing import Preprocessing
from ssgcam.recipe import Recipe, RecipeLayer
from ssgcam.search import MapGrid, build_cache, make_examples

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from ensemble import averaged, ensemble, written_out

GRID = MapGrid(("taylor",), (0.0, 0.1), ((0.3, 0.3),), (0.5, 1.0))


def small(seed: int) -> LoadedModel:
    torch.manual_seed(seed)
    return LoadedModel(Small().eval(), "small", Preprocessing((32, 32)), ("cell", "ring", "other"))


def test_an_ensemble_gives_the_mean_of_the_logits():
    models = [small(seed) for seed in range(3)]
    images = torch.rand(2, 3, 32, 32)
    expected = sum(model.network(images) for model in models) / 3
    torch.testing.assert_close(ensemble(models).network(images), expected)


def test_averaged_caches_hold_the_mean_of_every_map():
    models = [small(seed) for seed in range(2)]
    examples = make_examples(squares(3), models[0])
    layers = [name for name, _ in models[0].network.named_children()][:1]
    for storage in ("uint8", "float32"):
        caches = [
            build_cache(model, examples, layers, grid=GRID, size=(16, 16), storage=storage)
            for model in models
        ]
        found = averaged(caches)
        expected = (caches[0].values.double() + caches[1].values.double()) / 2
        assert not torch.equal(caches[0].values, caches[1].values)
        tolerance = 0.51 if storage == "uint8" else 1e-6
        torch.testing.assert_close(found.values.double(), expected, atol=tolerance, rtol=0)
        rows, starts = torch.tensor([0, 1]), torch.tensor([0])
        summed = found.sums(0, rows, starts, torch.tensor([0.25, 0.75]))
        by_hand = (found.values[0, 0].double() + 3 * found.values[0, 1].double()) / 4
        unit = 255 if storage == "uint8" else 1
        torch.testing.assert_close(summed[0].double(), by_hand / unit, atol=1e-5, rtol=0)


def test_a_recipe_written_out_gives_the_mean_of_the_networks_maps():
    models = [small(seed) for seed in range(2)]
    examples = make_examples(squares(3), models[0])
    layer = next(name for name, _ in models[0].network.named_children())
    cache = build_cache(models[0], examples, [layer], grid=GRID, size=(16, 16))
    parts = (RecipeLayer(layer, 1.0, SSGSettings(), 0.5, cache.shapes[0]),)

    def recipe(model: LoadedModel) -> Recipe:
        network = Fingerprint("small", (32, 32), parameter_hash(model.network), "softmax")
        return Recipe(parts, 0.5, 0.0, network, (16, 16), (1,))

    classes = torch.ones(3, dtype=torch.long)
    single = [recipe(model).bind(model)(examples.images, classes).maps for model in models]
    both = ensemble(models)
    fingerprint = replace(recipe(both).network, parameters=parameter_hash(both.network))
    together = replace(written_out(recipe(models[0]), 2), network=fingerprint)
    found = together.bind(both)(examples.images, classes).maps
    # the maps are scaled at the working size, before they are enlarged: compared up to that factor
    torch.testing.assert_close(scale(found), scale(sum(single)), atol=1e-5, rtol=1e-4)
