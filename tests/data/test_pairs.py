"""Images beside masks."""

import numpy as np
import pytest
from PIL import Image

from helpers.data_trees import mask_file, photo, refusal, text
from ssgcam.data import IGNORE, read_samples
from ssgcam.images import read_image


def names(sample_set):
    return [sample.name for sample in sample_set]


@pytest.fixture
def pairs(tmp_path):
    for stem in ("one", "two", "none"):
        photo(tmp_path / "images" / f"{stem}.jpg", (4, 2))
    mask_file(tmp_path / "masks" / "one.png", [[0, 0, 255, 255]] * 2)
    mask_file(tmp_path / "masks" / "two.png", [[255, 0, 0, 0]] * 2)
    mask_file(tmp_path / "masks" / "none.png", [[0, 0, 0, 0]] * 2)
    return tmp_path


def read_all(sample_set):
    return [sample.mask.read(read_image(sample.image).size)[0].tolist() for sample in sample_set]


def test_binary_masks(pairs):
    found = read_samples(pairs)
    assert found.kind == "pairs"
    assert names(found) == ["images/none.jpg", "images/one.jpg", "images/two.jpg"]
    assert found.class_names == found.mask_names == ("object",)
    assert read_samples(pairs, class_names=["cell"]).class_names == ("cell",)
    assert [sample.labels for sample in found] == [(), (0,), (0,)]
    assert read_all(found) == [[0, 0, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0]]


def test_zero_one_masks_and_a_mask_suffix(tmp_path):
    photo(tmp_path / "photos" / "sub" / "a.png", (3, 1))
    mask_file(tmp_path / "outlines" / "sub" / "a_mask.png", [[0, 1, 1]])
    found = read_samples(tmp_path, "pairs", images="photos", masks="outlines", mask_suffix="_mask")
    assert read_all(found) == [[0, 1, 1]]
    assert names(found) == ["photos/sub/a.png"]


def test_values_with_something_to_ignore(tmp_path):
    photo(tmp_path / "images" / "a.png", (3, 1))
    mask_file(tmp_path / "masks" / "a.png", [[0, 127, 255]])
    for options in ({"mask_values": {255: 1, 127: 255}}, {"void": 127}):
        found = read_samples(tmp_path, **options)
        assert read_all(found) == [[0, IGNORE, 1]]
        assert found.samples[0].labels == (0,)
    message = refusal(read_samples, tmp_path)
    assert "--void 255" in message
    assert "--mask-values" in message
    assert "127" in refusal(read_samples, tmp_path, mask_values={255: 1})
    assert "127:256" in refusal(read_samples, tmp_path, mask_values={255: 1, 127: 256})


def test_several_classes(tmp_path):
    photo(tmp_path / "images" / "a.png", (4, 1))
    photo(tmp_path / "images" / "b.png", (4, 1))
    mask_file(tmp_path / "masks" / "a.png", [[0, 3, 1, 255]], palette=True)
    mask_file(tmp_path / "masks" / "b.png", [[0, 2, 2, 2]], palette=True)
    found = read_samples(tmp_path, void=255)
    assert found.semantic
    assert found.class_names == ("1", "2", "3")
    assert [sample.labels for sample in found] == [(0, 2), (1,)]
    assert read_all(found)[0] == [0, 3, 1, IGNORE]
    named = read_samples(tmp_path, void=255, class_names=["x", "y", "z"])
    assert named.mask_names == named.class_names == ("x", "y", "z")
    assert "3 classes" in refusal(read_samples, tmp_path, void=255, class_names=["x"])


def test_labels_and_groups_from_tables(pairs):
    text(pairs / "labels.csv", "image ID,class label\none.jpg,2\ntwo,1\nnone,2\n")
    text(pairs / "groups.csv", "name,patient\none,P7\nimages/none.jpg,P7\ntwo.jpg,P8\n")
    message = refusal(read_samples, pairs)
    assert "images/none.jpg" in message
    text(pairs / "groups.csv", "name,patient\none,P7\nnone.jpg,P7\ntwo.jpg,P8\n")
    found = read_samples(pairs, first_label=1)
    assert [sample.labels for sample in found] == [(1,), (1,), (0,)]
    assert [sample.group for sample in found] == ["P7", "P7", "P8"]
    assert found.class_names == ("1", "2")
    assert found.mask_names == ("object",)
    assert not found.semantic
    assert "class -1" in refusal(read_samples, pairs, first_label=2)


def test_groups_alone_leave_the_labels_to_the_masks(pairs):
    text(pairs / "groups.csv", "image,group\none,P7\n")
    found = read_samples(pairs)
    assert [(sample.labels, sample.group) for sample in found] == [
        ((), ""),
        ((0,), "P7"),
        ((0,), ""),
    ]


def test_numbered_images(tmp_path):
    photo(tmp_path / "images" / "007.png", (2, 1))
    mask_file(tmp_path / "masks" / "007.png", [[0, 1]])
    text(tmp_path / "labels.csv", "image ID,class label\n7,1\n")
    found = read_samples(tmp_path, first_label=1)
    assert found.samples[0].labels == (0,)


def test_mask_of_another_size(pairs):
    mask_file(pairs / "masks" / "two.png", np.zeros((3, 4)))
    message = refusal(read_samples, pairs)
    assert "two.jpg' is 4x2" in message
    assert "4x3" in message


def test_image_without_mask(pairs):
    (pairs / "masks" / "two.png").unlink()
    assert str(pairs / "masks" / "two.png") in refusal(read_samples, pairs)
    found = read_samples(pairs, missing="skip")
    assert (len(found), found.skipped) == (2, 1)


def test_turned_photo_and_either_mask(tmp_path):
    photo(tmp_path / "images" / "a.jpg", (4, 2), orientation=6)
    stored = np.array([[1, 0, 0, 0], [0, 0, 0, 0]])
    upright = np.rot90(stored, -1)
    for mask in (stored, upright):
        mask_file(tmp_path / "masks" / "a.png", mask)
        found = read_samples(tmp_path).samples[0]
        assert np.array_equal(found.mask.read(read_image(found.image).size), upright)


def test_where_the_size_does_not_tell_the_mask_is_upright(tmp_path):
    photo(tmp_path / "images" / "a.jpg", (4, 2), orientation=3)
    mask_file(tmp_path / "masks" / "a.png", [[1, 0, 0, 0], [0, 0, 0, 0]])
    found = read_samples(tmp_path).samples[0].mask.read((4, 2))
    assert found.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("end", ["_mask", "-mask", "_segmentation", "_gt"])
def test_usual_mask_suffixes_are_found(tmp_path, end):
    for name in ("0", "1", "2"):
        photo(tmp_path / "images" / f"{name}.jpg", (3, 1))
    for name in ("0", "1"):
        mask_file(tmp_path / "masks" / f"{name}{end}.png", [[0, 255, 255]])
    found = read_samples(tmp_path, missing="skip")
    assert (read_all(found), found.skipped) == ([[0, 1, 1]] * 2, 1)
    assert f"2{end}.png' is missing" in refusal(read_samples, tmp_path)


def test_jpeg_masks_are_cut_at_half_with_a_warning(tmp_path):
    photo(tmp_path / "images" / "a.jpg", (32, 16))
    values = np.zeros((16, 32), np.uint8)
    values[:, 13:] = 255
    (tmp_path / "masks").mkdir()
    for mode in ("L", "RGB"):
        Image.fromarray(values).convert(mode).save(tmp_path / "masks" / "a.jpg", quality=75)
        with pytest.warns(UserWarning, match="JPEG files, whose compression changes values: 128"):
            found = read_samples(tmp_path)
        assert np.array_equal(found.samples[0].mask.read((32, 16)), values // 255)
        assert found.class_names == ("object",)
    Image.fromarray(values // 255).save(tmp_path / "masks" / "a.jpg")
    assert "save it as PNG" in refusal(read_samples, tmp_path)


def test_npy_masks(tmp_path):
    photo(tmp_path / "images" / "a.jpg", (3, 1))
    (tmp_path / "masks").mkdir()
    path = tmp_path / "masks" / "a.npy"
    for values in (np.array([[False, True, True]]), np.array([[[0], [1], [1]]])):
        np.save(path, values)
        assert read_all(read_samples(tmp_path)) == [[0, 1, 1]]
    np.save(path, np.zeros((2, 3, 4)))
    assert "has shape (2, 3, 4)" in refusal(read_samples, tmp_path)
    np.save(path, np.zeros((1, 3)))
    assert "fractions" in refusal(read_samples, tmp_path)
    path.write_text("no array")
    assert "not a NumPy array" in refusal(read_samples, tmp_path)
