"""The command ``ssgcam search``: files in, recipe and report out, one sentence for what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from helpers.search_sets import tiny
from ssgcam.cli import app
from ssgcam.recipe import Recipe

QUICK = [
    "--generations",
    "2",
    "--population",
    "8",
    "--working-size",
    "16",
    "--folds",
    "0",
    "--device",
    "cpu",
]


def folder(root: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for k in range(4):
        pixels = rng.integers(0, 90, (40, 40, 3), dtype=np.uint8)
        mask = np.zeros((40, 40), dtype=np.uint8)
        if k < 3:
            pixels[8 + k : 22 + k, 12:26] = 255
            mask[8 + k : 22 + k, 12:26] = 255
        for name, values in (("images", pixels), ("masks", mask)):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(root / name / f"{k}.png")
    return root


def ssgcam(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["search", *map(str, arguments), *QUICK])


def test_from_folders_to_recipe_and_report(tmp_path: Path) -> None:
    recipe = tmp_path / "out" / "ring.json"
    done = ssgcam(
        folder(tmp_path / "calibration", 0), "--model", "helpers.search_sets:tiny", "--class", "RING",
        "--layers", "act1,act2", "--held-out", folder(tmp_path / "other", 1), "--recipe", recipe,
        "--flips", "horizontal", "--scales", "1", "--cache", tmp_path / "cache",
        "--guarantee", "0.3",
        "--report", tmp_path / "search.html",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = Recipe.load(recipe)
    assert found.classes == (1,)
    assert {layer.name for layer in found.layers} <= {"act1", "act2"}
    assert found.origin.images == 4
    bound = found.bind(tiny(), strict=True)
    assert bound.masks(tiny().preprocessing([Image.open(tmp_path / "other/images/0.png")])).any()
    report = (tmp_path / "out" / "ring-report" / "report.md").read_text()
    assert "held-out set: 4 images" in report
    page = (tmp_path / "search.html").read_text(encoding="utf-8")
    titles = (
        "warnings</h2>",
        "Recipe</h2>",
        "Scores</h2>",
        "Convergence</h2>",
        "Worst, median and best",
    )
    places = [page.index(title) for title in titles]
    assert places == sorted(places)
    assert "Recipe, plain" in page
    assert "small" in done.stderr
    assert found.guarantee is not None
    assert (found.guarantee.units, found.guarantee.kind) == (3, "held-out")
    assert "guarantee from 3 images (held-out): outer mask map >= " in done.stdout
    assert "held-out 0." in done.stdout
    assert any((tmp_path / "cache").iterdir())


def test_photos_without_the_object_choose_the_rule_for_windows(tmp_path: Path) -> None:
    negatives = tmp_path / "negatives"
    negatives.mkdir()
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 90, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(negatives / f"{seed}.png")
    recipe = tmp_path / "r.json"
    done = ssgcam(
        folder(tmp_path / "calibration", 0), "--model", "helpers.search_sets:tiny", "--class", "ring",
        "--layers", "act2", "--recipe", recipe, "--quick", "--negatives", negatives, "--window", "30",
        "--false-objects", "0.5",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rule = Recipe.load(recipe).window_rule
    assert rule is not None
    assert (rule.side, rule.overlap, rule.photos, rule.allowed) == (30, 0.5, 2, 0.5)
    if rule.false_objects > 0.5:
        assert "No rule keeps 0.5 false objects" in done.stderr
    else:
        assert "windows of 30 pixels: gate " in done.stdout


def test_mask_values_say_which_stored_value_is_the_object(tmp_path: Path) -> None:
    data = folder(tmp_path / "calibration", 0)
    for path in (data / "masks").iterdir():
        values = np.array(Image.open(path))
        values = np.where(values > 0, 7, 0).astype(np.uint8)  # the object
        values[:, -4:] = 9  # a frame that nobody drew
        Image.fromarray(values).save(path)
    fitness = {}
    for title, values in {"right": "7:1,9:255", "swapped": "7:255,9:1"}.items():
        recipe = tmp_path / f"{title}.json"
        arguments = (
            "--model",
            "helpers.search_sets:tiny",
            "--class",
            "RING",
            "--layers",
            "act1,act2",
        )
        done = ssgcam(data, *arguments, "--recipe", recipe, "--mask-values", values)
        assert done.exit_code == 0, done.output
        fitness[title] = Recipe.load(recipe).origin.scores["calibration"]
    assert fitness["right"] > 0.7 > 0.3 > fitness["swapped"]


def test_quick_is_one_view_without_refinement_and_folds(tmp_path: Path) -> None:
    recipe = tmp_path / "r.json"
    done = ssgcam(
        folder(tmp_path / "calibration", 0), "--model", "helpers.search_sets:tiny", "--class", "ring",
        "--layers", "act2", "--recipe", recipe, "--quick",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    report = (tmp_path / "r-report" / "report.md").read_text()
    assert "fitness by the views it was searched on: plain" in report
    assert report.count("| Recipe, ") == 1
    # what is weak about the images is said before the search, and once
    assert done.stderr.count("The calibration set is small") == 1
    assert "step" not in done.stderr  # no bar outside a terminal


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--recipe", "r.json", "--mask-values", "7"], "'7' in --mask-values is no pair"),
        (["--recipe", "r.txt"], "'r.txt' does not end in .json"),
        (["--recipe", "r.json", "--boxes", "round"], "--boxes round is unknown"),
        (["--recipe", "r.json", "--class", "dog"], "class 'dog' is not a class of"),
        (["--recipe", "r.json", "--scales", "1,x"], "--scales 1,x is not numbers"),
        (["--recipe", "r.json", "--fitness", "dice"], "fitness is 'dice'"),
        (["--recipe", "r.json", "--guarantee", "0.9"], "but there are 3; add 8 more"),
        (["--recipe", "r.json", "--guarantee-from-folds"], "guarantee_from_folds needs guarantee"),
        (["--recipe", "r.json", "--window", "20"], "--negatives and --window belong together"),
        (
            ["--recipe", "r.json", "--window", "20", "--negatives", "empty"],
            "'empty' holds no images",
        ),
        (
            ["--recipe", "r.json", "--window", "20", "--negatives", "images"],
            "--negatives needs one class",
        ),
        (["--recipe", "r.json", "--layers", "act9"], "no layer 'act9'"),
        (["--recipe", "r.json", "--class", "cell", "--class", "ring"], "give one class here"),
    ],
)
def test_what_is_wrong_gets_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = ssgcam(folder(tmp_path, 0), "--model", "helpers.search_sets:tiny", *arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "r.json").exists()
