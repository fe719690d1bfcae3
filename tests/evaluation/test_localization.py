"""Localization: the numbers are those of the metrics on CAM's maps."""

from dataclasses import replace

import pytest
import torch

from helpers.data_trees import refusal
from helpers.evaluation_cases import LAYERS, blobs, boxed_tree, masked_tree, noise, stacked
from ssgcam import CAM, TargetSettings
from ssgcam.core import fusion as pipeline
from ssgcam.core.methods import METHODS
from ssgcam.data import Sample, SampleSet, read_samples
from ssgcam.data.masks import BoxMask
from ssgcam.evaluation import (
    Contender,
    Entrants,
    EvaluationSettings,
    evaluate_localization,
    limited,
)
from ssgcam.evaluation.result import ALL_FUSED, MEAN
from ssgcam.metrics import (
    bootstrap_interval,
    box_hits,
    fill_boxes,
    localization_hits,
    max_box_acc,
    max_box_acc_v2,
    mean_of_ratios,
    near_object,
    paired_difference,
    parts_by_class,
    peak_hits,
    pixel_average_precision,
    pixel_curves,
    pxap_histograms,
)

SETTINGS = EvaluationSettings(batch_size=5, resamples=50, seed=5)
WHO = Entrants((Contender(), Contender("layer_cam"), Contender("hires_cam")), LAYERS)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return read_samples(boxed_tree(tmp_path_factory.mktemp("boxes") / "set", count=5))


@pytest.fixture(scope="module")
def found(samples):
    return evaluate_localization(noise(), samples, WHO, tau=0.3, settings=SETTINGS)


def maps_of(model, samples, method, layer):
    inputs, sizes = stacked(model, samples)
    labels = torch.tensor([sample.labels[0] for sample in samples])
    cam = CAM(model, LAYERS, method)
    result = cam(inputs, labels)
    if layer == ALL_FUSED:
        return result.maps, result.logits, labels, sizes
    power = METHODS[method].gamma
    return pipeline.scale(result.layer_maps[layer]).pow(power), result.logits, labels, sizes


@pytest.mark.parametrize("layer", ["act1", "act2", ALL_FUSED])
@pytest.mark.parametrize(("method", "title"), [("ssg_cam", "SSG-CAM"), ("layer_cam", "LayerCAM")])
def test_equals_the_metrics(samples, found, method, title, layer):
    maps, logits, labels, sizes = maps_of(noise(), samples, method, layer)
    boxes = [torch.tensor(sample.boxes) for sample in samples]
    masks = [fill_boxes(b, *size) for b, size in zip(boxes, sizes, strict=True)]
    groups = [sample.group for sample in samples]
    by_box, by_pixel = box_hits(maps, boxes, sizes), pxap_histograms(maps, masks)
    at_tau = localization_hits(maps, boxes, sizes, logits, labels, 0.3).double().mean(0)
    pointing = parts_by_class(peak_hits(maps, [near_object(m) for m in masks]), labels, 3)
    expected = {
        "PxAP-box": pixel_average_precision(by_pixel.sum(0)),
        "best pixel IoU": pixel_curves(by_pixel.sum(0))[2].max(),
        "MaxBoxAcc": max_box_acc(by_box.double().mean(0)),
        "MaxBoxAccV2": max_box_acc_v2(by_box.double().mean(0)),
        "GT-known": at_tau[0],
        "Top-1 Loc": at_tau[1],
        "Top-5 Loc": at_tau[2],
        "pointing game": mean_of_ratios(pointing.mean(0)),
    }
    assert {s.metric for s in found.scores} == set(expected)
    for metric, value in expected.items():
        score = found.score(title, layer, metric)
        assert score.value == pytest.approx(float(value), abs=1e-9), metric
        assert (score.n, score.groups) == (5, 3)
    options = {"seed": 5, "groups": groups, "samples": 50}
    interval = bootstrap_interval(by_pixel, pixel_average_precision, **options)
    score = found.score(title, layer, "PxAP-box")
    assert (score.low, score.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    interval = bootstrap_interval(by_box, max_box_acc_v2, **options)
    score = found.score(title, layer, "MaxBoxAccV2")
    assert (score.low, score.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_mean_of_layers_and_paired_differences(samples, found):
    values = [found.score("SSG-CAM", name, "PxAP-box").value for name in LAYERS]
    assert found.score("SSG-CAM", MEAN, "PxAP-box").value == pytest.approx(sum(values) / 2)
    rivals = {m: found.score(m, "act1", "PxAP-box").value for m in ("LayerCAM", "HiResCAM")}
    best = max(rivals, key=rivals.get)
    (difference,) = [d for d in found.differences if d.layers == "act1" and d.metric == "PxAP-box"]
    assert (difference.method, difference.rival) == ("SSG-CAM", best)
    parts = []
    for method in ("ssg_cam", {"LayerCAM": "layer_cam", "HiResCAM": "hires_cam"}[best]):
        maps, _, _, sizes = maps_of(noise(), samples, method, "act1")
        masks = [
            fill_boxes(torch.tensor(s.boxes), *size) for s, size in zip(samples, sizes, strict=True)
        ]
        parts.append(pxap_histograms(maps, masks))
    groups = [sample.group for sample in samples]
    expected = paired_difference(*parts, pixel_average_precision, seed=5, groups=groups, samples=50)
    assert (difference.value, difference.low, difference.high) == pytest.approx(
        (expected.value, expected.low, expected.high), abs=1e-9
    )


def test_a_network_that_sees_blobs_finds_them(samples):
    who = Entrants((Contender("layer_cam"),), ["act"])
    found = evaluate_localization(blobs(), samples, who, settings=SETTINGS)
    assert found.score("LayerCAM", "act", "MaxBoxAcc").value == 1
    assert found.score("LayerCAM", "act", "Top-1 Loc").value == 1
    assert found.score("LayerCAM", "act", "pointing game").value == 1
    (chart,) = [c for c in found.charts if c.name == "localization_iou"]
    line = chart.plots["act"][0]
    assert max(line.y) == pytest.approx(
        found.score("LayerCAM", "act", "best pixel IoU").value, abs=0.02
    )
    assert found.score("LayerCAM", "act", "best pixel IoU").value > 0.8


def test_batches_and_bounded_units_keep_the_values(samples, found):
    settings = replace(SETTINGS, batch_size=2, bins=2)
    few = evaluate_localization(noise(), samples, WHO, tau=0.3, settings=settings)
    for a, b in zip(few.scores, found.scores, strict=True):
        assert (a.method, a.layers, a.metric, a.n, a.groups) == (
            b.method, b.layers, b.metric, b.n, b.groups
        )  # fmt: skip
        assert a.value == pytest.approx(b.value, abs=1e-4)
    assert any(abs(a.low - b.low) > 1e-3 for a, b in zip(few.scores, found.scores, strict=True))


def test_one_class_for_all_objects(samples):
    who = Entrants((Contender("layer_cam"),), ["act1"])
    found = evaluate_localization(noise(), samples, who, class_index=2, settings=SETTINGS)
    inputs, sizes = stacked(noise(), samples)
    maps = CAM(noise(), ["act1"], "layer_cam")(inputs, 2).layer_maps["act1"]
    hits = box_hits(maps, [torch.tensor(s.boxes) for s in samples], sizes).double().mean(0)
    assert found.score("LayerCAM", "act1", "MaxBoxAcc").value == float(max_box_acc(hits))


def test_the_facts_say_which_score_each_method_had(samples):
    for score, told in ((None, True), (TargetSettings("odds"), False)):
        who = Entrants((Contender("layer_cam"), Contender("shapley_cam")), ["act1"], score=score)
        facts = evaluate_localization(noise(), samples, who, settings=SETTINGS).facts
        assert ("score logit" in facts["ShapleyCAM"]) == told
        assert "score" not in facts["LayerCAM"]
        assert facts["score"].startswith("exp" if told else "odds")


def test_masks_give_pxap_and_images_without_object_are_left_out(tmp_path):
    samples = read_samples(masked_tree(tmp_path / "m", ignored=True), void=200)
    samples = replace(
        samples, class_names=("red", "green", "blue"), mask_names=("red", "green", "blue")
    )
    who = Entrants((Contender("layer_cam"),), ["act1"])
    found = evaluate_localization(noise(), samples, who, settings=SETTINGS)
    assert {s.metric for s in found.scores} == {"PxAP", "best pixel IoU"}  # 40 px: no pointing
    shown = [sample for sample in samples if sample.labels]
    assert any("were left out: 1." in note for note in found.notes)
    inputs, sizes = stacked(noise(), shown)
    labels = torch.tensor([sample.labels[0] for sample in shown])
    maps = CAM(noise(), ["act1"], "layer_cam")(inputs, labels).layer_maps["act1"]
    truths = [
        samples.object_mask(s, (w, h), s.labels[0]) for s, (h, w) in zip(shown, sizes, strict=True)
    ]
    histograms = pxap_histograms(
        maps, [torch.from_numpy(m) for m, _ in truths], [torch.from_numpy(i) for _, i in truths]
    )
    expected = float(pixel_average_precision(histograms.sum(0)))
    assert found.score("LayerCAM", "act1", "PxAP").value == pytest.approx(expected)


def test_an_image_with_two_classes_is_scored_for_each(tmp_path):
    samples = read_samples(boxed_tree(tmp_path / "b", count=2))
    first = samples.samples[0]
    both = replace(first, labels=(0, 2), box_labels=(0, 2))
    found = evaluate_localization(
        blobs(), replace(samples, samples=(both,), class_names=("red", "green", "blue")),
        Entrants((Contender("layer_cam"),), ["act"]), settings=SETTINGS,
    )  # fmt: skip
    score = found.score("LayerCAM", "act", "GT-known")
    assert (score.n, score.groups, score.value) == (2, 1, 0.5)  # no blue there


def test_limit_is_spread():
    every = SampleSet(tuple(Sample(str(k), None) for k in range(10)), (), None, "images")
    assert [s.name for s in limited(every, 4)] == ["0", "2", "5", "7"]
    assert len(limited(every, 40)) == len(limited(every, None)) == 10
    assert "limit is 0" in refusal(limited, every, 0)


def test_refusals(samples, tmp_path):
    def say(samples, **options):
        return refusal(evaluate_localization, noise(), samples, WHO, settings=SETTINGS, **options)

    bare = replace(samples, samples=tuple(replace(s, boxes=()) for s in samples))
    assert "localization needs both" in say(bare)
    part = (replace(samples.samples[0], boxes=(), mask=BoxMask((), ())), *samples.samples[1:])
    assert "has a class but no box" in say(replace(samples, samples=part))
    assert "out of range" in say(samples, class_index=3)
    assert "tau is 1.5" in say(samples, tau=1.5)
    strangers = replace(samples, class_names=("cat", "dog", "cow", "hen"))
    assert "'cat' is not a class of" in say(strangers)
    far = replace(
        samples,
        class_names=tuple(map(str, range(9))),
        samples=(replace(samples.samples[0], labels=(7,), box_labels=()),),
    )
    assert "class 7 ('7') is out of range" in say(far)
    missing = replace(samples.samples[0], image=tmp_path / "gone.png")
    assert "gone.png" in say(replace(samples, samples=(missing,)))


def test_classes_are_matched_by_name(samples):
    turned = replace(samples, class_names=("blue", "red", "green"))
    who = Entrants((Contender("layer_cam"),), ["act"])
    found = evaluate_localization(blobs(), turned, who, settings=SETTINGS)
    assert found.score("LayerCAM", "act", "Top-1 Loc").value == 0  # now every label is wrong
