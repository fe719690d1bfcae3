"""Polygons in YOLO's text files and in GeoJSON."""

import json

import numpy as np
import pytest

from helpers.data_trees import photo, refusal, text
from ssgcam.data import IGNORE, read_samples
from ssgcam.data.masks import region_pixels


@pytest.fixture
def yolo(tmp_path):
    for name in ("train/a", "train/b", "val/c"):
        photo(tmp_path / "images" / f"{name}.jpg", (20, 10))
    text(tmp_path / "labels" / "train" / "a.txt", "1 0.1 0.2 0.4 0.2 0.4 0.7 0.1 0.7\n")
    text(tmp_path / "labels" / "val" / "c.txt", "0 0.5 0.5 0.2 0.4\n\n")
    text(tmp_path / "data.yaml", "train: images/train\nnc: 2\nnames:\n  0: cell\n  1: 'a, b'\n")
    return tmp_path


def test_yolo_polygons_and_boxes(yolo):
    found = read_samples(yolo)
    assert found.kind == "yolo"
    assert found.class_names == found.mask_names == ("cell", "a, b")
    first, second, third = found
    assert (first.labels, first.boxes, first.box_labels) == ((1,), ((2, 2, 7, 6),), (1,))
    expected = np.zeros((10, 20), np.uint8)
    expected[2:7, 2:8] = 2
    assert np.array_equal(first.mask.read((20, 10)), expected)
    assert (second.labels, second.boxes) == ((), ())
    assert not second.mask.read((20, 10)).any()
    assert (third.labels, third.boxes) == ((0,), ((8, 3, 11, 6),))
    one_split = read_samples(yolo, split="val")
    assert (len(one_split), one_split.mask_names) == (1, ())
    assert one_split.samples[0].mask is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.yaml", "names: ['cell', \"a, b\"]\nnc: 2\n"),
        ("data.yaml", "names: [cell, dog]\nroboflow:\n  version: 3\n"),
        ("data.yaml", "names:\n- cell\n- dog\nnc: 2\n"),
        ("classes.txt", "cell\ndog\n"),
        ("../data.yaml", "names:\n  0: cell\n  1: dog\n"),
    ],
)
def test_yolo_class_names(tmp_path, name, content):
    root = tmp_path / "train"
    photo(root / "images" / "a.jpg", (20, 10))
    text(root / "labels" / "a.txt", "1 0.5 0.5 0.2 0.4\n")
    text(root / name, content)
    expected = ("cell", "a, b" if "a, b" in content else "dog")
    assert read_samples(root).class_names == expected


def test_yolo_splits_of_roboflow(tmp_path):
    for split, name in (("train", "a"), ("valid", "b")):
        photo(tmp_path / split / "images" / f"{name}.jpg", (20, 10))
        text(tmp_path / split / "labels" / f"{name}.txt", "1 0.5 0.5 0.2 0.4\n")
    text(tmp_path / "data.yaml", "names: [cell, dog]\n")
    for options, image in (({}, "a.jpg"), ({"split": "valid"}, "b.jpg")):
        found = read_samples(tmp_path, **options)
        assert (found.kind, found.class_names) == ("yolo", ("cell", "dog"))
        assert [sample.image.name for sample in found] == [image]


def test_yolo_without_class_names_has_numbers(yolo):
    (yolo / "data.yaml").unlink()
    assert read_samples(yolo).class_names == ("0", "1")


@pytest.mark.parametrize(
    "line", ["0 0.1 0.2 0.3", "0 0.1 0.2 0.3 wide", "0 0.1 0.2 0.3 nan", "cell 0.1 0.2 0.3 0.4"]
)
def test_wrong_yolo_lines(yolo, line):
    text(yolo / "labels" / "val" / "c.txt", f"0 0.5 0.5 0.2 0.4\n{line}\n")
    message = refusal(read_samples, yolo)
    assert "line 2 of" in message
    assert "c.txt" in message


def test_a_class_number_without_limit_is_refused(yolo):
    (yolo / "data.yaml").unlink()
    text(yolo / "labels" / "val" / "c.txt", "123456789012 0.5 0.5 0.2 0.4\n")
    assert "has the class number 123456789012" in refusal(read_samples, yolo)


def test_yaml_aliases_do_not_fill_the_memory(yolo):
    levels = [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 12)]
    text(yolo / "data.yaml", "\n".join(["a0: &a0 [x]", *levels, "names: [*a11]"]))
    assert "has no list of names" in refusal(read_samples, yolo)


@pytest.mark.parametrize("far", [1e6, -1e6, 1e300, float("inf"), float("nan")])
def test_a_polygon_with_a_point_far_from_the_image_is_refused(far):
    near = [2, 2, 999_999, 2, 2, 7]
    assert region_pixels([near], 10, 20)[3, 5]
    message = refusal(region_pixels, [near, [2, 2, far, 2, 2, 7]], 10, 20)
    assert "a point 1,000,000 or more pixels from the image's corner" in message


def ring(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def feature(coordinates, name=None, kind="Polygon"):
    properties = {"objectType": "annotation"}
    if name:
        properties["classification"] = {"name": name, "color": [1, 2, 3]}
    geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "id": "x", "geometry": geometry, "properties": properties}


def geojson_set(root, *features, wrap=True):
    photo(root / "images" / "a.jpg", (20, 10))
    content = {"type": "FeatureCollection", "features": list(features)} if wrap else list(features)
    return text(root / "masks" / "a.geojson", json.dumps(content))


def test_geojson_polygons_with_holes_and_classes(tmp_path):
    tumor = [[ring(2, 1, 12, 9), ring(4, 3, 10, 7)], [ring(6, 4, 8, 6)]]
    geojson_set(
        tmp_path,
        feature(tumor, "Tumor", "MultiPolygon"),
        feature([ring(14, 0, 18, 4)], "Stroma"),
        feature([ring(0, 0, 20, 10)], "Ignore*"),
        feature([3, 3], "Tumor", "Point"),
    )
    found = read_samples(tmp_path)
    assert found.kind == "geojson"
    assert found.class_names == found.mask_names == ("Stroma", "Tumor")
    sample = found.samples[0]
    assert sample.labels == (0, 1)
    assert sample.boxes == ((2, 1, 11, 8), (14, 0, 17, 3))
    expected = np.full((10, 20), IGNORE, np.uint8)
    expected[1:9, 2:12] = 2
    expected[3:7, 4:10] = IGNORE
    expected[4:6, 6:8] = 2  # an island in the hole
    expected[0:4, 14:18] = 1
    assert np.array_equal(sample.mask.read((20, 10)), expected)


@pytest.mark.parametrize("wrap", [True, False])
def test_geojson_without_classes_shows_objects(tmp_path, wrap):
    geojson_set(tmp_path, feature([ring(1, 1, 3, 3)]), wrap=wrap)
    found = read_samples(tmp_path)
    assert found.class_names == found.mask_names == ("object",)


def test_a_class_of_geojson_that_is_no_text_is_named_by_it(tmp_path):
    geojson_set(tmp_path, feature([ring(1, 1, 3, 3)], 5), feature([ring(4, 4, 6, 6)], [5]))
    assert read_samples(tmp_path).class_names == ("5", "[5]")


def test_wrong_geojson(tmp_path):
    path = geojson_set(tmp_path, feature([[[1]]]))
    assert "not GeoJSON" in refusal(read_samples, tmp_path)
    text(path, json.dumps({"features": [{"geometry": None}]}))
    assert "not GeoJSON" in refusal(read_samples, tmp_path)
    photo(tmp_path / "images" / "b.jpg", (20, 10))
    geojson_set(tmp_path, feature([ring(1, 1, 3, 3)]))
    assert "b.geojson' is missing" in refusal(read_samples, tmp_path)
    assert read_samples(tmp_path, missing="skip").skipped == 1
