"""The fields of the parasite benchmark, on synthetic ones."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from parasite_fields import CoarseWindows, Field, MovingWindows, fold_of


class Source:
    """Ten windows of 160 px, every other one infected; each is one gray."""

    class_names = ("healthy", "infected")
    labels = (0, 1) * 5
    groups = tuple(f"field {number}" for number in range(10))

    def image(self, index, generator=None):
        return Image.new("RGB", (160, 160), (index, index, index))


@pytest.fixture
def field() -> Field:
    """200x200 px with one parasite, red, outlined in the middle."""
    pixels = np.full((200, 200, 3), 200, np.uint8)
    mask = np.zeros((200, 200), np.uint8)
    pixels[95:105, 95:105] = (220, 0, 0)
    mask[95:105, 95:105] = 1
    return Field("mpidb_02", pixels, mask)


def test_windows_around_a_parasite_show_it_and_their_truth(field):
    boxes = list(field.around(copies=5))
    assert len(boxes) == 5
    assert boxes == list(field.around(copies=5))
    for box in boxes:
        assert field.shows_parasite(box)
        red = np.asarray(field.photo(box))[..., 1] == 0
        assert np.array_equal(red, field.truth(box) == 1)
    assert fold_of(field.name) == 2


def test_windows_of_both_sources_are_alike_in_number_and_in_size(field):
    own = MovingWindows((field,))
    both = CoarseWindows(own, Source())
    assert sum(own.labels) == 1
    assert both.repeats == 5
    assert len(both.labels) == len(both.groups) == 5 * len(own.labels) + 10
    infected = [index for index, label in enumerate(both.labels) if label]
    assert len(infected) == 10
    assert [both.groups[index] == field.name for index in infected] == [True] * 5 + [False] * 5
    sides = {both.image(infected[-1], np.random.default_rng(seed)).size for seed in range(20)}
    assert sides == {(38, 38), (66, 66)}  # about two cells of 20 and of 35 px
    assert both.image(infected[-1]).getpixel((0, 0)) == (9, 9, 9)
    assert both.image(infected[0]).size == (field.windows.side,) * 2
