"""A tiny tree of each layout that the readers know, and what to damage in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from helpers.data_trees import mask_file, photo, text

SIZE = (20, 10)
POLYGON = [2, 2, 12, 2, 12, 7, 2, 7]
VALUES = np.zeros((10, 20), np.uint8)
VALUES[2:7, 3:9] = 1
_XML = (
    "<annotation><size><width>20</width><height>10</height></size><object><name>{name}</name>"
    "<difficult>0</difficult><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax>"
    "</bndbox></object></annotation>"
)


def boxes_csv(root: Path) -> list[Path]:
    photo(root / "a.jpg", SIZE)
    lines = "image,label,x0,y0,x1,y1,group\na.jpg,cat,1,2,9,8,p1\na.jpg,dog,1,1,5,5,p1\n"
    return [text(root / "boxes.csv", lines)]


def boxes_json(root: Path) -> list[Path]:
    photo(root / "images" / "a.jpg", SIZE)
    entries = [
        {"image": "a.jpg", "label": "cat", "boxes": [[1, 2, 9, 8]], "width": 20, "height": 10}
    ]
    return [text(root / "boxes.json", json.dumps(entries))]


def coco(root: Path) -> list[Path]:
    photo(root / "val2017" / "a.jpg", SIZE)
    shapes = [[POLYGON], {"counts": [50, 100, 50], "size": [10, 20]}, {"counts": "b1T3b1"}, None]
    annotations = [
        {"id": k, "image_id": 7, "category_id": 3, "bbox": [1, 2, 9, 6], "area": 30.5, "iscrowd": k == 1}
        | ({"segmentation": shape} if shape else {})
        for k, shape in enumerate(shapes)
    ]  # fmt: skip
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 20, "height": 10}],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "cell"}],
    }
    return [text(root / "annotations" / "instances_val2017.json", json.dumps(content))]


def cub(root: Path) -> list[Path]:
    photo(root / "images" / "001.A" / "a.jpg", SIZE)
    mask_file(root / "segmentations" / "001.A" / "a.png", VALUES * 255)
    lists = {
        "images": "1 001.A/a.jpg\n", "image_class_labels": "1 1\n", "train_test_split": "1 0\n",
        "bounding_boxes": "1 6.0 2.0 10.0 5.0\n", "classes": "1 001.A\n",
    }  # fmt: skip
    files = [text(root / f"{name}.txt", content) for name, content in lists.items()]
    return [*files, root / "segmentations" / "001.A" / "a.png"]


def geojson(root: Path) -> list[Path]:
    photo(root / "images" / "a.png", SIZE)
    ring = [[2, 2], [12, 2], [12, 7], [2, 7], [2, 2]]
    hole = [[4, 3], [6, 3], [6, 5], [4, 3]]
    features = [
        {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates},
         "properties": {"classification": {"name": "cell"}}}
        for kind, coordinates in (("Polygon", [ring, hole]), ("MultiPolygon", [[ring], [hole]]))
    ]  # fmt: skip
    content = json.dumps({"type": "FeatureCollection", "features": features})
    return [text(root / "masks" / "a.geojson", content)]


def ilsvrc(root: Path) -> list[Path]:
    photo(root / "Data" / "CLS-LOC" / "val" / "a.JPEG", SIZE)
    return [
        text(root / "LOC_synset_mapping.txt", "n01 tench, fish\n"),
        text(root / "ImageSets" / "CLS-LOC" / "val.txt", "a 1\n"),
        text(root / "Annotations" / "CLS-LOC" / "val" / "a.xml", _XML.format(name="n01")),
    ]


def pairs(root: Path) -> list[Path]:
    photo(root / "images" / "a.png", SIZE)
    photo(root / "images" / "b.png", SIZE)
    np.save(root / "b.npy", VALUES)
    mask = mask_file(root / "masks" / "a.png", VALUES, palette=True)
    return [mask, (root / "b.npy").rename(root / "masks" / "b.npy")]


def voc(root: Path) -> list[Path]:
    photo(root / "JPEGImages" / "a.jpg", SIZE)
    return [
        mask_file(root / "SegmentationClass" / "a.png", VALUES, palette=True),
        text(root / "ImageSets" / "Segmentation" / "val.txt", "a\n"),
        text(root / "Annotations" / "a.xml", _XML.format(name="cat")),
    ]


def wsol(root: Path) -> list[Path]:
    split = root / "metadata" / "OpenImages" / "test"
    photo(root / "dataset" / "OpenImages" / "a.jpg", SIZE)
    mask = mask_file(root / "dataset" / "OpenImages" / "m.png", VALUES * 255)
    return [
        text(split / "image_ids.txt", "a.jpg\n"),
        text(split / "class_labels.txt", "a.jpg,2\n"),
        text(split / "image_sizes.txt", "a.jpg,20,10\n"),
        text(split / "localization.txt", "a.jpg,m.png,\n"),
        mask,
    ]


def yolo(root: Path) -> list[Path]:
    photo(root / "images" / "a.png", SIZE)
    return [
        text(root / "labels" / "a.txt", "0 0.5 0.5 0.2 0.4\n1 0.1 0.1 0.6 0.1 0.6 0.6\n"),
        text(root / "data.yaml", "names:\n  0: cat\n  1: dog\n"),
    ]


#: Kind for ``read_samples`` -> makes the tree, and returns the files to damage.
TREES: dict[str, Callable[[Path], list[Path]]] = {
    "boxes csv": boxes_csv,
    "boxes json": boxes_json,
    "coco": coco,
    "cub": cub,
    "geojson": geojson,
    "ilsvrc": ilsvrc,
    "pairs": pairs,
    "voc": voc,
    "wsol": wsol,
    "yolo": yolo,
}


def root_of(kind: str, root: Path) -> Path:
    """The path that a user gives to ``read_samples``."""
    inside = {"boxes csv": "boxes.csv", "wsol": "metadata/OpenImages/test"}
    return root / inside.get(kind, "")
