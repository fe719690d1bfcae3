"""Perturbation: the numbers are those of the metrics on CAM's maps."""

from dataclasses import replace

import pytest
import torch

from helpers.data_trees import refusal
from helpers.evaluation_cases import LAYERS, blobs, boxed_tree, noise, stacked
from helpers.networks import state_of
from ssgcam import CAM
from ssgcam.core import fusion as pipeline
from ssgcam.data import read_samples
from ssgcam.evaluation import (
    EvaluationSettings,
    MethodsCompared,
    evaluate_perturbation,
    method_of,
)
from ssgcam.evaluation.maps import ALL_FUSED
from ssgcam.metrics import (
    area_under_curve,
    blur_drops,
    curve_counts,
    drop_and_increase,
    gaussian_blur,
    insertion_deletion,
    road_parts,
    road_score,
)

SETTINGS = EvaluationSettings(batch_size=5, resamples=30, seed=2)
COMPARED = MethodsCompared((method_of("layer_cam"), method_of("hires_cam")), LAYERS)
AREAS = (0.1, 0.4)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return read_samples(boxed_tree(tmp_path_factory.mktemp("boxes") / "set", count=5))


@pytest.mark.parametrize("labeled", [True, False])
def test_one_class_is_explained_in_all_images(samples, labeled):
    if not labeled:
        samples = replace(samples, samples=tuple(replace(s, labels=()) for s in samples))
    model = noise()
    found = evaluate_perturbation(
        model, samples, COMPARED, classes=1, measures=("drop_increase",), settings=SETTINGS
    )
    inputs, _ = stacked(model, samples)
    ones = torch.ones(len(samples), dtype=torch.long)
    maps = maps_of(model, inputs, ones, "act2")
    drops = drop_and_increase(lambda images: model.network(images).softmax(1), inputs, maps, ones)
    expected = float(drops[:, 0].mean())
    assert found.score("LayerCAM", "act2", "Average Drop").value == pytest.approx(
        expected, abs=1e-5
    )
    assert found.facts["explained class"] == "green (1)"


def maps_of(model, inputs, classes, place, method="layer_cam"):
    result = CAM(model, LAYERS, method)(inputs, classes)
    return result.maps if place == ALL_FUSED else pipeline.scale(result.layer_maps[place])


@pytest.mark.parametrize("labeled", [True, False])
@pytest.mark.parametrize("place", ["act1", ALL_FUSED])
def test_scores_equal_the_metrics_on_maps_of_cam(samples, place, labeled):
    if not labeled:
        samples = replace(samples, samples=tuple(replace(s, labels=()) for s in samples))
    model = noise()
    found = evaluate_perturbation(
        model, samples, COMPARED, areas=AREAS, steps=4, sigma=0.1, settings=SETTINGS
    )
    inputs, _ = stacked(model, samples)
    logits = model.network(inputs)
    labels = torch.tensor([s.labels[0] for s in samples]) if labeled else logits.argmax(1)

    def answer(images):
        return model.network(images).softmax(1)

    maps = maps_of(model, inputs, labels, place)
    # the preprocessing only scales to [0, 1]
    smooth, counts = gaussian_blur(inputs, 0.1), curve_counts(1024, 256)
    blurred = blur_drops(answer, inputs, smooth, maps, labels, areas=AREAS, seed=2).mean(0)
    curves = insertion_deletion(
        answer, inputs, smooth, maps, logits.argmax(1), counts=counts, seed=2
    )
    insertion, deletion = area_under_curve(curves, counts / 1024).mean(0).tolist()
    drop, increase = drop_and_increase(answer, inputs, maps, labels).mean(0).tolist()
    expected = {
        "accuracy drop": float(blurred[0, 0].mean()),
        "random control": float(blurred[1, 0].mean()),
        "probability drop": float(blurred[0, 1].mean()),
        "accuracy drop at 10%": float(blurred[0, 0, 0]),
        "probability drop at 40%": float(blurred[0, 1, 1]),
        "insertion": insertion,
        "deletion": deletion,
        "Average Drop": drop,
        "Increase": increase,
    }
    for metric, value in expected.items():
        assert found.score("LayerCAM", place, metric).value == pytest.approx(value, abs=1e-5), (
            metric
        )
    (chart,) = [chart for chart in found.charts if "blur" in chart.name]
    accuracy = float((logits.argmax(1) == labels).double().mean())
    assert chart.plots[place]["LayerCAM"][1] == pytest.approx(
        [accuracy, *(accuracy - d for d in blurred[0, 0].tolist())]
    )


def test_blurring_the_detected_blob_lowers_its_probability(samples):
    compared = MethodsCompared((method_of("layer_cam"),), ["act"])
    found = evaluate_perturbation(
        blobs(), samples, compared, measures=("blur",), areas=(0.4,), settings=SETTINGS
    )
    drop = found.score("LayerCAM", "act", "probability drop").value
    assert drop > 0.01
    assert {s.metric for s in found.scores} == {
        "accuracy drop", "random control", "probability drop",
        "accuracy drop at 40%", "probability drop at 40%",
    }  # fmt: skip


def test_the_best_rival_has_the_lowest_value_if_lower_is_better(samples):
    compared = MethodsCompared(
        (method_of("ssg_cam"), method_of("layer_cam"), method_of("hires_cam")), ["act1"]
    )
    found = evaluate_perturbation(
        noise(), samples, compared, measures=("insertion_deletion",), steps=4, settings=SETTINGS
    )
    values = {m: found.score(m, "act1", "deletion").value for m in ("LayerCAM", "HiResCAM")}
    (difference,) = [d for d in found.differences if d.metric == "deletion"]
    assert difference.rival == min(values, key=values.get)
    leading = replace(difference, low=-0.2, high=-0.1)
    assert (leading.verdict, replace(leading, better="higher").verdict) == ("leads", "loses")
    assert replace(difference, low=-0.1, high=0.1).verdict == "open"


@pytest.mark.parametrize("control", [False, True])
def test_number_of_forward_passes_without_labels(samples, control):
    model = noise()
    bare = replace(samples, samples=tuple(replace(s, labels=()) for s in samples))
    sizes = []
    model.network.register_forward_hook(lambda _, images, __: sizes.append(len(images[0])))
    evaluate_perturbation(
        model,
        bare,
        COMPARED,
        measures=("blur",),
        areas=(0.2,),
        control=control,
        settings=replace(SETTINGS, batch_size=2, examples=0),
    )
    checked, *rest = sizes
    sources = 2 * 3
    assert checked == 1
    # each image: for its top class and maps, intact, and for each source blurred and control
    assert sum(rest) == 5 * (2 + (1 + control) * sources)
    assert rest[0] == 2


def test_unusable_settings_are_refused(samples):
    def message(function, samples=samples, **options):
        return refusal(function, noise(), samples, COMPARED, settings=SETTINGS, **options)

    assert "measure is 'blurr'" in message(evaluate_perturbation, measures=("blurr",))
    assert "at least one measure" in message(evaluate_perturbation, measures=())
    assert "areas" in message(evaluate_perturbation, areas=(0.0,))
    assert "no image" in message(evaluate_perturbation, samples=replace(samples, samples=()))
    assert "class 9 is out of range" in message(evaluate_perturbation, classes=9)
    assert "resamples is 0" in refusal(EvaluationSettings, resamples=0)


def test_fast_gives_the_same_values(samples):
    model = noise()
    before = state_of(model.network)
    found = [
        evaluate_perturbation(
            model, samples, COMPARED, areas=AREAS, steps=4, classes=1,
            settings=replace(SETTINGS, fast=fast),
        )
        for fast in (False, True)
    ]  # fmt: skip
    assert state_of(model.network) == before
    assert found[1].facts["computation"].startswith("batch norms folded")
    assert found[1].facts["computation"].endswith("answers to perturbed images, exact maps")
    for metric in ("probability drop", "insertion", "deletion", "Average Drop"):
        exact, fast = (each.score("LayerCAM", "act1", metric).value for each in found)
        assert fast == pytest.approx(exact, abs=1e-6)


def test_pixels_bound_the_perturbed_images_of_one_pass(samples):
    model, sizes = noise(), []
    settings = replace(SETTINGS, pixels=3 * 32 * 32, examples=0)
    options = {"measures": ("insertion_deletion",), "steps": 4}
    model.network.register_forward_hook(lambda _, images, __: sizes.append(len(images[0])))
    small = evaluate_perturbation(model, samples, COMPARED, settings=settings, **options)
    assert max(sizes[3:]) == 3  # after the check, the top classes and the maps
    assert small.facts["perturbed images"] == "3 for each pass of the network"
    large = evaluate_perturbation(noise(), samples, COMPARED, settings=SETTINGS, **options)
    assert large.facts["perturbed images"] == "256 for each pass of the network"
    for one, other in zip(small.scores, large.scores, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-6)


def test_out_of_memory_is_one_sentence(samples, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("ssgcam.metrics.blur_drops", full)
    message = refusal(evaluate_perturbation, noise(), samples, COMPARED, settings=SETTINGS)
    assert "too little memory" in message


@pytest.mark.parametrize("place", ["act1", ALL_FUSED])
def test_road_equals_the_metric(samples, place):
    model = noise()
    found = evaluate_perturbation(
        model, samples, COMPARED, classes=1, measures=("road",), settings=SETTINGS
    )
    inputs, _ = stacked(model, samples)
    ones = torch.ones(len(samples), dtype=torch.long)
    parts = road_parts(
        lambda images: model.network(images).softmax(1), inputs,
        maps_of(model, inputs, ones, place), ones, seed=2,
    )  # fmt: skip
    expected = float(road_score(parts.double().mean(0)))
    assert found.score("LayerCAM", place, "ROAD").value == pytest.approx(expected, abs=1e-6)
    assert {chart.name for chart in found.charts} == {
        "perturbation_road_morf", "perturbation_road_lerf"
    }  # fmt: skip
    _, answers = found.charts[0].plots[place]["LayerCAM"]
    assert answers == pytest.approx(parts[:, 0].mean(0).tolist(), abs=1e-6)
    assert "linear imputation of 10% to 90%" in found.facts["ROAD"]
