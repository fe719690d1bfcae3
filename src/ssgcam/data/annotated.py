"""Reads what annotation tools write: COCO's JSON, YOLO's text files and QuPath's GeoJSON."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ssgcam.data.classes import numbered
from ssgcam.data.collect import Annotated, Annotation, Collector, Layout, Missing, check_folder
from ssgcam.data.frames import upright_size
from ssgcam.data.sample import SampleSet
from ssgcam.data.tables import whole
from ssgcam.errors import SsgcamError, rephrased
from ssgcam.files import read_json, read_lines, read_text
from ssgcam.images import images_below

_WRONG_CONTENT = (LookupError, TypeError, ValueError, AttributeError)
COCO = Layout("coco", ("annotations/instances_*.json",))


def read_coco(
    root: Path,
    split: str | None = None,
    annotations: str | None = None,
    images: str | None = None,
    missing: Missing = "error",
) -> SampleSet:
    """Read COCO's instances: labels, boxes and masks.

    Class i is the i-th category by its published id (the ids have gaps). A box covers all pixels
    that the published one, in continuous coordinates, touches. Crowd annotations are neither
    labels nor boxes; their pixels are ignored. In the mask, smaller objects lie on top of larger
    ones, and all on top of crowds. Images without annotations are negatives. A file without any
    segmentation gives no masks.

    Args:
        root: The folder that holds ``annotations`` and the images' folder, or a JSON file beside
            its images.
        split: Such as ``"val2017"``: ``annotations/instances_val2017.json`` and the images in
            ``val2017`` or ``images/val2017``; or a folder of a Roboflow export, such as ``"train"``.
            Default: the only one there is.
        annotations: The JSON file relative to the root, if it is elsewhere.
        images: The images' folder relative to the root. Default: of ``images/<split>``,
            ``<split>``, ``images`` and the file's own folder, the first that holds the first image.
        missing: ``"error"``, or ``"skip"`` to leave out and count images that don't exist.

    Returns:
        Samples in the file's order.

    Raises:
        SsgcamError: If the root, the file or an image is wrong or missing.
    """
    source = root / annotations if annotations else _choose_file(root, split)
    content = read_json(source)
    what = f"'{source}' is not a COCO instances file"
    with rephrased(what, "it needs images, annotations and categories", *_WRONG_CONTENT):
        categories = sorted((item["id"], str(item["name"])) for item in content["categories"])
        index = {number: label for label, (number, _) in enumerate(categories)}
        of_image: dict[int, list[Annotation]] = defaultdict(list)
        for item in content["annotations"]:
            box = tuple(item["bbox"])
            label = None if item.get("iscrowd") else index[item["category_id"]]
            area = float(item.get("area") or box[2] * box[3])
            found = Annotation(label, box, item.get("segmentation"), area)
            of_image[item["image_id"]].append(found)
        folder = root / images if images else _images_folder(root, source, content["images"])
        check_folder(folder)
        listed = []
        for record in content["images"]:
            size = int(record["width"]), int(record["height"])
            image = folder / record["file_name"]
            listed.append(Annotated(image, source, size, of_image[record["id"]]))
    return Collector(root, missing).annotated("coco", [name for _, name in categories], listed)


def find_coco_files(root: Path) -> list[Path]:
    """List the instances files in ``annotations``, or else the COCO files of annotation tools."""
    published = sorted(root.glob(COCO.signs[0]))
    patterns = ("annotations/*.json", "*.json", "*/_annotations.coco.json")
    others = (path for pattern in patterns for path in sorted(root.glob(pattern)))
    return published or [path for path in others if is_coco_file(path)]


def is_coco_file(path: Path) -> bool:
    """Whether a file is JSON with images, annotations and categories."""
    try:
        content = read_json(path)
    except SsgcamError:
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def _choose_file(root: Path, split: str | None) -> Path:
    found = {_split_of(path): path for path in find_coco_files(root)}
    if not found:
        return COCO.locate(root)  # raises an error
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split not in found:
        what = f"no split '{split}'" if split else f"{len(found)} splits"
        raise SsgcamError(f"'{root}' has {what}; choose one with --split: {', '.join(found)}")
    return found[split]


def _split_of(path: Path) -> str:
    """The split that a file is for; Roboflow names the folder after it."""
    stem = path.stem.removeprefix("instances_")
    return path.parent.name if stem == "_annotations.coco" else stem


def _images_folder(root: Path, source: Path, images: list[dict[str, Any]]) -> Path:
    split = _split_of(source)
    folders = [root / "images" / split, root / split, root / "images", source.parent]
    folders = [folder for folder in folders if folder.is_dir()]
    for folder in folders:
        if images and (folder / images[0]["file_name"]).is_file():
            return folder
    return folders[0] if len(folders) > 1 or source.parent == root else root / split


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
    labels = [found.label or 0 for each in listed for found in each.objects]
    names = _yolo_names(root) or numbered(labels, root / "labels")
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
            return read_lines(path)
        if path.is_file():
            what = f"'{path}' has no list of names"
            with rephrased(what, "correct it", yaml.YAMLError, AttributeError, TypeError):
                names = yaml.safe_load(read_text(path)).get("names") or []
                names = list(names.values() if isinstance(names, dict) else names)
                if any(isinstance(name, (list, dict)) for name in names):
                    raise TypeError("a name is a list")
                return list(map(str, names))
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
    with rephrased(f"'{source}' is not GeoJSON with polygons", "export it again", *_WRONG_CONTENT):
        if isinstance(content, dict):
            content = content.get("features", [content])
        objects = []
        for feature in content:
            shape, properties = feature["geometry"], feature.get("properties") or {}
            name = str((properties.get("classification") or {}).get("name") or "object")
            parts = {"Polygon": [shape["coordinates"]], "MultiPolygon": shape["coordinates"]}
            polygons = [
                [np.array(ring, dtype=float)[:, [0, 1]] for ring in part]
                for part in parts.get(shape["type"], ())
            ]
            if polygons:
                objects.append((name, polygons))
    return objects
