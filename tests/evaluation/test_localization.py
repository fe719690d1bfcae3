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
from ssgcam.data.masks import PaintedMask
from ssgcam.evaluation import (
    EvaluationSettings,
    MethodsCompared,
    evaluate_localization,
    limited,
    method_of,
)
from ssgcam.evaluation.maps import ALL_FUSED, MEAN
from ssgcam.metrics import (
    bootstrap_interval,
    box_hits,
    fill_boxes,
    localization_hits,
    max_box_acc,
    max_box_acc_v2,
    near_object,
    peak_hits,
    pixel_average_precision,
    pixel_curves,
    pxap_histograms,
)

SETTINGS = EvaluationSettings(batch_size=5, resamples=50, seed=5)
COMPARED = MethodsCompared(
    (method_of("ssg_cam"), method_of("layer_cam"), method_of("hires_cam")), LAYERS
)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return read_samples(boxed_tree(tmp_path_factory.mktemp("boxes") / "set", count=5))


@pytest.fixture(scope="module")
def found(samples):
    return evaluate_localization(noise(), samples, COMPARED, tau=0.3, settings=SETTINGS)


def maps_of(model, samples, method, layer):
    inputs, sizes = stacked(model, samples)
    labels = torch.tensor([sample.labels[0] for sample in samples])
    cam = CAM(model, LAYERS if layer == ALL_FUSED else [layer], method)
    result = cam(inputs, labels)
    if layer == ALL_FUSED:
        return result.maps, result.logits, labels, sizes
    power = METHODS[method].gamma
    return pipeline.scale(result.layer_maps[layer]).pow(power), result.logits, labels, sizes


def mean(parts):
    return parts.double().mean(0)


@pytest.mark.parametrize("layer", ["act1", "act2", ALL_FUSED])
@pytest.mark.parametrize(("method", "title"), [("ssg_cam", "SSG-CAM"), ("layer_cam", "LayerCAM")])
def test_scores_equal_the_metrics_on_maps_of_cam(samples, found, method, title, layer):
    maps, logits, labels, sizes = maps_of(noise(), samples, method, layer)
    boxes = [torch.tensor(sample.boxes) for sample in samples]
    masks = [fill_boxes(b, *size) for b, size in zip(boxes, sizes, strict=True)]
    groups = [sample.group for sample in samples]
    by_box, by_pixel = box_hits(maps, boxes, sizes), pxap_histograms(maps, masks)
    gt_known, top1, top5 = mean(localization_hits(by_box, logits, labels, 0.3))
    hits = peak_hits(maps, [near_object(mask) for mask in masks])
    by_class = [hits[labels == label].mean() for label in labels.unique()]
    expected = {
        "PxAP-box": pixel_average_precision(mean(by_pixel)),
        "best pixel IoU": pixel_curves(mean(by_pixel))[2].max(),
        "MaxBoxAcc": max_box_acc(mean(by_box)),
        "MaxBoxAccV2": max_box_acc_v2(mean(by_box)),
        "GT-known": gt_known,
        "Top-1 Loc": top1,
        "Top-5 Loc": top5,
        "pointing game": sum(by_class) / len(by_class),
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
    own, rival = parts
    expected = bootstrap_interval(
        own, pixel_average_precision, seed=5, rival=rival, groups=groups, samples=50
    )
    assert (difference.value, difference.low, difference.high) == pytest.approx(
        (expected.value, expected.low, expected.high), abs=1e-9
    )


def test_maps_of_a_network_that_detects_blobs_find_them(samples):
    compared = MethodsCompared((method_of("layer_cam"),), ["act"])
    found = evaluate_localization(blobs(), samples, compared, settings=SETTINGS)
    assert found.score("LayerCAM", "act", "MaxBoxAcc").value == 1
    assert found.score("LayerCAM", "act", "Top-1 Loc").value == 1
    assert found.score("LayerCAM", "act", "pointing game").value == 1
    (chart,) = [c for c in found.charts if c.name == "localization_iou"]
    _, ious = chart.plots["act"]["LayerCAM"]
    assert max(ious) == pytest.approx(
        found.score("LayerCAM", "act", "best pixel IoU").value, abs=0.02
    )
    assert found.score("LayerCAM", "act", "best pixel IoU").value > 0.8


def test_batches_and_bounded_units_keep_the_values(samples, found):
    settings = replace(SETTINGS, batch_size=2, max_units=2)
    few = evaluate_localization(noise(), samples, COMPARED, tau=0.3, settings=settings)
    for a, b in zip(few.scores, found.scores, strict=True):
        assert (a.method, a.layers, a.metric, a.n, a.groups) == (
            b.method, b.layers, b.metric, b.n, b.groups
        )  # fmt: skip
        assert a.value == pytest.approx(b.value, abs=1e-4)
    assert any(abs(a.low - b.low) > 1e-3 for a, b in zip(few.scores, found.scores, strict=True))


def test_one_class_explains_all_objects(samples):
    compared = MethodsCompared((method_of("layer_cam"),), ["act1"])
    found = evaluate_localization(noise(), samples, compared, classes=2, settings=SETTINGS)
    inputs, sizes = stacked(noise(), samples)
    maps = CAM(noise(), ["act1"], "layer_cam")(inputs, 2).layer_maps["act1"]
    hits = box_hits(maps, [torch.tensor(sample.boxes) for sample in samples], sizes)
    assert found.score("LayerCAM", "act1", "MaxBoxAcc").value == float(max_box_acc(mean(hits)))
    by_name = evaluate_localization(noise(), samples, compared, classes="blue", settings=SETTINGS)
    assert by_name.scores == found.scores


def test_facts_name_the_target_of_each_method(samples):
    methods = (method_of("layer_cam"), method_of("shapley_cam"))
    for target, own in ((None, True), (TargetSettings("odds"), False)):
        compared = MethodsCompared(methods, ["act1"], target=target)
        facts = evaluate_localization(noise(), samples, compared, settings=SETTINGS).facts
        assert ("target logit" in facts["ShapleyCAM"]) == own
        assert "target" not in facts["LayerCAM"]
        assert facts["target"].startswith("exp" if own else "odds")


def test_masks_give_pxap_and_images_without_object_are_left_out(tmp_path):
    samples = read_samples(masked_tree(tmp_path / "m", ignored=True), void=200)
    samples = replace(
        samples, class_names=("red", "green", "blue"), mask_names=("red", "green", "blue")
    )
    compared = MethodsCompared((method_of("layer_cam"),), ["act1"])
    found = evaluate_localization(noise(), samples, compared, settings=SETTINGS)
    assert {s.metric for s in found.scores} == {"PxAP", "best pixel IoU"}  # 40 px: no pointing
    shown = [sample for sample in samples if sample.labels]
    assert any("were left out: 1." in note for note in found.notes)
    inputs, sizes = stacked(noise(), shown)
    labels = torch.tensor([sample.labels[0] for sample in shown])
    maps = CAM(noise(), ["act1"], "layer_cam")(inputs, labels).layer_maps["act1"]
    truths = [
        samples.object_mask(s, (w, h), s.labels[0]) for s, (h, w) in zip(shown, sizes, strict=True)
    ]
    pixels = pxap_histograms(
        maps, [torch.from_numpy(m) for m, _ in truths], [torch.from_numpy(i) for _, i in truths]
    )
    expected = float(pixel_average_precision(mean(pixels)))
    assert found.score("LayerCAM", "act1", "PxAP").value == pytest.approx(expected)


def test_an_image_with_two_classes_is_scored_for_each(tmp_path):
    samples = read_samples(boxed_tree(tmp_path / "b", count=2))
    first = samples.samples[0]
    both = replace(first, labels=(0, 2), box_labels=(0, 2))
    found = evaluate_localization(
        blobs(), replace(samples, samples=(both,), class_names=("red", "green", "blue")),
        MethodsCompared((method_of("layer_cam"),), ["act"]), settings=SETTINGS,
    )  # fmt: skip
    score = found.score("LayerCAM", "act", "GT-known")
    assert (score.n, score.groups, score.value) == (2, 1, 0.5)  # no blue there


def test_a_limit_takes_samples_spread_over_the_set():
    every = SampleSet(tuple(Sample(str(k), None) for k in range(10)), (), None, "images")
    assert [s.name for s in limited(every, 4)] == ["0", "2", "5", "7"]
    assert len(limited(every, 40)) == len(limited(every, None)) == 10
    assert "limit is 0" in refusal(limited, every, 0)


def test_unusable_data_and_settings_are_refused(samples, tmp_path):
    def message(samples, **options):
        return refusal(
            evaluate_localization, noise(), samples, COMPARED, settings=SETTINGS, **options
        )

    bare = replace(samples, samples=tuple(replace(s, boxes=()) for s in samples))
    assert "localization needs both" in message(bare)
    part = (replace(samples.samples[0], boxes=(), mask=PaintedMask(())), *samples.samples[1:])
    assert "has a class but no box" in message(replace(samples, samples=part))
    assert "out of range" in message(samples, classes=3)
    assert "'cow' is not a class" in message(samples, classes="cow")
    assert "tau is 1.5" in message(samples, tau=1.5)
    unknown = replace(samples, class_names=("cat", "dog", "cow", "hen"))
    assert "'cat' is not a class of" in message(unknown)
    far = replace(
        samples,
        class_names=tuple(map(str, range(9))),
        samples=(replace(samples.samples[0], labels=(7,), box_labels=()),),
    )
    assert "class 7 ('7') is out of range" in message(far)
    missing = replace(samples.samples[0], image=tmp_path / "gone.png")
    assert "gone.png" in message(replace(samples, samples=(missing,)))


def test_classes_are_matched_by_name(samples):
    turned = replace(samples, class_names=("blue", "red", "green"))
    compared = MethodsCompared((method_of("layer_cam"),), ["act"])
    found = evaluate_localization(blobs(), turned, compared, settings=SETTINGS)
    assert found.score("LayerCAM", "act", "Top-1 Loc").value == 0  # now every label is wrong
