"""Labeled images of any origin become checked tensors, or the error says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.search_sets import small, squares
from ssgcam.data import read_samples
from ssgcam.errors import SsgcamError
from ssgcam.search import CalibrationSet, search_recipe

NAMES = ("cell", "ring", "other")


def photo(path: Path, side: int = 40, bright: bool = True, seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 100, (side, side, 3), dtype=np.uint8)
    if bright:
        pixels[10:24, 12:26] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def mask(path: Path, side: int = 40, value: int = 255) -> None:
    values = np.zeros((side, side), dtype=np.uint8)
    values[10:24, 12:26] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def from_folder(path: Path, names: tuple[str, ...] = NAMES, **options: Any) -> CalibrationSet:
    reading = {name: options.pop(name) for name in ("class_names",) if name in options}
    samples = read_samples(path, **reading)
    return CalibrationSet.from_samples(samples, small(names), **options)


def test_images_without_masks_or_boxes(tmp_path: Path) -> None:
    for k in range(3):
        photo(tmp_path / f"{k}.png", seed=k)
    with pytest.raises(SsgcamError, match="has no masks and no boxes; a search needs"):
        search_recipe(small(NAMES), read_samples(tmp_path))


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(SsgcamError, match="mask of image 0 is 20x16 but the image is 32x32"):
        CalibrationSet(squares(4).images, torch.ones(4, 20, 16), [1] * 4)
    photos = [Image.new("RGB", (30, 20)), Image.new("RGB", (20, 30))]
    masks = [np.ones((20, 30)), np.ones((20, 30))]
    with pytest.raises(SsgcamError, match="mask of image 1 is 20x30 but the image is 30x20"):
        CalibrationSet(photos, masks, preprocessing=small().preprocessing)
    for k in range(2):
        photo(tmp_path / "images" / f"{k}.png", seed=k)
        mask(tmp_path / "masks" / f"{k}.png", side=40 if k else 41)
    with pytest.raises(SsgcamError, match="41x41"):
        from_folder(tmp_path)


IMAGES, MASKS = squares(4).images, squares(4).masks


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CalibrationSet(IMAGES[:3], 0 * MASKS[:3], 1), "all 3 masks are empty"),
        (lambda: CalibrationSet(IMAGES[:2], MASKS[:2] * 255, 1), "255 in a mask means ignore"),
        (lambda: CalibrationSet(IMAGES[:1], MASKS[:1]), "has 1 image; give ten to two hundred"),
        (lambda: CalibrationSet([], []), "has 0 images"),
        (lambda: CalibrationSet(IMAGES, MASKS[:3]), "3 masks for 4 images"),
        (lambda: CalibrationSet(IMAGES[:, :1], MASKS), r"give floating-point \[N, 3"),
        (
            lambda: CalibrationSet([Image.new("RGB", (8, 8))] * 2, [np.ones((8, 8))] * 2),
            "pass prep",
        ),
        (lambda: CalibrationSet(IMAGES, MASKS, [1, 1]), "classes has shape"),
        (lambda: CalibrationSet(IMAGES, MASKS, 7).with_predictions(small()), "goes up to 7"),
        (lambda: CalibrationSet(IMAGES, MASKS, [1, 1, 1, -1]), "has class -1"),
        (lambda: CalibrationSet(IMAGES, MASKS, 1, ["a"]), "1 groups for 4 images"),
        (lambda: CalibrationSet(IMAGES, MASKS, 1, names=["a"]), "1 names for 4 images"),
    ],
)
def test_a_bad_calibration_set_gets_one_sentence(
    make: Callable[[], CalibrationSet], message: str
) -> None:
    with pytest.raises(SsgcamError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_negatives_are_explained_as_the_most_probable_of_the_given_classes() -> None:
    data = CalibrationSet(
        IMAGES, MASKS * torch.tensor([1, 1, 0, 0]).byte()[:, None, None], [0, 2, -1, 1]
    )
    assert data.class_choices == (0, 2)
    assert data.classes.tolist() == [0, 2, -1, -1]
    assert data.probabilities.isnan().all()
    logits = small().network(IMAGES)
    found = data.with_predictions(small(), batch_size=3)
    expected = torch.tensor([0, 2])[logits[2:, [0, 2]].argmax(1)]
    assert found.classes.tolist() == [0, 2, *expected.tolist()]
    shares = logits.softmax(1)[range(4), found.classes]
    torch.testing.assert_close(found.probabilities, shares)


def test_the_weaknesses_of_a_set() -> None:
    assert squares(24, negatives=2).weaknesses() == []
    found = squares(6).weaknesses()
    assert [sentence.split(" ")[0:2] for sentence in found] == [
        ["The", "calibration"], ["The", "images"], ["No", "image"],
    ]  # fmt: skip
    assert "only 3 groups" in found[1]


def test_a_folder_of_binary_masks(tmp_path: Path) -> None:
    for k in range(4):
        photo(tmp_path / "images" / f"{k}.png", bright=k < 3, seed=k)
        if k < 3:
            mask(tmp_path / "masks" / f"{k}.png")
        else:
            Image.new("L", (40, 40)).save(tmp_path / "masks" / f"{k}.png")
    data = from_folder(tmp_path, classes=1)
    assert data.images.shape == (4, 3, 32, 32)
    assert data.negatives.tolist() == [False, False, False, True]
    assert data.classes.tolist() == [1] * 4
    assert data.class_choices == (1,)
    assert data.counts == {"images": 4, "negatives": 1, "groups": 4}
    expected = small().preprocessing([Image.open(tmp_path / "images" / "0.png")])
    torch.testing.assert_close(data.images[:1], expected)
    assert data.masks[0, 8:19, 10:20].all()
    assert data.masks[0].sum() == pytest.approx((14 / 40 * 32) ** 2, abs=12)
    with pytest.warns(UserWarning, match="name the class to be sure"):
        top = from_folder(tmp_path).with_predictions(small())
    assert top.class_choices == ()
    assert torch.equal(top.classes, small().network(top.images).argmax(1))


def test_masks_of_several_classes_give_a_row_for_each(tmp_path: Path) -> None:
    for k in range(3):
        photo(tmp_path / "images" / f"{k}.png", seed=k)
    values = np.zeros((40, 40), dtype=np.uint8)
    values[5:15, 5:15], values[20:30, 20:30], values[0] = 1, 2, 3
    (tmp_path / "masks").mkdir()
    for k in range(3):
        one = np.where(values == 3, 0, values) if k else np.zeros_like(values)
        Image.fromarray(np.where(one == 2, 0, one) if k == 2 else one).save(
            tmp_path / "masks" / f"{k}.png"
        )
    data = from_folder(tmp_path, class_names=("ring", "cell")).with_predictions(small())
    assert data.names == ("images/0.png", "images/1.png", "images/1.png", "images/2.png")
    assert data.classes.tolist()[1:] == [1, 0, 1]  # by name: ring is the network's class 1
    assert data.class_choices == (0, 1)
    logits = small().network(data.images[:1])
    assert data.classes[0] == logits[0, :2].argmax()  # the negative: the more probable of both
    assert data.negatives.tolist() == [True, False, False, False]
    assert not (data.masks[1] & data.masks[2]).any()
    with pytest.raises(SsgcamError, match="class 'ring' is not a class of 'small'"):
        from_folder(tmp_path, ("a", "b", "c"), class_names=("ring", "cell"))


def test_boxes_become_masks(tmp_path: Path) -> None:
    for k in range(2):
        photo(tmp_path / "images" / f"{k}.png", seed=k)
    entries = [{"image": f"{k}.png", "label": 0, "boxes": [[12, 10, 25, 23]]} for k in range(2)]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    filled = from_folder(tmp_path, classes=1)
    ellipse = from_folder(tmp_path, classes=1, boxes="ellipse")
    ratio = float(ellipse.masks.sum() / filled.masks.sum())
    assert ratio == pytest.approx(np.pi / 4, abs=0.05)


def test_photos_in_memory_are_prepared() -> None:
    photos = [Image.new("RGB", (64, 48), (200, 10, 10)), Image.new("RGB", (40, 60))]
    masks = [np.ones((48, 64)), np.full((60, 40), 255)]
    preprocessing = small().preprocessing
    data = CalibrationSet(photos, masks, 1, preprocessing=preprocessing)
    torch.testing.assert_close(data.images, preprocessing(photos))
    assert (data.masks[0] == 1).all()
    assert (data.masks[1] == 255).all()


def test_digests_change_with_what_they_are_about() -> None:
    data = squares(4)

    def digests(**changes: Any) -> tuple[str, str]:
        given = {"images": data.images, "masks": data.masks, "classes": 1, "groups": data.groups}
        changed = CalibrationSet(**{**given, **changes})
        return changed.digest, changed.image_digest

    whole, of_images = digests()
    assert digests() == (whole, of_images)
    for changes in ({"images": data.images + 1}, {"classes": 2}):
        assert not {whole, of_images} & set(digests(**changes))
    for changes in ({"masks": data.masks.roll(1, 2)}, {"groups": ["a", "b", "c", "d"]}):
        other, same = digests(**changes)
        assert other != whole
        assert same == of_images  # the kept maps don't depend on the masks
