"""Perturbation and sanity: the numbers are those of the metrics on CAM's maps."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from helpers.data_trees import refusal
from helpers.evaluation_cases import LAYERS, blobs, boxed_tree, noise, stacked
from helpers.networks import state_of
from helpers.sanity import sanity_check
from ssgcam import CAM
from ssgcam.core import fusion as pipeline
from ssgcam.data import read_samples
from ssgcam.evaluation import (
    Contender,
    Entrants,
    EvaluationSettings,
    evaluate_perturbation,
    evaluate_sanity,
)
from ssgcam.evaluation.answers import Answers
from ssgcam.evaluation.result import ALL_FUSED, MEAN
from ssgcam.evaluation.sanity import CONTROL
from ssgcam.metrics import (
    area_under_curve,
    blur_drops,
    curve_counts,
    drop_and_increase,
    gaussian_blur,
    insertion_deletion,
)

SETTINGS = EvaluationSettings(batch_size=5, resamples=30, seed=2)
WHO = Entrants((Contender("layer_cam"), Contender("hires_cam")), LAYERS)
SHARES = (0.1, 0.4)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return read_samples(boxed_tree(tmp_path_factory.mktemp("boxes") / "set", count=5))


@pytest.mark.parametrize("labeled", [True, False])
def test_one_class_for_all_images(samples, labeled):
    if not labeled:
        samples = replace(samples, samples=tuple(replace(s, labels=()) for s in samples))
    model = noise()
    found = evaluate_perturbation(
        model, samples, WHO, class_index=1, measures=("drop_increase",), settings=SETTINGS
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
def test_equals_the_metrics(samples, place, labeled):
    if not labeled:
        samples = replace(samples, samples=tuple(replace(s, labels=()) for s in samples))
    model = noise()
    found = evaluate_perturbation(
        model, samples, WHO, shares=SHARES, steps=4, sigma=0.1, settings=SETTINGS
    )
    inputs, _ = stacked(model, samples)
    logits = model.network(inputs)
    labels = torch.tensor([s.labels[0] for s in samples]) if labeled else logits.argmax(1)

    def answer(images):
        return model.network(images).softmax(1)

    maps = maps_of(model, inputs, labels, place)
    # the preprocessing only scales to [0, 1]
    smooth, counts = gaussian_blur(inputs, 0.1), curve_counts(1024, 256)
    blurred = blur_drops(answer, inputs, smooth, maps, labels, areas=SHARES, seed=2).mean(0)
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
    lines = {line.label: line for c in found.charts for line in c.plots[place] if "blur" in c.name}
    accuracy = float((logits.argmax(1) == labels).double().mean())
    assert lines["LayerCAM"].y == pytest.approx(
        [accuracy, *(accuracy - d for d in blurred[0, 0].tolist())]
    )


def test_blurring_what_the_network_sees_costs_it_the_answer(samples):
    who = Entrants((Contender("layer_cam"),), ["act"])
    found = evaluate_perturbation(
        blobs(), samples, who, measures=("blur",), shares=(0.4,), settings=SETTINGS
    )
    drop = found.score("LayerCAM", "act", "probability drop").value
    assert drop > 0.01
    assert {s.metric for s in found.scores} == {
        "accuracy drop", "random control", "probability drop",
        "accuracy drop at 40%", "probability drop at 40%",
    }  # fmt: skip


def test_lower_is_better_is_compared_the_right_way_round(samples):
    who = Entrants((Contender(), Contender("layer_cam"), Contender("hires_cam")), ["act1"])
    found = evaluate_perturbation(
        noise(), samples, who, measures=("insertion_deletion",), steps=4, settings=SETTINGS
    )
    values = {m: found.score(m, "act1", "deletion").value for m in ("LayerCAM", "HiResCAM")}
    (difference,) = [d for d in found.differences if d.metric == "deletion"]
    assert difference.rival == min(values, key=values.get)
    leading = replace(difference, low=-0.2, high=-0.1)
    assert (leading.verdict, replace(leading, better="higher").verdict) == ("leads", "loses")
    assert replace(difference, low=-0.1, high=0.1).verdict == "open"


def test_one_forward_explains_a_batch_without_labels(samples):
    model = noise()
    bare = replace(samples, samples=tuple(replace(s, labels=()) for s in samples))
    sizes = []
    model.network.register_forward_hook(lambda _, images, __: sizes.append(len(images[0])))
    evaluate_perturbation(
        model,
        bare,
        WHO,
        measures=("blur",),
        shares=(0.2,),
        settings=replace(SETTINGS, batch_size=2, examples=0),
    )
    checked, *rest = sizes
    entries = 2 * 3
    assert checked == 1
    # each batch of n: once to explain, then for each entry (intact + 1 area + 1 control) * n
    assert sum(rest) == 5 + entries * 3 * 5
    assert rest[0] == 2


def test_sanity_equals_the_metric(samples):
    model = noise()
    before = state_of(model.network)
    contenders = (Contender("layer_cam"), Contender("eigen_cam"))
    found = evaluate_sanity(
        model, samples, Entrants(contenders, LAYERS), threshold=0.7, settings=SETTINGS
    )
    assert state_of(model.network) == before
    inputs, _ = stacked(model, samples)
    classes = model.network(inputs).argmax(1)
    for place in (*LAYERS, ALL_FUSED):
        for method, title in (("layer_cam", "LayerCAM"), ("eigen_cam", "Eigen-CAM")):

            def explain(network, method=method, place=place):
                return maps_of(network, inputs, classes, place, method)

            expected = sanity_check(
                model.network, explain, partial(explain, method="activation_sum"),
                threshold=0.7, seed=2,
            )  # fmt: skip
            (row,) = [r for r in found.tables[0].rows if r[:2] == (title, place)]
            assert row[2] == expected.stages[expected.decisive]
            assert row[-1] == ("passes" if expected.passed else "fails")
            score = found.score(title, place, "rank correlation")
            assert score.value == pytest.approx(expected.correlation[expected.decisive], abs=1e-5)
            line = next(x for x in found.charts[0].plots[place] if x.label == title)
            assert line.y == pytest.approx(expected.correlation, abs=1e-5)
    control = [r for r in found.tables[0].rows if r[0] == CONTROL.title and r[1] == "act1"]
    assert control[0][-1] == "fails"  # what no gradient enters can't pass
    assert MEAN not in {s.layers for s in found.scores}


def test_stages_just_above_a_layer_are_always_looked_at(samples):
    who = Entrants((Contender("layer_cam"),), ["conv2"])
    found = evaluate_sanity(noise(), samples, who, stages=1, images=2, settings=SETTINGS)
    assert found.facts["stages"] == "2: fc, conv1"
    assert found.tables[0].rows[0][2] == "fc"
    assert found.facts["images"] == "2"


def test_refusals(samples):
    def say(function, samples=samples, **options):
        return refusal(function, noise(), samples, WHO, settings=SETTINGS, **options)

    assert "measure is 'blurr'" in say(evaluate_perturbation, measures=("blurr",))
    assert "at least one measure" in say(evaluate_perturbation, measures=())
    assert "areas" in say(evaluate_perturbation, shares=(0.0,))
    assert "no image" in say(evaluate_perturbation, samples=replace(samples, samples=()))
    assert "no image" in say(evaluate_sanity, samples=replace(samples, samples=()))
    assert "threshold is 2" in say(evaluate_sanity, threshold=2)
    assert "stages are too few" in say(evaluate_sanity, stages=0)
    assert "class 9 is out of range" in say(evaluate_sanity, class_index=9)
    assert "resamples is 0" in refusal(EvaluationSettings, resamples=0)


def test_fast_gives_the_same_values(samples):
    model = noise()
    before = state_of(model.network)
    found = [
        evaluate_perturbation(
            model, samples, WHO, shares=SHARES, steps=4, class_index=1,
            settings=replace(SETTINGS, fast=fast),
        )
        for fast in (False, True)
    ]  # fmt: skip
    assert state_of(model.network) == before
    assert found[1].facts["fast"] == "true for perturbed images, exact maps"
    for metric in ("probability drop", "insertion", "deletion", "Average Drop"):
        exact, fast = (each.score("LayerCAM", "act1", metric).value for each in found)
        assert fast == pytest.approx(exact, abs=1e-6)


def test_fast_answers():
    model = blobs()
    inputs = torch.rand(3, 3, 32, 32)
    exact = Answers(model)(inputs)
    torch.testing.assert_close(exact, model.network(inputs).softmax(1))
    answers = Answers(model, fast=True)
    for given in (inputs, answers.ready(inputs)):
        assert answers(given).dtype == torch.float32
        torch.testing.assert_close(answers(given), exact, atol=1e-5, rtol=0)


def test_how_many_perturbed_images_make_a_pass(samples):
    model, sizes = noise(), []
    settings = replace(SETTINGS, pixels=3 * 32 * 32, examples=0)
    options = {"measures": ("insertion_deletion",), "steps": 4}
    model.network.register_forward_hook(lambda _, images, __: sizes.append(len(images[0])))
    small = evaluate_perturbation(model, samples, WHO, settings=settings, **options)
    assert max(sizes[2:]) == 3  # after a look at the output and the maps
    assert small.facts["perturbed images"] == "3 for each pass of the network"
    large = evaluate_perturbation(noise(), samples, WHO, settings=SETTINGS, **options)
    assert large.facts["perturbed images"] == "256 for each pass of the network"
    for one, other in zip(small.scores, large.scores, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-6)


def test_sanity_resamples_groups(samples):
    who = Entrants((Contender("layer_cam"),), ["act1"])
    found = evaluate_sanity(noise(), samples, who, settings=SETTINGS)
    score = found.score("LayerCAM", "act1", "rank correlation")
    assert (score.n, score.groups) == (5, 3)
    assert found.facts["images"] == "5, 3 groups"
    alone = replace(samples, samples=tuple(replace(s, group="") for s in samples))
    other = evaluate_sanity(noise(), alone, who, settings=SETTINGS).scores[0]
    assert (other.value, other.n, other.groups) == (score.value, 5, 5)
    assert (other.low, other.high) != (score.low, score.high)


def test_out_of_memory_is_one_sentence(samples, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("ssgcam.evaluation.perturbation.blur_drops", full)
    said = refusal(evaluate_perturbation, noise(), samples, WHO, settings=SETTINGS)
    assert "too little memory" in said
