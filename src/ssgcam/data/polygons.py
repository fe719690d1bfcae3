"""Reads boxes and polygons of YOLO's text files, and of GeoJSON as QuPath exports it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ssgcam.data.collect import Annotated, Annotation, Collector, Layout, Missing
from ssgcam.data.frames import upright_size
from ssgcam.data.sample import SampleSet
from ssgcam.data.tables import read_json, read_text, whole
from ssgcam.errors import SsgcamError, first_line
from ssgcam.images import images_below

YOLO = Layout("yolo", ("labels/**/*.txt", "images"), ("train",))
GEOJSON = Layout("geojson", ("masks/**/*.geojson", "images"))
_NAME_FILES = ("data.yaml", "dataset.yaml", "classes.txt")


def read_yolo(root: Path, split: str | None = None, missing: Missing = "error") -> SampleSet:
    """Read boxes or polygons as Ultralytics, Roboflow, Label Studio and CVAT write them.

    A line is a class number and either x and y of the center, width and height of a box, or x and
    y of each corner of a polygon, all relative to the upright image. Images without a text file,
    or with an empty one, are negatives. Class names are in ``data.yaml`` or ``classes.txt``, in the
    root or above it; without them they are numbers. If there is any polygon, there are masks.

    Args:
        root: The folder that holds ``images`` and ``labels``, or Roboflow's folder above it.
        split: A folder in both, such as ``"val"``, or Roboflow's folder that holds both. Default:
            all images in both, or Roboflow's ``train``.
        missing: Accepted as by the other readers; no file can be missing here.

    Returns:
        Samples sorted by path.

    Raises:
        SsgcamError: If a folder is missing, or a line is wrong.
    """
    inside = split and (root / split / "labels").is_dir()
    root = YOLO.locate(root / str(split) if inside else root)
    listed = []
    for image in images_below(root / "images" / ("" if inside else split or "")):
        source = root / "labels" / image.relative_to(root / "images").with_suffix(".txt")
        size = upright_size(image)
        lines = read_text(source).splitlines() if source.is_file() else []
        objects = [
            _yolo_object(line.split(), size, f"line {number} of '{source}'")
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]
        listed.append(Annotated(image, source, size, objects))
    last = max((found.label or 0 for each in listed for found in each.objects), default=-1)
    names = _yolo_names(root) or [str(number) for number in range(last + 1)]
    return Collector(root, missing, stored=False).annotated("yolo", names, listed)


def _yolo_object(cells: list[str], size: tuple[int, int], where: str) -> Annotation:
    label = whole(cells[0], f"the class in {where}")
    try:
        points = np.array(cells[1:], dtype=float).reshape(-1, 2) * size
    except ValueError:
        points = np.empty((0, 2))
    if len(points) < 2 or not np.isfinite(points).all():
        raise SsgcamError(
            f"{where} is {' '.join(cells)!r}; it must be a class and x, y, width, height, or a "
            "class and x, y of three or more corners"
        )
    if len(points) == 2:
        (x, y), (width, height) = points.tolist()
        return Annotation(label, (x - width / 2, y - height / 2, width, height))
    return _polygon_object(label, points, [points.ravel().tolist()])


def _polygon_object(label: int | None, points: NDArray[Any], segmentation: Any) -> Annotation:
    (x, y), (width, height) = points.min(0).tolist(), np.ptp(points, axis=0).tolist()
    return Annotation(label, (x, y, width, height), segmentation, width * height)


def _yolo_names(root: Path) -> list[str]:
    """Read class names from the first of ``data.yaml`` and ``classes.txt`` that is there."""
    for path in (folder / name for folder in (root, root.parent) for name in _NAME_FILES):
        if path.is_file() and path.suffix == ".txt":
            return [line.strip() for line in read_text(path).splitlines() if line.strip()]
        if path.is_file():
            try:
                names = yaml.safe_load(read_text(path)).get("names") or []
                return [
                    str(name) for name in (names.values() if isinstance(names, dict) else names)
                ]
            except (yaml.YAMLError, AttributeError, TypeError) as error:
                raise SsgcamError(
                    f"'{path}' has no list of names ({first_line(error)}); correct it"
                ) from error
    return []


def read_geojson(
    root: Path, images: str = "images", masks: str = "masks", missing: Missing = "error"
) -> SampleSet:
    """Read a folder of images beside a folder of GeoJSON files with the same names.

    Polygons and multipolygons (with holes) in pixels of the upright image are objects; other
    geometries are left out. The class is ``properties.classification.name``; what QuPath
    names ``Ignore*`` is ignored; objects without a class are of class ``object``.

    Args:
        root: The folder that holds both folders.
        images: The images' folder, relative to the root; its subfolders are searched too.
        masks: The folder of the GeoJSON files, relative to the root, with the same subfolders.
        missing: ``"error"``, or ``"skip"`` to leave out and count images without a file.

    Returns:
        Samples sorted by path.

    Raises:
        SsgcamError: If a folder or a file is missing, or a file is not GeoJSON.
    """
    Layout("geojson", (masks, images)).locate(root)
    collector = Collector(root, missing, stored=False)
    features = {}
    for image in images_below(root / images):
        source = root / masks / image.relative_to(root / images).with_suffix(".geojson")
        if collector.present(source, listed_in=root / images):
            features[image] = source, _features(source)
    names = sorted({name for _, found in features.values() for name, _ in found} - {"Ignore*"})
    listed = []
    for image, (source, found) in features.items():
        objects = []
        for name, polygons in found:
            points = np.concatenate([outline for outline, *_ in polygons])
            rings = [[ring.ravel().tolist() for ring in polygon] for polygon in polygons]
            label = None if name == "Ignore*" else names.index(name)
            objects.append(_polygon_object(label, points, {"polygons": rings}))
        listed.append(Annotated(image, source, upright_size(image), objects))
    return collector.annotated("geojson", names, listed)


def _features(source: Path) -> list[tuple[str, list[list[NDArray[Any]]]]]:
    """Return class name and polygons (each an outline and its holes) of the objects in a file."""
    content = read_json(source)
    try:
        if isinstance(content, dict):
            content = content.get("features", [content])
        objects = []
        for feature in content:
            shape, properties = feature["geometry"], feature.get("properties") or {}
            name = (properties.get("classification") or {}).get("name") or "object"
            parts = {"Polygon": [shape["coordinates"]], "MultiPolygon": shape["coordinates"]}
            polygons = [
                [np.array(ring, dtype=float)[:, [0, 1]] for ring in part]
                for part in parts.get(shape["type"], ())
            ]
            if polygons:
                objects.append((name, polygons))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SsgcamError(
            f"'{source}' is not GeoJSON with polygons ({type(error).__name__}: {error}); export it "
            "again"
        ) from error
    return objects
