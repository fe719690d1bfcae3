"""Exports, each read by a library that reads the format."""

from __future__ import annotations

import json

import numpy as np
import pytest

from helpers.segmentation import photos, small
from ssgcam import CAM
from ssgcam.bulk.export import Mask, export_masks, objects_of, without_holes
from ssgcam.bulk.inputs import InputImage
from ssgcam.bulk.mask_files import indexed
from ssgcam.bulk.segment import segment_images
from ssgcam.data.masks import region_pixels
from ssgcam.files import write_png

NAMES = ("cat", "dog", "house cat")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Masks with holes in all formats: their folder, and by name the labels and probabilities."""
    out = tmp_path_factory.mktemp("out")
    rng = np.random.default_rng(0)
    images, expected = [], {}
    for path in photos(out / "in" / "sub", 6):
        coarse = (rng.random((10, 15)) < 0.7) * rng.integers(1, 4, (10, 15))
        coarse[2:7, 3:9], coarse[4, 5:7] = 2, 0  # a hole
        labels = coarse.repeat(2, 0).repeat(2, 1).astype(np.uint8)
        name, mask = f"sub/{path.name}", out / "masks" / path.name
        write_png(mask, indexed(labels))
        probabilities = {1: 0.5, 2: 0.25, 3: float(rng.random())}
        facts = {"classes": [{"value": v, "probability": p} for v, p in probabilities.items()]}
        image = InputImage(name, path, f"sub/{path.stem}")
        images.append(Mask(image, mask, facts))
        expected[name] = labels.astype(int), probabilities
    export_masks(["coco", "yolo", "geojson", "labelstudio"], images, NAMES, out)
    return out, expected


def filled(rings, shape):
    """The pixels whose centers are inside the rings, by the even-odd rule, a plain loop."""
    height, width = shape
    mask = np.zeros(shape, dtype=bool)
    for y in range(height):
        for ring in rings:
            (x0, y0), (x1, y1) = np.asarray(ring).T, np.roll(ring, -1, axis=0).T
            crosses = (y0 > y + 0.5) != (y1 > y + 0.5)
            share = (y + 0.5 - y0[crosses]) / (y1 - y0)[crosses]
            for x in x0[crosses] + share * (x1 - x0)[crosses]:
                mask[y] ^= np.arange(width) + 0.5 > x
    return mask


@pytest.mark.parametrize("seed", range(40))
def test_polygons_are_valid_and_have_the_objects_area(seed):
    shapely = pytest.importorskip("shapely")
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 14, 2))
    labels = (rng.random(shape) < rng.uniform(0.2, 0.95)) * rng.integers(1, 3, shape)
    total = np.zeros(shape, dtype=int)
    for found in objects_of(labels.astype(np.uint8)):
        outer, *holes = found.rings()
        polygon = shapely.Polygon(outer, holes)
        assert polygon.is_valid
        assert polygon.area == found.mask.sum()
        assert shapely.Polygon(outer).bounds == (
            found.area[1].start, found.area[0].start, found.area[1].stop, found.area[0].stop,
        )  # fmt: skip
        total += found.value * filled([outer, *holes], shape)
        assert np.array_equal(filled([without_holes([outer, *holes])], shape),
                              filled([outer, *holes], shape))  # fmt: skip
    assert np.array_equal(total, labels)


def test_coco_is_read_by_pycocotools(exported):
    coco = pytest.importorskip("pycocotools.coco")
    tools = pytest.importorskip("pycocotools.mask")
    out, expected = exported
    read = coco.COCO(str(out / "coco.json"))
    assert [category["name"] for category in read.loadCats(read.getCatIds())] == list(NAMES)
    assert len(read.getImgIds()) == len(expected)
    for image in read.loadImgs(read.getImgIds()):
        labels, probabilities = expected[image["file_name"]]
        assert labels.shape == (image["height"], image["width"])
        covered = np.zeros_like(labels)
        for annotation in read.loadAnns(read.getAnnIds(imgIds=image["id"])):
            mask = read.annToMask(annotation)
            assert np.array_equal(region_pixels(annotation["segmentation"], *labels.shape), mask)
            assert annotation["area"] == tools.area(annotation["segmentation"])
            assert annotation["bbox"] == tools.toBbox(annotation["segmentation"]).tolist()
            assert annotation["score"] == probabilities[annotation["category_id"]]
            covered += annotation["category_id"] * mask
        assert np.array_equal(covered, labels)
    assert len(read.anns) > len(expected)
    assert len({annotation["id"] for annotation in read.dataset["annotations"]}) == len(read.anns)


def test_yolo_is_read_by_supervision(exported):
    supervision = pytest.importorskip("supervision")
    out, expected = exported
    yaml = pytest.importorskip("yaml")
    settings = yaml.safe_load((out / "yolo/data.yaml").read_text())
    assert settings["names"] == dict(enumerate(NAMES))
    assert settings["path"] == str(out / "yolo")
    data = supervision.DetectionDataset.from_yolo(
        str(out / "yolo/images/sub"), str(out / "yolo/labels/sub"), str(out / "yolo/data.yaml"),
        force_masks=True,
    )  # fmt: skip
    assert len(data) == len(expected)
    for path, image, found in data:
        labels, _ = expected[f"sub/{path.rsplit('/', 1)[1]}"]
        assert image.shape[:2] == labels.shape
        for value in (1, 2, 3):
            masks = found.mask[found.class_id == value - 1]
            read = masks.any(0) if len(masks) else np.zeros_like(labels, bool)
            # the library fills polygons up to and including the pixels that an edge touches
            assert not ((labels == value) & ~read).any()


def test_yolo_polygons_give_the_masks_back(exported):
    out, expected = exported
    for name, (labels, _) in expected.items():
        read = np.zeros_like(labels)
        for line in (out / "yolo/labels" / name).with_suffix(".txt").read_text().splitlines():
            value, *numbers = line.split()
            ring = np.array(numbers, dtype=float).reshape(-1, 2) * labels.shape[::-1]
            read += (int(value) + 1) * filled([ring], labels.shape)
        assert np.array_equal(read, labels)


def test_geojson_is_read_by_shapely(exported):
    shapely = pytest.importorskip("shapely")
    out, expected = exported
    holes = 0
    for name, (labels, probabilities) in expected.items():
        content = json.loads((out / "geojson" / name).with_suffix(".geojson").read_text())
        shapes = shapely.from_geojson(json.dumps(content)).geoms
        areas = dict.fromkeys(range(1, 4), 0)
        for feature, shape in zip(content["features"], shapes, strict=True):
            assert shape.is_valid
            value = NAMES.index(feature["properties"]["classification"]["name"]) + 1
            areas[value] += shape.area
            holes += len(shape.interiors)
            measured = feature["properties"]["measurements"]["probability"]
            assert measured == probabilities[value]
        assert areas == {value: (labels == value).sum() for value in range(1, 4)}
    assert holes


def test_label_studio_tasks_are_read_by_its_sdk(exported):
    pytest.importorskip("label_studio_sdk")
    from label_studio_sdk._extensions.label_studio_tools.core.label_config import parse_config
    from label_studio_sdk.label_interface import LabelInterface

    out, expected = exported
    interface = (out / "labelstudio.xml").read_text()
    assert parse_config(interface)["label"]["labels"] == list(NAMES)
    tasks = json.loads((out / "labelstudio.json").read_text())
    assert len(tasks) == len(expected)
    for task, (name, (labels, probabilities)) in zip(tasks, expected.items(), strict=True):
        assert task["data"]["image"].endswith(f"in/{name}")
        (prediction,) = task["predictions"]
        assert LabelInterface(interface).validate_prediction(prediction)
        read = np.zeros_like(labels)
        for region in prediction["result"]:
            value = NAMES.index(region["value"]["polygonlabels"][0]) + 1
            size = (region["original_width"], region["original_height"])
            ring = np.array(region["value"]["points"]) / 100 * size
            read += value * filled([ring], labels.shape)
            assert region["score"] == probabilities[value]
        assert np.array_equal(read, labels)


def test_segment_exports_its_masks_with_the_class_probabilities(tmp_path):
    model = small("sigmoid")
    photos(tmp_path / "in", 4)
    cam = CAM(model, ["act2"], "layer_cam")
    out = tmp_path / "out"
    segment_images(tmp_path / "in", model, out, cam=cam, threshold=0.5, export=["geojson", "coco"])
    lines = [json.loads(line) for line in (out / "manifest.jsonl").open()][1:]
    annotations = json.loads((out / "coco.json").read_text())["annotations"]
    for number, line in enumerate(lines, 1):
        pixels = dict.fromkeys(range(1, 4), 0)
        for annotation in annotations:
            if annotation["image_id"] == number:
                pixels[annotation["category_id"]] += annotation["area"]
        for one in line["classes"]:
            assert pixels[one["value"]] == one["pixels"]
        content = json.loads((out / "geojson" / line["unit"]).with_suffix(".geojson").read_text())
        found = {one["name"]: one["probability"] for one in line["classes"]}
        for feature in content["features"]:
            properties = feature["properties"]
            measured = properties["measurements"]["probability"]
            assert measured == found[properties["classification"]["name"]]
