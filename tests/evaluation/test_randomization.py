"""The sanity check: its numbers are those of a loop over the cascade with SciPy's rank correlation."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr

from helpers.data_trees import refusal
from helpers.evaluation_cases import LAYERS, boxed_tree, noise, stacked
from helpers.networks import state_of
from ssgcam import CAM
from ssgcam.core import fusion
from ssgcam.data import read_samples
from ssgcam.evaluation import EvaluationSettings, MethodsCompared, evaluate_sanity, method_of
from ssgcam.evaluation.maps import ALL_FUSED, MEAN
from ssgcam.evaluation.randomization import CONTROL
from ssgcam.metrics import cascade

SETTINGS = EvaluationSettings(batch_size=5, resamples=30, seed=2)
COMPARED = MethodsCompared((method_of("layer_cam"), method_of("eigen_cam")), LAYERS)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return read_samples(boxed_tree(tmp_path_factory.mktemp("boxes") / "set", count=5))


def maps_of(network, inputs, classes, place, method):
    result = CAM(network, LAYERS, method)(inputs, classes)
    return result.maps if place == ALL_FUSED else fusion.scale(result.layer_maps[place])


def mean_correlations(network, inputs, classes, place, method):
    """Mean rank correlation at each stage, a map that became constant counting as 0."""
    before = maps_of(network, inputs, classes, place, method).flatten(1)
    means = []
    for _, randomized in cascade(network, seed=2):
        now = maps_of(randomized, inputs, classes, place, method).flatten(1)
        pairs = zip(before, now, strict=True)
        rho = [float(spearmanr(a, b)[0]) if len(b.unique()) > 1 else 0.0 for a, b in pairs]
        means.append(sum(rho) / len(rho))
    return means


def test_correlations_equal_a_loop_over_the_stages(samples):
    model = noise()
    before = state_of(model.network)
    found = evaluate_sanity(model, samples, COMPARED, threshold=0.7, settings=SETTINGS)
    assert state_of(model.network) == before
    inputs, _ = stacked(model, samples)
    classes = model.network(inputs).argmax(1)
    stages = [name for name, _ in cascade(model.network)]
    for place in (*LAYERS, ALL_FUSED):
        control = mean_correlations(model.network, inputs, classes, place, "activation_sum")
        unchanged = [k for k, value in enumerate(control) if value > 0.999]
        decisive = unchanged[-1] if unchanged else len(stages) - 1
        for method, title in (("layer_cam", "LayerCAM"), ("eigen_cam", "Eigen-CAM")):
            expected = mean_correlations(model.network, inputs, classes, place, method)
            _, correlations = found.charts[0].plots[place][title]
            assert correlations == pytest.approx(expected, abs=1e-5)
            (row,) = [r for r in found.tables[0].rows if r[:2] == (title, place)]
            assert row[2] == stages[decisive]
            assert row[-1] == ("passes" if expected[decisive] < 0.7 else "fails")
            score = found.score(title, place, "rank correlation")
            assert score.value == pytest.approx(expected[decisive], abs=1e-5)
    assert MEAN not in {score.layers for score in found.scores}


def test_the_control_without_gradients_fails(samples):
    found = evaluate_sanity(noise(), samples, COMPARED, settings=SETTINGS)
    verdicts = {row[:2]: row[-1] for row in found.tables[0].rows}
    assert verdicts[CONTROL.title, "act1"] == "fails"


def test_the_stages_just_above_a_layer_are_always_compared(samples):
    compared = MethodsCompared((method_of("layer_cam"),), ["conv2"])
    found = evaluate_sanity(noise(), samples, compared, stages=1, images=2, settings=SETTINGS)
    assert found.facts["stages"] == "2: fc, conv1"
    assert found.tables[0].rows[0][2] == "fc"
    assert found.facts["images"] == "2"


def test_the_stage_just_above_a_layer_without_weights_is_compared(samples):
    compared = MethodsCompared((method_of("layer_cam"),), ["act1"])
    found = evaluate_sanity(noise(), samples, compared, stages=1, images=2, settings=SETTINGS)
    assert found.facts["stages"] == "3: fc, conv2, conv1"
    assert found.tables[0].rows[0][2] == "conv2"


def test_groups_are_resampled(samples):
    compared = MethodsCompared((method_of("layer_cam"),), ["act1"])
    found = evaluate_sanity(noise(), samples, compared, settings=SETTINGS)
    score = found.score("LayerCAM", "act1", "rank correlation")
    assert (score.n, score.groups) == (5, 3)
    assert found.facts["images"] == "5, 3 groups"
    alone = replace(samples, samples=tuple(replace(s, group="") for s in samples))
    other = evaluate_sanity(noise(), alone, compared, settings=SETTINGS).scores[0]
    assert (other.value, other.n, other.groups) == (pytest.approx(score.value), 5, 5)
    assert (other.low, other.high) != (score.low, score.high)


def test_images_with_a_constant_original_map_are_left_out(samples):
    model = noise()
    inputs, _ = stacked(model, samples)
    maps = CAM(model, ["act1"], "shapley_cam")(inputs).layer_maps["act1"]
    kept = int((maps.amax((1, 2)) > 0).sum())
    compared = MethodsCompared((method_of("shapley_cam"),), ["act1"])
    found = evaluate_sanity(model, samples, compared, settings=SETTINGS)
    assert 0 < kept < 5
    assert found.scores[0].n == kept
    assert found.tables[0].rows[0][-2] == str(kept)


def test_one_class_is_explained_in_all_images(samples):
    compared = MethodsCompared((method_of("layer_cam"),), ["act1"])
    found = evaluate_sanity(noise(), samples, compared, classes="blue", settings=SETTINGS)
    assert found.facts["explained class"] == "blue (2)"
    inputs, _ = stacked(noise(), samples)
    classes = torch.full((5,), 2)
    expected = mean_correlations(noise().network, inputs, classes, "act1", "layer_cam")
    _, correlations = found.charts[0].plots["act1"]["LayerCAM"]
    assert correlations == pytest.approx(expected, abs=1e-5)


def test_unusable_settings_are_refused(samples):
    def message(samples=samples, **options):
        return refusal(evaluate_sanity, noise(), samples, COMPARED, settings=SETTINGS, **options)

    assert "no image" in message(samples=replace(samples, samples=()))
    assert "threshold is 2" in message(threshold=2)
    assert "stages are too few" in message(stages=0)
    assert "class 9 is out of range" in message(classes=9)
    constant = noise()
    with torch.no_grad():
        for parameter in constant.network.parameters():
            parameter.zero_()
    said = refusal(evaluate_sanity, constant, samples, COMPARED, settings=SETTINGS)
    assert "every map of the intact network is constant" in said


def test_class_sensitivity_is_the_rank_correlation_of_the_maps_of_two_classes(samples):
    model = noise()
    found = evaluate_sanity(model, samples, COMPARED, settings=SETTINGS)
    inputs, _ = stacked(model, samples)
    order = model.network(inputs).argsort(1)
    for place in (*LAYERS, ALL_FUSED):
        first, last = (
            maps_of(model.network, inputs, order[:, k], place, "layer_cam") for k in (-1, 0)
        )
        expected = []
        for a, b in zip(first.flatten(1), last.flatten(1), strict=True):
            constant = [len(x.unique()) == 1 for x in (a, b)]
            if not all(constant):
                expected.append(0.0 if any(constant) else float(spearmanr(a, b)[0]))
        score = found.score("LayerCAM", place, "class sensitivity")
        assert score.value == pytest.approx(sum(expected) / len(expected), abs=1e-5)
        assert found.score("Eigen-CAM", place, "class sensitivity").value == pytest.approx(1)
    assert "least probable" in found.facts["class sensitivity"]
