"""Segmentation: the numbers are those of the metrics on pseudo-masks of CAM's maps."""

from dataclasses import replace
from math import isnan

import pytest
import torch
from sklearn.metrics import jaccard_score

from helpers.data_trees import refusal
from helpers.evaluation_cases import LAYERS, NAMES, blobs, masked_tree, noise, stacked
from ssgcam import CAM, Preprocessing
from ssgcam.core import fusion as pipeline
from ssgcam.core.settings import SSGSettings
from ssgcam.data import read_samples
from ssgcam.evaluation import EvaluationSettings, MethodsCompared, evaluate_segmentation, method_of
from ssgcam.evaluation.maps import ALL_FUSED, RECIPE
from ssgcam.metrics import (
    bootstrap_interval,
    boundary_f_score,
    class_iou,
    confusion_matrix,
    foreground_iou,
    mean_iou,
    pseudo_masks,
)
from ssgcam.recipe import Fingerprint, Recipe, RecipeLayer, parameter_hash

SETTINGS = EvaluationSettings(batch_size=3, resamples=50)
COMPARED = MethodsCompared((method_of("ssg_cam"), method_of("layer_cam")), LAYERS)
PLACES = [*LAYERS, ALL_FUSED]


def semantic(path, **options):
    samples = read_samples(masked_tree(path, ignored=True, **options), void=200)
    return replace(samples, class_names=NAMES, mask_names=NAMES)


def binary(path, **options):
    return read_samples(masked_tree(path, values=(255, 255, 255), **options))


def truths(samples, sizes):
    return [
        torch.from_numpy(s.mask.read((w, h)).copy()).long()
        for s, (h, w) in zip(samples, sizes, strict=True)
    ]


def expected_masks(model, samples, place, method="layer_cam", background=0.15, classes=None):
    """Pseudo-masks by CAM alone, image by image."""
    inputs, sizes = stacked(model, samples)
    masks = []
    for k, sample in enumerate(samples):
        if not sample.labels:
            masks.append(torch.zeros(sizes[k], dtype=torch.long))
            continue
        label = sample.labels[0]
        result = CAM(model, LAYERS, method)(inputs[k : k + 1], classes or label)
        values = result.maps if place == ALL_FUSED else pipeline.scale(result.layer_maps[place])
        full = pipeline.resize(values, sizes[k])
        found = pseudo_masks(full[None], torch.ones(1, 1, dtype=torch.bool), background)[0]
        masks.append(found * (label + 1))
    return masks, truths(samples, sizes)


def confusions(predicted, true, classes):
    pairs = zip(predicted, true, strict=True)
    return torch.stack([confusion_matrix(mask, truth, classes) for mask, truth in pairs])


def mean_boundary_score(predicted, true, classes):
    """Mean over classes of the mean over the images in which a boundary of the class counts."""
    by_class = []
    for label in range(1, classes):
        scores = [
            boundary_f_score(mask == label, truth == label, truth == 255)
            for mask, truth in zip(predicted, true, strict=True)
        ]
        by_class.append(torch.tensor(scores).nanmean())
    return float(torch.stack(by_class).nanmean())


@pytest.mark.parametrize("place", PLACES)
def test_scores_of_several_classes_equal_the_metrics(tmp_path, place):
    samples = semantic(tmp_path / "s")
    found = evaluate_segmentation(noise(), samples, COMPARED, settings=SETTINGS)
    predicted, true = expected_masks(noise(), samples, place)
    parts = confusions(predicted, true, 4)
    score = found.score("LayerCAM", place, "mIoU")
    assert score.value == pytest.approx(float(mean_iou(parts.sum(0))), abs=1e-6)
    interval = bootstrap_interval(parts, mean_iou, seed=0, samples=50)
    assert (score.low, score.high) == pytest.approx((interval.low, interval.high), abs=1e-6)
    assert (score.n, score.groups) == (6, 6)
    for name, iou in zip(("background", *NAMES), class_iou(parts.sum(0)).tolist(), strict=True):
        assert found.score("LayerCAM", place, f"IoU {name}").value == pytest.approx(iou)
    assert found.score("LayerCAM", place, "boundary F").value == pytest.approx(
        mean_boundary_score(predicted, true, 4)
    )
    pixels = [(p[t != 255], t[t != 255]) for p, t in zip(predicted, true, strict=True)]
    flat_p, flat_t = (torch.cat(x).numpy() for x in zip(*pixels, strict=True))
    iou = jaccard_score(flat_t, flat_p, average=None)  # scikit-learn, independently
    assert score.value == pytest.approx(iou.mean(), abs=1e-6)


@pytest.mark.parametrize("place", PLACES)
def test_a_binary_task_reports_three_kinds_of_iou(tmp_path, place):
    samples = binary(tmp_path / "b")
    found = evaluate_segmentation(
        noise(), samples, COMPARED, classes=2, background=0.4, settings=SETTINGS
    )
    predicted, true = expected_masks(noise(), samples, place, background=0.4, classes=2)
    parts = confusions(predicted, true, 2)
    per_image = foreground_iou(parts)
    expected = {
        "foreground IoU": foreground_iou(parts.sum(0)),
        "mean IoU with background": mean_iou(parts.sum(0)),
        "per-image foreground IoU": per_image.nanmean(),
    }
    for metric, value in expected.items():
        assert found.score("LayerCAM", place, metric).value == pytest.approx(float(value))
    interval = bootstrap_interval(parts, foreground_iou, seed=0, samples=50)
    score = found.score("LayerCAM", place, "foreground IoU")
    assert (score.low, score.high) == pytest.approx((interval.low, interval.high))
    assert any("all background: 1." in note for note in found.notes)
    assert per_image.isnan().sum() == 1
    assert any("both empty: 1 by every line." in note for note in found.notes)
    # the curve passes through the stated background score
    levels, ious = found.charts[0].plots[place]["LayerCAM"]
    assert ious[levels.index(0.4)] == pytest.approx(score.value, abs=1e-6)


def test_calibration_images_choose_each_background(tmp_path):
    samples, other = binary(tmp_path / "b"), binary(tmp_path / "c", count=3)
    found = evaluate_segmentation(
        noise(), samples, COMPARED, classes=2, calibration=other, settings=SETTINGS
    )
    on_other = evaluate_segmentation(noise(), other, COMPARED, classes=2, settings=SETTINGS)
    for place in PLACES:
        levels, ious = on_other.charts[0].plots[place]["LayerCAM"]
        _, best = max(zip(ious[1:], levels[1:], strict=True), key=lambda pair: pair[0])
        alone = evaluate_segmentation(
            noise(), samples, COMPARED, classes=2, background=best, settings=SETTINGS
        )
        for metric in ("foreground IoU", "boundary F"):
            expected = alone.score("LayerCAM", place, metric)
            score = found.score("LayerCAM", place, metric)
            assert score.value == pytest.approx(expected.value, nan_ok=True)
        assert f"LayerCAM ({place}) {best:g}" in " ".join(found.notes)


@pytest.mark.parametrize("place", PLACES)
def test_the_curve_equals_a_loop_over_background_scores(tmp_path, place):
    samples = semantic(tmp_path / "s")
    found = evaluate_segmentation(noise(), samples, COMPARED, settings=SETTINGS)
    levels, ious = found.charts[0].plots[place]["LayerCAM"]
    for background in (0.07, 0.3, 0.77):
        predicted, true = expected_masks(noise(), samples, place, background=background)
        expected = float(mean_iou(confusions(predicted, true, 4).sum(0)))
        assert ious[levels.index(background)] == pytest.approx(expected, abs=1e-6)


def test_masks_of_a_network_that_detects_blobs_cover_them(tmp_path):
    samples = semantic(tmp_path / "s")
    found = evaluate_segmentation(
        blobs(), samples, MethodsCompared((method_of("layer_cam"),), ["act"]), settings=SETTINGS
    )
    assert found.score("LayerCAM", "act", "mIoU").value > 0.8
    assert not found.differences  # no rival


def test_two_classes_in_one_image(tmp_path):
    samples = semantic(tmp_path / "s")
    both = replace(samples, samples=(replace(samples.samples[0], labels=(0, 2)),))
    found = evaluate_segmentation(noise(), both, COMPARED, settings=SETTINGS)
    inputs, sizes = stacked(noise(), both)
    maps = CAM(noise(), LAYERS, "layer_cam")(inputs, [[0, 2]]).maps
    full = torch.stack([pipeline.resize(maps[:, k], sizes[0]) for k in range(2)], 1)
    ranks = pseudo_masks(full, torch.ones(1, 2, dtype=torch.bool))[0]
    predicted = torch.tensor([0, 1, 3])[ranks]
    expected = float(mean_iou(confusions([predicted], truths(both, sizes), 4).sum(0)))
    assert found.score("LayerCAM", ALL_FUSED, "mIoU").value == pytest.approx(expected, abs=1e-6)
    assert isnan(found.score("LayerCAM", ALL_FUSED, "IoU green").value)  # it doesn't occur
    assert "IoU green" not in {difference.metric for difference in found.differences}


@pytest.mark.parametrize("gate", [0.0, 1.0])
def test_a_recipe_is_compared_with_its_own_threshold_and_gate(tmp_path, gate):
    samples, model = binary(tmp_path / "b"), noise()
    layer = RecipeLayer("act1", 1.0, SSGSettings(sigma=0.1), 0.5, (4, 32, 32))
    made_for = Fingerprint("noise", (32, 32), parameter_hash(model.network))
    recipe = Recipe((layer,), 0.6, gate, made_for, (32, 32))
    compared = replace(COMPARED, recipe=recipe)
    found = evaluate_segmentation(model, samples, compared, classes=1, settings=SETTINGS)
    inputs, sizes = stacked(model, samples)
    bound = recipe.bind(model)
    predicted = []
    for k, sample in enumerate(samples):
        result = bound(inputs[k : k + 1], 1)
        full = pipeline.resize(result.maps, sizes[k])[0]
        shown = bool(sample.labels) and gate == 0
        predicted.append((full / (full.max() + 1e-5) > 0.6).long() * shown)
    parts = confusions(predicted, [(t > 0).long() for t in truths(samples, sizes)], 2)
    score = found.score(RECIPE, "act1", "foreground IoU")
    assert score.value == pytest.approx(float(foreground_iou(parts.sum(0))))
    assert (score.value == 0) == (gate == 1)
    against = [d for d in found.differences if d.method == RECIPE and d.metric == "foreground IoU"]
    values = {
        (s.method, s.layers): s.value
        for s in found.scores
        if s.metric == "foreground IoU" and s.method != RECIPE and s.layers != "mean of layers"
    }
    assert (against[0].rival, against[0].rival_layers) == max(values, key=values.get)
    assert against[0].value == pytest.approx(score.value - max(values.values()))


def test_unusable_data_and_settings_are_refused(tmp_path):
    samples = semantic(tmp_path / "s")

    def message(samples, compared=COMPARED, **options):
        return refusal(
            evaluate_segmentation, noise(), samples, compared, settings=SETTINGS, **options
        )

    bare = replace(samples, samples=(replace(samples.samples[0], mask=None),))
    assert "has no mask" in message(bare)
    assert "has no mask" in message(replace(samples, samples=()))
    assert "background score is 2" in message(samples, background=2)
    layer = RecipeLayer("act1", 1.0, SSGSettings(), 0.5, (9, 32, 32))
    wrong = Recipe((layer,), 0.6, 0.0, Fingerprint("other", (32, 32), ""), (32, 32))
    assert "recipe was made for" in message(samples, replace(COMPARED, recipe=wrong))
    more = replace(samples, class_names=(*NAMES, "gray"), mask_names=(*NAMES, "gray"))
    assert "give sets of the same classes" in message(samples, calibration=more)
    model = replace(noise(), preprocessing=Preprocessing((2, 2)))
    assert "act2" in refusal(evaluate_segmentation, model, samples, COMPARED)
