"""COCO instances on a tiny tree in exactly its layout."""

import json

import numpy as np
import pycocotools.mask as coco
import pytest

from helpers.data_trees import photo, refusal, text
from ssgcam.data import IGNORE, read_samples
from ssgcam.images import read_image


def coco_json(root, annotations, images=None, name="instances_val2017"):
    images = images or [
        {"id": 9, "file_name": "000000000009.jpg", "width": 20, "height": 10},
        {"id": 7, "file_name": "000000000007.jpg", "width": 20, "height": 10},
    ]
    for image in images:
        photo(root / "val2017" / image["file_name"])
    content = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": 18, "name": "dog", "supercategory": "animal"},
            {"id": 1, "name": "person", "supercategory": "person"},
            {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
        ],
    }
    text(root / "annotations" / f"{name}.json", json.dumps(content))


def instance(category, bbox, segmentation, image=9, crowd=0, area=None):
    area = bbox[2] * bbox[3] if area is None else area
    return {
        "id": 1,
        "image_id": image,
        "category_id": category,
        "bbox": bbox,
        "segmentation": segmentation,
        "iscrowd": crowd,
        "area": area,
    }


def run_lengths(mask):
    runs = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": runs["counts"].decode()}


def square(x0, y0, x1, y1):
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def test_coco(tmp_path):
    crowd = np.zeros((10, 20), bool)
    crowd[:, 12:] = True
    runs = {"size": [10, 20], "counts": [120, 80]}
    coco_json(
        tmp_path,
        [
            instance(90, [3, 3, 2, 2], square(3, 3, 5, 5)),
            instance(18, [2, 2, 6, 5], square(2, 2, 8, 7)),
            instance(18, [14, 0, 3, 2], square(14, 0, 17, 2)),
            instance(1, [12, 0, 8, 10], runs, crowd=1),
        ],
    )
    found = read_samples(tmp_path)
    assert found.kind == "coco"
    assert found.class_names == found.mask_names == ("person", "dog", "toothbrush")
    first, second = found
    assert first.name == "val2017/000000000009.jpg"
    assert first.labels == (1, 2)
    assert first.boxes == ((3, 3, 4, 4), (2, 2, 7, 6), (14, 0, 16, 1))
    assert first.box_labels == (2, 1, 1)
    expected = np.zeros((10, 20), np.uint8)
    expected[crowd] = IGNORE
    expected[2:7, 2:8] = 2
    expected[3:5, 3:5] = 3  # the smaller object on top
    expected[0:2, 14:17] = 2  # an object on top of a crowd
    assert np.array_equal(first.mask.read((20, 10)), expected)
    assert (second.labels, second.boxes) == ((), ())
    assert not second.mask.read((20, 10)).any()
    assert "20x11" in refusal(first.mask.read, (20, 11))
    assert hash(first)


def test_coco_compressed_rle_and_several_polygons(tmp_path):
    blob = np.random.default_rng(1).random((10, 20)) < 0.3
    polygons = [[1.5, 1.2, 8.9, 2.1, 4.3, 8.7], [12.0, 3.0, 18.5, 3.5, 17.0, 9.5, 13.0, 8.0]]
    coco_json(
        tmp_path,
        [
            instance(1, [0, 0, 20, 10], run_lengths(blob)),
            instance(18, [1.5, 1.2, 17.0, 8.3], [[1, 1, 2, 2], *polygons], image=7),
        ],
    )
    first, second = read_samples(tmp_path, split="val2017")
    assert np.array_equal(first.mask.read((20, 10)) == 1, blob)
    theirs = coco.decode(coco.merge(coco.frPyObjects(polygons, 10, 20)))
    assert np.array_equal(second.mask.read((20, 10)), theirs * 2)
    assert second.boxes == ((1, 1, 18, 9),)  # all pixels that 1.5..18.5, 1.2..9.5 touches


def test_coco_boxes_past_the_edge_and_without_segmentation(tmp_path):
    coco_json(tmp_path, [instance(1, [-2.5, 4, 30, 8], [])])
    found = read_samples(tmp_path)
    assert found.samples[0].boxes == ((0, 4, 19, 9),)
    assert found.clipped == 1
    assert found.mask_names == ()
    assert found.samples[0].mask is None


def test_coco_turned_photo(tmp_path):
    image = {"id": 9, "file_name": "a.jpg", "width": 20, "height": 10}
    stored = np.zeros((10, 20), bool)
    stored[1:3, 4:9] = True
    coco_json(tmp_path, [instance(1, [4, 1, 5, 2], run_lengths(stored))], [image])
    photo(tmp_path / "val2017" / "a.jpg", orientation=6)
    sample = read_samples(tmp_path).samples[0]
    size = read_image(sample.image).size
    assert size == (10, 20)
    upright = np.rot90(stored, -1)
    assert np.array_equal(sample.mask.read(size) == 1, upright)
    rows, columns = np.nonzero(upright)
    assert sample.boxes == ((columns.min(), rows.min(), columns.max(), rows.max()),)


def test_coco_splits_and_folders(tmp_path):
    coco_json(tmp_path, [])
    coco_json(tmp_path, [], name="instances_train2017")
    message = refusal(read_samples, tmp_path)
    assert "train2017, val2017" in message
    assert "'test2017'" in refusal(read_samples, tmp_path, split="test2017")
    assert str(tmp_path / "train2017") in refusal(read_samples, tmp_path, split="train2017")
    assert len(read_samples(tmp_path, split="val2017")) == 2
    (tmp_path / "images").mkdir()
    (tmp_path / "val2017").rename(tmp_path / "images" / "val2017")
    assert read_samples(tmp_path, split="val2017").samples[0].name.startswith("images/val2017/")
    (tmp_path / "annotations" / "instances_val2017.json").rename(tmp_path / "mine.json")
    options = {"annotations": "mine.json", "images": "images/val2017"}
    assert len(read_samples(tmp_path, "coco", **options)) == 2


def test_coco_refusals(tmp_path):
    assert "instances_*.json" in refusal(read_samples, tmp_path, "coco")
    coco_json(tmp_path, [instance(5, [1, 1, 2, 2], [])])
    assert "KeyError: 5" in refusal(read_samples, tmp_path)
    coco_json(tmp_path, [instance(1, [1, 1, 2], [], area=1)])
    assert "four numbers x, y, width, height" in refusal(read_samples, tmp_path)
    coco_json(tmp_path, [], [{"id": 1, "file_name": "a.jpg", "width": "wide", "height": 10}])
    assert "not a COCO" in refusal(read_samples, tmp_path)
    coco_json(tmp_path, [])
    missing = tmp_path / "val2017" / "000000000009.jpg"
    missing.unlink()
    assert str(missing) in refusal(read_samples, tmp_path)
    found = read_samples(tmp_path, missing="skip")
    assert (len(found), found.skipped) == (1, 1)
    text(tmp_path / "annotations" / "instances_val2017.json", "[]")
    assert "not a COCO" in refusal(read_samples, tmp_path)


def test_more_categories_than_mask_values_are_refused(tmp_path):
    coco_json(tmp_path, [instance(1, [1, 1, 2, 2], square(1, 1, 3, 3))])
    path = tmp_path / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": number, "name": str(number)} for number in range(300)]
    text(path, json.dumps(content))
    assert "300 classes" in refusal(read_samples, tmp_path)


def test_coco_splits_of_roboflow(tmp_path):
    for split, name in (("train", "a"), ("valid", "b")):
        photo(tmp_path / split / f"{name}.jpg")
        content = {
            "images": [{"id": 1, "file_name": f"{name}.jpg", "width": 20, "height": 10}],
            "annotations": [instance(3, [1, 2, 3, 4], [], image=1)],
            "categories": [{"id": 3, "name": "cell"}],
        }
        text(tmp_path / split / "_annotations.coco.json", json.dumps(content))
    assert "choose one with --split: train, valid" in refusal(read_samples, tmp_path)
    found = read_samples(tmp_path, split="valid")
    assert [sample.name for sample in found] == ["valid/b.jpg"]


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("_annotations.coco.json", "."),
        ("result.json", "images"),
        ("annotations/instances_default.json", "images/default"),
        ("annotations/export.json", "images"),
    ],
    ids=["Roboflow", "Label Studio", "CVAT", "another name"],
)
def test_coco_files_of_annotation_tools(tmp_path, annotations, images):
    photo(tmp_path / images / "a.jpg")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 20, "height": 10}],
        "annotations": [instance(3, [1, 2, 3, 4], [], image=1)],
        "categories": [{"id": 3, "name": "cell"}],
    }
    text(tmp_path / annotations, json.dumps(content))
    found = read_samples(tmp_path)
    assert (found.kind, found.class_names, len(found)) == ("coco", ("cell",), 1)
    assert found.samples[0].boxes == ((1, 2, 3, 5),)
    (tmp_path / images / "a.jpg").unlink()
    assert f"{images}/a.jpg' is missing".removeprefix("./") in refusal(read_samples, tmp_path)
