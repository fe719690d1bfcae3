"""Masks against plain computations: one class, several classes, windows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch.nn import functional as F

from helpers.segmentation import SIDE, mask_of, photos, recipe_for, small
from ssgcam import CAM
from ssgcam.bulk.segment import segment_images
from ssgcam.bulk.segmenter import ClassScores, MaskRule, Segmenter, compactness
from ssgcam.bulk.windows import Windows
from ssgcam.core.augment import Augmentation
from ssgcam.data import read_samples
from ssgcam.images import read_image
from ssgcam.metrics.masks import pseudo_masks


def test_mask_of_one_class_is_the_resized_map_above_the_threshold(tmp_path):
    model = small()
    paths = photos(tmp_path / "in")
    recipe = recipe_for(model)
    result = segment_images(tmp_path / "in", model, tmp_path / "out", recipe=recipe, batch_size=2)
    bound = recipe.bind(model)
    open_gates = 0
    for path in paths:
        found = bound(model.preprocessing([read_image(path)]), 1)
        full = F.interpolate(found.maps[None], (20, 30), mode="bilinear")[0, 0]
        is_open = found.probabilities[0, 1] >= 0.3
        expected = (full / full.max() >= 0.4) & is_open
        assert np.array_equal(mask_of(tmp_path / "out" / path.name), expected.int().numpy())
        open_gates += int(is_open)
    assert 0 < open_gates < len(paths)  # both cases were seen
    assert result.empty == len(paths) - open_gates
    assert (result.class_names, result.threshold, result.gate) == (("dog",), 0.4, 0.3)


def test_photos_of_the_networks_size_get_the_recipes_own_masks(tmp_path):
    model = small()
    paths = photos(tmp_path / "in", size=(SIDE, SIDE))
    recipe = recipe_for(model, augmentation=Augmentation("horizontal", (1.0, 1.5)), gate=0.0)
    segment_images(tmp_path / "in", model, tmp_path / "out", recipe=recipe)
    masks = recipe.bind(model).masks(model.preprocessing([read_image(path) for path in paths]))
    for path, mask in zip(paths, masks, strict=True):
        assert np.array_equal(mask_of(tmp_path / "out" / path.name), mask.int().numpy())


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_several_classes_equal_the_pseudo_masks_of_the_evaluation(tmp_path, output):
    model = small(output)
    paths = photos(tmp_path / "in", 8)
    cam = CAM(model, ["act2"], "layer_cam")
    gate = 0.33 if output == "softmax" else 0.5
    result = segment_images(
        paths, model, tmp_path / "out", cam=cam, gate=gate, batch_size=3, threshold=0.2
    )
    labels = set()
    counts = []
    for path in paths:
        images = model.preprocessing([read_image(path)])
        found = cam(images, torch.tensor([[0, 1, 2]]))
        maps = F.interpolate(found.maps, (20, 30), mode="bilinear")
        present = found.probabilities >= gate
        expected = pseudo_masks(maps, present, background=0.2)[0].numpy()
        mask = mask_of(tmp_path / "out" / path.name)
        assert np.array_equal(mask, expected)
        labels |= set(np.unique(mask).tolist())
        counts.append(int(present.sum()))
    assert {0, 1} < labels
    assert len(set(counts)) > 1
    assert result.class_names == model.class_names


def test_values_follow_the_order_of_the_classes_given_by_index_or_name(tmp_path):
    model = small()
    paths = photos(tmp_path / "in", 3)
    cam = CAM(model, ["act2"], "layer_cam")
    for wanted, order in ((["dog", "house"], [1, 2]), ((2, 1), [2, 1])):
        out = tmp_path / "-".join(map(str, order))
        options = {"cam": cam, "gate": 0.0, "threshold": 0.1}
        result = segment_images(tmp_path / "in", model, out, classes=wanted, **options)
        assert result.class_names == tuple(model.class_names[index] for index in order)
        for path in paths:
            maps = cam(model.preprocessing([read_image(path)]), torch.tensor([order])).maps
            maps = F.interpolate(maps, (20, 30), mode="bilinear")
            expected = pseudo_masks(maps, torch.ones(1, 2), 0.1)[0].numpy()
            assert np.array_equal(mask_of(out / path.name), expected)
            assert expected.any()


def test_the_most_probable_class_of_each_photo(tmp_path):
    model = small()
    paths = photos(tmp_path / "in", 6)
    segment_images(tmp_path / "in", model, tmp_path / "out", classes="top", gate=0.0)
    lines = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").open()][1:]
    top = model.network(model.preprocessing([read_image(path) for path in paths])).argmax(1)
    assert [line["classes"][0]["class"] for line in lines] == top.tolist()
    assert [line["classes"][0]["value"] for line in lines] == [1] * 6


def test_ties_go_to_the_lower_value_and_to_the_background():
    found = {
        1: ClassScores(0, 1.0, torch.tensor([[0.1, 0.4, 0.5]])),
        2: ClassScores(1, 1.0, torch.tensor([[0.2, 0.4, 0.6]])),
    }
    rule = MaskRule((0, 1), threshold=0.2, windows=Windows(8))  # scores are taken as they are
    model = small()
    assert _mask(Segmenter(model, rule, CAM(model)), found, (1, 3)).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("classes", [(1,), (0, 2)])
def test_windows_equal_a_plain_loop(classes):
    model = small("sigmoid")
    picture = Image.fromarray(
        np.random.default_rng(3).integers(0, 256, (70, 45, 3), dtype=np.uint8)
    )
    cam = CAM(model, ["act2"], "layer_cam")
    rule = MaskRule(classes, threshold=0.3, gate=0.5, windows=Windows(20, 0.4))
    segmenter = Segmenter(model, rule, cam, images_at_once=4)
    found_classes = segmenter.in_windows(picture)

    tops, lefts = [0, 10, 20, 30, 40, 50], [0, 8, 17, 25]  # steps of at most 12, ends at 70, 45
    assert len(list(rule.windows.boxes(70, 45))) == len(tops) * len(lefts)
    total = np.zeros((len(classes), 70, 45))
    weights = np.zeros((70, 45))
    ramp = np.minimum(np.arange(1, 21), np.arange(20, 0, -1)).astype(float)
    weight = np.outer(ramp, ramp)
    shut = 0
    for top in tops:
        for left in lefts:
            weights[top : top + 20, left : left + 20] += weight
            images = model.preprocessing([picture.crop((left, top, left + 20, top + 20))])
            for k, index in enumerate(classes):
                found = cam(images, index)
                probability = float(found.probabilities[0, index])
                full = F.interpolate(found.maps[None], (20, 20), mode="bilinear")[0, 0]
                if probability >= 0.5:
                    part = weight * probability * (full / full.max()).numpy()
                    total[k, top : top + 20, left : left + 20] += part
                else:
                    shut += 1
    assert 0 < shut < len(classes) * 24
    expected = total / weights
    for value, what in found_classes.items():
        np.testing.assert_allclose(what.scores.numpy(), expected[value - 1], atol=1e-5)
    mask = _mask(segmenter, found_classes, (70, 45)).numpy()
    if len(classes) == 1:
        plain = (expected[0] >= 0.3).astype(int)
    else:
        plain = np.concatenate([np.full((1, 70, 45), 0.3), expected]).argmax(0)
    clear = np.abs(np.sort(np.concatenate([np.full((1, 70, 45), 0.3), expected]), 0)[-1] - 0.3)
    assert np.array_equal(mask[clear > 1e-4], plain[clear > 1e-4])
    assert mask.mean() > 0


def test_window_larger_than_the_photo_gives_probability_times_map(tmp_path):
    model = small()
    (path,) = photos(tmp_path / "in", 1)
    cam = CAM(model, ["act2"], "layer_cam")
    rule = MaskRule((0,), gate=0.0, windows=Windows(64, 0.5))
    (one,) = Segmenter(model, rule, cam).in_windows(read_image(path)).values()
    found = cam(model.preprocessing([read_image(path)]), 0)
    full = F.interpolate(found.maps[None], (20, 30), mode="bilinear")[0, 0]
    expected = found.probabilities[0, 0] * full / full.max()
    assert torch.allclose(one.scores, expected, atol=1e-6)


def test_masks_from_windows_have_the_photos_size(tmp_path):
    model = small()
    paths = photos(tmp_path / "in", 2, (90, 50))
    recipe = recipe_for(model, gate=0.0, threshold=0.1)
    settings = {"recipe": recipe, "window": 24, "batch_size": 5}
    segment_images(tmp_path / "in", model, tmp_path / "out", **settings)
    whole = segment_images(tmp_path / "in", model, tmp_path / "whole", recipe=recipe)
    for path in paths:
        mask = mask_of(tmp_path / "out" / path.name)
        assert mask.shape == (50, 90)
        assert set(np.unique(mask).tolist()) == {0, 1}
        assert not np.array_equal(mask, mask_of(tmp_path / "whole" / path.name))
    assert whole.total == 2


def _mask(segmenter, found, size):
    return segmenter.mask(segmenter.full_scores(found, size), size)


# --- further outputs


def test_soft_maps_are_16_bit_and_give_the_mask_at_the_threshold(tmp_path):
    model = small()
    paths = photos(tmp_path / "in", 4)
    recipe = recipe_for(model, gate=0.0)
    segment_images(tmp_path / "in", model, tmp_path / "out", recipe=recipe, soft=True)
    for path in paths:
        with Image.open(tmp_path / "out/maps" / path.name) as image:
            assert image.mode == "I;16"
            values = np.array(image) / 65535
        assert values.shape == (20, 30)
        assert values.max() == 1
        mask = mask_of(tmp_path / "out" / path.name)
        clear = np.abs(values - recipe.threshold) > 1e-4
        assert np.array_equal((values >= recipe.threshold)[clear], mask[clear])


def test_each_present_class_has_a_soft_map(tmp_path):
    model = small("sigmoid")
    photos(tmp_path / "in", 5)
    cam = CAM(model, ["act2"], "layer_cam")
    segment_images(tmp_path / "in", model, tmp_path / "out", cam=cam, gate=0.5, soft=True)
    lines = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").open()][1:]
    expected = {
        f"{Path(line['unit']).stem}_{one['value']}.png"
        for line in lines
        for one in line["classes"]
        if one["probability"] >= 0.5
    }
    assert {path.name for path in (tmp_path / "out/maps").iterdir()} == expected
    assert len(expected) > 5


def test_small_objects_become_background(tmp_path):
    model = small()
    paths = photos(tmp_path / "in", 4)
    recipe = recipe_for(model, gate=0.0)
    for least in (1, 40):
        out = tmp_path / str(least)
        segment_images(tmp_path / "in", model, out, recipe=recipe, min_object=least)
    removed = 0
    for path in paths:
        before, after = (mask_of(tmp_path / least / path.name) for least in ("1", "40"))
        components, count = ndimage.label(before)
        sizes = np.bincount(components.ravel(), minlength=count + 1)
        assert np.array_equal(after > 0, (before > 0) & (sizes[components] >= 40))
        removed += int((before != after).sum())
    assert removed


def test_stability_is_the_iou_of_masks_at_neighboring_thresholds(tmp_path):
    model = small()
    paths = photos(tmp_path / "in", 4)
    recipe = recipe_for(model, gate=0.0)
    segment_images(tmp_path / "in", model, tmp_path / "out", recipe=recipe, soft=True, review=2)
    lines = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").open()][1:]
    found = {line["unit"]: line["classes"][0]["stability"] for line in lines}
    for path in paths:
        with Image.open(tmp_path / "out/maps" / path.name) as image:
            values = np.array(image) / 65535
        expected = (values >= 0.45).sum() / (values >= 0.35).sum()
        assert found[path.name] == pytest.approx(expected, abs=0.01)
    predicted = {line["unit"]: line["classes"][0]["predicted_iou"] for line in lines}
    least = sorted(predicted, key=predicted.get)[:2]
    assert sorted(path.name for path in (tmp_path / "out/review/images").iterdir()) == sorted(least)
    assert len(read_samples(tmp_path / "out/review", class_names=["dog"])) == 2


def test_compactness_is_that_of_the_outlines_as_polygons():
    mask = np.zeros((40, 60), dtype=bool)
    assert compactness(mask) == 0
    mask[5:16, 5:36] = True  # through the centers of the outermost pixels: 10 by 30
    assert compactness(mask) == pytest.approx(math.sqrt(4 * math.pi * 300) / 80)
    mask[8:12, 10:30] = False  # a hole does not count
    assert compactness(mask) == pytest.approx(math.sqrt(4 * math.pi * 300) / 80)
    mask[20:31, 5:36] = True  # a second object of the same shape
    assert compactness(mask) == pytest.approx(math.sqrt(4 * math.pi * 600) / 160)


def test_compactness_of_a_disk_is_near_one_and_of_a_line_near_zero():
    y, x = np.mgrid[:200, :200]
    disk = (x - 100) ** 2 + (y - 100) ** 2 < 80**2
    assert 0.93 < compactness(disk) < 1  # steps of pixels make the outline 5 % longer
    line = np.zeros((200, 200), dtype=bool)
    line[100, 10:190] = True
    assert compactness(line) == 0
