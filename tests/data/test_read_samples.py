"""How a layout is recognized, and what all layouts share."""

import json

from helpers.data_trees import mask_file, photo, refusal, text
from ssgcam.data import read_samples, suggested_group_pattern


def names(sample_set):
    return [sample.name for sample in sample_set]


def test_wrong_roots(tmp_path):
    assert "no folder" in refusal(read_samples, tmp_path / "nowhere")
    assert "is a file" in refusal(read_samples, text(tmp_path / "a.txt", "x"))
    assert "no data set" in refusal(read_samples, tmp_path)
    assert str(tmp_path / "masks") in refusal(read_samples, tmp_path, "pairs", images=".")
    (tmp_path / "masks").mkdir()
    assert str(tmp_path / "images") in refusal(read_samples, tmp_path)
    (tmp_path / "images").mkdir()
    assert "no images" in refusal(read_samples, tmp_path)


def test_folders_that_are_not_there_are_named(tmp_path):
    photo(tmp_path / "images" / "a.jpg")
    for folder in ("masks[1]", str(tmp_path / "elsewhere"), str(tmp_path / "*" / "masks")):
        message = refusal(read_samples, tmp_path, "pairs", masks=folder)
        assert f"'{tmp_path / folder}' is missing" in message
    assert "no folder '~nobody-of-this-name'" in refusal(read_samples, "~nobody-of-this-name")


def test_kinds_and_options(tmp_path):
    pairs = tmp_path
    photo(pairs / "images" / "a.jpg", (4, 2))
    mask_file(pairs / "masks" / "a.png", [[0, 0, 255, 255]] * 2)
    assert "--kind vocc" in refusal(read_samples, pairs, "vocc")
    message = refusal(read_samples, pairs, split="val")
    assert "'split'" in message
    assert "mask_suffix" in message
    assert "--missing ignore" in refusal(read_samples, pairs, missing="ignore")


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


def test_images_beside_masks_of_other_names_are_not_two_classes(tmp_path):
    photo(tmp_path / "img" / "a.jpg", (4, 1))
    mask_file(tmp_path / "Mask" / "a.png", [[0, 0, 1, 1]])
    assert "--kind pairs --images img --masks Mask" in refusal(read_samples, tmp_path)
    assert read_samples(tmp_path, "pairs", images="img", masks="Mask").class_names == ("object",)
    assert read_samples(tmp_path, "classes").class_names == ("Mask", "img")


def test_a_group_pattern_is_suggested_where_names_begin_alike(tmp_path):
    for patient in ("p1", "p2", "p3"):
        photo(tmp_path / "cat" / f"{patient}_a.jpg")
        photo(tmp_path / "dog" / f"{patient}_b.jpg")
    found = read_samples(tmp_path)
    assert suggested_group_pattern(found) == "^([^_]+)_"
    grouped = read_samples(tmp_path, group_pattern=suggested_group_pattern(found))
    assert {sample.group for sample in grouped} == {"p1", "p2", "p3"}
    assert suggested_group_pattern(grouped) is None


def test_no_group_pattern_is_suggested_for_names_of_one_kind(tmp_path):
    for number in range(6):
        photo(tmp_path / "cat" / f"IMG_{number}.jpg")
        photo(tmp_path / "dog" / f"DSC_{number}.jpg")
    assert suggested_group_pattern(read_samples(tmp_path)) is None
