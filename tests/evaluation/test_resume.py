"""A killed evaluation goes on, and its numbers are those of one that was not killed, to the last bit."""

import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from helpers.evaluation_cases import LAYERS, boxed_tree, masked_tree, noise
from ssgcam import SsgcamError
from ssgcam.cli import app
from ssgcam.core.settings import SSGSettings, TargetSettings
from ssgcam.data import read_samples
from ssgcam.evaluation import (
    Contender,
    Entrants,
    EvaluationSettings,
    evaluate_localization,
    evaluate_perturbation,
    evaluate_sanity,
    evaluate_segmentation,
    plots,
    unfinished,
    write_evaluation,
)
from ssgcam.evaluation.competition import Competition
from ssgcam.recipe import Fingerprint, Recipe, RecipeLayer, parameter_hash

SETTINGS = EvaluationSettings(batch_size=2, resamples=20, examples=2)
TASKS = ("localization", "segmentation", "calibrated", "perturbation", "sanity")


@pytest.fixture(autouse=True)
def each_batch_is_saved(monkeypatch):
    monkeypatch.setattr(unfinished, "EVERY", 0.0)
    monkeypatch.setattr(unfinished, "SPARING", 0.0)
    monkeypatch.setattr(plots, "write_pictures", lambda *_: None)


@pytest.fixture
def calls(monkeypatch):
    """Sizes of the batches that were explained; ``calls.most`` of them, then the run is cut off."""

    class Calls(list):
        most = 10**6

    found = Calls()
    explain = Competition.__call__

    def counted(competition, images, classes=None):
        if len(found) == found.most:
            raise KeyboardInterrupt
        found.append(len(images))
        return explain(competition, images, classes)

    monkeypatch.setattr(Competition, "__call__", counted)
    return found


def case(task, root):
    """An evaluation of seven images that takes the settings."""
    if task in ("segmentation", "calibrated"):
        samples = read_samples(masked_tree(root / "masks", values=(255, 255, 255), count=7))
    else:
        samples = read_samples(boxed_tree(root / "boxes", count=7))
    recipe = Recipe(
        (RecipeLayer("act2", 1.0, SSGSettings(), 0.5, (6, 16, 16)),), 0.5, 0.0,
        Fingerprint("noise", (32, 32), parameter_hash(noise().network)), (32, 32),
    )  # fmt: skip
    who = Entrants((Contender(), Contender("layer_cam")), LAYERS, recipe=recipe)
    function, options = {
        "localization": (evaluate_localization, {}),
        "segmentation": (evaluate_segmentation, {"class_index": 1}),
        "calibrated": (evaluate_segmentation, {"class_index": 1, "calibration": samples}),
        "perturbation": (evaluate_perturbation, {"shares": (0.1, 0.3), "steps": 3}),
        "sanity": (evaluate_sanity, {"stages": 3}),
    }[task]
    return partial(function, noise(), samples, who, **options)


def run(evaluate, out, calls, most=10**6, **settings):
    """Evaluate and write; what was written. ``calls`` are those of this run."""
    calls.clear()
    calls.most = most
    given = replace(SETTINGS, unfinished=out, **settings)
    written = write_evaluation(evaluate(settings=given), out)
    return {path.name: path.read_bytes() for path in written if path.suffix != ".png"}


@pytest.mark.parametrize("task", TASKS)
def test_a_killed_run_goes_on_to_the_same_numbers(task, tmp_path, calls):
    evaluate, out = case(task, tmp_path), tmp_path / "out"
    expected, whole = run(evaluate, out, calls), len(calls)
    assert not list(out.glob(".*"))
    shutil.rmtree(out)
    cut = 3 * whole // 4
    with pytest.raises(KeyboardInterrupt):
        run(evaluate, out, calls, cut)
    assert list(out.glob(".*/*.pt"))
    assert run(evaluate, out, calls) == expected
    again = 3 if task == "sanity" else 1  # the original maps of three batches; the examples
    assert len(calls) == whole - cut + again
    assert not list(out.glob(".*"))


def test_a_run_that_is_killed_three_times(tmp_path, calls):
    evaluate, out = case("localization", tmp_path), tmp_path / "out"
    expected = run(evaluate, out, calls)
    assert calls == [2, 2, 2, 2, 1]  # the examples, then the images
    shutil.rmtree(out)
    for most in (2, 1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(evaluate, out, calls, most)
    assert run(evaluate, out, calls) == expected
    assert calls == [2, 1]


def a_damaged_file(root):
    (path,) = root.glob("out/.*/*.pt")
    path.write_bytes(path.read_bytes()[:-100])


def another_picture(root):
    Image.new("RGB", (100, 80)).save(root / "boxes" / "images" / "0.png")


def other_weights(evaluate):
    model = evaluate.args[0]
    with torch.no_grad():
        next(model.network.parameters()).mul_(1.01)
    return evaluate


def other_score(evaluate):
    model, samples, who = evaluate.args
    return partial(
        evaluate_localization, model, samples, replace(who, score=TargetSettings("odds"))
    )


@pytest.mark.parametrize(
    ("change", "again", "settings"),
    [
        (None, None, {"resume": False}),
        (None, None, {"seed": 1}),
        (None, None, {"fast": True}),
        (None, lambda evaluate: partial(evaluate, tau=0.2), {}),
        (None, lambda evaluate: partial(evaluate, class_index=1), {}),
        (None, other_score, {}),
        (None, other_weights, {}),
        (another_picture, None, {}),
        (a_damaged_file, None, {}),
    ],
)
def test_what_belongs_to_another_run_is_not_used(tmp_path, calls, change, again, settings):
    evaluate, out = case("localization", tmp_path), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(evaluate, out, calls, most=4)
    if change is not None:
        change(tmp_path)
    run(again(evaluate) if again else evaluate, out, calls, **settings)
    assert calls == [2, 2, 2, 2, 1]


def test_an_unreadable_image_can_be_mended_without_starting_again(tmp_path, calls):
    evaluate, out = case("localization", tmp_path), tmp_path / "out"
    expected = run(evaluate, out, calls, examples=0)
    last = tmp_path / "boxes" / "images" / "6.png"
    content = last.read_bytes()
    last.write_bytes(content[:200])
    with pytest.raises(SsgcamError, match=r"6\.png"):
        run(evaluate, out, calls, examples=0)
    last.write_bytes(content)
    assert run(evaluate, out, calls, examples=0) == expected
    assert calls == [1]


def test_the_command_goes_on_and_says_so(tmp_path, calls):
    boxed_tree(tmp_path / "boxes", count=5)
    words = [
        "evaluate", "localization", tmp_path / "boxes", "--model", "helpers.evaluation_cases:noise",
        "--methods", "layer_cam", "--layers", "act2", "--batch-size", "2", "--examples", "0",
        "--out", tmp_path / "out",
    ]  # fmt: skip
    calls.most = 2
    cut = CliRunner().invoke(app, [*map(str, words)])
    assert cut.exit_code == 130
    assert "Not finished" in (tmp_path / "out" / "localization.md").read_text()
    calls.most = 10**6
    for more, said, explained in (([], True, [1]), (["--no-resume"], False, [2, 2, 1])):
        state = tmp_path / "out" / ".localization"
        kept = shutil.copytree(state, tmp_path / "kept", dirs_exist_ok=True)
        calls.clear()
        result = CliRunner().invoke(app, [*map(str, words), *more])
        assert result.exit_code == 0
        assert ("localization: going on after 4 of 5 images" in result.stderr) == said
        assert calls == explained
        shutil.copytree(kept, state)


def test_saving_takes_a_small_part_of_the_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(unfinished, "EVERY", 30.0)
    monkeypatch.setattr(unfinished, "SPARING", 20.0)
    monkeypatch.setattr(unfinished.time, "monotonic", lambda: now[0])
    kept = unfinished.Unfinished(tmp_path / "state.pt", "mine", True)
    asked = []

    def state():
        asked.append(now[0])
        now[0] += 5  # a slow disk
        return {"items": len(asked)}

    for second in range(0, 500, 10):
        now[0] = max(now[0], second)
        kept.save(state)
    assert asked == [30, 140, 250, 360, 470]
    assert kept.load() == {"items": 5}
    assert unfinished.Unfinished(tmp_path / "state.pt", "other", True).load() == {}
