"""From a photo to a network's input: 8 bits until a batch is there, then the weights' own scale."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from ssgcam.errors import SsgcamError
from ssgcam.images import Reading
from ssgcam.preprocessing import Preprocessing, unit_range

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def photo(width=31, height=17, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_a_batch_is_what_the_formula_says(order):
    preprocessing = Preprocessing((9, 12), MEAN, STD, order)
    photos = [photo(seed=seed) for seed in range(3)]
    got = preprocessing(photos)
    assert got.dtype == torch.float32
    for image, found in zip(photos, got, strict=True):
        eight_bits = F.resize(F.pil_to_tensor(image), [9, 12], antialias=True)
        values = eight_bits.numpy().astype(np.float64)[:: 1 if order == "rgb" else -1] / 255
        expected = (values - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
        assert np.allclose(found.numpy(), expected, rtol=0, atol=1e-6)


def test_a_photo_has_8_bits_until_it_is_normalized():
    preprocessing = Preprocessing((9, 12), MEAN, STD)
    pixels = preprocessing.pixels(photo())
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 9, 12)
    one_by_one = [preprocessing([photo(seed=seed)])[0] for seed in range(4)]
    assert torch.equal(
        preprocessing([photo(seed=seed) for seed in range(4)]), torch.stack(one_by_one)
    )


def test_8_bits_and_unit_range_are_normalized_alike():
    preprocessing = Preprocessing((9, 12), MEAN, STD)
    pixels = preprocessing.pixels(photo())[None]
    scaled = unit_range(pixels)
    assert scaled.dtype == torch.float32
    assert torch.allclose(scaled.double(), pixels.double() / 255, rtol=0, atol=1e-7)
    assert torch.equal(preprocessing.normalize(pixels), preprocessing.normalize(scaled))
    wide = scaled.double()
    assert unit_range(wide) is wide


def test_a_crop_is_cut_before_it_is_resized():
    image = photo(40, 20)
    preprocessing = Preprocessing((8, 8), MEAN, STD, resize_shorter=10)
    assert preprocessing.crop_box(40, 20) == (12, 2, 28, 18)
    whole = Preprocessing((8, 8), MEAN, STD).pixels(image.crop((12, 2, 28, 18)))
    assert torch.equal(preprocessing.pixels(image, crop=True), whole)


def test_a_gray_network_gets_gray_images():
    preprocessing = Preprocessing((9, 12), (0.4,), (0.2,))
    image = photo()
    got = preprocessing([image])
    assert got.shape == (1, 1, 9, 12)
    gray = F.resize(F.pil_to_tensor(image.convert("L")), [9, 12], antialias=True)
    torch.testing.assert_close(got[0], (gray / 255 - 0.4) / 0.2)
    with pytest.raises(SsgcamError, match="mean has 1 and std 3 values"):
        Preprocessing(mean=(0.5,))


def test_files_are_read_as_the_settings_say(tmp_path):
    Image.fromarray(np.array([[0, 1000]], np.uint16)).save(tmp_path / "a.png")
    preprocessing = Preprocessing((1, 2), MEAN, STD, reading=Reading("0,2000"))
    assert preprocessing.pixels(preprocessing.read(tmp_path / "a.png"))[0, 0].tolist() == [0, 128]
    assert Preprocessing.from_json(asdict(preprocessing)) == preprocessing
