"""Boxes against a plain transcription of the definition: one threshold, one box, one IoU at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from helpers.box_oracles import KINDS, TAUS, plain_boxes, plain_iou, plain_prepare, random_boxes
from ssgcam.errors import SsgcamError
from ssgcam.metrics import (
    best_ious,
    box_iou,
    contour_boxes,
    fill_boxes,
    prepare_maps,
    quantize,
    scale_boxes,
)


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_equal_the_transcription_edge_by_edge(kind):
    rng = np.random.default_rng(KINDS.index(kind))
    for _ in range(20):
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


def test_inclusive_iou_by_counting_pixels():
    rng = np.random.default_rng(3)
    first, second = random_boxes(rng, 20, 20, 40), random_boxes(rng, 20, 20, 40)
    found = box_iou(first, second)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            x, y = fill_boxes(a[None], 20, 20), fill_boxes(b[None], 20, 20)
            assert float(found[i, j]) == pytest.approx(float((x & y).sum() / (x | y).sum()))


def test_malformed_boxes_are_refused():
    with pytest.raises(SsgcamError, match="at least one box"):
        fill_boxes(torch.zeros(0, 4), 9, 9)
    with pytest.raises(SsgcamError, match="ends before it starts"):
        scale_boxes(torch.tensor([[3, 0, 1, 4]]), 9, 9)
    for size in ((0, 9), (9, 0)):
        with pytest.raises(SsgcamError, match="has no area"):
            scale_boxes(torch.tensor([[0, 0, 1, 4]]), *size)
