"""What ``segment`` says of how far its masks can be trusted."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from helpers.segmentation import mask_of, photos, recipe_for, small
from ssgcam.bulk.segment import segment_images
from ssgcam.bulk.segmenter import compactness
from ssgcam.images import read_image
from ssgcam.recipe import Guarantee
from ssgcam.shift import summarize

GUARANTEE = Guarantee(0.1, 0.2, 0.6, 12, "group", "held-out")


def lines_of(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").open()][1:]


def maps_of(model, recipe, path):
    """The map at the photo's size by a plain computation, zeros below the gate."""
    found = recipe.bind(model)(model.preprocessing([read_image(path)]), 1)
    full = F.interpolate(found.maps[None], (20, 30), mode="bilinear")[0, 0]
    return full / full.max() * (found.probabilities[0, 1] >= recipe.gate)


def test_inner_and_outer_masks_follow_the_thresholds_of_the_guarantee(tmp_path):
    model, paths, out = small(), photos(tmp_path / "in"), tmp_path / "out"
    recipe = recipe_for(model, guarantee=GUARANTEE)
    result = segment_images(tmp_path / "in", model, out, recipe=recipe)
    assert "misses on average at most 0.1 of an object" in result.guarantee
    assert "12 groups it was calibrated on (held-out)" in result.guarantee
    assert json.loads((out / "segment.json").read_text())["guarantee"] == result.guarantee
    undecided = {line["unit"]: line["undecided"] for line in lines_of(out)}
    assert any(undecided.values())
    for path in paths:
        values = maps_of(model, recipe, path).numpy()
        outer, inner, both = (
            mask_of(out / name / path.name) for name in ("outer", "inner", "undecided")
        )
        assert np.array_equal(outer, values >= 0.2)
        assert np.array_equal(inner, values >= 0.6)
        assert np.array_equal(both == 255, outer > inner)
        assert np.array_equal(both == 1, inner == 1)
        assert undecided[path.name] == pytest.approx((both == 255).mean(), abs=1e-6)


def test_guarantee_without_inner_threshold_has_empty_inner_masks(tmp_path):
    model, out = small(), tmp_path / "out"
    (path,) = photos(tmp_path / "in", 1)
    recipe = recipe_for(model, gate=0.0, guarantee=replace(GUARANTEE, inner_threshold=None))
    result = segment_images(tmp_path / "in", model, out, recipe=recipe)
    assert "the inner mask is always empty" in result.guarantee
    assert mask_of(out / "outer" / path.name).any()
    assert not mask_of(out / "inner" / path.name).any()


@pytest.mark.parametrize("change", [{"classes": [2]}, {"gate": 0.7}, {"window": 16}], ids=str)
def test_no_guarantee_for_other_classes_gates_or_windows(tmp_path, change):
    model, out = small(), tmp_path / "out"
    photos(tmp_path / "in", 1)
    recipe = recipe_for(model, guarantee=GUARANTEE)
    with pytest.warns(UserWarning, match="no inner and outer masks are written"):
        result = segment_images(tmp_path / "in", model, out, recipe=recipe, **change)
    assert result.guarantee == ""
    assert not (out / "outer").exists()


def test_photos_unlike_the_calibration_photos_are_named_with_the_reason(tmp_path):
    model, paths, out = small(), photos(tmp_path / "in", 8), tmp_path / "out"
    recipe = recipe_for(model)
    bound = recipe.bind(model)
    images = model.preprocessing([read_image(path) for path in paths])
    usual = summarize(bound.statistics(bound(images, torch.full((8,), 1))))
    Image.new("RGB", (30, 20), "white").save(tmp_path / "in" / "white.png")
    recipe = recipe_for(model, calibration_statistics=usual)
    result = segment_images(tmp_path / "in", model, out, recipe=recipe)
    flagged = {line["unit"]: line for line in lines_of(out) if "unusual" in line}
    assert "white.png" in flagged
    assert result.unusual == len(flagged) <= 3
    assert "picture intensity" in flagged["white.png"]["unusual"]
    assert "unlike the calibration images in: " in flagged["white.png"]["notes"][-1]


def test_predicted_iou_is_the_mean_of_its_parts(tmp_path):
    model, paths = small(), photos(tmp_path / "in", 3)
    recipe = recipe_for(model, gate=0.0)
    segment_images(tmp_path / "in", model, tmp_path / "plain", recipe=recipe)
    segment_images(tmp_path / "in", model, tmp_path / "mirrored", recipe=recipe, mirror=True)
    bound = recipe.bind(model)
    for path, plain, mirrored in zip(
        paths, lines_of(tmp_path / "plain"), lines_of(tmp_path / "mirrored"), strict=True
    ):
        one = plain["classes"][0]
        with Image.open(tmp_path / "plain" / path.name) as image:
            compact = compactness(np.array(image) > 0)
        parts = one["stability"] + one["probability"] + compact
        assert one["predicted_iou"] == pytest.approx(parts / 3, abs=1e-4)
        images = model.preprocessing([read_image(path)])
        here, there = bound(images, 1).maps >= 0.4, bound(images.flip(-1), 1).maps.flip(-1) >= 0.4
        agreement = float((here & there).sum() / (here | there).sum())
        found = mirrored["classes"][0]["predicted_iou"]
        assert found == pytest.approx((parts + agreement) / 4, abs=1e-3)
