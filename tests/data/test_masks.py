"""Masks from files and from boxes."""

from dataclasses import replace

import numpy as np
from PIL import Image

from helpers.data_trees import mask_file, photo, refusal
from ssgcam.data import IGNORE, Sample, SampleSet, with_box_masks
from ssgcam.data.masks import BoxRegion, FileMask, PaintedMask, read_raw_mask

# Files


def test_stored_values_are_read_from_every_kind_of_png(tmp_path):
    values = np.array([[0, 1, 2], [15, 20, 255]], np.uint8)
    gray = Image.fromarray(values)
    saved = {
        "gray": gray,
        "three": Image.merge("RGB", [gray] * 3),
        "alpha": Image.merge("LA", [gray, gray]),
        "four": Image.merge("RGBA", [gray] * 3 + [Image.new("L", (3, 2), 7)]),
        "wide": Image.fromarray(values.astype(np.uint16)),
    }
    for name, image in saved.items():
        image.save(tmp_path / f"{name}.png")
    mask_file(tmp_path / "palette.png", values, palette=True)
    for path in tmp_path.iterdir():
        found = FileMask(path).read((3, 2))
        assert found.dtype == np.uint8
        assert np.array_equal(found, values), path.name
    Image.fromarray(values > 0).save(tmp_path / "bits.png")
    assert np.array_equal(FileMask(tmp_path / "bits.png").read((3, 2)), values > 0)


def test_mapped_values(tmp_path):
    path = mask_file(tmp_path / "m.png", [[0, 127, 255]])
    assert FileMask(path, {0: 0, 255: 1, 127: IGNORE}).read((3, 1)).tolist() == [[0, IGNORE, 1]]
    assert "127" in refusal(FileMask(path, {0: 0, 255: 1}).read, (3, 1))
    big = tmp_path / "big.png"
    Image.fromarray(np.array([[0, 300]], np.uint16)).save(big)
    assert "300" in refusal(FileMask(big).read, (2, 1))


def test_bad_mask_files(tmp_path):
    path = mask_file(tmp_path / "m.png", np.zeros((4, 6)))
    message = refusal(FileMask(path).read, (6, 5))
    assert "6x4" in message
    assert "6x5" in message
    assert "colors" in refusal(FileMask(photo(tmp_path / "c.png")).read, (20, 10))
    assert "no file" in refusal(FileMask(tmp_path / "none.png").read, (6, 4))
    Image.fromarray(np.zeros((4, 6), np.float32)).save(tmp_path / "f.tif")
    assert "fractions" in refusal(FileMask(tmp_path / "f.tif").read, (6, 4))


def test_values_of_a_jpeg_are_the_object_from_128_on(tmp_path):
    path = tmp_path / "m.jpg"
    Image.new("L", (8, 8), 128).save(path)
    assert (read_raw_mask(path) == 255).all()
    Image.new("L", (8, 8), 127).save(path)
    assert "values up to 127" in refusal(read_raw_mask, path)


def test_instance_files_join_and_ignore_only_outside_the_object(tmp_path):
    one = mask_file(tmp_path / "1.png", [[255, 0, 0, 0]])
    two = mask_file(tmp_path / "2.png", [[0, 255, 0, 0]])
    ignore = mask_file(tmp_path / "i.png", [[0, 255, 255, 0]])
    assert PaintedMask(((IGNORE, ignore), (1, one), (1, two))).read((4, 1)).tolist() == [
        [1, 1, IGNORE, 0]
    ]
    assert PaintedMask(((1, one),)).read((8, 2)).tolist() == [[1, 1, 0, 0, 0, 0, 0, 0]] * 2


# Boxes


def box_set(*samples, names=("a", "b")):
    return SampleSet(tuple(samples), tuple(names), root=None, kind="boxes")


def test_filled_boxes_the_smaller_on_top():
    sample = Sample("x", None, (0, 1), ((1, 1, 2, 2), (0, 0, 3, 3)), (1, 0))
    made = with_box_masks(box_set(sample))
    assert made.semantic
    assert made.samples[0].mask.read((5, 4)).tolist() == [
        [1, 1, 1, 1, 0],
        [1, 2, 2, 1, 0],
        [1, 2, 2, 1, 0],
        [1, 1, 1, 1, 0],
    ]


def test_ellipse_is_the_set_of_pixel_centers_inside():
    x0, y0, x1, y1 = 3, 2, 12, 7
    found = PaintedMask(((1, BoxRegion((x0, y0, x1, y1), "ellipse")),)).read((16, 10))
    for y in range(10):
        for x in range(16):
            across = (x - (x0 + x1) / 2) / ((x1 - x0 + 1) / 2)
            down = (y - (y0 + y1) / 2) / ((y1 - y0 + 1) / 2)
            assert found[y, x] == (across**2 + down**2 <= 1)
    rows, columns = np.nonzero(found)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (x0, y0, x1, y1)
    assert PaintedMask(((1, BoxRegion((4, 4, 4, 4), "ellipse")),)).read((9, 9)).sum() == 1


def test_a_round_object_scores_pi_over_four_against_its_box():
    ellipse = PaintedMask(((1, BoxRegion((0, 0, 199, 199), "ellipse")),)).read((200, 200))
    assert abs(ellipse.mean() - np.pi / 4) < 1e-3


def test_a_negative_has_an_empty_mask():
    made = with_box_masks(
        box_set(Sample("x", None, (0,), ((0, 0, 1, 1),), (0,)), Sample("y", None))
    )
    assert not made.samples[1].mask.read((4, 4)).any()


def test_boxes_without_classes_are_objects():
    made = with_box_masks(box_set(Sample("x", None, (), ((0, 0, 1, 1),))))
    assert made.mask_names == ("object",)
    assert made.samples[0].mask.read((2, 2)).tolist() == [[1, 1], [1, 1]]


def test_more_classes_than_values():
    names = [str(i) for i in range(1000)]
    sample = Sample("x", None, (254,), ((0, 0, 0, 0),), (254,))
    made = with_box_masks(box_set(sample, names=names))
    assert made.mask_names == ("object",)
    assert made.samples[0].mask.read((1, 1)).tolist() == [[1]]
    mixed = replace(sample, boxes=((0, 0, 0, 0), (1, 0, 1, 0)), box_labels=(254, 3))
    assert "several classes" in refusal(with_box_masks, box_set(mixed, names=names))


def test_bad_box_masks():
    sample = Sample("x", None, (0,), ((0, 0, 4, 4),), (0,))
    assert "'round'" in refusal(with_box_masks, box_set(sample), "round")
    assert "no boxes" in refusal(with_box_masks, box_set(Sample("x", None)))
    assert "4x4" in refusal(with_box_masks(box_set(sample)).samples[0].mask.read, (4, 4))


def test_object_mask(tmp_path):
    path = mask_file(tmp_path / "m.png", [[0, 1, 2, 255]])
    sample = Sample("x", None, (0, 1), mask=FileMask(path))
    semantic = replace(box_set(sample), mask_names=("a", "b"))
    found, ignored = semantic.object_mask(sample, (4, 1), label=1)
    assert found.tolist() == [[False, False, True, False]]
    assert ignored.tolist() == [[False, False, False, True]]
    assert semantic.object_mask(sample, (4, 1))[0].tolist() == [[False, True, True, False]]
    parts = replace(box_set(sample), mask_names=("cytoplasm", "nucleus"))
    assert parts.object_mask(sample, (4, 1), label=0)[0].tolist() == [[False, True, True, False]]
    assert "no mask" in refusal(semantic.object_mask, Sample("x", None), (4, 1))
