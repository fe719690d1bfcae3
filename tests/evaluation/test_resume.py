"""A killed evaluation resumes, and its numbers are those of one that was not killed, to the last bit."""

import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from helpers.evaluation_cases import LAYERS, boxed_tree, masked_tree, noise
from helpers.threads import failure_leaves_no_thread
from ssgcam import SsgcamError
from ssgcam.cli import app
from ssgcam.core.settings import SSGSettings, TargetSettings
from ssgcam.data import read_samples
from ssgcam.evaluation import (
    EvaluationSettings,
    MethodsCompared,
    evaluate_localization,
    evaluate_perturbation,
    evaluate_sanity,
    evaluate_segmentation,
    method_of,
    report,
    write_evaluation,
)
from ssgcam.evaluation.maps import Explainer
from ssgcam.recipe import Fingerprint, Recipe, RecipeLayer, parameter_hash

SETTINGS = EvaluationSettings(batch_size=2, resamples=20, examples=2)
TASKS = ("localization", "segmentation", "calibrated", "perturbation", "sanity")


@pytest.fixture(autouse=True)
def charts_are_not_drawn(monkeypatch):
    monkeypatch.setattr(report, "figure_picture", lambda figure: Image.new("RGB", (1, 1)))


@pytest.fixture
def calls(monkeypatch):
    """Sizes of the batches that were explained; ``calls.most`` of them, then the run is cut off."""

    class Calls(list):
        most = 10**6

    found = Calls()
    explain = Explainer.__call__

    def counted(explainer, images, classes=None):
        if len(found) == found.most:
            raise KeyboardInterrupt
        found.append(len(images))
        return explain(explainer, images, classes)

    monkeypatch.setattr(Explainer, "__call__", counted)
    return found


def case(task, root, layers=LAYERS):
    """An evaluation of seven images that takes the settings."""
    if task in ("segmentation", "calibrated"):
        samples = read_samples(masked_tree(root / "masks", values=(255, 255, 255), count=7))
    else:
        samples = read_samples(boxed_tree(root / "boxes", count=7))
    recipe = Recipe(
        (RecipeLayer("act2", 1.0, SSGSettings(), 0.5, (6, 16, 16)),), 0.5, 0.0,
        Fingerprint("noise", (32, 32), parameter_hash(noise().network)), (32, 32),
    )  # fmt: skip
    compared = MethodsCompared(
        (method_of("ssg_cam"), method_of("layer_cam")), layers, recipe=recipe
    )
    function, options = {
        "localization": (evaluate_localization, {}),
        "segmentation": (evaluate_segmentation, {"classes": 1}),
        "calibrated": (evaluate_segmentation, {"classes": 1, "calibration": samples}),
        "perturbation": (evaluate_perturbation, {"areas": (0.1, 0.3), "steps": 3}),
        "sanity": (evaluate_sanity, {"stages": 3}),
    }[task]
    return partial(function, noise(), samples, compared, **options)


@pytest.mark.parametrize("most", [1, 7 // 2 + 1])  # the second batch, and the first example
def test_no_thread_is_left_by_an_evaluation_that_is_cut_off(tmp_path, calls, most):
    evaluate = case("localization", tmp_path)
    calls.most = most
    failure_leaves_no_thread(KeyboardInterrupt, evaluate, settings=SETTINGS)


def run(evaluate, out, calls, most=10**6, **settings):
    """Evaluate and write; what was written. ``calls`` are those of this run."""
    calls.clear()
    calls.most = most
    given = replace(SETTINGS, out=out, **settings)
    written = write_evaluation(evaluate(settings=given), out)
    return {path.name: path.read_bytes() for path in written if path.suffix != ".png"}


@pytest.mark.parametrize("task", TASKS)
def test_a_killed_run_resumes_with_the_same_numbers(task, tmp_path, calls):
    evaluate, out = case(task, tmp_path), tmp_path / "out"
    expected, whole = run(evaluate, out, calls), len(calls)
    assert not list(out.glob(".*"))
    shutil.rmtree(out)
    cut = 3 * whole // 4
    with pytest.raises(KeyboardInterrupt):
        run(evaluate, out, calls, cut)
    assert list(out.glob(".*/*.npz"))
    assert run(evaluate, out, calls) == expected
    in_batch = whole // 4 if task == "sanity" else 1  # four batches: original maps, and each stage
    assert len(calls) == whole - cut + cut % in_batch
    assert not list(out.glob(".*"))


def test_a_run_that_is_killed_three_times_resumes(tmp_path, calls):
    evaluate, out = case("localization", tmp_path), tmp_path / "out"
    expected = run(evaluate, out, calls)
    assert calls == [2, 2, 2, 1, 2]  # the images, then the examples
    shutil.rmtree(out)
    out.mkdir()
    (out / f".{'0' * 32}.png").touch()  # as a run leaves that is killed while it writes a picture
    for most in (1, 1, 1):
        with pytest.raises(KeyboardInterrupt):
            run(evaluate, out, calls, most)
    assert run(evaluate, out, calls) == expected
    assert calls == [1, 2]
    assert not list(out.glob(".*"))


def a_damaged_file(root):
    for path in root.glob("out/.*/*.npz"):
        path.write_bytes(path.read_bytes()[:-100])


def another_picture(root):
    Image.new("RGB", (100, 80)).save(root / "boxes" / "images" / "0.png")


def other_weights(evaluate):
    model = evaluate.args[0]
    with torch.no_grad():
        next(model.network.parameters()).mul_(1.01)
    return evaluate


def other_target(evaluate):
    model, samples, compared = evaluate.args
    return partial(
        evaluate_localization, model, samples, replace(compared, target=TargetSettings("odds"))
    )


@pytest.mark.parametrize(
    ("change", "again", "settings", "batches"),
    [
        (None, None, {"resume": False}, [2, 2, 2, 1]),
        (None, None, {"seed": 1}, [2, 2, 2, 1]),
        (None, None, {"fast": True}, [2, 2, 2, 1]),
        (None, lambda evaluate: partial(evaluate, tau=0.2), {}, [2, 2, 2, 1]),
        (None, lambda evaluate: partial(evaluate, classes=1), {}, [2, 2, 2, 1]),
        (None, other_target, {}, [2, 2, 2, 1]),
        (None, other_weights, {}, [2, 2, 2, 1]),
        (another_picture, None, {}, [2, 1]),
        (a_damaged_file, None, {}, [2, 2, 2, 1]),
    ],
)
def test_batches_of_another_run_are_not_used(tmp_path, calls, change, again, settings, batches):
    evaluate, out = case("localization", tmp_path, ["act2"]), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(evaluate, out, calls, most=3)
    if change is not None:
        change(tmp_path)
    run(again(evaluate) if again else evaluate, out, calls, **settings)
    assert calls == [*batches, 2]  # then the examples


def test_a_run_resumes_after_an_unreadable_image_is_corrected(tmp_path, calls):
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


def test_the_command_resumes_and_says_so(tmp_path, calls):
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
        assert ("localization: resuming after 4 of 5 images" in result.stderr) == said
        assert calls == explained
        shutil.copytree(kept, state)
