"""Windows over a large image and the weighted average over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.data_trees import refusal
from ssgcam.bulk.windows import Windows, window_weight


@pytest.mark.parametrize(
    ("height", "width", "side", "overlap"),
    [(40, 50, 16, 0.5), (16, 16, 16, 0.5), (9, 50, 16, 0.0), (41, 33, 16, 0.9), (33, 17, 8, 0.3)],
)
def test_average_over_windows_equals_a_plain_loop(height, width, side, overlap):
    windows = Windows(side, overlap)
    boxes = list(windows.boxes(height, width))
    rng = np.random.default_rng(0)
    values = [rng.random((bottom - top, right - left)) for left, top, right, bottom in boxes]
    sums, divisor = torch.zeros(height, width), torch.zeros(height, width)
    for (left, top, right, bottom), value in zip(boxes, values, strict=True):
        weight = window_weight(bottom - top, right - left)
        divisor[top:bottom, left:right] += weight
        sums[top:bottom, left:right] += weight * torch.tensor(value, dtype=torch.float32)

    expected = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            total = weights = 0.0
            for (left, top, right, bottom), value in zip(boxes, values, strict=True):
                if left <= x < right and top <= y < bottom:
                    weight = min(x - left + 1, right - x) * min(y - top + 1, bottom - y)
                    total += weight * value[y - top, x - left]
                    weights += weight
            expected[y, x] = total / weights
    np.testing.assert_allclose((sums / divisor).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 31, 100])
def test_windows_cover_the_image_with_the_requested_overlap(length, overlap):
    boxes = list(Windows(8, overlap).boxes(1, length))
    starts = [left for left, _, _, _ in boxes]
    ends = [right for _, _, right, _ in boxes]
    assert starts[0] == 0
    assert ends[-1] == length
    assert {right - left for left, _, right, _ in boxes} == {min(8, length)}
    for end, start in zip(ends, starts[1:], strict=False):
        assert end - start >= int(8 * overlap)


@pytest.mark.parametrize(("side", "overlap"), [(0, 0.5), (7, 0.5), (64, -0.1), (64, 1.0)])
def test_bad_windows_are_refused(side, overlap):
    refusal(Windows, side, overlap)
