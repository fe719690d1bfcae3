"""Boxes and masks turn with their image; Pillow's exif_transpose is the oracle."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from helpers.data_trees import photo, refusal
from ssgcam.data.frames import annotated_pixels, upright_array, upright_box
from ssgcam.images import image_header, read_image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_and_masks_turn_with_the_image(tmp_path, orientation):
    stored = np.zeros((6, 9), np.uint8)
    stored[1:3, 4:8] = 200
    image = Image.fromarray(stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    image.save(path, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    assert annotated_pixels(path, None, path, stored=True) == ((9, 6), orientation)
    assert annotated_pixels(path, None, path, stored=False) == (read_image(path).size, 1)
    assert np.array_equal(upright_array(stored, orientation), upright)
    x0, y0, x1, y1 = upright_box((4, 1, 7, 2), (9, 6), orientation)
    drawn = np.zeros_like(upright)
    drawn[y0 : y1 + 1, x0 : x1 + 1] = 200
    assert np.array_equal(drawn, upright)


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_does_not_exist_is_upright(tmp_path, orientation):
    path = photo(tmp_path / "a.jpg", (20, 10), orientation=orientation)
    assert image_header(path) == (20, 10, 1)
    assert read_image(path).size == (20, 10)


def test_the_declared_size_tells_stored_from_upright(tmp_path):
    path = photo(tmp_path / "a.jpg", (20, 10), orientation=6)
    for stored in (False, True):
        assert annotated_pixels(path, (20, 10), path, stored) == ((20, 10), 6)
        assert annotated_pixels(path, (10, 20), path, stored) == ((10, 20), 1)
    message = refusal(annotated_pixels, path, (21, 10), tmp_path / "list.txt", True)
    assert "10x20" in message
    assert "21x10" in message
    assert "list.txt" in message
