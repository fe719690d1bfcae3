"""Running ``ssgcam`` in this process, and photos for it."""

from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from ssgcam.cli import app

TINY = "helpers.factories:tiny"


def photo(path: Path, size: tuple[int, int] = (60, 40), seed: int = 0) -> Path:
    """Write a picture of noise; width and height in pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def run(*words: object):
    """The outcome of ``ssgcam WORDS``."""
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])
