"""Mask files: colors, overlays and the settings."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from helpers.segmentation import mask_of, photos, recipe_for, small
from ssgcam import CAM
from ssgcam.bulk.mask_files import mask_overlay, voc_colors
from ssgcam.bulk.segment import segment_images
from ssgcam.data import read_samples
from ssgcam.fingerprint import parameter_hash
from ssgcam.images import read_image


def test_colors_are_those_of_pascal_voc():
    # aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, table, dog, horse,
    # motorbike, person, plant, sheep, sofa, train, monitor
    published = [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128),
        (0, 128, 128), (128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0),
        (64, 0, 128), (192, 0, 128), (64, 128, 128), (192, 128, 128), (0, 64, 0), (128, 64, 0),
        (0, 192, 0), (128, 192, 0), (0, 64, 128),
    ]  # fmt: skip
    assert voc_colors()[:21] == tuple(published)
    assert len(set(voc_colors())) == 256


def test_indexed_masks_are_read_back_as_a_data_set(tmp_path):
    model = small()
    photos(tmp_path / "images", 3)
    options = {"cam": CAM(model, ["act2"], "layer_cam"), "gate": 0.0}
    segment_images(tmp_path / "images", model, tmp_path / "masks", overlays=True, **options)
    with Image.open(tmp_path / "masks" / "000.png") as image:
        labels, colors = np.array(image), np.array(image.convert("RGB"))
    assert np.array_equal(colors, np.array(voc_colors(), dtype=np.uint8)[labels])
    samples = read_samples(tmp_path, class_names=model.class_names)
    assert len(samples) == 3
    assert np.array_equal(samples.samples[0].mask.read((30, 20)), labels)


def test_overlays_show_the_photo_outside_the_mask(tmp_path):
    model = small()
    (path,) = photos(tmp_path / "in", 1, (300, 200))
    segment_images(
        tmp_path / "in", model, tmp_path / "out", recipe=recipe_for(model, gate=0.0), overlays=True
    )
    before = np.array(read_image(path)).astype(int)
    after = np.array(read_image(tmp_path / "out/overlays/000.jpg")).astype(int)
    mask = mask_of(tmp_path / "out/000.png") > 0
    difference = np.abs(after - before).max(2)
    assert np.median(difference[~mask]) <= 4  # what JPEG changes
    expected = 0.45 * before[mask] + 0.55 * np.array([128, 0, 0])
    assert np.median(np.abs(after[mask] - expected)) <= 4


def test_an_object_has_a_white_border_on_its_side_of_the_outline():
    labels = np.zeros((40, 60), dtype=np.uint8)
    labels[10:20, 20:30], labels[10:20, 30:50] = 1, 2
    picture = np.array(mask_overlay(Image.new("RGB", (60, 40), (200, 0, 0)), labels))
    white = (picture == 255).all(2)
    expected = np.zeros_like(white)
    expected[[10, 19], 20:50] = True
    expected[10:20, [20, 29, 30, 49]] = True
    assert np.array_equal(white, expected)


def test_settings_file_lists_the_mask_values(tmp_path):
    model = small()
    photos(tmp_path / "in", 1)
    segment_images(tmp_path / "in", model, tmp_path / "out", recipe=recipe_for(model))
    content = json.loads((tmp_path / "out" / "segment.json").read_text())
    assert content["masks"] == [
        {"value": 0, "class": None, "name": "background", "color": [0, 0, 0]},
        {"value": 1, "class": 1, "name": "dog", "color": [128, 0, 0]},
    ]
    assert content["rule"]["threshold"] == 0.4
    assert content["model"]["parameters"] == parameter_hash(model.network)
