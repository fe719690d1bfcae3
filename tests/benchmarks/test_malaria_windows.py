"""The windows of the malaria benchmark, on synthetic fields."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssgcam.errors import SsgcamError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from malaria_samples import FixedWindows, MovingWindows
from malaria_windows import Window, WindowSet

WIDTH, HEIGHT = 640, 480


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> WindowSet:
    """24 fields of 48 cells on a grid: gray, infected ones red, undecided ones blue."""
    folder = tmp_path_factory.mktemp("malaria_iml")
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    fields = []
    for number in range(24):
        pixels = np.full((HEIGHT, WIDTH, 3), 230, np.uint8)
        special = generator.choice(48, number % 5, replace=False)
        objects = []
        for cell in range(48):
            x0, y0 = (cell % 8) * 80 + 4, (cell // 8) * 80 + 6
            box = [x0, y0, x0 + 72, y0 + 68]
            kind = "red blood cell"
            if cell in special:
                kind = "difficult" if cell == special[-1] and number % 4 == 0 else "ring"
            color = {"ring": (200, 0, 0), "difficult": (0, 0, 200)}.get(kind, (120, 120, 120))
            pixels[box[1] : box[3], box[0] : box[2]] = color
            objects.append({"type": kind, "box": box})
        name = f"field{number:02}.png"
        Image.fromarray(pixels).save(folder / "images" / name)
        fields.append({"image": name, "width": WIDTH, "height": HEIGHT, "objects": objects})
    (folder / "annotations.json").write_text(json.dumps(fields))
    return replace(WindowSet.read(folder), calibration_cells=5)


def infected_pixels(windows: WindowSet, window: Window) -> np.ndarray:
    pixels = np.asarray(windows.image(window)).astype(int)
    return pixels[..., 0] - pixels[..., 1] > 100


def test_fields_are_split_and_every_field_is_tested_once(windows):
    tested = [name for fold in range(3) for name in windows.fields(fold, "test")]
    assert sorted(tested) == sorted(windows.cells)
    infected = {name: sum(c.infected for c in cells) for name, cells in windows.cells.items()}
    in_fold = [sum(infected[name] for name in windows.fields(k, "test")) for k in range(3)]
    assert np.ptp(in_fold) <= 1
    for fold in range(3):
        parts = [set(windows.fields(fold, part)) for part in ("train", "calibration", "test")]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 24
    again = replace(WindowSet.read(windows.folder), calibration_cells=5)
    assert again.fields(1, "calibration") == windows.fields(1, "calibration")
    assert WindowSet.read(windows.folder, seed=1).fold_of != windows.fold_of
    with pytest.raises(SsgcamError, match="fold 3 is not one of 0 to 2"):
        windows.fields(3, "test")


def test_fixed_windows_are_inside_off_center_and_the_same_every_time(windows):
    fixed = windows.fixed(0, "test", healthy=20)
    assert fixed == WindowSet.read(windows.folder).fixed(0, "test", healthy=20)
    assert sum(window.label == 0 for window in fixed) == 20
    infected = [window for window in fixed if window.label]
    names = windows.fields(0, "test")
    assert len(infected) == sum(c.infected for name in names for c in windows.cells[name])
    for window in fixed:
        left, top, right, bottom = window.box
        assert 0 <= left < right == left + 160 <= WIDTH
        assert 0 <= top < bottom == top + 160 <= HEIGHT
    offsets = [(w.cell[0] + w.cell[2]) / 2 - 80 for w in infected if 100 < w.box[0] < 380]
    assert np.std(offsets) > 10
    assert np.abs(offsets).max() <= 36


def test_masks_and_boxes_fit_the_photo(windows):
    for window in (w for w in windows.fixed(1, "test") if w.label):
        red = infected_pixels(windows, window)
        filled = np.zeros((160, 160), bool)
        for x0, y0, x1, y1 in windows.boxes(window, size=160):
            filled[int(y0) : int(y1), int(x0) : int(x1)] = True
        assert np.array_equal(filled, red)
        ellipses = windows.mask(window, size=160)
        assert not (ellipses & ~red).any()
        x0, y0, x1, y1 = map(int, window.cell)
        if (x1 - x0, y1 - y0) == (72, 68):  # a whole cell
            assert ellipses[y0:y1, x0:x1].mean() == pytest.approx(np.pi / 4, abs=0.005)
        small = windows.mask(window, size=112)
        assert small.shape == (112, 112)
        assert small.mean() == pytest.approx(ellipses.mean(), abs=0.01)
        for box, large in zip(windows.boxes(window), windows.boxes(window, 160), strict=True):
            assert box == pytest.approx(np.multiply(large, 0.7))


def test_healthy_windows_never_show_an_infected_or_undecided_cell(windows):
    moving = MovingWindows(windows, 0)
    healthy = [index for index, label in enumerate(moving.labels) if not label]
    generator = np.random.default_rng(0)
    assert set(moving.groups) <= set(windows.fields(0, "train"))
    for index in generator.choice(healthy, 60):
        pixels = np.asarray(moving.image(index, generator)).astype(int)
        colored = np.ptp(pixels, axis=2) > 100
        assert colored.sum() <= 0.1 * 72 * 68 * 4
        assert pixels.shape == (160, 160, 3)
    infected = [index for index, label in enumerate(moving.labels) if label]
    for index in infected:
        pixels = np.asarray(moving.image(index, generator)).astype(int)
        assert (pixels[..., 0] - pixels[..., 1] > 100).sum() >= 0.75 * 72 * 68


def test_undecided_cells_are_marked(windows):
    marked = 0
    for window in windows.fixed(0, "test"):
        pixels = np.asarray(windows.image(window)).astype(int)
        blue = pixels[..., 2] - pixels[..., 1] > 100
        assert np.array_equal(windows.difficult(window, size=160), blue)
        marked += blue.any()
    samples = FixedWindows(windows, windows.fixed(0, "test"))
    assert len(samples.labels) == len(samples.groups) == len(samples.windows)


def test_missing_data_gives_one_sentence(tmp_path):
    with pytest.raises(SsgcamError, match=r"annotations\.json'; give --data the folder"):
        WindowSet.read(tmp_path)
