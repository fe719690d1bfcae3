import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ssgcam
from helpers.commands import TINY, photo, run
from ssgcam.cam import CAM
from ssgcam.core.settings import SSGSettings
from ssgcam.images import read_image
from ssgcam.manifest import Manifest
from ssgcam.models import load_model


def report(out: Path) -> dict:
    return json.loads((out / "explain.json").read_text())


def test_files_and_report_of_two_photos(tmp_path):
    a, b = photo(tmp_path / "a.png"), photo(tmp_path / "b.png", (33, 47), seed=1)
    result = run("explain", a, b, "--model", TINY, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "explained 2 of 2 images" in result.stdout
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        [f"{n}_{part}" for n in "ab" for part in ("heatmap.png", "map.npy", "overlay.png")]
        + ["explain.json", "legend.png", "manifest.jsonl"]
    )
    content = report(tmp_path / "out")
    assert content["versions"]["ssgcam"] == ssgcam.__version__
    assert content["versions"]["torch"] == torch.__version__
    assert content["model"]["name"] == TINY
    assert content["method"]["layers"] == "auto"
    assert content["resolved"] == {"classes": 4, "layers": ["act"]}
    assert content["method"]["ssg"][0]["sigma"] == SSGSettings().sigma
    for path, entry in zip((a, b), content["photos"], strict=True):
        size = Image.open(path).size
        assert entry["photo"] == str(path)
        assert entry["size"] == list(size)
        found = entry["maps"][0]
        for part in ("overlay", "heatmap"):
            assert Image.open(tmp_path / "out" / found[part]).size == size
        assert found["evidence"] is True
        assert found["note"] == ""


def test_fast_is_passed_on_and_reported(tmp_path):
    path = photo(tmp_path / "a.png")
    options = ["explain", path, "--model", TINY, "--out", tmp_path / "out"]
    assert run(*options, "--fast").exit_code == 0
    assert report(tmp_path / "out")["method"]["computation"].startswith("batch norms folded")
    model = load_model(TINY)
    inputs = model.preprocessing([read_image(path)])
    expected = CAM(model, ["act"], fast=True)(inputs).maps[0]
    found = np.load(tmp_path / "out" / report(tmp_path / "out")["photos"][0]["maps"][0]["map"])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_map_and_probability_are_those_of_the_library(tmp_path):
    path = photo(tmp_path / "a.png")
    run("explain", path, "--model", TINY, "--out", tmp_path / "out", "--sigma", 0.3, "--gamma", 0.8)
    model = load_model(TINY)
    cam = CAM(model, ["act"], ssg=SSGSettings(sigma=0.3), gamma=0.8)
    expected = cam(model.preprocessing([read_image(path)]))
    found = report(tmp_path / "out")["photos"][0]["maps"][0]
    np.testing.assert_allclose(
        np.load(tmp_path / "out" / found["map"]), expected.maps[0], atol=1e-6
    )
    index = int(expected.classes[0])
    assert found["class"] == index
    assert found["name"] == model.class_names[index]
    assert found["probability"] == pytest.approx(float(expected.probabilities[0, index]))


def test_classes_by_index_and_name(tmp_path):
    path = photo(tmp_path / "a.png")
    words = ["explain", path, "--model", TINY, "--out", tmp_path / "out"]
    run(*words, "--class", "1", "--class", "APPLE", "--class", "pear")
    maps = report(tmp_path / "out")["photos"][0]["maps"]
    assert [found["name"] for found in maps] == ["pear", "apple"]
    assert (tmp_path / "out" / "a_1_overlay.png").is_file()
    assert (tmp_path / "out" / "a_0_map.npy").is_file()


def test_top_classes_come_by_probability(tmp_path):
    path = photo(tmp_path / "a.png")
    run("explain", path, "--model", TINY, "--out", tmp_path / "out", "--top", 3)
    probabilities = [f["probability"] for f in report(tmp_path / "out")["photos"][0]["maps"]]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)


def test_folders_globs_batches_and_names_that_repeat(tmp_path):
    for index in range(5):
        photo(tmp_path / "in" / f"{index}.png", seed=index)
    photo(tmp_path / "in" / "deep" / "0.png", seed=9)
    photo(tmp_path / "more" / "x1.jpg")
    out = tmp_path / "out"
    result = run(
        *("explain", tmp_path / "in", tmp_path / "more" / "*.jpg", "--model", TINY, "--out", out),
        *("--batch-size", 2, "--workers", 3),
    )
    assert result.exit_code == 0, result.output
    entries = report(out)["photos"]
    assert len(entries) == 7
    overlays = {entry["maps"][0]["overlay"] for entry in entries}
    assert len(overlays) == 7
    assert "in/deep/0_overlay.png" in overlays
    assert "more/x1_overlay.png" in overlays


def test_batch_size_does_not_change_the_maps(tmp_path):
    paths = [photo(tmp_path / f"{i}.png", seed=i) for i in range(3)]
    for size in (1, 3):
        out = tmp_path / f"out{size}"
        run("explain", *paths, "--model", TINY, "--out", out, "--batch-size", size)
    for i in range(3):
        one, three = (np.load(tmp_path / f"out{size}" / f"{i}_map.npy") for size in (1, 3))
        np.testing.assert_allclose(one, three, atol=1e-5)


def test_crop_marks_the_outside(tmp_path):
    path = photo(tmp_path / "a.png", (120, 60))
    run("explain", path, "--model", TINY, "--out", tmp_path / "out", "--crop")
    entry = report(tmp_path / "out")["photos"][0]
    left, top, right, bottom = entry["crop"]
    assert (left, top, right, bottom) == load_model(TINY).preprocessing.crop_box(120, 60)
    assert 0 < left < right < 120
    heat = np.asarray(Image.open(tmp_path / "out" / "a_heatmap.png"))
    outside = np.ones(heat.shape[:2], bool)
    outside[top:bottom, left:right] = False
    assert (heat[outside] == 128).all()
    overlay = np.asarray(Image.open(tmp_path / "out" / "a_overlay.png")).astype(float)
    gray = np.asarray(Image.open(path).convert("L")).astype(float)
    assert overlay[outside].mean() < 0.6 * gray[outside].mean()


def test_no_evidence_gives_the_plain_photo_and_says_so(tmp_path):
    small, large = photo(tmp_path / "small.png"), photo(tmp_path / "large.png", (400, 300))
    result = run(
        "explain",
        small,
        large,
        "--model",
        "helpers.factories:without_evidence",
        "--out",
        tmp_path / "out",
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.count("no evidence in layer 'act'") == 2
    for entry in report(tmp_path / "out")["photos"]:
        assert entry["maps"][0]["evidence"] is False
        assert "nothing in it speaks for the class" in entry["maps"][0]["note"]
    overlay = np.asarray(Image.open(tmp_path / "out" / "small_overlay.png"))
    np.testing.assert_array_equal(overlay, np.asarray(Image.open(small)))
    overlay = np.asarray(Image.open(tmp_path / "out" / "large_overlay.png"))
    original = np.asarray(Image.open(large))
    np.testing.assert_array_equal(overlay[:200], original[:200])
    assert (overlay[-10:] != original[-10:]).any()  # the note
    assert not np.load(tmp_path / "out" / "small_map.npy").any()


@pytest.mark.parametrize("method", ["grad_cam", "eigen_cam", "score_cam", "shapley_cam"])
def test_other_methods(tmp_path, method):
    path = photo(tmp_path / "a.png")
    out = tmp_path / "out"
    result = run("explain", path, "--model", TINY, "--out", out, "--method", method)
    assert result.exit_code == 0, result.output
    assert report(out)["method"]["name"] == method
    assert report(out)["method"]["gamma"] == 1


def test_a_torchvision_network_and_named_layers(tmp_path):
    path = photo(tmp_path / "a.png", (80, 60))
    out = tmp_path / "out"
    result = run(
        *("explain", path, "--model", "resnet18", "--weights", "none", "--layers", "layer2,layer4"),
        *("--out", out, "--class", "goldfish"),
    )
    assert result.exit_code == 0, result.output
    assert report(out)["method"]["layers"] == ["layer2", "layer4"]
    assert report(out)["photos"][0]["maps"][0]["class"] == 1


def test_a_second_run_goes_on_where_the_first_was_cut_off(tmp_path):
    for i in range(5):
        photo(tmp_path / "in" / f"{i}.png", seed=i)
    out = tmp_path / "out"
    words = ["explain", tmp_path / "in", "--model", TINY, "--out", out, "--batch-size", 2]
    assert run(*words).exit_code == 0
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    lines = whole["manifest.jsonl"].splitlines(keepends=True)
    (out / "manifest.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:20])
    (out / "3_map.npy").write_bytes(b"not of this run")
    again = run(*words)
    assert "explained 5 of 5 images, 2 of them by an earlier run" in again.stdout
    assert again.stdout.count("_overlay.png") == 3
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole


def test_what_it_writes_is_not_explained(tmp_path):
    photo(tmp_path / "a.png")
    for _ in range(2):
        assert run("explain", tmp_path, "--model", TINY, "--out", tmp_path / "out").exit_code == 0
        assert len(report(tmp_path / "out")["photos"]) == 1


def test_a_class_is_explained_against_another_and_the_other_against_it(tmp_path):
    path = photo(tmp_path / "a.png")
    out = tmp_path / "out"
    words = ["explain", path, "--model", TINY, "--against", "pear", "--layers", "act"]
    assert run(*words, "--class", "apple", "--out", out).exit_code == 0
    model = load_model(TINY)
    apple, pear = model.class_index("apple"), model.class_index("pear")
    expected = CAM(model, ["act"])(
        model.preprocessing([read_image(path)]), apple, against=pear
    ).maps[0]
    found = report(out)["photos"][0]["maps"][0]
    np.testing.assert_allclose(np.load(out / found["map"]), expected, atol=1e-6)
    width, height = Image.open(out / found["against"]).size
    assert width > 2 * height / 1.5  # two photos side by side
    # without --class it is the most probable of the other classes
    assert run(*words, "--top", 2, "--out", tmp_path / "top").exit_code == 0
    others = [one["class"] for one in report(tmp_path / "top")["photos"][0]["maps"]]
    assert len(others) == 2
    assert pear not in others


def test_a_class_against_the_rest_has_one_map(tmp_path):
    path = photo(tmp_path / "a.png")
    out = tmp_path / "out"
    assert run("explain", path, "--model", TINY, "--against", "rest", "--out", out).exit_code == 0
    (found,) = report(out)["photos"][0]["maps"]
    assert "against" not in found
    model = load_model(TINY)
    expected = CAM(model)(model.preprocessing([read_image(path)]), against="rest").maps[0]
    np.testing.assert_allclose(np.load(out / found["map"]), expected, atol=1e-6)


def test_a_class_against_itself_is_refused_before_any_work(tmp_path):
    path = photo(tmp_path / "a.png")
    words = ["explain", path, "--model", TINY, "--class", "pear", "--against", "pear"]
    result = run(*words, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "a class is compared with itself" in result.output
    assert not (tmp_path / "out").exists()


def test_the_folder_of_other_classes_or_settings_is_refused(tmp_path):
    path, out = photo(tmp_path / "a.png"), tmp_path / "out"
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\nbird\nfish\n")
    words = ["explain", path, "--model", TINY, "--class-names", names, "--out", out]
    assert run(*words, "--class", "dog").exit_code == 0
    for same in ("dog", "DO", "1"):
        assert "1 of them by an earlier run" in run(*words, "--class", same).stdout
    written = (out / "explain.json").read_text()
    others = [
        ["--class", "cat"],
        ["--class", "0"],
        [],
        ["--class", "dog", "--crop"],
        ["--top", "2"],
        ["--class", "dog", "--method", "grad_cam"],
        ["--class", "dog", "--model", "helpers.factories:without_evidence"],
    ]
    for other in others:
        result = run(*words, *other)
        assert result.exit_code == 2
        assert "holds heat maps of another run" in result.output
        assert len(result.output.strip().splitlines()) == 1
    assert (out / "explain.json").read_text() == written
    with Manifest(out / "manifest.jsonl", {"rule": {}}).opened(keep=bool):  # of another command
        pass
    assert "holds heat maps of another run" in run(*words, "--class", "dog").output
