"""The windows of the study of infected cells, on synthetic fields."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import cells
from cells import Fields, Window
from ssgcam.errors import SsgcamError

WIDTH, HEIGHT = 640, 480


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """24 fields of 48 cells on a grid: gray, infected ones red, undecided ones blue."""
    data = tmp_path_factory.mktemp("data")
    folder = data / "malaria_iml"
    (folder / "images").mkdir(parents=True)
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
    return data


@pytest.fixture(autouse=True)
def _few_calibration_cells(monkeypatch):
    monkeypatch.setattr(cells, "CALIBRATION_CELLS", 5)


def colored(fields: Fields, window: Window, channel: int) -> np.ndarray:
    pixels = np.asarray(fields.photo(window)).astype(int)
    return pixels[..., channel] - pixels[..., 1] > 100


def test_every_field_is_tested_in_one_fold_and_the_parts_are_disjoint(data):
    fields = Fields.read(data)
    tested = [name for fold in range(3) for name in fields.names(fold, "test")]
    assert sorted(tested) == sorted(fields.cells)
    infected = {name: sum(c.infected for c in own) for name, own in fields.cells.items()}
    in_fold = [sum(infected[name] for name in fields.names(fold, "test")) for fold in range(3)]
    assert np.ptp(in_fold) <= 1
    for fold in range(3):
        parts = [set(fields.names(fold, part)) for part in ("train", "calibration", "test")]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 24
    assert Fields.read(data).names(1, "calibration") == fields.names(1, "calibration")


def test_fixed_windows_lie_inside_and_are_the_same_every_time(data):
    fields = Fields.read(data)
    windows = fields.windows(0, "test", healthy=20)
    assert windows == Fields.read(data).windows(0, "test", healthy=20)
    assert sum(not window.cell.infected for window in windows) == 20
    names = fields.names(0, "test")
    infected = sum(cell.infected for name in names for cell in fields.cells[name])
    assert sum(window.cell.infected for window in windows) == infected
    for window in windows:
        assert 0 <= window.left <= WIDTH - 160
        assert 0 <= window.top <= HEIGHT - 160
    shifts = [w.cell.box[0] + 36 - w.left - 80 for w in windows if 100 < w.left < 380]
    assert np.std(shifts) > 10
    assert np.abs(shifts).max() <= 36


def test_masks_are_the_ellipses_of_infected_cells_and_ignore_undecided_ones(data):
    fields = Fields.read(data)
    cells_of = [cell for own in fields.cells.values() for cell in own]
    around = [fields.window(cell, None) for cell in cells_of if cell.type == "difficult"]
    assert around
    for window in (*fields.windows(0, "test"), *around):
        mask = fields.mask(window, size=160)
        red, blue = colored(fields, window, 0), colored(fields, window, 2)
        assert not ((mask == 1) & ~red).any()
        assert np.array_equal(mask == 255, blue)
        left, top = int(window.cell.box[0]) - window.left, int(window.cell.box[1]) - window.top
        if window.cell.infected and 0 <= left <= 88 and 0 <= top <= 92:  # whole: 72x68
            share = (mask[top : top + 68, left : left + 72] == 1).mean()
            assert share == pytest.approx(np.pi / 4, abs=0.005)
        assert (fields.mask(window) == 1).mean() == pytest.approx((mask == 1).mean(), abs=0.01)


def test_healthy_training_windows_show_no_infected_or_undecided_cell(data):
    fields = Fields.read(data)
    images = fields.moving(0)
    generator = np.random.default_rng(0)
    assert set(images.groups) <= set(fields.names(0, "train"))
    healthy = [index for index, label in enumerate(images.labels) if not label]
    for index in generator.choice(healthy, 60):
        pixels = np.asarray(images.read(int(index), generator)).astype(int)
        assert pixels.shape == (160, 160, 3)
        assert (np.ptp(pixels, axis=2) > 100).sum() <= 0.1 * 72 * 68 * 4
    for index in (index for index, label in enumerate(images.labels) if label):
        pixels = np.asarray(images.read(index, generator)).astype(int)
        assert (pixels[..., 0] - pixels[..., 1] > 100).sum() >= 0.75 * 72 * 68


def test_missing_data_gives_one_sentence(tmp_path):
    with pytest.raises(SsgcamError, match=r"annotations\.json'; give --data the folder"):
        Fields.read(tmp_path)
