"""``ssgcam segment``: kills, bad input and settings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from helpers.data_trees import photo, refusal
from helpers.networks import Small
from helpers.segmentation import SIDE, files_below, mask_of, photos, recipe_for, small
from ssgcam import CAM, LoadedModel, Preprocessing
from ssgcam.bulk.segment import segment_images
from ssgcam.cli import app
from ssgcam.fingerprint import Fingerprint
from ssgcam.recipe import Recipe

FACTORY = """
import sys, time
sys.path.insert(0, {tests!r})
import torch
from helpers.segmentation import small
from ssgcam.recipe import Recipe

def fast():
    return small()

def slow():
    model = small()
    model.network.register_forward_hook(lambda *_: time.sleep(0.02))
    return model
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A folder with photos, a recipe and networks; returns a function that runs the command there."""
    (tmp_path / "factory.py").write_text(FACTORY.format(tests=str(Path(__file__).parents[1])))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "factory", raising=False)
    recipe_for(small(), gate=0.2).save(tmp_path / "recipe.json")

    def run(*args: str):
        return CliRunner().invoke(app, ["segment", *args])

    return run


COMMON = ["--recipe", "recipe.json", "--batch-size", "4", "--overlay", "--device", "cpu"]


def test_killed_run_continues_and_leaves_the_same_files(tmp_path, command):
    photos(tmp_path / "in", 120)
    arguments = ["in", "--model", "factory:slow", *COMMON]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    process = subprocess.Popen(
        [sys.executable, "-m", "ssgcam", "segment", *arguments, "--out", "cut"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    manifest = tmp_path / "cut" / "manifest.jsonl"
    deadline = time.monotonic() + 300
    while not manifest.exists() or len(manifest.read_bytes().splitlines()) < 21:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    done = len(manifest.read_bytes().splitlines()) - 1
    assert 20 <= done < 120
    for path in (tmp_path / "cut").glob("[!.]*.png"):  # whole pictures, with or without a line
        mask_of(path)

    again = command(*arguments, "--out", "cut")
    assert again.exit_code == 0, again.output
    assert f"{done // 4 * 4} of them by an earlier run" in again.output
    whole = command(*arguments, "--out", "whole")
    assert "earlier" not in whole.output
    assert files_below(tmp_path / "cut") == files_below(tmp_path / "whole")
    assert len(files_below(tmp_path / "whole")) == 2 * 120 + 2
    assert not list((tmp_path / "cut").rglob(".*"))


def test_bad_images_are_reported_and_the_others_segmented(tmp_path, command):
    photos(tmp_path / "in", 6)
    (tmp_path / "in" / "001.png").write_bytes(b"not a picture")
    cut = (tmp_path / "in" / "003.png").read_bytes()
    (tmp_path / "in" / "003.png").write_bytes(cut[: len(cut) // 2])
    photo(tmp_path / "in" / "005.jpg")
    arguments = ["in", "gone.jpg", "--model", "factory:fast", "--out", "out", *COMMON]
    for _ in range(2):
        result = command(*arguments, "--export", "coco")
        assert result.exit_code == 2
        lines = [line for line in result.output.splitlines() if line.startswith("ssgcam: ")]
        for part in ("001.png' is not an image", "003.png' is cut short", "no file 'gone.jpg'"):
            assert sum(part in line for line in lines) == 1, (part, lines)
        assert len(lines) == 3
        assert "5 of 8 images have masks" in result.output
        written = {path.name for path in (tmp_path / "out/in").glob("*.png")}
        assert written == {"000.png", "002.png", "004.png", "005.jpg.png", "005.png.png"}
        images = json.loads((tmp_path / "out/coco.json").read_text())["images"]
        assert [image["file_name"] for image in images] == [
            "in/000.png", "in/002.png", "in/004.png", "in/005.jpg", "in/005.png",
        ]  # fmt: skip


def test_another_threshold_segments_all_photos_again(tmp_path, command):
    photos(tmp_path / "in", 3)
    arguments = ["in", "--model", "factory:fast", "--out", "out", *COMMON]
    assert command(*arguments).exit_code == 0
    before = mask_of(tmp_path / "out" / "000.png").mean()
    result = command(*arguments, "--threshold", "0.9")
    assert "earlier" not in result.output
    assert "threshold 0.9" in result.output
    assert mask_of(tmp_path / "out" / "000.png").mean() < before
    assert len((tmp_path / "out/manifest.jsonl").read_text().splitlines()) == 4


def test_parameters_that_differ_from_the_recipes_are_reported(tmp_path, command):
    photos(tmp_path / "in", 1)
    other = Recipe.load(tmp_path / "recipe.json")
    other = recipe_for(small(), network=Fingerprint("small", other.network.input_size, "sha256:0"))
    other.save(tmp_path / "recipe.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = command("in", "--model", "factory:fast", "--out", "out", *COMMON)
    assert result.exit_code == 0
    assert "ssgcam: the parameters of this network are not those" in result.output


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        (["--method", "layer_cam"], "--method and --recipe were both given"),
        (["--engine", "spark"], "no engine named 'spark'"),
        (["--actors", "2"], "need --engine ray"),
        (["--class", "bird"], "class 'bird' is not a class"),
        (["--class", "7"], "class 7 is out of range"),
        (["--class", "1", "--class", "dog"], "names a class twice"),
        (["--class", "top", "--window", "64"], "may differ from window to window"),
        (["--threshold", "1.5"], "threshold is 1.5"),
        (["--gate", "-1"], "gate is -1"),
        (["--window", "3"], "window of 3 pixels is too small"),
        (["--window", "64", "--overlap", "1"], "overlap is 1"),
        (["--batch-size", "0"], "--batch-size"),
        (["--export", "svg"], "export is 'svg'"),
        (["--min-object", "0"], "min-object"),
        (["--recipe", "no.json"], "recipe 'no.json' can't be read"),
        (["--out", "in"], "all images are below the output folder"),
        (["--out", "recipe.json"], "recipe.json"),
    ],
)  # fmt: skip
def test_bad_settings_get_one_sentence_before_any_work(tmp_path, command, extra, part):
    photos(tmp_path / "in", 1)
    result = command("in", "--model", "factory:fast", "--out", "out", *COMMON, *extra)
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert part in line
    assert not (tmp_path / "out").exists()


def test_network_with_too_many_classes_is_refused_without_a_selection(tmp_path):
    torch.manual_seed(0)
    model = LoadedModel(Small(300), "many", Preprocessing((SIDE, SIDE)))
    photos(tmp_path / "in", 2)
    sentence = refusal(segment_images, tmp_path / "in", model, tmp_path / "out")
    assert "300 classes" in sentence
    assert "'top'" in sentence
    result = segment_images(tmp_path / "in", model, tmp_path / "out", classes=[299], gate=0.0)
    assert result.class_names == ("class 299",)


def test_recipe_and_cam_together_are_refused(tmp_path):
    model = small()
    photos(tmp_path / "in", 1)
    options = {"recipe": recipe_for(model), "cam": CAM(model, ["act2"])}
    assert "both given" in refusal(
        segment_images, tmp_path / "in", model, tmp_path / "out", **options
    )


@pytest.mark.parametrize("how", [["--recipe", "recipe.json"], ["--layers", "act2"]])
def test_fast_is_one_of_the_settings(tmp_path, command, how):
    photos(tmp_path / "in", 2)
    arguments = ["in", "--model", "factory:fast", *how, "--device", "cpu", "--out", "masks"]
    for fast in (False, True):  # the second run does not take the first one's masks
        result = command(*arguments, *(["--fast"] if fast else []))
        assert result.exit_code == 0, result.output
        assert "earlier" not in result.output
        settings = json.loads((tmp_path / "masks" / "segment.json").read_text())
        assert settings["method"]["fast"] is fast
