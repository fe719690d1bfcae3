"""What the page does, without the page: maps from cached signals, masks, strokes and searches."""

import json
import zipfile
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from helpers.evaluation_cases import blobs, masked_tree, noise, picture
from helpers.networks import state_of
from ssgcam import CAM, SsgcamError, SSGSettings
from ssgcam.app import state
from ssgcam.core.layers import auto_layers
from ssgcam.recipe import Recipe
from ssgcam.search import CalibrationSet, MapGrid

BOX = (8, 10, 30, 28)
SMALL = replace(state.QUICK, generations=3, population=20, grid=MapGrid(("sum",), (0.0, 0.1)))


@pytest.fixture
def photo():
    return picture(1, BOX, (48, 40))


@pytest.mark.parametrize("method", ["ssg_cam", "layer_cam", "refine_cam"])
def test_maps_of_cached_signals_are_those_of_cam(photo, method):
    model = noise()
    before = state_of(model.network)
    explained = state.explain(model, photo, 2, 0)
    assert state_of(model.network) == before
    inputs = model.preprocessing([photo])
    ssg = SSGSettings(sigma=0.1, first_exponent=2, second_exponent=1)
    settings = state.MapSettings(**asdict(ssg), method=method, gamma=0.5)
    for layer in (state.FUSED, *explained.signals):
        names = auto_layers(model.network, inputs) if layer == state.FUSED else [layer]
        expected = CAM(model, names, method, ssg=ssg, gamma=0.5)(inputs, 2, against=0).maps[0]
        found = explained.map(replace(settings, layer=layer))
        torch.testing.assert_close(torch.from_numpy(found), expected)
    names = ("act1", "act2")
    cam = CAM(model, names, method, ssg=ssg, gamma=0.5)
    signals, _ = cam.signals(inputs, torch.tensor([2]), torch.tensor([0]))
    several = replace(explained, signals=signals, fused=names).map(settings)
    torch.testing.assert_close(torch.from_numpy(several), cam(inputs, 2, against=0).maps[0])


def test_the_top_class_is_explained_and_named(photo):
    explained = state.explain(blobs(), photo)
    assert explained.name == "green"
    assert state.explain(blobs(), photo, 1, 0).name == "green and not red"
    assert len(explained.layers(state.MapSettings())) == len(explained.signals)
    with pytest.raises(SsgcamError, match="the same"):
        state.explain(blobs(), photo, 1, 1)


def test_downloads_hold_map_overlay_and_settings(photo, tmp_path):
    explained = state.explain(blobs(), photo)
    files = explained.save(state.MapSettings(gamma=0.7), tmp_path)
    assert len(files) == 3
    assert json.loads((tmp_path / "settings.json").read_text())["gamma"] == 0.7
    assert Image.open(tmp_path / "overlay.png").size == photo.size
    assert np.load(tmp_path / "map.npy").max() == 1


def test_class_choices_are_read_back():
    names = state.class_names(blobs())
    assert names == ["0: red", "1: green", "2: blue"]
    assert [state.class_of(name) for name in (*names, "the most probable", None)] == [
        0,
        1,
        2,
        None,
        None,
    ]


def test_the_first_recipe_finds_the_object(photo):
    model = blobs()
    recipe = state.start_recipe(model)
    found = state.masked_photo(model, recipe, photo, "a.png")
    mask = found.mask(0.5)
    assert mask.shape == (40, 48)
    assert mask[BOX[1] + 3 : BOX[3] - 3, BOX[0] + 3 : BOX[2] - 3].all()
    assert not replace(found, is_open=False).mask(0.5).any()


def test_the_outline_is_drawn_on_the_border_of_the_mask():
    mask = np.zeros((60, 80), bool)
    mask[20:40, 30:60] = True
    drawn = np.asarray(state.outlined(Image.new("RGB", (80, 60), "white"), mask))
    changed = (drawn != 255).any(-1)
    assert changed[20, 30:60].all()
    assert not changed[28:32, 40:50].any()
    assert not changed[:10].any()


def test_masks_and_the_recipe_with_its_new_threshold_are_zipped(photo, tmp_path):
    model = blobs()
    recipe = state.start_recipe(model)
    made = [state.masked_photo(model, recipe, photo, "a.png")] * 2
    path = state.save_masks(made, recipe, 0.3, tmp_path / "masks.zip")
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["recipe.json", "masks/a_0.png", "masks/a_1.png"]
        archive.extractall(tmp_path)
    assert Recipe.load(tmp_path / "recipe.json").threshold == 0.3
    values = np.asarray(Image.open(tmp_path / "masks" / "a_0.png"))
    assert (values == 255 * made[0].mask(0.3)).all()


def strokes(size, marks):
    layer = np.zeros((size[1], size[0], 4), np.uint8)
    for color, (x0, y0, x1, y1) in marks:
        layer[y0:y1, x0:x1] = (*ImageColor.getrgb(color), 255)
    return layer


def test_strokes_become_object_background_and_unknown():
    layer = strokes((48, 40), [(state.OBJECT, (10, 12, 20, 16)), (state.NOT_OBJECT, (0, 0, 48, 2))])
    layer[30, 30] = (0, 200, 80, 90)  # the soft edge of a brush
    mask = state.strokes_to_mask([layer], (48, 40))
    assert (mask[12:16, 10:20] == 1).all()
    assert (mask[:2] == 0).all()
    assert (mask == 255).sum() == mask.size - 40 - 96
    assert state.strokes_to_mask([layer], (96, 80)).shape == (80, 96)
    with pytest.raises(SsgcamError, match="green brush"):
        state.strokes_to_mask([strokes((9, 9), [(state.NOT_OBJECT, (0, 0, 4, 4))])], (9, 9))


def test_the_iou_counts_painted_pixels_only():
    painted = np.full((10, 10), 255, np.uint8)
    painted[0, :4] = 1
    painted[1, :4] = 0
    mask = np.ones((10, 10), bool)
    assert state.painted_iou(mask, painted) == 0.5
    mask[1] = False
    assert state.painted_iou(mask, painted) == 1


def test_a_search_on_strokes_of_one_photo_follows_them(photo, tmp_path):
    model = blobs()
    marks = [(state.OBJECT, (12, 14, 26, 24)), (state.NOT_OBJECT, (34, 0, 48, 40))]
    mask = state.strokes_to_mask([strokes(photo.size, marks)], photo.size)
    correction = state.Correction("a.png", photo, mask, 1)
    data = state.correction_set(model, [correction])
    found = state.quick_search(model, data, SMALL, cache=tmp_path)
    made = state.masked_photo(model, found.recipe, photo, "a.png", 1).mask(found.recipe.threshold)
    assert state.painted_iou(made, mask) > 0.9
    kept = sorted(path.name for path in tmp_path.iterdir())
    mask[30:, :5] = 0  # more strokes: the layers' maps are used again
    data = state.correction_set(model, [replace(correction, mask=mask)])
    state.quick_search(model, data, SMALL, cache=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    with pytest.raises(SsgcamError, match="no photo with strokes"):
        state.correction_set(model, [])


def test_uploaded_photos_and_masks_are_paired_by_name(tmp_path):
    root = masked_tree(tmp_path / "set", values=(255, 255, 255), count=3)
    photos = sorted(map(str, (root / "images").iterdir()))
    masks = sorted(map(str, (root / "masks").iterdir()))
    samples = state.staged(photos, masks, tmp_path / "staged")
    made = CalibrationSet.from_samples(samples, blobs(), classes=2, any_count=True)
    assert made.classes.tolist() == [2] * 3
    assert made.negatives.tolist() == [False, True, False]
    with pytest.raises(SsgcamError, match="is missing"):
        state.staged(photos, masks[:2], tmp_path / "other")
