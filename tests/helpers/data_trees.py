"""Small files that the tests of the readers are made of."""

import numpy as np
import pytest
from PIL import Image

from ssgcam.errors import SsgcamError

ORIENTATION = 0x0112


def photo(path, size=(20, 10), mode="RGB", orientation=None):
    """Write a picture of noise; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    options = {}
    if orientation is not None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    formats = {".png": "PNG", ".tif": "TIFF"}
    Image.fromarray(pixels).convert(mode).save(
        path, format=formats.get(path.suffix, "JPEG"), **options
    )
    return path


def mask_file(path, values, palette=False):
    """Write a mask with these values as an indexed or a gray PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, dtype=np.uint8))
    if palette:
        image.putpalette([(37 * i) % 256 for i in range(768)])
    image.save(path)
    return path


def text(path, content):
    """Write a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def refusal(function, *args, **options):
    """Return the one sentence with which a call is refused."""
    with pytest.raises(SsgcamError) as caught:
        function(*args, **options)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert not message.endswith(".")
    return message
