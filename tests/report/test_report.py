import numpy as np
import pytest
from PIL import Image

from ssgcam.report import Cell, heat_map, legend, noted, overlay, panel
from ssgcam.report.heatmap import resized

LUMA = np.array([0.2126, 0.7152, 0.0722])


@pytest.fixture
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    return Image.fromarray(pixels)


def test_colors_grow_lighter_with_the_value():
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    colors = np.asarray(heat_map(ramp, (256, 1)))[0].astype(float)
    linear = (colors / 255) ** 2.2 @ LUMA
    assert (np.diff(linear) > -1e-3).all()
    assert linear[0] < 0.01
    assert linear[-1] > 0.85


def test_heat_map_has_the_size_asked_for_and_the_peak_in_its_place():
    values = np.zeros((7, 7), np.float32)
    values[1, 5] = 1
    picture = np.asarray(heat_map(values, (140, 70))).astype(float).sum(2)
    assert picture.shape == (70, 140)
    row, column = np.unravel_index(picture.argmax(), picture.shape)
    assert abs(row - 15) <= 3
    assert abs(column - 110) <= 6


def test_map_with_a_box_leaves_the_rest_gray():
    values = np.ones((4, 4), np.float32)
    picture = np.asarray(heat_map(values, (20, 10), (5, 0, 15, 10)))
    assert (picture[:, :5] == 128).all()
    assert (picture[:, 15:] == 128).all()
    np.testing.assert_array_equal(picture[0, 5], np.asarray(heat_map(values, (1, 1)))[0, 0])


def test_overlay_without_evidence_is_the_photo(photo):
    zeros = np.zeros((7, 7), np.float32)
    np.testing.assert_array_equal(np.asarray(overlay(photo, zeros)), np.asarray(photo))


def test_overlay_is_gray_at_zero_and_nearly_the_color_at_one(photo):
    values = np.zeros((60, 90), np.float32)
    values[:, 45:] = 1
    picture = np.asarray(overlay(photo, values)).astype(float)
    gray = np.asarray(photo.convert("L")).astype(float)
    np.testing.assert_array_equal(picture[:, :45], np.repeat(gray[:, :45, None], 3, 2))
    top = np.asarray(heat_map(values, photo.size))[0, 89].astype(float)
    expected = 0.85 * top + 0.15 * gray[:, 45:, None]
    np.testing.assert_allclose(picture[:, 45:], expected, atol=1.5)


def test_overlay_does_not_change_its_photo(photo):
    before = np.asarray(photo).copy()
    values = np.random.default_rng(1).random((7, 7)).astype(np.float32)
    overlay(photo, values, (10, 0, 70, 60))
    noted(photo, "a note")
    np.testing.assert_array_equal(np.asarray(photo), before)


def test_overlay_of_one_pixel():
    dot = Image.new("RGB", (1, 1), "red")
    assert overlay(dot, np.ones((7, 7), np.float32)).size == (1, 1)


def test_box_of_the_whole_photo_marks_nothing(photo):
    values = np.random.default_rng(1).random((7, 7)).astype(np.float32)
    whole = overlay(photo, values, (0, 0, 90, 60))
    np.testing.assert_array_equal(np.asarray(whole), np.asarray(overlay(photo, values)))


def test_resizing_keeps_a_constant_and_stays_in_range():
    np.testing.assert_allclose(resized(np.full((7, 7), 0.3), (50, 31)), 0.3, atol=1e-6)
    values = np.random.default_rng(2).random((14, 14))
    grown = resized(values, (100, 90))
    assert grown.shape == (90, 100)
    assert values.min() - 1e-6 <= grown.min()
    assert grown.max() <= values.max() + 1e-6


def test_note_is_written_at_the_foot_of_large_pictures_only():
    large, small = Image.new("RGB", (400, 300), "white"), Image.new("RGB", (40, 30), "white")
    picture = np.asarray(noted(large, "no evidence for 'a very long name of a class'"))
    assert (picture[:200] == 255).all()
    assert (picture[-20:] < 128).any()
    assert (np.asarray(noted(small, "no evidence")) == 255).all()


def test_legend_runs_from_dark_to_light():
    bar = np.asarray(legend().convert("L")).astype(float)[20]
    inside = bar[20:460]
    assert inside[0] < 10
    assert inside[-1] > 200


def test_panel_shows_every_outline():
    mask = np.zeros((60, 90), bool)
    mask[20:40, 30:60] = True
    gray = Image.new("RGB", (90, 60), "gray")
    cells = [
        Cell(gray, "plain", "one\ntwo"),
        Cell(gray, "box", boxes=[(10, 10, 50, 40)]),
        Cell(gray, "mask", mask=mask),
        Cell(gray, "polygon", polygons=[[(5, 5), (80, 10), (40, 50)]]),
    ]
    sizes = {panel([[cell]]).size for cell in cells[1:]}
    assert len(sizes) == 1  # outlines don't move anything
    lines = []
    for cell in cells:
        pixels = np.asarray(panel([[cell]], scale=False)).astype(int)
        lines.append((np.abs(pixels - (0, 229, 255)).sum(2) < 60).sum())
    assert lines[0] == 0
    assert min(lines[1:]) > 200


def test_outline_of_a_box_is_where_the_box_is():
    box = (20, 10, 60, 50)
    black = Image.new("RGB", (100, 100))
    pixels = np.asarray(panel([[Cell(black, boxes=[box])]], scale=False)).astype(int)
    rows, columns = np.nonzero(np.abs(pixels - (0, 229, 255)).sum(2) < 60)
    dark = np.nonzero(pixels.sum(2) < 30)
    left, top = dark[1].min(), dark[0].min()
    scale = (dark[1].max() + 1 - left) / 100
    found = (columns.min() - left, rows.min() - top, columns.max() - left, rows.max() - top)
    np.testing.assert_allclose(np.array(found) / scale, box, atol=1.5)


def test_rows_of_different_lengths_titles_and_footer(photo):
    few = panel([[Cell(photo)]], scale=False)
    rows = [[Cell(photo), Cell(photo)], [None, Cell(photo, caption="c")]]
    many = panel(
        rows, title="title", row_titles=["first", "second"], footer="word " * 60, scale=True
    )
    assert many.width > 2 * few.width - 20
    assert many.height > 2 * few.height
