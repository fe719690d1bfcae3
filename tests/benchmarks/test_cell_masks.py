"""What the studies of masks of infected cells compute."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import cell_masks


def test_objects_are_false_if_they_touch_no_box():
    mask = np.zeros((20, 20), np.uint8)
    mask[2:5, 2:5] = mask[10:12, 10:18] = mask[15, 3] = 1
    boxes = [(0, 0, 4, 4), (9, 9, 12, 12), (14, 9, 20, 12), (0, 8, 5, 12)]
    assert cell_masks.count_objects(mask, boxes) == (1, 3)
    assert cell_masks.count_objects(mask, []) == (3, 0)
    assert cell_masks.count_objects(np.zeros_like(mask), boxes) == (0, 0)


def test_the_area_is_the_share_of_pairs_in_which_the_unlike_image_has_the_higher_score():
    usual, unlike = np.array([0.1, 0.4, 0.7]), np.array([0.4, 0.9])
    (area,) = cell_masks.roc_area(usual, unlike, ["a", "b", "c", "d", "e"])
    pairs = [(u > v) + (u == v) / 2 for u in unlike for v in usual]
    assert area.value == pytest.approx(sum(pairs) / len(pairs))
    assert (area.n, area.groups) == (5, 5)


def test_a_square_that_reaches_past_the_photo_is_moved_inside():
    photo = Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10))
    assert cell_masks.square(photo, (9, 5), 4).getpixel((0, 0)) == (36, 36, 36)
