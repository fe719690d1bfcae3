"""MaxBoxAcc and Loc against plain loops, PxAP against a loop over thresholds and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from helpers.box_oracles import (
    KINDS,
    TAUS,
    blobs,
    levels,
    nan,
    plain_boxes,
    plain_iou,
    plain_prepare,
    random_boxes,
    ring,
)
from ssgcam.errors import SsgcamError
from ssgcam.metrics import (
    bootstrap_interval,
    box_hits,
    contour_boxes,
    fill_boxes,
    localization_hits,
    max_box_acc,
    max_box_acc_v2,
    pixel_average_precision,
    pixel_curves,
    prepare_maps,
    pxap_histograms,
    quantize,
    resize_mask,
)


@pytest.mark.parametrize("kind", [blobs, ring, levels, nan])
def test_every_tau_at_full_size(kind):
    rng = np.random.default_rng(7)
    raw = kind(rng, 7).astype(np.float32)
    expected = plain_prepare(raw, 224)
    truth = random_boxes(rng, 300, 500, 2)
    scaled = [
        [int(x * 224 / s) for x, s in zip(t, (500, 300) * 2, strict=True)] for t in truth.tolist()
    ]
    hits = box_hits(torch.from_numpy(raw)[None], [truth], [(300, 500)])[0]
    for index, tau in enumerate(TAUS):
        boxes, biggest = plain_boxes(expected, tau)
        best = max(plain_iou(biggest, t) for t in scaled)
        best_any = max(plain_iou(box, t) for box in boxes for t in scaled)
        right = [best >= 0.5, best_any >= 0.3, best_any >= 0.5, best_any >= 0.7]
        assert hits[:, index].tolist() == right


def test_a_map_that_is_constant_or_not_finite_has_the_corner_pixel_as_its_box():
    for value in (0.0, 3.5, float("nan"), float("inf")):
        prepared = prepare_maps(torch.full((1, 7, 7), value))
        assert prepared.shape == (1, 224, 224)
        assert not prepared.any()
        assert contour_boxes(quantize(prepared)[0], 0)[0].tolist() == [[0, 0, 0, 0]]
    for value in (float("nan"), float("inf")):
        one_bad = torch.rand(1, 3000, 3000)
        one_bad[0, 0, 0] = value  # shrinking steps over this pixel
        assert not prepare_maps(one_bad).any()


def test_preparation_spans_the_range_keeps_the_type_and_is_idempotent():
    maps = torch.randn(3, 9, 11) * torch.tensor([1e-30, 1.0, 1e30])[:, None, None]
    prepared = prepare_maps(maps)
    assert prepared.amin((1, 2)).tolist() == [0, 0, 0]
    assert prepared.amax((1, 2)).tolist() == [1, 1, 1]
    assert torch.equal(prepare_maps(prepared), prepared)
    assert prepare_maps(maps.double()).dtype == torch.float64
    assert prepare_maps(maps[1:2].half()).dtype == torch.float32
    reference = torch.nn.functional.interpolate(maps[1:2, None], (224, 224), mode="bicubic")[:, 0]
    reference = (reference - reference.min()) / (reference.max() - reference.min())
    torch.testing.assert_close(prepared[1:2], reference, atol=1e-5, rtol=0)
    assert quantize(torch.tensor([0.0, 0.9999, 1.0])).tolist() == [0, 254, 255]


def test_v2_takes_the_best_threshold_for_each_delta():
    hits = torch.zeros(4, 1000).double()
    hits[1, 10], hits[2, 20], hits[3, 30] = 0.9, 0.6, 0.3
    assert float(max_box_acc_v2(hits)) == pytest.approx(0.6)
    assert max_box_acc_v2(hits.expand(5, 4, 1000)).shape == (5,)


def test_one_threshold_for_the_whole_set():
    # The first map is right only at low thresholds, the second only at high ones.
    low, high = torch.zeros(1, 224, 224), torch.zeros(1, 224, 224)
    low[0, 20:121, 20:121], low[0, 60:70, 60:70] = 0.5, 1.0
    high[0, 20:220, 20:220], high[0, 100:141, 100:141] = 0.5, 1.0
    boxes = [torch.tensor([[20, 20, 121, 121]]), torch.tensor([[100, 100, 141, 141]])]
    hits = box_hits(torch.cat([low, high]), boxes, [(224, 224)] * 2)
    means = hits.double().mean(0)
    assert float(max_box_acc(means)) == 0.5
    assert int(means[0].argmax()) == 0
    assert hits.any(-1).all()  # a threshold for each image would score 1
    assert float(max_box_acc_v2(means)) == 0.5


def test_box_accuracy_equals_plain_loops():
    rng = np.random.default_rng(5)
    maps = np.stack([KINDS[i % len(KINDS)](rng, 9) for i in range(11)]).astype(np.float32)
    sizes = [(int(h), int(w)) for h, w in rng.integers(20, 90, (11, 2))]
    boxes = [random_boxes(rng, h, w, rng.integers(1, 3)) for h, w in sizes]
    hits = box_hits(torch.from_numpy(maps), boxes, sizes, size=18).double().mean(0)
    right = {("one", 0.5): np.zeros(1000)} | {("any", d): np.zeros(1000) for d in (0.3, 0.5, 0.7)}
    for raw, truth, (height, width) in zip(maps, boxes, sizes, strict=True):
        score = plain_prepare(raw, 18)
        scaled = [
            [int(x * 18 / s) for x, s in zip(t, (width, height) * 2, strict=True)]
            for t in truth.tolist()
        ]
        for i, tau in enumerate(TAUS):
            every, biggest = plain_boxes(score, tau)
            right["one", 0.5][i] += max(plain_iou(biggest, t) for t in scaled) >= 0.5
            best = max(plain_iou(box, t) for box in every for t in scaled)
            for delta in (0.3, 0.5, 0.7):
                right["any", delta][i] += best >= delta
    expected = [right["one", 0.5], *(right["any", delta] for delta in (0.3, 0.5, 0.7))]
    np.testing.assert_allclose(hits, np.stack(expected) / 11)
    assert float(max_box_acc(hits)) == pytest.approx(right["one", 0.5].max() / 11)
    v2 = [right["any", d].max() / 11 for d in (0.3, 0.5, 0.7)]
    assert float(max_box_acc_v2(hits)) == pytest.approx(sum(v2) / 3)


def test_gt_known_and_top_k():
    rng = np.random.default_rng(11)
    maps = np.stack([blobs(rng, 28) for _ in range(60)]).astype(np.float32)
    sizes = [(60, 80)] * 60
    boxes = []
    for raw in maps:
        x0, y0, x1, y1 = plain_boxes(plain_prepare(raw, 224), 0.3)[1]
        near = np.array([x0 * 80 / 224, y0 * 60 / 224, x1 * 80 / 224, y1 * 60 / 224])
        near[:2] -= rng.uniform(0, 12, 2)
        near[2:] += rng.uniform(0, 12, 2)
        boxes.append(torch.cat([random_boxes(rng, 60, 80, 1), torch.from_numpy(near)[None]]))
    logits, labels = torch.randn(60, 12), torch.from_numpy(rng.integers(0, 12, 60))
    logits[torch.arange(60), labels] += 1.5
    hits = box_hits(torch.from_numpy(maps), boxes, sizes)
    found = localization_hits(hits, logits, labels, tau=0.3)
    known, top1, top5 = [], [], []
    for raw, truth, row, label in zip(maps, boxes, logits, labels, strict=True):
        _, biggest = plain_boxes(plain_prepare(raw, 224), 0.3)
        scaled = [
            [int(x * 224 / s) for x, s in zip(t, (80, 60) * 2, strict=True)] for t in truth.tolist()
        ]
        known.append(max(plain_iou(biggest, t) for t in scaled) >= 0.5)
        order = np.argsort(-row.numpy())
        top1.append(known[-1] and order[0] == label)
        top5.append(known[-1] and label in order[:5])
    assert 0 < sum(top1) < sum(top5) < sum(known) < 60
    assert found.tolist() == [list(map(bool, row)) for row in zip(known, top1, top5, strict=True)]
    assert torch.equal(localization_hits(hits, logits, labels, tau=0.3004), found)  # rounded
    two = localization_hits(hits, logits[:, :2], labels.clamp(max=1))
    assert torch.equal(two[:, 0], two[:, 2])  # the top 5 of two classes are both


def cases(seed, count=6, size=12):
    rng = np.random.default_rng(seed)
    maps = torch.from_numpy(rng.random((count, 9, 9)).astype(np.float32))
    maps[0] = 0.4  # constant
    maps[1] = (maps[1] * 4).floor() / 4  # ties
    maps[2, 3, 3] = float("nan")
    masks, ignore = [], []
    for index in range(count):
        height, width = rng.integers(size // 2, 3 * size, 2)
        masks.append(torch.from_numpy(rng.random((height, width)) < rng.random()))
        ignore.append(torch.from_numpy(rng.random((height, width)) < 0.2))
        if index == 3:
            masks[-1][:] = False
    return maps, masks, ignore


def plain_pixels(maps, masks, ignore, size):
    """All counted (score, is foreground) of the set, pixel by pixel."""
    scores, truth, levels = [], [], np.array([k / 1000 for k in range(1001)])
    for m, mask, void in zip(prepare_maps(maps, size), masks, ignore, strict=True):
        height, width = mask.shape
        for i in range(size):
            for j in range(size):
                at = (int(np.floor(i * height / size)), int(np.floor(j * width / size)))
                if mask[at] or not void[at]:
                    scores.append(levels[levels <= float(m[i, j])].max())
                    truth.append(bool(mask[at]))
    return np.array(scores), np.array(truth)


def plain_pxap(scores, truth):
    total, recall_before = 0.0, 0.0
    for k in range(1000, -1, -1):
        chosen = scores >= k / 1000
        if not chosen.any():
            continue
        hit = (chosen & truth).sum()
        recall = hit / truth.sum()
        total += hit / chosen.sum() * (recall - recall_before)
        recall_before = recall
    return total


def test_pxap_equals_the_loop_and_scikit_learn():
    maps, masks, ignore = cases(0)
    scores, truth = plain_pixels(maps, masks, ignore, 12)
    parts = torch.cat(
        [
            pxap_histograms(maps[:2], masks[:2], ignore[:2], size=12),
            pxap_histograms(maps[2:], masks[2:], ignore[2:], size=12),
        ]
    )
    value = float(pixel_average_precision(parts.sum(0)))
    precision, recall, iou = pixel_curves(parts.sum(0))
    assert value == pytest.approx(plain_pxap(scores, truth), abs=1e-12)
    assert value == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    assert int(parts.sum()) == len(scores)
    for k in (0, 1, 250, 777, 1000):
        chosen = scores >= k / 1000
        hit, union = (chosen & truth).sum(), (chosen | truth).sum()
        assert float(precision[k]) == pytest.approx(hit / chosen.sum())
        assert float(recall[k]) == pytest.approx(hit / truth.sum())
        assert float(iou[k]) == pytest.approx(hit / union)


def test_a_score_reaches_its_own_level():
    # Levels that float32 and float64 hold exactly, and their neighbors just below.
    values = torch.tensor([0.0, 0.125, 0.375, 0.5, 0.875, 1.0], dtype=torch.float64)
    below = torch.nextafter(values, torch.zeros(()).double())
    maps = torch.stack([values, below]).reshape(1, 3, 4)
    histogram = pxap_histograms(maps, torch.ones(1, 3, 4), size=4)[0, 1]
    assert int(histogram.sum()) == 16
    maps = maps.reshape(1, 2, 6).repeat(1, 3, 1)
    histogram = pxap_histograms(maps, torch.ones(1, 6, 6), size=6)[0, 1]
    found = {k: int(histogram[k]) for k in histogram.nonzero().flatten().tolist()}
    levels = [125, 374, 375, 499, 500, 874, 875, 999, 1000]
    assert found == {0: 6, 124: 3} | dict.fromkeys(levels, 3)


def test_a_perfect_and_an_inverted_map():
    mask = torch.zeros(1, 8, 8)
    mask[0, 2:5, 3:7] = 1
    good = pixel_average_precision(pxap_histograms(mask, mask, size=8)[0])
    bad = pixel_average_precision(pxap_histograms(1 - mask, mask, size=8)[0])
    flat = pixel_average_precision(pxap_histograms(torch.zeros(1, 8, 8), mask, size=8)[0])
    assert (float(good), float(bad), float(flat)) == (1.0, 12 / 64, 12 / 64)
    precision, recall, iou = pixel_curves(pxap_histograms(mask, mask, size=8)[0])
    assert (precision[500], recall[500], iou[500]) == (1, 1, 1)
    assert iou[0] == 12 / 64


def test_ignored_pixels_are_left_out_unless_they_are_foreground():
    mask, void = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    mask[0, 0] = 1
    void[0, :2] = 1  # the first of these rows is foreground
    histogram = pxap_histograms(torch.rand(1, 4, 4), mask, void, size=4)[0]
    assert histogram.sum(1).tolist() == [8, 4]


def test_a_mean_of_parts_gives_the_same_pxap_as_their_sum():
    maps, _, _ = cases(1, 8)
    masks = [fill_boxes(torch.tensor([[4, 5, 20, 25], [0, 0, 9, 9]]), 40, 30)] * 8
    parts = pxap_histograms(maps, masks, size=24)
    pooled = float(pixel_average_precision(parts.sum(0)))
    assert float(pixel_average_precision(parts.double().mean(0))) == pytest.approx(pooled)
    interval = bootstrap_interval(parts, pixel_average_precision, seed=0, samples=200)
    assert interval.value == pytest.approx(pooled)
    assert interval.low < pooled < interval.high


def test_masks_are_resized_by_exact_nearest_neighbor():
    for side in (20, 62, 230, 300, 496):
        rows = torch.arange(side)[:, None].expand(side, 3)
        expected = [i * side // 224 for i in range(224)]
        assert resize_mask(rows)[:, 0].tolist() == expected


def test_bad_input_is_one_sentence():
    maps, box = torch.rand(2, 7, 7), torch.tensor([[0, 0, 3, 3]])
    with pytest.raises(SsgcamError, match="2 maps but 1 lists of boxes"):
        box_hits(maps, [box], [(9, 9)] * 2)
    with pytest.raises(SsgcamError, match="at least one box"):
        box_hits(maps, [box, box[:0]], [(9, 9)] * 2)
    with pytest.raises(SsgcamError, match="ends before it starts"):
        box_hits(maps, [box, torch.tensor([[3, 0, 1, 4]])], [(9, 9)] * 2)
    with pytest.raises(SsgcamError, match=r"non-empty \[N, H, W\]"):
        prepare_maps(torch.rand(7, 7))
    with pytest.raises(SsgcamError, match="tau"):
        localization_hits(torch.ones(2, 4, 1000), torch.rand(2, 3), torch.zeros(2), 1.0)
    with pytest.raises(SsgcamError, match="1 maps but 2 masks"):
        pxap_histograms(torch.rand(1, 8, 8), torch.zeros(2, 8, 8))
    assert pixel_average_precision(torch.zeros(2, 1001)).isnan()  # no foreground pixel
