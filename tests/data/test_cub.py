"""CUB-200-2011 on a tiny tree in exactly its layout."""

import numpy as np
import pytest
from PIL import Image

from helpers.data_trees import mask_file, photo, refusal, text
from ssgcam.data import read_samples


@pytest.fixture
def cub(tmp_path):
    root = tmp_path / "CUB_200_2011"
    names = [
        "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg",
        "001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg",
        "002.Laysan_Albatross/Laysan_Albatross_0002_1027.jpg",
    ]
    for name in names:
        photo(root / "images" / name, mode="L" if "Laysan" in name else "RGB")
    text(root / "images.txt", "".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    text(root / "image_class_labels.txt", "1 1\n2 1\n3 2\n")
    text(root / "train_test_split.txt", "1 0\n2 1\n3 0\n")
    text(root / "bounding_boxes.txt", "1 6.0 2.0 10.0 5.0\n2 0.0 0.0 4.0 4.0\n3 12.0 1.0 9.0 9.0\n")
    text(root / "classes.txt", "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n")
    return root


def test_cub(cub):
    for root in (cub, cub.parent):
        found = read_samples(root)
        assert (found.kind, found.root) == ("cub", cub)
    assert found.class_names == ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    first, second = found
    assert first.name == "images/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"
    assert (first.labels, first.boxes, first.box_labels) == ((0,), ((6, 2, 15, 6),), (0,))
    assert (second.labels, second.boxes) == ((1,), ((12, 1, 19, 9),))
    assert found.clipped == 1
    assert len(read_samples(cub, split="train")) == 1
    assert len(read_samples(cub, split="all")) == 3


@pytest.mark.parametrize("beside", [False, True])
def test_cub_segmentations(cub, beside):
    folder = (cub.parent if beside else cub) / "segmentations"
    votes = np.repeat(np.array([[0, 51, 102, 153, 204, 255, 0, 0, 0, 0]], np.uint8), 2, axis=1)
    votes = np.repeat(votes, 10, axis=0)
    for line in (cub / "images.txt").read_text().splitlines():
        mask_file((folder / line.split()[1]).with_suffix(".png"), votes)
    gray = Image.fromarray(votes)
    path = (folder / line.split()[1]).with_suffix(".png")
    Image.merge("LA", [gray, gray]).save(path)  # a few of the published masks have two channels
    found = read_samples(cub)
    assert found.mask_names == ("object",)
    for sample in found:
        assert np.array_equal(sample.mask.read((20, 10)), votes >= 153)
    path.unlink()
    assert str(path) in refusal(read_samples, cub)
    assert read_samples(cub, missing="skip").skipped == 1


def test_cub_refusals(cub):
    assert "--split val" in refusal(read_samples, cub, split="val")
    text(cub / "bounding_boxes.txt", "1 6.0 2.0 10.0 5.0\n2 0 0 4 4\n3 12.0 one 9.0 9.0\n")
    assert "'one'" in refusal(read_samples, cub)
    text(cub / "bounding_boxes.txt", "1 6.0 2.0 10.0 5.0\n")
    assert "bounding_boxes.txt" in refusal(read_samples, cub)
    text(cub / "bounding_boxes.txt", "1 6.0 2.0\n")
    assert "line 1" in refusal(read_samples, cub)
    (cub / "bounding_boxes.txt").unlink()
    assert str(cub / "bounding_boxes.txt") in refusal(read_samples, cub)


def test_cub_missing_image(cub):
    path = cub / "images" / "002.Laysan_Albatross" / "Laysan_Albatross_0002_1027.jpg"
    path.unlink()
    assert str(path) in refusal(read_samples, cub)
    assert len(read_samples(cub, missing="skip")) == 1
