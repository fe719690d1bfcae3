"""Sets made of folders and tables: images, class folders, mask pairs, boxes; and recognition."""

import json

import numpy as np
import pytest

from helpers.data_trees import mask_file, photo, refusal, text
from ssgcam.data import IGNORE, read_samples
from ssgcam.images import read_image


def names(sample_set):
    return [sample.name for sample in sample_set]


# Images and class folders


def test_class_folders(tmp_path):
    photo(tmp_path / "dog" / "b.jpg")
    photo(tmp_path / "dog" / "deep" / "a.JPEG", mode="L")
    photo(tmp_path / "cat" / "z.png")
    photo(tmp_path / ".cache" / "x.png")
    (tmp_path / "empty").mkdir()
    found = read_samples(tmp_path)
    assert found.kind == "classes"
    assert found.class_names == ("cat", "dog")
    assert names(found) == ["cat/z.png", "dog/b.jpg", "dog/deep/a.JPEG"]
    assert [sample.labels for sample in found] == [(0,), (1,), (1,)]
    assert found.samples[0].mask is None


def test_class_names_give_the_order(tmp_path):
    photo(tmp_path / "dog" / "b.jpg")
    photo(tmp_path / "cat" / "z.jpg")
    found = read_samples(tmp_path, "classes", class_names=["dog", "fox", "cat"])
    assert [sample.labels for sample in found] == [(2,), (0,)]
    assert "'" + str(tmp_path / "cat") in refusal(
        read_samples, tmp_path, "classes", class_names=["dog"]
    )


def test_flat_folder_has_no_labels(tmp_path):
    photo(tmp_path / "b.jpg")
    photo(tmp_path / "a.jpg")
    found = read_samples(tmp_path)
    assert (found.kind, names(found), found.class_names) == ("images", ["a.jpg", "b.jpg"], ())
    assert "class folders" in refusal(read_samples, tmp_path, "classes")
    photo(tmp_path / "only" / "c.jpg")
    assert read_samples(tmp_path).kind == "images"


# Mask pairs


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
    assert [sample.labels for sample in found] == [(), (0,), (0,)]
    assert read_all(found) == [[0, 0, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0]]
    assert read_samples(pairs, class_names=["cell"]).class_names == ("cell",)


def test_zero_one_masks_and_a_mask_suffix(tmp_path):
    photo(tmp_path / "photos" / "sub" / "a.png", (3, 1))
    mask_file(tmp_path / "outlines" / "sub" / "a_mask.png", [[0, 1, 1]])
    found = read_samples(tmp_path, "pairs", images="photos", masks="outlines", mask_suffix="_mask")
    assert read_all(found) == [[0, 1, 1]]
    assert names(found) == ["photos/sub/a.png"]


def test_values_with_something_to_ignore(tmp_path):
    photo(tmp_path / "images" / "a.png", (3, 1))
    mask_file(tmp_path / "masks" / "a.png", [[0, 127, 255]])
    for options in ({"values": {255: 1, 127: 255}}, {"void": 127}):
        found = read_samples(tmp_path, **options)
        assert read_all(found) == [[0, IGNORE, 1]]
        assert found.samples[0].labels == (0,)
    message = refusal(read_samples, tmp_path)
    assert "void=255" in message
    assert "values=" in message
    assert "127" in refusal(read_samples, tmp_path, values={255: 1})
    assert "{127: 256}" in refusal(read_samples, tmp_path, values={255: 1, 127: 256})


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
    assert "class 2" in refusal(read_samples, pairs, class_names=["a", "b"])


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
    found = read_samples(tmp_path, first_label=1, class_names=["neutrophil", "lymphocyte"])
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


def test_wrong_roots(tmp_path):
    assert "no folder" in refusal(read_samples, tmp_path / "nowhere")
    assert "is a file" in refusal(read_samples, text(tmp_path / "a.txt", "x"))
    assert "no data set" in refusal(read_samples, tmp_path)
    assert str(tmp_path / "masks") in refusal(read_samples, tmp_path, "pairs", images=".")
    (tmp_path / "masks").mkdir()
    assert str(tmp_path / "images") in refusal(read_samples, tmp_path)
    (tmp_path / "images").mkdir()
    assert "no images" in refusal(read_samples, tmp_path)


def test_kinds_and_options(pairs):
    assert "'vocc'" in refusal(read_samples, pairs, "vocc")
    message = refusal(read_samples, pairs, split="val")
    assert "'split'" in message
    assert "mask_suffix" in message
    assert "'ignore'" in refusal(read_samples, pairs, missing="ignore")


# Boxes in JSON and CSV


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
    assert read_samples(tmp_path, class_names=list("abcd")).class_names == tuple("abcd")
    assert "class 3" in refusal(read_samples, tmp_path, class_names=list("abc"))


def test_edges_are_converted_to_inclusive(tmp_path):
    boxes = [[0, 0, 20, 10], [3, 4, 4, 5], [2.5, 1.5, 3.5, 2.5]]
    boxes_json(tmp_path, [{"image": "a.jpg", "label": 0, "boxes": boxes}])
    found = read_samples(tmp_path, edges="exclusive")
    assert found.samples[0].boxes == ((0, 0, 19, 9), (3, 4, 3, 4), (2, 1, 3, 2))
    assert found.clipped == 0
    assert "'open'" in refusal(read_samples, tmp_path, edges="open")


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
    ordered = read_samples(tmp_path, class_names=["ring", "gametocyte"])
    assert ordered.samples[0].box_labels == (0, 1)
    assert "'gametocyte'" in refusal(read_samples, tmp_path, class_names=["ring"])


def test_boxes_without_classes(tmp_path):
    photo(tmp_path / "images" / "a.jpg")
    text(tmp_path / "boxes.csv", "image,x0,y0,x1,y1\na.jpg,1,2,3,4\n")
    found = read_samples(tmp_path)
    assert found.samples[0].boxes == ((1, 2, 3, 4),)
    assert (found.samples[0].box_labels, found.class_names) == ((), ())


def test_labels_csv_without_masks(tmp_path):
    photo(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels.csv", "image,label\na,1\n")
    found = read_samples(tmp_path)
    assert (found.kind, found.samples[0].labels) == ("boxes", (1,))


@pytest.mark.parametrize(
    ("header", "words"), [("x0,y0,x1,y1", "names no image"), ("image,x0,y0,x1", "corner")]
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


# Groups and tables without a folder layout


def test_groups_from_a_pattern(tmp_path):
    for name in ("cat/p1_a.jpg", "cat/p2_a.jpg", "dog/p1_b.jpg"):
        photo(tmp_path / name)
    found = read_samples(tmp_path, group_pattern=r"^(p\d)_")
    assert [sample.group for sample in found] == ["p1", "p2", "p1"]
    assert [sample.group for sample in read_samples(tmp_path, group_pattern="p.")] == [
        "p1",
        "p2",
        "p1",
    ]
    assert "matches nothing in the name of" in refusal(read_samples, tmp_path, group_pattern="q")
    assert "not a regular expression" in refusal(read_samples, tmp_path, group_pattern="(")


def test_a_csv_file_is_a_set_with_images_relative_to_it(tmp_path):
    photo(tmp_path / "photos" / "a.jpg")
    photo(tmp_path / "b.jpg")
    table = text(tmp_path / "set.csv", "image,label,group\nphotos/a.jpg,sick,p1\nb.jpg,well,p2\n")
    found = read_samples(table)
    assert found.kind == "boxes"
    assert names(found) == ["photos/a.jpg", "b.jpg"]
    assert found.class_names == ("sick", "well")
    assert [(sample.labels, sample.group) for sample in found] == [((0,), "p1"), ((1,), "p2")]
    assert "groups in a table already" in refusal(read_samples, table, group_pattern="p")
    table = text(tmp_path / "set.json", json.dumps([{"image": "b.jpg", "boxes": [[1, 2, 3, 4]]}]))
    assert read_samples(table).samples[0].boxes == ((1, 2, 3, 4),)


def test_a_coco_file_is_a_set_with_images_relative_to_it(tmp_path):
    photo(tmp_path / "a.jpg")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 20, "height": 10}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 3, "name": "cell"}],
    }
    found = read_samples(text(tmp_path / "export.json", json.dumps(content)))
    assert (found.kind, found.class_names, names(found)) == ("coco", ("cell",), ["a.jpg"])
    assert found.samples[0].boxes == ((1, 2, 3, 5),)
