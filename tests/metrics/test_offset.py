"""Where masks fit best, against a loop over moves."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from ssgcam.errors import SsgcamError
from ssgcam.metrics import confusion_matrix, foreground_iou, mask_offset


def moved(mask: torch.Tensor, right: int, down: int) -> torch.Tensor:
    """One mask moved by padding and cropping."""
    return F.pad(mask, (right, -right, down, -down))


@pytest.mark.parametrize("seed", range(20))
def test_equals_a_loop_over_all_moves(seed):
    generator = torch.Generator().manual_seed(seed)
    count, height, width = (40 if seed == 3 else 3), 9, 12
    masks = torch.rand(count, height, width, generator=generator) < 0.4
    labels = torch.tensor([0, 1, 1, 255], dtype=torch.uint8)
    truth = labels[torch.randint(4, masks.shape, generator=generator)]
    reach = seed % 6
    scores = {}
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            pooled = sum(
                confusion_matrix(moved(mask, right, down), each, 2)
                for mask, each in zip(masks, truth, strict=True)
            )
            scores[right, down] = float(foreground_iou(pooled))
    found = mask_offset(masks, truth, reach)
    assert found.iou == pytest.approx(max(scores.values()), abs=1e-12)
    assert scores[found.right, found.down] == pytest.approx(found.iou, abs=1e-12)
    assert found.in_place == pytest.approx(scores[0, 0], abs=1e-12)


def test_of_equals_the_shortest_move():
    stripe = torch.zeros(2, 10, 10, dtype=torch.uint8)
    stripe[:, :, 4:6] = 1
    found = mask_offset(stripe == 1, stripe, 4)
    assert (found.right, found.down, found.iou, found.in_place) == (0, 0, 1, 1)
    apart = torch.zeros_like(stripe)
    apart[:, 0, 0] = 1
    far = torch.zeros_like(stripe, dtype=torch.bool)
    far[:, 9, 9] = True
    assert mask_offset(far, apart, 3) == mask_offset(torch.zeros_like(far), apart, 3)
    assert mask_offset(far, apart, 3).right == mask_offset(far, apart, 3).down == 0


def test_nothing_anywhere_has_no_score():
    nothing = torch.zeros(1, 6, 6, dtype=torch.uint8)
    found = mask_offset(nothing == 1, nothing, 2)
    assert (found.right, found.down) == (0, 0)
    assert math.isnan(found.iou)
    assert math.isnan(found.in_place)


def test_wrong_shapes_and_reach():
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    with pytest.raises(SsgcamError, match=r"masks \[2, 6, 8\] and truth \[2, 8, 6\] don't fit"):
        mask_offset(masks, torch.zeros(2, 8, 6), 2)
    with pytest.raises(SsgcamError, match="masks is an empty batch"):
        mask_offset(masks[:0], torch.zeros(0, 6, 8), 2)
    for reach in (-1, 6):
        with pytest.raises(SsgcamError, match=f"reach is {reach} for masks of 6x8; pass 0 to 5"):
            mask_offset(masks, torch.zeros(2, 6, 8), reach)
