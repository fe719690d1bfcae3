"""What the command prints: text, JSON or nothing; and what a second run into the same folder does."""

import json

import numpy as np
import pytest

from helpers.commands import TINY, photo, run
from ssgcam.cli import options


@pytest.fixture(autouse=True)
def _style_of_one_test():
    yield
    options.output.style.quiet = options.output.style.json = False


def test_json_prints_the_report_and_nothing_else(tmp_path):
    path = photo(tmp_path / "a.png")
    result = run("explain", path, "--model", TINY, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((tmp_path / "out/explain.json").read_text())
    assert json.loads(result.stdout)["photos"][0]["photo"] == str(path)


def test_json_of_layers_lists_all_of_them():
    found = json.loads(run("layers", TINY, "--json").stdout)
    assert found["model"] == TINY
    assert [info["name"] for info in found["layers"] if info["default"]] == ["act"]


@pytest.mark.parametrize("place", [0, 2])
def test_quiet_prints_errors_only(tmp_path, place):
    words = ["explain", photo(tmp_path / "a.png"), tmp_path / "none.png"]
    words += ["--model", TINY, "--out", tmp_path / "out"]
    result = run(*words[:place], "--quiet", *words[place:])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("ssgcam: there is no file")
    assert (tmp_path / "out" / "a_overlay.png").is_file()


def test_output_has_no_colors_without_a_terminal(tmp_path):
    result = run("explain", tmp_path / "none", "--model", TINY, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "\x1b" not in result.output
    assert "\x1b" not in run("--help").output


def test_a_photo_alone_is_explained_by_the_default_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(options, "default_network", lambda: TINY)
    photo(tmp_path / "a.png")
    result = run("explain", "a.png")
    assert result.exit_code == 0, result.output
    assert f"network: {TINY}, the default; --model chooses another" in result.stdout
    assert (tmp_path / "heatmaps" / "a_overlay.png").is_file()


def test_the_default_network_needs_no_download_if_the_extra_is_installed(monkeypatch):
    monkeypatch.setattr(options, "find_spec", lambda name: object())
    assert options.default_network() == "efficientnet_lite0"
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    assert options.default_network() == "resnet34"


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    path, out = photo(tmp_path / "a.png"), tmp_path / "out"
    words = ["explain", path, "--model", TINY, "--out", out]
    assert run(*words).exit_code == 0
    before = np.load(out / "a_map.npy")
    result = run(*words, "--sigma", 0.4)
    assert result.exit_code == 2
    (sentence,) = result.stderr.strip().splitlines()
    assert "holds heat maps of another run (method.ssg.0.sigma differ)" in sentence
    np.testing.assert_array_equal(np.load(out / "a_map.npy"), before)


def test_the_report_lists_all_images_in_the_folder(tmp_path):
    out = tmp_path / "out"
    for name in ("a", "b"):
        path = photo(tmp_path / f"{name}.png")
        assert run("explain", path, "--model", TINY, "--out", out).exit_code == 0
    photos = json.loads((out / "explain.json").read_text())["photos"]
    assert [entry["photo"] for entry in photos] == [str(tmp_path / f"{n}.png") for n in "ab"]
