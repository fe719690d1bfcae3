"""What a run depends on, and what it knows of the network from an earlier one."""

from __future__ import annotations

import dataclasses
import json

import pytest

from helpers.data_trees import refusal
from helpers.segmentation import files_below, photos, recipe_for, small
from ssgcam import CAM, Preprocessing
from ssgcam.bulk.explain import explain_images
from ssgcam.bulk.segment import segment_images
from ssgcam.core.layers import auto_layers
from ssgcam.models import check_network


def explain_auto(images, model, out):
    return explain_images([images], model, out, top=2)


def explain_named(images, model, out):
    return explain_images([images], model, out, cam=CAM(model, ["act2"], "layer_cam"))


def segment_auto(images, model, out):
    return segment_images(images, model, out)


def segment_by_recipe(images, model, out):
    return segment_images(images, model, out, recipe=recipe_for(model), overlays=True)


RUNS = [explain_auto, explain_named, segment_auto, segment_by_recipe]


def never(*_):
    raise AssertionError("the network was run, or a photo read")


@pytest.mark.parametrize("run", RUNS)
def test_a_rerun_with_nothing_to_do_runs_no_pass_and_reads_no_photo(run, tmp_path, monkeypatch):
    photos(tmp_path / "in", 5)
    model, out = small(), tmp_path / "out"
    first = run(tmp_path / "in", model, out)
    written = files_below(out)
    model = small()
    model.network.register_forward_pre_hook(never)
    monkeypatch.setattr(Preprocessing, "read", never)
    again = run(tmp_path / "in", model, out)
    assert (again.total, again.before, again.failures) == (first.total, 5, ())
    assert files_below(out) == written


@pytest.mark.parametrize("run", RUNS)
def test_a_run_that_goes_on_writes_what_an_uninterrupted_one_does(run, tmp_path):
    photos(tmp_path / "in", 5)
    run(tmp_path / "in", small(), tmp_path / "whole")
    whole = files_below(tmp_path / "whole")
    run(tmp_path / "in", small(), tmp_path / "out")
    missing = next(
        name for name in whole if name.endswith((".npy", ".png")) and "legend" not in name
    )
    (tmp_path / "out" / missing).unlink()
    again = run(tmp_path / "in", small(), tmp_path / "out")
    assert again.before < 5
    assert files_below(tmp_path / "out") == whole


@pytest.mark.parametrize("name", ["explain", "segment"])
def test_the_report_names_what_was_given_and_what_it_means(name, tmp_path):
    photos(tmp_path / "in", 1)
    model = small()
    {"explain": explain_auto, "segment": segment_auto}[name](
        tmp_path / "in", model, tmp_path / "out"
    )
    content = json.loads((tmp_path / "out" / f"{name}.json").read_text())
    noise, count = check_network(model)
    assert content["method"]["layers"] == "auto"
    assert content["resolved"] == {"classes": count, "layers": auto_layers(model.network, noise)}


def test_a_wrong_number_of_class_names_is_refused_in_a_rerun_too(tmp_path):
    photos(tmp_path / "in", 2)
    model = dataclasses.replace(small(), class_names=())
    segment_auto(tmp_path / "in", model, tmp_path / "out")
    named = dataclasses.replace(model, class_names=("one", "two", "three", "four", "five"))
    assert "5 class names" in refusal(segment_auto, tmp_path / "in", named, tmp_path / "out")


def test_a_rerun_with_other_class_names_keeps_no_output_with_the_old_ones(tmp_path):
    photos(tmp_path / "in", 2)
    model = small()
    renamed = dataclasses.replace(model, class_names=tuple(f"new {n}" for n in model.class_names))
    explain_auto(tmp_path / "in", model, tmp_path / "maps")
    refused = refusal(explain_auto, tmp_path / "in", renamed, tmp_path / "maps")
    assert "another run (model.class_names differ)" in refused
    segment_auto(tmp_path / "in", model, tmp_path / "masks")
    again = segment_auto(tmp_path / "in", renamed, tmp_path / "masks")
    assert (again.total, again.before) == (2, 0)
