"""What the studies of a second stage train on, and what they compute."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from PIL import Image

import common
from common import ALONE, FIRST, IGNORING, SECOND, mask_parts, order_parts, with_undecided
from helpers.segmentation import photos, recipe_for, small
from ssgcam.training import SegmenterSettings


def test_pixels_near_the_threshold_are_undecided():
    levels = (np.array([[0, 0.29, 0.31], [0.49, 0.51, 1]]) * 65535).astype(np.uint16)
    mask = (levels >= 0.4 * 65535).astype(np.uint8)
    assert with_undecided(mask, levels, 0.4).tolist() == [[0, 0, 255], [255, 1, 1]]
    assert with_undecided(mask, levels, 0.95)[1].tolist() == [1, 1, 1]  # the maximum stays


def test_networks_learn_from_the_surest_masks_and_from_the_calibration_masks(tmp_path, monkeypatch):
    pytest.importorskip("segmentation_models_pytorch")
    trained = []

    def train(pairs, settings):
        trained.append(([np.asarray(Image.open(mask)) for _, mask in pairs], settings.epochs))
        return original(pairs, settings, progress=False)

    original = common.train_segmenter
    monkeypatch.setattr(common, "train_segmenter", train)
    own = [Image.open(file) for file in photos(tmp_path / "photos", 15)]
    masks = [np.pad(np.ones((10, 10), np.uint8), ((5, 5), (5, 15)))] * 15
    model, recipe = small(), tmp_path / "fold0.recipe.json"
    recipe_for(model).save(recipe)
    known, tested = (own[:4], masks[:4], "aabb"), (own[12:], masks[12:], "xyz")
    settings = SegmenterSettings(
        "mobilenet_v2", input_size=32, epochs=2, batch_size=4, device="cpu"
    )
    found = common.second_stage(model, recipe, own[:10], own[10:12], known, tested, settings)
    (sure, epochs), (undecided, _), (few, more) = trained
    assert (len(sure), epochs, len(few), more) == (10, 2, 4, 5)  # 8 of 10 masks, and 2 empty ones
    assert all(mask.any() for mask in sure[:8])
    assert not any(mask.any() for mask in (*sure[8:], *undecided[8:]))
    for mask, ignoring in zip(sure, undecided, strict=True):
        assert np.array_equal(mask[ignoring != 255], ignoring[ignoring != 255])
    assert any((mask == 255).any() for mask in undecided)
    assert list(found["parts"]) == [FIRST, SECOND, IGNORING, ALONE]
    assert all(own.shape == (3, 2, 2) and own.sum() == 3 * 600 for own in found["parts"].values())
    assert found["groups"] == "xyz"
    assert len(found["predicted"]) == 3
    assert common.second_stage(model, recipe, own[:10], own[10:12], known, tested, settings)
    assert len(trained) == 3  # kept


def test_page_pools_folds_and_orders_only_masks_of_the_object_that_are_not_empty(tmp_path):
    def fold(hits):
        """Four images of 100 pixels, 20 the object; one without it; one whose mask is empty."""
        others = [[[90.0, 10], [0, 0]], [[80.0, 0], [20, 0]]]
        parts = torch.tensor([[[80.0, 0], [20 - hit, hit]] for hit in hits] + others)
        better = parts.clone()
        better[:4, 1] = torch.tensor([0.0, 20])
        kinds = {FIRST: parts, SECOND: better, ALONE: parts}
        predicted = [hit / 40 for hit in hits] + [0.9, 0.9]
        return {"parts": kinds, "predicted": predicted, "groups": ["a", "a", "b", "b", "c", "c"]}

    folds = {0: fold([4, 8, 12, 16]), 1: fold([5, 10, 15, 20])}
    common.second_stage_page("masks", "net", ["# Title"], folds, tmp_path)
    with (tmp_path / "masks.csv").open(newline="") as stream:
        rows = {(r["method"], r["metric"]): r for r in csv.DictReader(stream)}
    iou = {name: float(rows[name, "foreground IoU"]["value"]) for name in (FIRST, SECOND, ALONE)}
    assert iou == pytest.approx({FIRST: 90 / 220, SECOND: 160 / 220, ALONE: 90 / 220}, abs=1e-4)
    lead = rows[f"second stage - {FIRST}", "IoU difference"]
    assert float(lead["value"]) == pytest.approx(70 / 220, abs=1e-4)
    assert float(rows[FIRST, common.ORDER[0]]["value"]) == 1
    assert rows[FIRST, common.ORDER[0]]["n"] == "8"
    assert "## net: 12 test images of 3 groups, folds 0, 1" in (tmp_path / "masks.md").read_text()


def test_the_order_of_masks_is_compared_with_the_perfect_one():
    true = torch.linspace(0.1, 0.9, 20, dtype=torch.float64)
    groups = [f"field {k % 5}" for k in range(20)]
    correlation, gain = order_parts((true / 2).tolist(), true, groups)
    assert (correlation.value, gain.value) == pytest.approx((1, 1))
    assert (correlation.n, correlation.groups) == (20, 5)
    correlation, gain = order_parts((1 - true).tolist(), true, groups)
    assert (correlation.value, gain.value) == pytest.approx((-1, -1))


def test_masks_become_confusion_matrices_without_undecided_pixels():
    found, true = np.array([[0, 1], [1, 1]]), np.array([[0, 1], [0, 255]])
    assert mask_parts([found], [true]).tolist() == [[[1, 1], [0, 1]]]
