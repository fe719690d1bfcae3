"""The windows of the study of parasites, on a synthetic field."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from parasites import Field, training_windows
from ssgcam.training import LabeledImages


@pytest.fixture
def field() -> Field:
    """200x200 px with one parasite, red, outlined in the middle."""
    pixels = np.full((200, 200, 3), 200, np.uint8)
    mask = np.zeros((200, 200), np.uint8)
    pixels[95:105, 95:105] = (220, 0, 0)
    mask[95:105, 95:105] = 1
    return Field("mpidb_02", pixels, mask)


def test_windows_around_a_parasite_show_it_and_its_mask(field):
    assert field.around() == field.around()
    for box in field.around():
        assert field.shows_parasite(box)
        red = np.asarray(field.photo(box))[..., 1] == 0
        assert np.array_equal(red, field.mask_in(box) == 1)
    assert field.fold == 2


def test_training_windows_balance_both_sources_and_have_the_same_size(field):
    cells = LabeledImages(
        (0, 1) * 5,
        [f"field {number}" for number in range(10)],
        ("healthy", "infected"),
        lambda index, _: Image.new("RGB", (160, 160), (index, index, index)),
    )
    images = training_windows([field], cells)
    infected = [index for index, label in enumerate(images.labels) if label]
    own = [images.groups[index] == field.name for index in infected]
    assert own == [True] * 5 + [False] * 5
    sides = {images.read(infected[-1], np.random.default_rng(seed)).size for seed in range(20)}
    assert sides == {(38, 38), (66, 66)}  # about two cells of 20 and of 35 px
    assert images.read(infected[-1], None).getpixel((0, 0)) == (9, 9, 9)
    assert images.read(infected[0], None).size == (38, 38)
    for index, label in enumerate(images.labels[:20]):
        pixels = np.asarray(images.read(index, np.random.default_rng(index)))
        assert ((pixels[..., 1] == 0).any()) == bool(label)
