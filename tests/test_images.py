"""Every kind of picture file becomes upright RGB; every bad one gets one sentence."""

import struct
import warnings
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
import tifffile
from PIL import Image

from ssgcam.errors import SsgcamError
from ssgcam.images import Reading, find_images, read_image


def saved(tmp_path, name, array, mode=None, **options):
    path = tmp_path / name
    image = array if isinstance(array, Image.Image) else Image.fromarray(np.asarray(array), mode)
    image.save(path, **options)
    return path


@contextmanager
def quiet():
    """Warnings are errors, those of Pillow aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def pixels(path, reading=None):
    with quiet():
        image = read_image(path, reading)
    assert image.mode == "RGB"
    return np.asarray(image)


def sentence(path, reading=None):
    with quiet(), pytest.raises(SsgcamError) as caught:
        read_image(path, reading)
    message = str(caught.value)
    assert str(path) in message
    assert ";" in message
    assert "\n" not in message
    return message


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_rgb_png_is_unchanged(tmp_path):
    array = noise(5, 7, 3)
    assert np.array_equal(pixels(saved(tmp_path, "a.png", array)), array)


def test_gray_and_black_and_white(tmp_path):
    gray = noise(5, 7)
    expected = np.stack([gray] * 3, axis=2)
    assert np.array_equal(pixels(saved(tmp_path, "g.png", gray)), expected)
    bits = Image.fromarray(gray).convert("1")
    expected = np.asarray(bits)[..., None].repeat(3, 2) * np.uint8(255)
    assert np.array_equal(pixels(saved(tmp_path, "b.png", bits)), expected)


def test_palette(tmp_path):
    image = Image.fromarray(noise(6, 6, 3)).quantize(8)
    assert np.array_equal(pixels(saved(tmp_path, "p.png", image)), np.asarray(image.convert("RGB")))


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 51]]], np.uint8)
    assert pixels(saved(tmp_path, "a.png", rgba)).tolist() == [
        [[200, 0, 0], [255, 255, 255], [244, 204, 204]]
    ]
    la = Image.merge(
        "LA", [Image.new("L", (2, 1), 10), Image.fromarray(np.array([[255, 0]], "u1"))]
    )
    assert pixels(saved(tmp_path, "la.png", la))[0].tolist() == [[10] * 3, [255] * 3]


def test_transparent_palette_entries_are_laid_on_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([9, 9, 9, 70, 80, 90])
    one = saved(tmp_path, "one.png", image, transparency=0)
    each = saved(tmp_path, "each.png", image, transparency=b"\x00\xff")
    for path in (one, each):
        assert pixels(path)[0].tolist() == [[255, 255, 255], [70, 80, 90]]


def test_cmyk(tmp_path):
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert pixels(saved(tmp_path, "c.tif", cmyk))[0, 0].tolist() == [255, 0, 0]
    red = pixels(saved(tmp_path, "c.jpg", cmyk, quality=100))[4, 4]
    assert np.abs(red.astype(int) - [255, 0, 0]).max() <= 4


FULL = Reading("full")


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_gray_of_16_bits_in_full_is_scaled_by_the_range_of_16_bits(tmp_path, name, dtype):
    values = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    if dtype == ">u2" and name == "a.tif":
        image = Image.frombytes("I;16B", (6, 1), values.astype(">u2").tobytes())
    else:
        image = Image.fromarray(values)
    found = pixels(saved(tmp_path, name, image), FULL)
    assert found[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def color_of_16_bits(path, values):
    """A PNG of 16 bits; ``values`` is ``[H, W, 3]``."""
    rows = [b"\x00" + row.astype(">u2").tobytes() for row in values]
    height, width, _ = values.shape
    path.write_bytes(png_bytes(width, height, zlib.compress(b"".join(rows)), depth=16, color=2))
    return path


@pytest.mark.parametrize("reading", [FULL, Reading("100,60000")])
def test_color_of_16_bits_agrees_with_gray_of_16_bits(tmp_path, reading):
    values = np.arange(0, 65536, 97, dtype=np.uint16)[None]
    color = pixels(color_of_16_bits(tmp_path / "c.png", np.stack([values] * 3, 2)), reading)
    gray = pixels(saved(tmp_path, "g.png", values), reading)
    assert np.array_equal(color, gray)
    order = color_of_16_bits(tmp_path / "o.png", np.array([[[65535, 30000, 0]]]))
    assert pixels(order, FULL)[0, 0].tolist() == [255, 117, 0]


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_twelve_bits_are_seen_in_full_contrast(tmp_path, kind):
    values = np.random.default_rng(0).integers(0, 4096, (150, 30))  # several blocks of rows
    path = saved(tmp_path, "a.tif", values.astype(kind))
    low, high = np.percentile(values, (0.1, 99.9))
    expected = np.rint(255 * ((values - low) / (high - low)).clip(0, 1))
    with quiet():
        image = read_image(path)
    assert np.array_equal(np.asarray(image)[..., 0], expected)
    assert image.info["notes"] == [f"values from {low:g} to {high:g} were read"]
    assert np.array_equal(pixels(path, Reading("0,4095"))[..., 1], np.rint(values / 4095 * 255))


def test_a_file_that_uses_little_of_its_range_in_full_is_noted(tmp_path):
    path = saved(tmp_path, "a.png", np.array([[0, 3000]], np.uint16))
    assert "uses less than 5 %" in read_image(path, FULL).info["notes"][0]
    path = saved(tmp_path, "b.png", np.array([[0, 4095]], np.uint16))
    assert "less than" not in read_image(path, FULL).info["notes"][0]


def test_flat_and_not_finite_pixels(tmp_path):
    assert pixels(saved(tmp_path, "flat.png", np.full((4, 4), 900, np.uint16))).max() == 0
    values = np.array([[0, np.nan, 1, np.inf]], np.float32)
    assert pixels(saved(tmp_path, "n.tif", values), Reading("0,1"))[0, :, 0].tolist() == [
        0,
        0,
        255,
        255,
    ]
    assert "no finite pixel" in sentence(saved(tmp_path, "none.tif", values[:, 1:2]))


def test_pixels_outside_16_bits_are_refused_in_full(tmp_path):
    good = Image.fromarray(np.array([[0, 65535]], np.int32))
    assert pixels(saved(tmp_path, "i.tif", good), FULL)[0, :, 0].tolist() == [0, 255]
    for name, values in (("a.tif", [[-3, 70000]]), ("b.tif", [[-3, 5]])):
        message = sentence(saved(tmp_path, name, np.array(values, np.int32)), FULL)
        assert f"{values[0][0]} to {values[0][1]}" in message
    path = saved(tmp_path, "f.tif", np.full((2, 2), 0.5, np.float32))
    assert "give the intensity auto or LOW,HIGH" in sentence(path, FULL)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"intensity": "bright"}, "intensity is 'bright'; give auto, full or LOW,HIGH"),
        ({"intensity": "9,3"}, "intensity is '9,3'"),
        ({"intensity": "1,2,3"}, "intensity is '1,2,3'"),
        ({"intensity": "0,inf"}, "intensity is '0,inf'"),
        ({"page": 0}, "page is 0; pages count from 1"),
        ({"channels": (0,)}, "channels count from 1"),
    ],
)
def test_settings_of_reading_are_checked(settings, said):
    with pytest.raises(SsgcamError, match=said):
        Reading(**settings)


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.webp"])
def test_a_page_is_chosen_and_noted(tmp_path, name):
    pages = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]
    path = tmp_path / name
    pages[0].save(path, save_all=True, append_images=pages[1:], lossless=True)
    for number, page in enumerate(pages, start=1):
        image = read_image(path, Reading(page=number))
        assert image.getpixel((4, 4)) == page.getpixel((4, 4))
        assert image.info["notes"] == [f"page {number} of 3 was read"]
    assert "has no page 4; give one from 1 to 3" in sentence(path, Reading(page=4))


def test_a_tiff_of_which_all_channels_are_read_needs_no_note(tmp_path):
    path = tmp_path / "rgb.tif"
    tifffile.imwrite(path, np.linspace(0, 1, 48, dtype=np.float32).reshape(4, 4, 3))
    assert read_image(path, Reading("0,1")).info["notes"] == ["values from 0 to 1 were read"]


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_channels_of_a_tiff_are_chosen_and_noted(tmp_path, planar):
    values = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)
    stored = values if planar == "separate" else values.transpose(1, 2, 0)
    path = tmp_path / "five.tif"
    tifffile.imwrite(path, stored, photometric="minisblack", planarconfig=planar)
    image = read_image(path)
    assert np.array_equal(np.asarray(image), values[:3].transpose(1, 2, 0))
    assert image.info["notes"] == ["of 5 channels these were read: 1, 2, 3"]
    one = pixels(path, Reading(channels=(4,)))
    assert np.array_equal(one, np.stack([values[3]] * 3, 2))
    assert "has no channel 6; give some from 1 to 5" in sentence(path, Reading(channels=(6,)))
    tifffile.imwrite(path, stored * np.uint16(10), photometric="minisblack", planarconfig=planar)
    assert pixels(path, Reading("0,2550", channels=(5, 1, 2)))[0, 0].tolist() == [168, 0, 42]


def test_a_heic_picture_is_named(tmp_path):
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic")
    assert "is a HEIC picture, which Pillow can't read" in sentence(path)
    assert find_images([tmp_path]) == [path]


@pytest.mark.parametrize(("name", "mode"), [("e.jpg", "RGB"), ("e.tif", "I;16"), ("e.png", "P")])
def test_exif_orientation_is_applied(tmp_path, name, mode):
    array = np.zeros((16, 32), np.uint8)
    array[:, :16] = 255
    if mode == "I;16":
        image = Image.fromarray(array.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(array).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown upright after a quarter turn clockwise: the left half becomes the top
    found = pixels(saved(tmp_path, name, image, exif=exif))
    assert found.shape == (32, 16, 3)
    assert found[2:14].min() > 240
    assert found[18:30].max() < 15


def test_a_broken_exif_block_does_not_matter(tmp_path):
    array = np.full((8, 8, 3), 128, np.uint8)
    path = saved(tmp_path, "e.jpg", array, exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff garbage")
    assert pixels(path).shape == (8, 8, 3)


def test_one_pixel(tmp_path):
    path = saved(tmp_path, "1.png", np.array([[[1, 2, 3]]], np.uint8))
    assert pixels(path).tolist() == [[[1, 2, 3]]]


def test_content_counts_not_the_name(tmp_path):
    array = noise(4, 4, 3)
    path = tmp_path / "really_a_png.JPEG"
    Image.fromarray(array).save(path, format="PNG")
    assert np.array_equal(pixels(path), array)


def test_not_an_image(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("hello")
    assert "is not an image" in sentence(path)


def test_postscript_is_never_run(tmp_path):
    path = tmp_path / "a.eps"
    Image.new("RGB", (4, 4)).save(path)
    assert "is not an image" in sentence(path)


def test_empty_file(tmp_path):
    path = tmp_path / "a.jpg"
    path.touch()
    assert "is empty" in sentence(path)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp", "a.bmp"])
def test_truncated(tmp_path, name):
    path = saved(tmp_path, name, noise(64, 64, 3))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = sentence(path)
    assert "cut short or damaged" in message or "is not an image" in message


def png_bytes(width, height, data, depth=8, color=0):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_decompression_bomb(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bytes(50_000, 50_000, zlib.compress(bytes(1000))))
    message = sentence(path)
    assert "178,956,970 pixels" in message
    assert "tiles" in message


def test_twice_pillows_limit_is_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    assert pixels(saved(tmp_path, "a.png", noise(10, 10))).shape == (10, 10, 3)
    assert "120 pixels" in sentence(saved(tmp_path, "b.png", noise(11, 11)))


def test_the_limit_holds_for_every_page(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    pages = [Image.new("RGB", (10, 10)), Image.new("RGB", (11, 11))]
    path = saved(tmp_path, "a.tif", pages[0], save_all=True, append_images=pages[1:])
    assert pixels(path).shape == (10, 10, 3)
    assert "120 pixels" in sentence(path, Reading(page=2))


def test_zero_width(tmp_path):
    path = tmp_path / "zero.png"
    path.write_bytes(png_bytes(0, 5, zlib.compress(b"")))
    sentence(path)


def test_missing_folder_and_forbidden(tmp_path):
    assert "there is no file" in sentence(tmp_path / "none.png")
    assert "is a folder" in sentence(tmp_path)
