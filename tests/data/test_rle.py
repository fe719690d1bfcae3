"""COCO's run lengths; pycocotools is the oracle."""

import numpy as np
import pytest

from helpers.data_trees import refusal
from ssgcam.data import rle


def rle_masks():
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (3, 5), (17, 4), (60, 90)]:
        yield np.zeros((height, width), bool)
        yield np.ones((height, width), bool)
        yield rng.random((height, width)) < 0.5
        yield rng.random((height, width)) < 0.01
    yield np.arange(400 * 300).reshape(400, 300) % 40_000 == 0  # long runs: counts of many groups


@pytest.mark.parametrize("mask", list(rle_masks()))
def test_rle_against_pycocotools_both_ways(mask):
    coco = pytest.importorskip("pycocotools.mask")
    theirs = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    ours = rle.encode(mask)
    assert ours["counts"].encode() == theirs["counts"]
    assert list(ours["size"]) == list(theirs["size"])
    assert np.array_equal(coco.decode(ours), mask)
    assert np.array_equal(rle.decode(theirs), mask)
    assert np.array_equal(rle.decode(ours), mask)


def test_plain_rle_against_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    plain = {"size": [4, 3], "counts": [2, 3, 0, 1, 6]}
    theirs = coco.decode(coco.frPyObjects(plain, 4, 3))
    assert np.array_equal(rle.decode(plain), theirs)


@pytest.mark.parametrize(
    "damaged",
    [
        {"size": [2, 2], "counts": [1, 2]},
        {"size": [2, 2], "counts": [6, -2]},
        {"size": [2, 2], "counts": "2\x00"},
        {"size": [2, 2], "counts": "2P"},
        {"size": [2, 2], "counts": None},
        {"size": [2], "counts": [4]},
        {"counts": [4]},
        {"size": [0, 2], "counts": []},
    ],
)
def test_damaged_rle(damaged):
    assert "run-length" in refusal(rle.decode, damaged)
