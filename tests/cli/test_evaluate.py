"""``ssgcam evaluate``: files and tables of every command, and one sentence for what is wrong."""

import csv
import json

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from helpers.evaluation_cases import boxed_tree, masked_tree, noise
from ssgcam.cli import app
from ssgcam.core.settings import SSGSettings
from ssgcam.recipe import Fingerprint, Recipe, RecipeLayer, parameter_hash

MODEL = ["--model", "helpers.evaluation_cases:noise"]
FEW = ["--methods", "ssg_cam,layer_cam", "--layers", "act1,act2", "--batch-size", "3"]


def run(*words):
    torch.manual_seed(0)
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return boxed_tree(tmp_path_factory.mktemp("cli") / "boxes", count=4)


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return masked_tree(tmp_path_factory.mktemp("cli") / "masks", values=(255, 255, 255), count=4)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    network = noise().network
    layer = RecipeLayer("act2", 1.0, SSGSettings(), 0.5, (6, 16, 16))
    made = Recipe(
        (layer,), 0.5, 0.0, Fingerprint("noise", (32, 32), parameter_hash(network)), (32, 32)
    )
    path = tmp_path_factory.mktemp("cli") / "recipe.json"
    made.save(path)
    return path


TASKS = {
    "localization": (["--edges", "exclusive"], "MaxBoxAcc", 3),
    "segmentation": (["--class", "green"], "foreground IoU", 1),
    "perturbation": (["--areas", "0.1,0.3", "--steps", "3"], "accuracy drop", 3),
    "sanity": (["--stages", "3"], "rank correlation", 1),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_command_prints_and_writes(task, boxes, masks, recipe, tmp_path):
    options, metric, charts = TASKS[task]
    data = masks if task == "segmentation" else boxes
    extra = [] if task == "sanity" else ["--recipe", recipe, "--examples", "2"]
    page = tmp_path / "page" / "report.html"
    result = run(
        task, data, *MODEL, *FEW, *options, *extra, "--limit", "3", "--out", tmp_path,
        "--report", page,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert metric in result.output
    assert "SSG-CAM" in result.output
    assert "all fused" in result.output
    assert "95 % percentile bootstrap" in result.output
    line = next(line for line in result.output.splitlines() if line.startswith("| SSG-CAM"))
    cells = [cell.strip() for cell in line.split("|")]
    if task != "sanity":  # its table tells n in a column of its own
        assert cells[3] == ("3" if task == "segmentation" else "3 (2 groups)")

    text = page.read_text(encoding="utf-8")
    assert f"<title>{task.capitalize()} of " in text
    pictures = 0 if task == "sanity" else 2
    assert text.count("<img") == charts + pictures + 1  # the last one enlarges the others
    if task != "sanity":
        assert f'data-value="{float(cells[4].split()[0])}"' in text
    report = json.loads((tmp_path / f"{task}.json").read_text())
    facts = report["facts"]
    assert facts["images"].startswith("3")
    assert facts["layers"] == "act1, act2"
    assert facts["command"].startswith(f"ssgcam evaluate {task} {data} --")
    assert "--model helpers.evaluation_cases:noise" in facts["command"]
    assert "--limit 3" in facts["command"]
    assert "resamples" in facts["intervals"]
    rows = list(csv.DictReader((tmp_path / f"{task}.csv").open()))
    assert len(rows) == len(report["scores"])
    some = next(r for r in rows if r["metric"] == metric)
    assert float(some["low"]) <= float(some["value"]) <= float(some["high"])
    assert any(r["method"] == "recipe" for r in rows) == (task != "sanity")
    text = (tmp_path / f"{task}.md").read_text()
    assert facts["command"] in text
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert len(pictures) == charts + (task != "sanity")
    for name in pictures:
        assert f"({name})" in text
        assert Image.open(tmp_path / name).width > 300
    assert not list(tmp_path.glob(".*"))  # nothing half written is left


def test_the_same_command_gives_the_same_numbers(boxes, tmp_path):
    words = [
        "localization",
        boxes,
        *MODEL,
        "--methods",
        "layer_cam",
        "--layers",
        "act2",
        "--seed",
        4,
    ]
    for name in ("a", "b"):
        assert run(*words, "--examples", 0, "--out", tmp_path / name).exit_code == 0
    a, b = ((tmp_path / name / "localization.csv").read_text() for name in ("a", "b"))
    assert a == b


@pytest.mark.parametrize(
    ("task", "words", "sentence"),
    [
        ("localization", ["--methods", "gradcam"], "no method named 'gradcam'"),
        ("localization", ["--layers", "act3"], "no layer 'act3'"),
        ("localization", ["--kind", "vco"], "--kind vco is unknown"),
        ("localization", ["--edges", "open"], "--edges open is unknown"),
        ("localization", ["--split", "val"], "has no option 'split'"),
        ("localization", ["--class", "purple"], "class 'purple' is not a class"),
        ("localization", ["--class", "7"], "class 7 is out of range"),
        ("localization", ["--recipe", "none.json"], "recipe 'none.json' can't be read"),
        ("localization", ["--limit", "0"], "limit is 0"),
        ("localization", ["--batch-size", "0"], "Invalid value for '--batch-size'"),
        ("localization", ["--target", "loss"], "target is 'loss'"),
        ("perturbation", ["--pixels", "0"], "pixels is 0"),
        ("localization", ["--device", "abacus"], "device 'abacus' is not available"),
        ("segmentation", [], "has no mask"),
        ("segmentation", ["--mask-values", "x"], "'x' in --mask-values is no pair"),
        ("perturbation", ["--areas", "a,b"], "--areas a,b is not numbers with commas"),
        ("perturbation", ["--measures", "burn"], "measure is 'burn'"),
        ("sanity", ["--max-correlation", "3"], "threshold is 3"),
        ("sanity", ["--stages", "many"], "--stages"),
    ],
)
def test_one_sentence_for_what_is_wrong(task, words, sentence, boxes, tmp_path):
    result = run(task, boxes, *MODEL, "--out", tmp_path, *words)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output


def test_without_a_command_it_says_which_there_are():
    result = run()
    assert result.exit_code == 0
    assert all(f" {task} " in result.output for task in (*TASKS, "grid"))


def test_a_folder_that_is_no_data_set(tmp_path):
    result = run("localization", tmp_path / "none", *MODEL, "--out", tmp_path)
    assert result.exit_code == 2
    assert "there is no folder" in result.stderr


def test_an_output_folder_that_is_a_file(boxes, tmp_path):
    (tmp_path / "out").write_text("")
    result = run("localization", boxes, *MODEL, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "can't write" in result.stderr


def test_grid_prints_and_writes_the_shares_in_the_right_cell(boxes, tmp_path):
    words = [
        "grid", boxes, "--model", "helpers.evaluation_cases:blobs", "--layers", "act,act2",
        "--methods", "localize,layer_cam", "--against", "rest", "--confidence", "0.4",
        "--mosaics", "3", "--examples", "1", "--out", tmp_path,
    ]  # fmt: skip
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert "mass in the cell" in result.output
    assert "top 10 % in the cell" in result.output
    facts = json.loads((tmp_path / "grid.json").read_text())["facts"]
    assert facts["images"] == "3 mosaics of 4 photos of 3 classes"
    assert facts["against"] == "rest"
    assert (tmp_path / "grid_examples.png").is_file()
    refused = run(*words, "--class", "red")
    assert refused.exit_code == 2
    assert "leave --class out" in refused.stderr


def test_images_left_out_and_boxes_cut_are_said(tmp_path):
    root = boxed_tree(tmp_path / "boxes", count=3)
    entries = json.loads((root / "boxes.json").read_text())
    entries[1]["boxes"].append((20, 20, 500, 500))
    entries.append({**entries[0], "image": "none.png"})
    (root / "boxes.json").write_text(json.dumps(entries))
    words = ["--methods", "grad_cam", "--layers", "act2", "--out", tmp_path / "out"]
    edges = ["--edges", "exclusive", "--missing", "skip"]
    found = run("localization", root, *MODEL, *words, *edges)
    assert found.exit_code == 0
    assert "listed images that are missing and were left out: 1" in found.stderr
    assert "boxes that reach past their image and were cut: 1" in found.stderr
