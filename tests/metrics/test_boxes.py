"""Boxes against a plain transcription of the definition: one threshold, one box, one IoU at a time."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from ssgcam.errors import SsgcamError
from ssgcam.metrics import (
    BoxAccuracy,
    LocalizationAccuracy,
    best_ious,
    box_hits,
    box_iou,
    contour_boxes,
    fill_boxes,
    localization_hits,
    max_box_acc,
    max_box_acc_v2,
    prepare_maps,
    quantize,
    scale_boxes,
)

TAUS = [i / 1000 for i in range(1000)]


def noise(rng, side):
    return rng.random((side, side))


def levels(rng, side):
    return rng.integers(0, 4, (side, side)) / 3


def blobs(rng, side):
    y, x = np.mgrid[:side, :side]
    total = np.zeros((side, side))
    for _ in range(rng.integers(1, 4)):
        cy, cx, s = rng.uniform([0, 0, 1], [side, side, side / 3])
        total += rng.random() * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * s * s))
    return total


def ring(rng, side):
    y, x = np.mgrid[:side, :side]
    radius = np.hypot(y - rng.uniform(0, side), x - rng.uniform(0, side))
    return np.exp(-((radius - rng.uniform(2, side / 2)) ** 2) / rng.uniform(1, 20))


def checkers(rng, side):
    y, x = np.mgrid[:side, :side]
    return ((y // rng.integers(1, 4) + x // rng.integers(1, 4)) % 2) * rng.random()


def frame(rng, side):
    m = np.zeros((side, side))
    m[0] = m[-1] = m[:, 0] = m[:, -1] = 1
    return m + 0.2 * rng.random((side, side))


def slope(rng, side):
    y, x = np.mgrid[:side, :side]
    return y * rng.normal() + x * rng.normal() - 5


def dot(rng, side):
    m = np.zeros((side, side))
    m[rng.integers(side), rng.integers(side)] = 1
    return m


def twins(rng, side):
    m = np.zeros((side, side))
    m[1:4, 1:4] = m[-4:-1, -4:-1] = m[1:4, -4:-1] = 1.0
    return m


def constant(rng, side):
    return np.full((side, side), rng.normal())


def nan(rng, side):
    m = rng.random((side, side))
    m[rng.integers(side), rng.integers(side)] = rng.choice([np.nan, np.inf, -np.inf])
    return m


KINDS: list[Callable] = [
    noise, levels, blobs, ring, checkers, frame, slope, dot, twins, constant, nan,
]  # fmt: skip


def plain_prepare(m, size):
    if not np.isfinite(m).all() or m.min() == m.max():
        return np.zeros((size, size), np.uint8)
    m = cv2.resize(m, (size, size), interpolation=cv2.INTER_CUBIC)
    m = m - m.min()
    m = m / m.max()
    return (m * 255).astype(np.uint8)


def shoelace(contour):
    points = contour[:, 0].astype(float)
    ahead = np.roll(points, -1, 0)
    return abs((points[:, 0] * ahead[:, 1] - ahead[:, 0] * points[:, 1]).sum()) / 2


def plain_boxes(score, tau):
    """(all boxes, the box of the largest contour) at one tau."""
    height, width = score.shape
    _, mask = cv2.threshold(score, int(tau * score.max()), 255, cv2.THRESH_BINARY)
    contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    if len(contours) == 0:
        return [[0, 0, 0, 0]], [0, 0, 0, 0]
    boxes, areas = [], []
    for contour in contours:
        x, y = contour[:, 0].min(0)
        far_x, far_y = contour[:, 0].max(0) + 1
        boxes.append([int(x), int(y), int(min(far_x, width - 1)), int(min(far_y, height - 1))])
        areas.append(shoelace(contour))
    return boxes, boxes[areas.index(max(areas))]


def plain_iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0]) + 1
    h = min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(0, w) * max(0, h)
    area = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return shared / (sum(area) - shared)


def random_boxes(rng, height, width, count):
    x, y = rng.integers(0, width, (count, 2)), rng.integers(0, height, (count, 2))
    x.sort(1), y.sort(1)
    return torch.from_numpy(np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1))


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_equal_the_transcription_edge_by_edge(kind):
    rng = np.random.default_rng(KINDS.index(kind))
    for _ in range(200):
        low, size = rng.integers(5, 16), int(rng.integers(8, 19))
        raw = kind(rng, size if rng.random() < 0.5 else low).astype(np.float32)
        score = quantize(prepare_maps(torch.from_numpy(raw)[None], size))[0]
        expected = plain_prepare(raw, size)
        np.testing.assert_array_equal(score.numpy(), expected)
        truth = random_boxes(rng, size, size, rng.integers(1, 3))
        largest, any_box = best_ious(score, truth)
        for index in rng.integers(0, 1000, 4).tolist():
            tau = TAUS[index]
            boxes, biggest = plain_boxes(expected, tau)
            found, at = contour_boxes(score, int(tau * int(score.max())))
            assert found.tolist() == boxes
            assert found[at].tolist() == biggest
            ious = [[plain_iou(box, t) for t in truth.tolist()] for box in [biggest, *boxes]]
            assert float(largest[index]) == max(ious[0])
            assert float(any_box[index]) == max(map(max, ious))


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


def test_contours_are_8_connected_regions_and_4_connected_holes():
    rng = np.random.default_rng(0)
    for _ in range(300):
        mask = rng.random((17, 23)) < rng.uniform(0.1, 0.9)
        regions, _ = ndimage.label(mask, np.ones((3, 3)))
        holes, count = ndimage.label(np.pad(~mask, 1, constant_values=True))
        expected = [[*s] for s in ndimage.find_objects(regions)]
        boxes = [[c.start, r.start, min(c.stop, 22), min(r.stop, 16)] for r, c in expected]
        for label in range(1, count + 1):
            rows, columns = np.nonzero(holes == label)
            if label == holes[0, 0]:
                continue  # the outside
            rows, columns = rows - 1, columns - 1
            # the pixels around the hole, then one past them
            boxes.append(
                [
                    columns.min() - 1,
                    rows.min() - 1,
                    min(columns.max() + 2, 22),
                    min(rows.max() + 2, 16),
                ]
            )
        found, _ = contour_boxes(torch.from_numpy(mask.astype(np.uint8)), 0)
        assert sorted(found.tolist()) == sorted(map(list, boxes))


def test_a_score_above_the_threshold_everywhere_is_one_box():
    score = torch.full((9, 11), 7, dtype=torch.uint8)
    score[4, 4] = 200
    truth = torch.tensor([[0, 0, 10, 8]])
    largest, any_box = best_ious(score, truth)
    assert largest[0] == any_box[0] == 1.0
    assert float(largest[34]) == 1.0  # int(.034 * 200) = 6
    assert float(largest[35]) == pytest.approx(4 / 99)  # 7: the pixel's box, (4, 4, 5, 5)


def test_a_map_without_evidence_has_the_corner_pixel_as_its_box():
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


def test_scaled_and_filled_boxes():
    box = torch.tensor([[10, 20, 63, 63]])
    assert scale_boxes(box, 64, 64).tolist() == [[35, 70, 220, 220]]
    assert scale_boxes(box, 100, 300).tolist() == [[7, 44, 47, 141]]
    filled = fill_boxes(torch.tensor([[1, 0, 2, 1], [4, 3, 9, 9]]), 5, 6)
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[0:2, 1:3] = True
    expected[3:, 4:] = True
    assert torch.equal(filled, expected)


def test_scaling_is_exact_for_every_corner():
    for width in range(3, 400, 7):
        corners = torch.arange(width)
        boxes = torch.stack([corners] * 4, 1)
        assert scale_boxes(boxes, width, width)[:, 0].tolist() == [
            x * 224 // width for x in range(width)
        ]


def test_v2_takes_the_best_threshold_for_each_delta():
    hits = torch.zeros(4, 1000).double()
    hits[1, 10], hits[2, 20], hits[3, 30] = 0.9, 0.6, 0.3
    assert float(max_box_acc_v2(hits)) == pytest.approx(0.6)
    assert max_box_acc_v2(hits.expand(5, 4, 1000)).shape == (5,)


def test_inclusive_iou_by_counting_pixels():
    rng = np.random.default_rng(3)
    first, second = random_boxes(rng, 20, 20, 40), random_boxes(rng, 20, 20, 40)
    found = box_iou(first, second)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            x, y = fill_boxes(a[None], 20, 20), fill_boxes(b[None], 20, 20)
            assert float(found[i, j]) == pytest.approx(float((x & y).sum() / (x | y).sum()))


def test_one_threshold_for_the_whole_set():
    # The first map is right only at low thresholds, the second only at high ones.
    low, high = torch.zeros(1, 224, 224), torch.zeros(1, 224, 224)
    low[0, 20:121, 20:121], low[0, 60:70, 60:70] = 0.5, 1.0
    high[0, 20:220, 20:220], high[0, 100:141, 100:141] = 0.5, 1.0
    boxes = [torch.tensor([[20, 20, 121, 121]]), torch.tensor([[100, 100, 141, 141]])]
    metric = BoxAccuracy()
    for maps, box in zip((low, high), boxes, strict=True):
        metric.update(maps, [box], [(224, 224)])
    result = metric.compute()
    assert result.n == 2
    assert result.max_box_acc == 0.5
    assert result.tau == 0.0
    assert result.parts.any(-1).all()  # a threshold for each image would score 1
    assert result.v2_by_delta == {0.3: 0.5, 0.5: 0.5, 0.7: 0.5}


def test_box_accuracy_over_batches_equals_plain_loops():
    rng = np.random.default_rng(5)
    maps = np.stack([KINDS[i % len(KINDS)](rng, 9) for i in range(22)]).astype(np.float32)
    sizes = [(int(h), int(w)) for h, w in rng.integers(20, 90, (22, 2))]
    boxes = [random_boxes(rng, h, w, rng.integers(1, 3)) for h, w in sizes]
    metric = BoxAccuracy(size=18)
    for start, stop in ((0, 5), (5, 6), (6, 22)):
        metric.update(torch.from_numpy(maps[start:stop]), boxes[start:stop], sizes[start:stop])
    result = metric.compute()
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
    np.testing.assert_allclose(result.curve, right["one", 0.5] / 22)
    assert result.max_box_acc == pytest.approx(right["one", 0.5].max() / 22)
    assert result.tau == right["one", 0.5].argmax() / 1000
    v2 = {d: right["any", d].max() / 22 for d in (0.3, 0.5, 0.7)}
    assert result.v2_by_delta == pytest.approx(v2)
    assert result.max_box_acc_v2 == pytest.approx(sum(v2.values()) / 3)
    means = result.parts.double().mean(0)
    assert float(max_box_acc(means)) == result.max_box_acc
    assert float(max_box_acc_v2(means)) == result.max_box_acc_v2


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
    metric = LocalizationAccuracy(tau=0.3)
    metric.update(torch.from_numpy(maps), boxes, sizes, logits, labels)
    result = metric.compute()
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
    assert (result.gt_known, result.top1, result.top5) == pytest.approx(
        (np.mean(known), np.mean(top1), np.mean(top5))
    )
    assert result.parts.tolist() == [
        list(map(bool, row)) for row in zip(known, top1, top5, strict=True)
    ]
    two = localization_hits(
        torch.from_numpy(maps), boxes, sizes, logits[:, :2], labels.clamp(max=1)
    )
    assert torch.equal(two[:, 0], two[:, 2])  # the top 5 of two classes are both


def test_bad_input_is_one_sentence():
    maps, box = torch.rand(2, 7, 7), torch.tensor([[0, 0, 3, 3]])
    metric = BoxAccuracy()
    with pytest.raises(SsgcamError, match="update"):
        metric.compute()
    with pytest.raises(SsgcamError, match="2 maps but 1 lists of boxes"):
        metric.update(maps, [box], [(9, 9)] * 2)
    with pytest.raises(SsgcamError, match="at least one box"):
        metric.update(maps, [box, box[:0]], [(9, 9)] * 2)
    with pytest.raises(SsgcamError, match="ends before it starts"):
        metric.update(maps, [box, torch.tensor([[3, 0, 1, 4]])], [(9, 9)] * 2)
    with pytest.raises(SsgcamError, match=r"non-empty \[N, H, W\]"):
        prepare_maps(torch.rand(7, 7))
    with pytest.raises(SsgcamError, match="tau"):
        localization_hits(maps, [box] * 2, [(9, 9)] * 2, torch.rand(2, 3), torch.zeros(2), 1.0)
