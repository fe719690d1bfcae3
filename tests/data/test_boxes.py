"""Images with classes and boxes in a JSON or CSV file."""

import json

import pytest

from helpers.data_trees import photo, refusal, text
from ssgcam.data import read_samples


def names(sample_set):
    return [sample.name for sample in sample_set]


def boxes_json(root, entries, **sizes):
    for entry in entries:
        photo(root / "images" / entry["image"], sizes.get("size", (20, 10)))
    text(root / "boxes.json", json.dumps(entries))


def test_boxes_json(tmp_path):
    entries = [
        {"image": "b.JPEG", "label": 3, "boxes": [[1, 2, 5, 6], [0, 0, 19, 9]], "width": 20,
         "height": 10},
        {"image": "a.JPEG", "label": 1, "boxes": [], "group": 4},
    ]  # fmt: skip
    boxes_json(tmp_path, entries)
    found = read_samples(tmp_path)
    assert found.kind == "boxes"
    assert names(found) == ["images/b.JPEG", "images/a.JPEG"]
    first, second = found
    assert first.boxes == ((1, 2, 5, 6), (0, 0, 19, 9))
    assert first.box_labels == (3, 3)
    assert (first.labels, second.labels) == ((3,), (1,))
    assert (second.boxes, second.group) == ((), "4")
    assert found.class_names == ("0", "1", "2", "3")
    assert found.clipped == 0
    assert "class -1" in refusal(read_samples, tmp_path, first_label=2)


def test_edges_are_converted_to_inclusive(tmp_path):
    boxes = [[0, 0, 20, 10], [3, 4, 4, 5], [2.5, 1.5, 3.5, 2.5]]
    boxes_json(tmp_path, [{"image": "a.jpg", "label": 0, "boxes": boxes}])
    found = read_samples(tmp_path, edges="exclusive")
    assert found.samples[0].boxes == ((0, 0, 19, 9), (3, 4, 3, 4), (2, 1, 3, 2))
    assert found.clipped == 0
    assert "--edges open" in refusal(read_samples, tmp_path, edges="open")


def test_boxes_past_the_edge_are_clipped_and_counted(tmp_path):
    boxes = [[-3, 2, 4, 4], [15, 5, 20, 10], [20, 0, 30, 5], [1, 1, 2, 2]]
    boxes_json(tmp_path, [{"image": "a.jpg", "label": 0, "boxes": boxes}])
    found = read_samples(tmp_path)
    assert found.samples[0].boxes == ((0, 2, 4, 4), (15, 5, 19, 9), (1, 1, 2, 2))
    assert found.samples[0].box_labels == (0, 0, 0)
    assert found.clipped == 3
    boxes_json(tmp_path, [{"image": "a.jpg", "label": 0, "boxes": [[5, 5, 5, 8]]}])
    empty = read_samples(tmp_path, edges="exclusive")
    assert (empty.samples[0].boxes, empty.clipped) == ((), 1)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([5, 5, 3, 9], "ends before it begins"),
        ([5, 5, 9, 3], "ends before it begins"),
        ([1, 2, 3], "four numbers"),
        ([1, 2, 3, "x"], "four numbers"),
        ([1, 2, 3, float("nan")], "four numbers"),
        ([1, 2, 3, 10**400], "four numbers"),
    ],
)
def test_wrong_boxes(tmp_path, box, words):
    boxes_json(tmp_path, [{"image": "a.jpg", "label": 0, "boxes": [box]}])
    message = refusal(read_samples, tmp_path)
    assert words in message
    assert "a.jpg" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{]", "line 1"),
        ("{}", "no list"),
        ('[{"label": 1}]', "entry 1"),
        ('[{"image": "a.jpg", "boxes": [1, 2, 3, 4]}]', "entry 1"),
        ('[{"image": "a.jpg", "width": "wide", "height": 3}]', "wide"),
        ("[]", "list is empty"),
    ],
)
def test_wrong_json(tmp_path, content, words):
    photo(tmp_path / "images" / "a.jpg")
    text(tmp_path / "boxes.json", content)
    assert words in refusal(read_samples, tmp_path)


def test_listed_image_that_is_missing(tmp_path):
    boxes_json(tmp_path, [{"image": n, "label": 0, "boxes": []} for n in ("a.jpg", "b.jpg")])
    (tmp_path / "images" / "a.jpg").unlink()
    message = refusal(read_samples, tmp_path)
    assert str(tmp_path / "images" / "a.jpg") in message
    assert "boxes.json" in message
    found = read_samples(tmp_path, missing="skip")
    assert (names(found), found.skipped) == (["images/b.jpg"], 1)
    (tmp_path / "images" / "b.jpg").unlink()
    assert "all 2 are missing" in refusal(read_samples, tmp_path, missing="skip")


def test_size_that_contradicts_the_image(tmp_path):
    photo(tmp_path / "images" / "a.jpg", (20, 10))
    entry = {"image": "a.jpg", "label": 0, "boxes": [[1, 1, 2, 2]], "width": 40, "height": 20}
    text(tmp_path / "boxes.json", json.dumps([entry]))
    message = refusal(read_samples, tmp_path)
    assert "20x10" in message
    assert "40x20" in message


def test_boxes_csv(tmp_path):
    photo(tmp_path / "images" / "a.jpg")
    photo(tmp_path / "images" / "b.jpg", mode="L")
    lines = "Image,xmin,ymin,xmax,ymax,Class,Slide\na.jpg,1,2,3,4,ring,s1\n"
    text(tmp_path / "boxes.csv", "\ufeff" + lines + "a.jpg,5,6,7,8,gametocyte,s1\nb,,,,,,s2\n")
    found = read_samples(tmp_path)
    assert found.class_names == ("gametocyte", "ring")
    first, second = found
    assert first.boxes == ((1, 2, 3, 4), (5, 6, 7, 8))
    assert first.box_labels == (1, 0)
    assert first.labels == (0, 1)
    assert (second.labels, second.boxes, second.group) == ((), (), "s2")


def test_boxes_without_classes(tmp_path):
    photo(tmp_path / "images" / "a.jpg")
    text(tmp_path / "boxes.csv", "image,x0,y0,x1,y1\na.jpg,1,2,3,4\n")
    found = read_samples(tmp_path)
    assert found.samples[0].boxes == ((1, 2, 3, 4),)
    assert (found.samples[0].box_labels, found.class_names) == ((), ())


def test_one_box_without_a_class_leaves_all_boxes_of_its_image_without(tmp_path):
    photo(tmp_path / "images" / "a.jpg")
    text(tmp_path / "boxes.csv", "image,label,x0,y0,x1,y1\na.jpg,ring,1,2,3,4\na.jpg,,5,6,7,8\n")
    sample = read_samples(tmp_path).samples[0]
    assert sample.boxes == ((1, 2, 3, 4), (5, 6, 7, 8))
    assert (sample.labels, sample.box_labels) == ((0,), ())


def test_labels_csv_without_masks(tmp_path):
    photo(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels.csv", "image,label\na,1\n")
    found = read_samples(tmp_path)
    assert (found.kind, found.samples[0].labels) == ("boxes", (1,))


@pytest.mark.parametrize(
    ("header", "words"), [("x0,y0,x1,y1", "names no image"), ("image,x0,y0,x1", "lacks a part")]
)
def test_wrong_headers(tmp_path, header, words):
    photo(tmp_path / "images" / "a.jpg")
    text(tmp_path / "boxes.csv", f"{header}\na,1,2,3\n")
    assert words in refusal(read_samples, tmp_path)


def test_table_without_its_images(tmp_path):
    text(tmp_path / "boxes.json", "[]")
    assert str(tmp_path / "images") in refusal(read_samples, tmp_path)
    assert "boxes.csv" in refusal(read_samples, tmp_path, "boxes", table="boxes.csv")


def test_images_beside_the_table(tmp_path):
    photo(tmp_path / "a.jpg")
    entry = {"image": "a.jpg", "label": 0, "boxes": [[1, 1, 2, 2]]}
    text(tmp_path / "boxes.json", json.dumps([entry]))
    assert names(read_samples(tmp_path, "boxes", images=".")) == ["a.jpg"]


def test_damaged_image_is_named(tmp_path):
    boxes_json(tmp_path, [{"image": "a.jpg", "label": 0, "boxes": [[1, 1, 2, 2]]}])
    text(tmp_path / "images" / "a.jpg", "not an image")
    assert "a.jpg" in refusal(read_samples, tmp_path)


def test_csv_with_width_and_height(tmp_path):
    photo(tmp_path / "images" / "a.jpg")
    text(tmp_path / "boxes.csv", "image,x,y,width,height\na.jpg,1,2,3,4\na.jpg,2.5,0,1,1\n")
    found = read_samples(tmp_path)
    assert found.samples[0].boxes == ((1, 2, 3, 5), (2, 0, 3, 0))
    text(tmp_path / "boxes.csv", "image,x,y,width,height\na.jpg,1,2,3,\n")
    assert "lacks a part" in refusal(read_samples, tmp_path)
    text(tmp_path / "boxes.csv", "image,x,y,width,height\na.jpg,1,2,-3,4\n")
    assert "can't be negative" in refusal(read_samples, tmp_path)


def test_boxes_of_one_image_have_one_form(tmp_path):
    photo(tmp_path / "images" / "a.jpg")
    header = "image,x0,y0,x1,y1,width,height\n"
    text(tmp_path / "boxes.csv", header + "a.jpg,,,,,,\na.jpg,1,2,,,3,4\n")
    assert read_samples(tmp_path).samples[0].boxes == ((1, 2, 3, 5),)
    text(tmp_path / "boxes.csv", header + "a.jpg,1,2,3,4,,\na.jpg,1,2,,,3,4\n")
    assert "give all in one form" in refusal(read_samples, tmp_path)


def test_corners_take_precedence_over_the_width_of_the_image(tmp_path):
    photo(tmp_path / "images" / "a.jpg")
    header = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    text(tmp_path / "boxes.csv", header + "a.jpg,20,10,cell,1,2,3,4\n")
    found = read_samples(tmp_path)
    assert found.samples[0].boxes == ((1, 2, 3, 4),)
    assert found.class_names == ("cell",)


def test_json_boxes_with_width_and_height(tmp_path):
    boxes_json(tmp_path, [{"image": "a.jpg", "label": 0, "boxes": [[1, 2, 3, 4]]}])
    assert read_samples(tmp_path, edges="width_height").samples[0].boxes == ((1, 2, 3, 5),)


def test_width_and_height_that_overflow_are_refused(tmp_path):
    boxes_json(tmp_path, [{"image": "a.jpg", "label": 0, "boxes": [[1e308, 0, 1e308, 1]]}])
    assert "four numbers" in refusal(read_samples, tmp_path, edges="width_height")


def test_numbers_too_large_for_classes_are_refused(tmp_path):
    photo(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels.csv", "image,label\na.jpg,20260115001\n")
    assert "has the class number 20260115001" in refusal(read_samples, tmp_path)
    assert "has the class number 20260115001" in refusal(read_samples, tmp_path, first_label=1)


def test_class_names_with_commas(tmp_path):
    photo(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels.csv", 'image,label\na.jpg,"tench, Tinca tinca"\n')
    assert read_samples(tmp_path).class_names == ("tench, Tinca tinca",)
