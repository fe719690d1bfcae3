"""Masks of many photos: against plain computations, other libraries, kills and bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from typer.testing import CliRunner

from helpers.data_trees import photo, refusal
from helpers.networks import Small
from ssgcam import CAM, LoadedModel, Preprocessing, SSGSettings
from ssgcam.bulk.mask_files import voc_colors
from ssgcam.bulk.segment import segment_images
from ssgcam.bulk.segmenter import MaskRule, Segmenter, strongest
from ssgcam.cli import app
from ssgcam.core.augment import Augmentation
from ssgcam.data import read_samples
from ssgcam.data.rle import decode
from ssgcam.images import read_image
from ssgcam.metrics.masks import pseudo_masks
from ssgcam.recipe import Fingerprint, Recipe, RecipeLayer, parameter_hash

SIDE = 16


def small(output: str = "softmax") -> LoadedModel:
    torch.manual_seed(0)
    network = Small().eval()
    with torch.no_grad():  # so that some photos pass a gate and others don't
        network.fc.weight *= 30
        typical = F.interpolate(1.3 * torch.randn(64, 3, 4, 4), (SIDE, SIDE), mode="bicubic")
        network.fc.bias -= network(typical).mean(0)
    names = ("cat", "dog", "house cat")
    return LoadedModel(network, "small", Preprocessing((SIDE, SIDE)), names, output)


def recipe_for(model: LoadedModel, **changes) -> Recipe:
    settings = {
        "layers": (
            RecipeLayer("act1", 1.0, SSGSettings(sigma=0.1), 0.5, (4, 16, 16)),
            RecipeLayer("act2", 2.0, SSGSettings(sigma=0.0), 1.0, (6, 8, 8)),
        ),
        "threshold": 0.4,
        "gate": 0.3,
        "network": Fingerprint("small", (SIDE, SIDE), parameter_hash(model.network)),
        "working_size": (SIDE, SIDE),
        "classes": (1,),
    }
    return Recipe(**{**settings, **changes})


def photos(folder: Path, count: int = 5, size: tuple[int, int] = (30, 20)) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(count):
        coarse = np.random.default_rng(index).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        paths.append(folder / f"{index:03}.png")
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def mask_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.array(image)


def files_below(folder: Path) -> dict[str, bytes]:
    """All files, the manifest's lines in any order."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    found["manifest.jsonl"] = b"".join(sorted(found["manifest.jsonl"].splitlines(keepends=True)))
    return found


# --- the rule


def test_one_class_is_where_the_map_at_the_photos_size_reaches_the_threshold(tmp_path):
    model = small()
    paths = photos(tmp_path / "in")
    recipe = recipe_for(model)
    result = segment_images(tmp_path / "in", model, tmp_path / "out", recipe=recipe, batch_size=2)
    bound = recipe.bind(model)
    open_gates = 0
    for path in paths:
        found = bound(model.preprocessing([read_image(path)]), 1)
        full = F.interpolate(found.maps[None], (20, 30), mode="bilinear")[0, 0]
        is_open = found.probabilities[0, 1] >= 0.3
        expected = (full / full.max() >= 0.4) & is_open
        assert np.array_equal(mask_of(tmp_path / "out" / path.name), expected.int().numpy())
        open_gates += int(is_open)
    assert 0 < open_gates < len(paths)  # both cases were seen
    assert result.empty == len(paths) - open_gates
    assert (result.class_names, result.threshold, result.gate) == (("dog",), 0.4, 0.3)


def test_photos_of_the_networks_size_get_the_recipes_own_masks(tmp_path):
    model = small()
    paths = photos(tmp_path / "in", size=(SIDE, SIDE))
    recipe = recipe_for(model, augmentation=Augmentation("horizontal", (1.0, 1.5)), gate=0.0)
    segment_images(tmp_path / "in", model, tmp_path / "out", recipe=recipe)
    masks = recipe.bind(model).masks(model.preprocessing([read_image(path) for path in paths]))
    for path, mask in zip(paths, masks, strict=True):
        assert np.array_equal(mask_of(tmp_path / "out" / path.name), mask.int().numpy())


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_several_classes_follow_the_pseudo_masks_of_the_evaluation(tmp_path, output):
    model = small(output)
    paths = photos(tmp_path / "in", 8)
    cam = CAM(model, ["act2"], "layer_cam")
    gate = 0.33 if output == "softmax" else 0.5
    result = segment_images(
        paths, model, tmp_path / "out", cam=cam, gate=gate, batch_size=3, threshold=0.2
    )
    labels = set()
    counts = []
    for path in paths:
        images = model.preprocessing([read_image(path)])
        found = cam(images, torch.tensor([[0, 1, 2]]))
        maps = F.interpolate(found.maps, (20, 30), mode="bilinear")
        present = found.probabilities >= gate
        expected = pseudo_masks(maps, present, background=0.2)[0].numpy()
        mask = mask_of(tmp_path / "out" / path.name)
        assert np.array_equal(mask, expected)
        labels |= set(np.unique(mask).tolist())
        counts.append(int(present.sum()))
    assert {0, 1} < labels
    assert len(set(counts)) > 1
    assert result.class_names == model.class_names


def test_values_follow_the_order_of_the_classes_and_names_may_be_given(tmp_path):
    model = small()
    paths = photos(tmp_path / "in", 3)
    cam = CAM(model, ["act2"], "layer_cam")
    for wanted, order in ((["dog", "house"], [1, 2]), ("2, 1", [2, 1])):
        out = tmp_path / "-".join(map(str, order))
        options = {"cam": cam, "gate": 0.0, "threshold": 0.1}
        result = segment_images(tmp_path / "in", model, out, classes=wanted, **options)
        assert result.class_names == tuple(model.class_names[index] for index in order)
        for path in paths:
            maps = cam(model.preprocessing([read_image(path)]), torch.tensor([order])).maps
            maps = F.interpolate(maps, (20, 30), mode="bilinear")
            expected = pseudo_masks(maps, torch.ones(1, 2), 0.1)[0].numpy()
            assert np.array_equal(mask_of(out / path.name), expected)
            assert expected.any()


def test_the_most_probable_class_of_each_photo(tmp_path):
    model = small()
    paths = photos(tmp_path / "in", 6)
    segment_images(tmp_path / "in", model, tmp_path / "out", classes="top", gate=0.0)
    lines = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").open()][1:]
    top = model.network(model.preprocessing([read_image(path) for path in paths])).argmax(1)
    assert [line["classes"][0]["class"] for line in lines] == top.tolist()
    assert [line["classes"][0]["value"] for line in lines] == [1] * 6


def test_ties_go_to_the_lower_value_and_to_the_background():
    scores = [(1, torch.tensor([[0.1, 0.4, 0.5]])), (2, torch.tensor([[0.2, 0.4, 0.6]]))]
    assert strongest(scores, (1, 3), 0.2).tolist() == [[0, 1, 2]]


# --- windows


@pytest.mark.parametrize("classes", [(1,), (0, 2)])
def test_windows_equal_a_plain_loop(classes):
    model = small("sigmoid")
    picture = Image.fromarray(
        np.random.default_rng(3).integers(0, 256, (70, 45, 3), dtype=np.uint8)
    )
    cam = CAM(model, ["act2"], "layer_cam")
    rule = MaskRule(classes, threshold=0.3, gate=0.5, windows=_windows(20, 0.4))
    segmenter = Segmenter(cam, model.preprocessing, rule, batch_size=4)
    seen = segmenter.see_in_windows(picture)

    tops, lefts = [0, 10, 20, 30, 40, 50], [0, 8, 17, 25]  # steps of at most 12, ends at 70, 45
    assert len(list(rule.windows.boxes(70, 45))) == len(tops) * len(lefts)
    total = np.zeros((len(classes), 70, 45))
    weights = np.zeros((70, 45))
    ramp = np.minimum(np.arange(1, 21), np.arange(20, 0, -1)).astype(float)
    weight = np.outer(ramp, ramp)
    shut = 0
    for top in tops:
        for left in lefts:
            weights[top : top + 20, left : left + 20] += weight
            images = model.preprocessing([picture.crop((left, top, left + 20, top + 20))])
            for k, index in enumerate(classes):
                found = cam(images, index)
                probability = float(found.probabilities[0, index])
                full = F.interpolate(found.maps[None], (20, 20), mode="bilinear")[0, 0]
                if probability >= 0.5:
                    part = weight * probability * (full / full.max()).numpy()
                    total[k, top : top + 20, left : left + 20] += part
                else:
                    shut += 1
    assert 0 < shut < len(classes) * 24
    expected = total / weights
    for value, what in seen.items():
        np.testing.assert_allclose(what.scores.numpy(), expected[value - 1], atol=1e-5)
    mask = segmenter.mask(seen, (70, 45)).numpy()
    if len(classes) == 1:
        plain = (expected[0] >= 0.3).astype(int)
    else:
        plain = np.concatenate([np.full((1, 70, 45), 0.3), expected]).argmax(0)
    clear = np.abs(np.sort(np.concatenate([np.full((1, 70, 45), 0.3), expected]), 0)[-1] - 0.3)
    assert np.array_equal(mask[clear > 1e-4], plain[clear > 1e-4])
    assert mask.mean() > 0


def test_a_window_as_large_as_the_photo_is_the_probability_times_the_map(tmp_path):
    model = small()
    (path,) = photos(tmp_path / "in", 1)
    cam = CAM(model, ["act2"], "layer_cam")
    rule = MaskRule((0,), gate=0.0, windows=_windows(64, 0.5))
    (seen,) = Segmenter(cam, model.preprocessing, rule).see_in_windows(read_image(path)).values()
    found = cam(model.preprocessing([read_image(path)]), 0)
    full = F.interpolate(found.maps[None], (20, 30), mode="bilinear")[0, 0]
    expected = found.probabilities[0, 0] * full / full.max()
    assert torch.allclose(seen.scores, expected, atol=1e-6)


def test_large_photos_are_marked_in_windows_at_their_own_size(tmp_path):
    model = small()
    paths = photos(tmp_path / "in", 2, (90, 50))
    recipe = recipe_for(model, gate=0.0, threshold=0.1)
    settings = {"recipe": recipe, "window": 24, "batch_size": 5}
    segment_images(tmp_path / "in", model, tmp_path / "out", **settings)
    whole = segment_images(tmp_path / "in", model, tmp_path / "whole", recipe=recipe)
    for path in paths:
        mask = mask_of(tmp_path / "out" / path.name)
        assert mask.shape == (50, 90)
        assert set(np.unique(mask).tolist()) == {0, 1}
        assert not np.array_equal(mask, mask_of(tmp_path / "whole" / path.name))
    assert whole.total == 2


def _windows(side, overlap):
    from ssgcam.bulk.windows import Windows

    return Windows(side, overlap)


# --- files


def test_the_colors_are_pascal_vocs():
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


def test_masks_are_indexed_in_these_colors_and_read_back_as_a_data_set(tmp_path):
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


def test_coco_annotations_are_those_of_pycocotools(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    tools = pytest.importorskip("pycocotools.mask")
    model = small("sigmoid")
    paths = photos(tmp_path / "in", 5)
    options = {"cam": CAM(model, ["act2"], "layer_cam"), "threshold": 0.5, "gate": 0.5}
    segment_images(tmp_path / "in", model, tmp_path / "out", coco=tmp_path / "coco.json", **options)
    read = coco.COCO(str(tmp_path / "coco.json"))
    assert [category["name"] for category in read.loadCats(read.getCatIds())] == [
        "cat", "dog", "house cat",
    ]  # fmt: skip
    assert len(read.getImgIds()) == len(paths)
    several = 0
    for image in read.loadImgs(read.getImgIds()):
        labels = mask_of((tmp_path / "out" / image["file_name"]).with_suffix(".png"))
        assert labels.shape == (image["height"], image["width"])
        annotations = read.loadAnns(read.getAnnIds(imgIds=image["id"]))
        assert [a["category_id"] for a in annotations] == np.unique(labels[labels > 0]).tolist()
        for annotation in annotations:
            mask = read.annToMask(annotation)
            assert np.array_equal(mask, labels == annotation["category_id"])
            assert np.array_equal(decode(annotation["segmentation"]), mask)
            assert annotation["area"] == tools.area(annotation["segmentation"])
            assert annotation["bbox"] == tools.toBbox(annotation["segmentation"]).tolist()
        several += len(annotations) > 1
    assert several
    assert len({annotation["id"] for annotation in read.dataset["annotations"]}) == len(read.anns)


def test_the_settings_file_says_what_each_value_is(tmp_path):
    model = small()
    photos(tmp_path / "in", 1)
    segment_images(tmp_path / "in", model, tmp_path / "out", recipe=recipe_for(model))
    content = json.loads((tmp_path / "out" / "segment.json").read_text())
    assert content["masks"] == [
        {"value": 0, "class": None, "name": "background", "color": [0, 0, 0]},
        {"value": 1, "class": 1, "name": "dog", "color": [128, 0, 0]},
    ]
    assert content["rule"]["threshold"] == 0.4
    assert content["network"]["parameters"] == parameter_hash(model.network)


# --- the command, kills and bad input

FACTORY = """
import sys, time
sys.path.insert(0, {tests!r})
import torch
from bulk.test_segment import small
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


def test_a_killed_run_goes_on_and_leaves_the_same_files(tmp_path, command):
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
    for path in (tmp_path / "cut").glob("*.png"):  # whole pictures, with or without a line
        mask_of(path)

    again = command(*arguments, "--out", "cut")
    assert again.exit_code == 0, again.output
    assert f"{done // 4 * 4} of them by an earlier run" in again.output
    whole = command(*arguments, "--out", "whole")
    assert "earlier" not in whole.output
    assert files_below(tmp_path / "cut") == files_below(tmp_path / "whole")
    assert len(files_below(tmp_path / "whole")) == 2 * 120 + 2
    assert not list((tmp_path / "cut").rglob(".*"))


def test_bad_images_are_reported_and_the_others_done(tmp_path, command):
    photos(tmp_path / "in", 6)
    (tmp_path / "in" / "001.png").write_bytes(b"not a picture")
    cut = (tmp_path / "in" / "003.png").read_bytes()
    (tmp_path / "in" / "003.png").write_bytes(cut[: len(cut) // 2])
    photo(tmp_path / "in" / "005.jpg")
    arguments = ["in", "gone.jpg", "--model", "factory:fast", "--out", "out", *COMMON]
    for _ in range(2):
        result = command(*arguments, "--coco", "coco.json")
        assert result.exit_code == 2
        lines = [line for line in result.output.splitlines() if line.startswith("ssgcam: ")]
        for part in ("001.png' is not an image", "003.png' is cut short", "005.png' is left out",
                     "no file 'gone.jpg'"):  # fmt: skip
            assert sum(part in line for line in lines) == 1, (part, lines)
        assert len(lines) == 4
        assert "4 of 8 images have masks" in result.output
        written = {path.name for path in (tmp_path / "out").glob("*.png")}
        assert written == {"000.png", "002.png", "004.png", "005.png"}
        images = json.loads((tmp_path / "coco.json").read_text())["images"]
        assert [image["file_name"] for image in images] == [
            "000.png", "002.png", "004.png", "005.jpg",
        ]  # fmt: skip


def test_another_threshold_does_all_photos_again(tmp_path, command):
    photos(tmp_path / "in", 3)
    arguments = ["in", "--model", "factory:fast", "--out", "out", *COMMON]
    assert command(*arguments).exit_code == 0
    before = mask_of(tmp_path / "out" / "000.png").mean()
    result = command(*arguments, "--threshold", "0.9")
    assert "earlier" not in result.output
    assert "threshold 0.9" in result.output
    assert mask_of(tmp_path / "out" / "000.png").mean() < before
    assert len((tmp_path / "out/manifest.jsonl").read_text().splitlines()) == 4


def test_other_parameters_than_the_recipes_are_reported(tmp_path, command):
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


def test_a_network_of_many_classes_asks_which_ones(tmp_path):
    torch.manual_seed(0)
    model = LoadedModel(Small(300), "many", Preprocessing((SIDE, SIDE)))
    photos(tmp_path / "in", 2)
    sentence = refusal(segment_images, tmp_path / "in", model, tmp_path / "out")
    assert "300 classes" in sentence
    assert "--class" in sentence
    result = segment_images(tmp_path / "in", model, tmp_path / "out", classes=[299], gate=0.0)
    assert result.class_names == ("class 299",)


def test_a_recipe_and_a_cam_are_not_taken_together(tmp_path):
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
        assert settings["fast"] is fast
