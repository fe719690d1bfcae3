"""A search from labeled images to recipe and report."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from helpers.networks import Bright, state_of
from helpers.search_sets import SHORT, short_search, small, squares
from ssgcam.core.augment import Augmentation
from ssgcam.core.layers import block_layers
from ssgcam.errors import SsgcamError
from ssgcam.metrics import confusion_matrix, foreground_iou
from ssgcam.recipe import Recipe
from ssgcam.search import CalibrationSet, SearchResult, SearchSettings, search_recipe
from ssgcam.search.objective import Objective

pytestmark = pytest.mark.filterwarnings(
    "ignore:(The calibration set is small|The images come from|No image is without)"
)
ONE_VIEW = replace(SHORT, folds=0, refinement=None, augmentations=(), views=(Augmentation(),))


@pytest.fixture(scope="module")
def found() -> SearchResult:
    torch.set_num_threads(1)
    return short_search()


def test_the_score_of_the_recipe_is_the_iou_of_its_masks(found: SearchResult) -> None:
    bound = found.recipe.bind(small())
    for data, where in ((squares(6, 2), "calibration"), (squares(8, 2, seed=1), "held_out")):
        masks = bound.masks(data.images, 1)
        pooled = sum(
            confusion_matrix(mask.long(), truth, 2)
            for mask, truth in zip(masks, data.masks, strict=True)
        )
        expected = found.recipe.origin.scores[where]
        assert float(foreground_iou(pooled)) == pytest.approx(expected, abs=1e-9)
    assert found.recipe.origin.scores["calibration"] > 0.25


def test_held_out_images_without_an_object_are_refused_before_the_first_pass() -> None:
    model = small()
    model.network.register_forward_pre_hook(lambda *_: pytest.fail("the network was run"))
    with pytest.raises(SsgcamError, match="held-out images are empty"):
        search_recipe(model, squares(4), ["act1"], held_out=squares(2, negatives=2))


def test_the_recipe_names_its_origin(found: SearchResult, tmp_path: Path) -> None:
    origin = found.recipe.origin
    assert (origin.images, origin.negatives, origin.groups, origin.seed) == (6, 2, 3, 0)
    assert origin.data.startswith("sha256:")
    assert set(origin.versions) == {"ssgcam", "torch", "scipy", "numpy"}
    assert json.loads(origin.settings["generations"]) == 12
    assert found.recipe.classes == (1,)
    assert sum(layer.weight for layer in found.recipe.layers) == pytest.approx(1)
    shapes = {"act1": (4, 32, 32), "act2": (6, 16, 16)}
    assert all(layer.shape == shapes[layer.name] for layer in found.recipe.layers)
    found.recipe.save(tmp_path / "r.json")
    assert Recipe.load(tmp_path / "r.json") == found.recipe


def test_the_report_lists_every_method_and_scores_on_other_images(
    found: SearchResult, tmp_path: Path
) -> None:
    report = found.report
    rows = {row.name: row for row in report.table.rows}
    methods = (
        "SSG-CAM", "SSG-CAM (localize)",
        "Grad-CAM", "Grad-CAM++", "XGrad-CAM", "HiResCAM", "LayerCAM",
        "Element-wise Grad-CAM",
    )  # fmt: skip
    for method in methods:
        for layer in ("act1", "act2"):
            row = rows[f"{method}, {layer}"]
            assert row.held_out.n == 8
            assert row.kind == ("ssg" if method.startswith("SSG-CAM") else "single")
    assert rows["SSG-CAM, mean of all layers"].kind == "mean"
    assert rows["SSG-CAM, best layer and settings"].kind == "ssg"
    assert rows["SSG-CAM, best layer and settings"].folds.groups == 3
    own = found.recipe.augmentation.flips != "none"
    layer_cam = rows["LayerCAM, best layer, recipe's views"]
    assert layer_cam.kind == "single"
    assert layer_cam.folds is not None
    one_view = max(rows[f"LayerCAM, {layer}"].calibration for layer in ("act1", "act2"))
    assert layer_cam.calibration == pytest.approx(one_view, abs=0.1 if own else 0.02)
    recipes = {row.name for row in report.table.rows if row.kind == "recipe"}
    assert recipes >= {
        "Recipe, PAMR",
        "Recipe, flips horizontal, scales 1 1.5",
        "Recipe, flips horizontal, scales 1 1.5, PAMR",
        "Recipe, plain",
    }
    assert {lead.where for lead in report.table.leads} == {"folds", "held_out"}
    # the chosen recipe, with its views and refinement, is compared across the folds as well
    final = [
        row
        for row in report.table.rows
        if row.score("held_out") == found.recipe.origin.scores["held_out"]
    ]
    assert all(row.folds is not None for row in final)
    assert {lead.recipe for lead in report.table.leads} >= {final[0].name, "Recipe, plain"}
    assert {lead.kind for lead in report.table.leads} == {"single", "ssg", "mean"}
    assert any("small" in warning for warning in report.warnings)
    assert len(report.fold_layers) == 2
    report.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.md", "report.json", "convergence.png", "examples.png",
    }  # fmt: skip
    text = (tmp_path / "report.md").read_text()
    assert "| Recipe, plain |" in text
    assert " for Grad-CAM++, " in text
    content = json.loads((tmp_path / "report.json").read_text())
    assert len(content["table"]["rows"]) == len(rows)
    assert content["history"][0] <= content["history"][-1]
    for name in ("convergence.png", "examples.png"):
        assert Image.open(tmp_path / name).size[0] > 300


def test_not_worse_than_the_best_single_layer_on_its_own_calibration_set(
    found: SearchResult,
) -> None:
    best = found.report.table.row("SSG-CAM, best layer and settings")
    own = next(row for row in found.report.table.rows if row.kind == "recipe")
    # the fitness is that of the working size; at the images' size a little may be lost
    assert own.calibration >= best.calibration - 0.02


def test_the_network_keeps_its_state_and_a_seed_decides(found: SearchResult) -> None:
    network = small().network
    network.train()
    before = state_of(network)
    again = search_recipe(
        replace(small(), network=network),
        squares(6, negatives=2),
        ["act1", "act2"],
        held_out=squares(8, negatives=2, seed=1),
        settings=SHORT,
    )
    assert state_of(network) == before
    assert again.recipe == found.recipe


def test_the_gate_is_calibrated_by_images_without_the_object() -> None:
    found = search_recipe(Bright(), squares(10, 4), ["act"], settings=ONE_VIEW)
    masks = found.recipe.bind(Bright()).masks(squares(10, 4).images)
    assert masks[:6].flatten(1).any(1).all()
    assert not masks[6:].any()
    assert found.recipe.gate > 0
    assert any("every score is one of the images" in warning for warning in found.report.warnings)


def test_outlines_beside_their_objects_are_noticed() -> None:
    other = squares(8, seed=1)
    held_out = CalibrationSet(other.images, other.masks.roll(2, -1), 1, other.groups)
    found = search_recipe(Bright(), squares(10), ["act"], held_out=held_out, settings=ONE_VIEW)
    assert (found.report.offset.right, found.report.offset.down) == (2, 0)
    assert found.report.offset.iou > found.report.offset.in_place + 0.2
    warnings = [each for each in found.report.warnings if "beside the outlines" in each]
    assert len(warnings) == 1
    assert found.report.to_json()["offset"]["right"] == 2


def test_views_and_refinement_must_gain_the_margin() -> None:
    flips = replace(ONE_VIEW, augmentations=(Augmentation(), Augmentation("both")))
    found = search_recipe(small(), squares(6), ["act1", "act2"], settings=flips)
    scores = {row.name: row.calibration for row in found.report.table.rows}
    gain = scores["Recipe, flips both"] - scores["Recipe, plain"]
    for margin, flipped in ((max(0.0, gain + 0.001), False), (max(0.0, gain - 0.001), gain > 0)):
        again = search_recipe(
            small(), squares(6), ["act1", "act2"], settings=replace(flips, margin=margin)
        )
        assert (again.recipe.augmentation == Augmentation("both")) == flipped


def test_ctrl_c_gives_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    score = Objective.__call__

    def interrupted(self: Objective, genes: np.ndarray) -> np.ndarray:
        calls.append(genes.shape)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return score(self, genes)

    monkeypatch.setattr(Objective, "__call__", interrupted)
    found = short_search(settings=replace(SHORT, generations=500))
    assert len(calls) == 3 + 2  # and the candidates of the best single layers
    assert found.report.interrupted
    assert found.report.warnings[0].startswith("The search was interrupted")
    assert "interrupted: the best so far" in found.report.markdown()
    assert found.report.fold_layers == ()
    assert found.recipe.layers
    assert found.recipe.augmentation in (Augmentation(), Augmentation("horizontal", (1.0, 1.5)))


def test_kept_maps_give_the_same_recipe(found: SearchResult, tmp_path: Path) -> None:
    first = short_search(cache=tmp_path)
    assert len(list(tmp_path.glob("maps-*.npy"))) == 2  # as it is, and mirrored
    assert short_search(cache=tmp_path).recipe == first.recipe == found.recipe


def test_each_view_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssgcam.search import search

    views = []
    build = search.build_cache

    def counted(*arguments, **options):
        views.append(arguments[4])
        return build(*arguments, **options)

    monkeypatch.setattr(search, "build_cache", counted)
    views_tried = (Augmentation(), Augmentation("horizontal"), Augmentation("both"))
    settings = replace(ONE_VIEW, views=views_tried, generations=1)
    search_recipe(small(), squares(4), ["act1"], settings=settings)
    assert len(views) == len(set(views)) == 4


def test_bad_calls() -> None:
    with pytest.raises(SsgcamError, match="no layer 'act3'"):
        search_recipe(small(), squares(4), ["act3"], settings=SHORT)
    with pytest.raises(SsgcamError, match="fitness is 'iou'"):
        SearchSettings(fitness="iou")
    with pytest.raises(SsgcamError, match="views is empty"):
        SearchSettings(views=())


def test_layers_auto_and_all() -> None:
    from torchvision import models

    image = torch.rand(1, 3, 64, 64)
    resnet = models.resnet18(num_classes=2)
    assert block_layers(resnet, image) == [
        "layer1.0", "layer1", "layer2.0", "layer2", "layer3.0", "layer3", "layer4.0", "layer4",
    ]  # fmt: skip
    five = ["layer1", "layer2", "layer3", "layer4.0", "layer4"]
    assert block_layers(resnet, image, most=5) == five
    assert block_layers(resnet, image, most=None)[0] == "relu"
    vgg = models.vgg11(num_classes=2).features
    names = block_layers(
        nn.Sequential(vgg, nn.AdaptiveAvgPool2d(1), nn.Flatten()), image, most=None
    )
    assert all(isinstance(vgg[int(name.split(".")[1])], nn.ReLU) for name in names)
    with pytest.raises(SsgcamError, match="no block of the network"):
        block_layers(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2)), image)


def test_a_result_shows_itself_in_a_notebook(found: SearchResult) -> None:
    html = found._repr_html_()
    assert all(f"<td>{layer.name}</td>" in html for layer in found.recipe.layers)
    assert found.report.summary().replace("'", "&#x27;") in html
    assert html.count("<img") == 1
