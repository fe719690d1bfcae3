"""DICOM files, and networks that take the channels of a multichannel TIFF."""

import json
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from helpers import commands
from helpers.data_trees import refusal
from helpers.pictures import dicom
from ssgcam.images import Reading, find_images, image_header, read_image
from ssgcam.models import load_model
from ssgcam.preprocessing import Preprocessing


def gray(path, reading=None):
    return np.asarray(read_image(path, reading))[..., 0].tolist()


def test_dicom_is_rescaled_to_its_units_and_windowed(tmp_path):
    path = dicom(tmp_path / "a.dcm", [[0, 1024, 2048]], RescaleSlope=1, RescaleIntercept=-1024)
    assert gray(path, Reading("-1024,1024")) == [[0, 128, 255]]
    image = read_image(path, Reading("0,500"))
    assert np.asarray(image)[..., 0].tolist() == [[0, 0, 255]]
    assert image.info["notes"] == ["values from 0 to 500 were read"]
    assert image_header(path) == (3, 1, 1)
    assert find_images([tmp_path]) == [path]


def test_dicom_of_inverted_gray_and_of_several_frames(tmp_path):
    path = dicom(tmp_path / "a.dcm", [[0, 100]], PhotometricInterpretation="MONOCHROME1")
    assert gray(path, Reading("0,100")) == [[255, 0]]
    path = dicom(tmp_path / "b.dcm", [[[0, 10]], [[10, 0]]])
    assert gray(path, Reading("0,10", page=2)) == [[255, 0]]
    assert read_image(path).info["notes"][0] == "page 1 of 2 was read"
    assert "has no page 3; give one from 1 to 2" in refusal(read_image, path, Reading(page=3))


def test_damaged_dicom_gets_one_sentence(tmp_path):
    path = dicom(tmp_path / "a.dcm", [[0, 100]])
    path.write_bytes(path.read_bytes()[:-1])
    assert "can't be read as DICOM" in refusal(read_image, path)


def test_a_dicom_file_of_huge_dimensions_is_refused_before_its_pixels_are_decoded(tmp_path):
    path = dicom(tmp_path / "a.dcm", [[0, 100]], Rows=60_000, Columns=60_000)
    assert "decompression bombs" in refusal(read_image, path)


def test_a_tiff_of_huge_dimensions_is_refused_before_its_pixels_are_decoded(five):
    path, _ = five
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name in ("ImageWidth", "ImageLength"):
            tiff.pages[0].tags[name].overwrite(60_000)
    assert "decompression bombs" in refusal(read_image, path)


def test_the_limit_of_pixels_is_the_same_for_a_tiff_of_five_channels(five, monkeypatch):
    path, _ = five
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    assert read_image(path).size == (30, 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)
    assert "has more than 598 pixels" in refusal(read_image, path)


def test_channels_are_read_from_the_page_that_is_asked_for(tmp_path):
    values = np.arange(2 * 5 * 6 * 7, dtype=np.uint8).reshape(2, 5, 6, 7)
    path = tmp_path / "two.tif"
    with tifffile.TiffWriter(path) as tiff:
        for page in values:
            tiff.write(page, photometric="minisblack", planarconfig="separate")
    image = read_image(path, Reading(page=2, channels=(5, 1, 2)))
    assert np.array_equal(np.asarray(image), values[1, [4, 0, 1]].transpose(1, 2, 0))
    notes = ["page 2 of 2 was read", "of 5 channels these were read: 5, 1, 2"]
    assert image.info["notes"] == notes
    assert "has no page 3; give one from 1 to 2" in refusal(read_image, path, Reading(page=3))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_color_of_16_bits_is_turned_upright_once(tmp_path, name):
    values = np.random.default_rng(0).integers(0, 65536, (4, 6, 3), dtype=np.uint16)
    path, turned = tmp_path / name, 6  # a quarter turn clockwise
    if name == "a.tif":
        tifffile.imwrite(path, values, photometric="rgb", extratags=[(274, "H", 1, turned, True)])
    else:
        path.write_bytes(cv2.imencode(".png", values[..., ::-1])[1].tobytes())
        body = b"eXIfII*\0" + struct.pack("<IHHHIII", 8, 1, 274, 3, 1, turned, 0)
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        path.write_bytes(path.read_bytes()[:33] + chunk + path.read_bytes()[33:])
    expected = np.rint(np.rot90(values, -1) / 65535 * 255)
    assert np.array_equal(np.asarray(read_image(path, Reading("full"))), expected)
    assert image_header(path) == ((4, 6, 1) if name == "a.tif" else (6, 4, 6))


@pytest.mark.parametrize("kind", [{"imagej": True}, {"photometric": "minisblack"}])
def test_pages_of_one_channel_are_channels_if_channels_are_asked_for(tmp_path, kind):
    values = np.random.default_rng(0).integers(0, 256, (5, 20, 30), dtype=np.uint8)
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, values, **kind)
    image = read_image(path, Reading(page=2))
    assert np.array_equal(np.asarray(image)[..., 0], values[1])
    note = "page 2 of 5 was read; give channels, such as 1,2,3, if its pages are channels"
    assert image.info["notes"] == [note]
    image = read_image(path, Reading(channels=(5, 1, 2)))
    assert np.array_equal(np.asarray(image), values[[4, 0, 1]].transpose(1, 2, 0))
    assert image.info["notes"] == ["of 5 channels these were read: 5, 1, 2"]
    assert "has no channel 6; give some from 1 to 5" in refusal(
        read_image, path, Reading(channels=(6,))
    )
    preprocessing = Preprocessing((20, 30), mean=(0.0,) * 5, std=(1.0,) * 5)
    found = preprocessing([preprocessing.read(path)])
    assert np.array_equal((found[0].numpy() * 255).round(), values)


@pytest.fixture
def five(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (5, 20, 30), dtype=np.uint8)
    path = tmp_path / "five.tif"
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig="separate")
    return path, values


def test_a_network_of_five_channels_gets_those_of_the_file(five):
    path, values = five
    preprocessing = Preprocessing((20, 30), mean=(0.0,) * 5, std=(1.0,) * 5)
    found = preprocessing([preprocessing.read(path)])
    assert np.array_equal((found[0].numpy() * 255).round(), values)
    chosen = Preprocessing((20, 30), (0.0,) * 2, (1.0,) * 2, reading=Reading(channels=(4, 1)))
    assert np.array_equal((chosen([chosen.read(path)])[0].numpy() * 255).round(), values[[3, 0]])
    assert "takes 5 channels" in refusal(preprocessing, [read_image(path)])
    assert load_model("helpers.factories:five_channels").preprocessing.channels == 5


def test_a_network_of_five_channels_is_explained_from_the_command(five, tmp_path):
    words = ("--model", "helpers.factories:five_channels", "--input-size", 32, "--layers", "1")
    result = commands.run("explain", five[0], *words, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    (photo,) = json.loads((tmp_path / "out" / "explain.json").read_text())["photos"]
    assert photo["notes"] == []  # all five were read
    result = commands.run("segment", five[0], *words, "--out", tmp_path / "masks")
    assert result.exit_code == 0, result.output
    assert "channels these were read" not in result.stderr
