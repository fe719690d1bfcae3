"""COCO's run lengths; pycocotools is the oracle."""

import numpy as np
import pycocotools.mask as coco
import pytest

from helpers.data_trees import refusal
from ssgcam.data.masks import run_length_pixels


def rle_masks():
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (3, 5), (17, 4), (60, 90)]:
        yield np.zeros((height, width), bool)
        yield np.ones((height, width), bool)
        yield rng.random((height, width)) < 0.5
        yield rng.random((height, width)) < 0.01
    yield np.arange(400 * 300).reshape(400, 300) % 40_000 == 0  # long runs: counts of many groups


@pytest.mark.parametrize("mask", list(rle_masks()))
def test_compressed_runs_are_read_as_pycocotools_writes_them(mask):
    theirs = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    for counts in (theirs["counts"], theirs["counts"].decode()):
        assert np.array_equal(run_length_pixels(counts, *mask.shape), mask)


def test_plain_runs_against_pycocotools():
    plain = {"size": [4, 3], "counts": [2, 3, 0, 1, 6]}
    theirs = coco.decode(coco.frPyObjects(plain, 4, 3))
    assert np.array_equal(run_length_pixels(plain["counts"], 4, 3), theirs)


@pytest.mark.parametrize(
    "damaged", [[1, 2], [6, -2], "2\x00", "2P", None, [], ["x"], [4, float("inf")]]
)
def test_damaged_runs_are_refused(damaged):
    assert "run-length" in refusal(run_length_pixels, damaged, 2, 2)
