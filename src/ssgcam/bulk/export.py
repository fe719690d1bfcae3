"""Which files do other tools open? The objects of masks as COCO, YOLO, GeoJSON and Label Studio files.

OUT/coco.json             COCO annotations: one for each object, its mask as compressed RLE
OUT/yolo/                 an Ultralytics segmentation data set: ``data.yaml``, ``images/``, ``labels/``
OUT/geojson/a/1.geojson   polygons in pixels, as QuPath imports them
OUT/labelstudio.json      tasks with predictions; OUT/labelstudio.xml is their labeling interface

An object is a set of pixels of one class that are connected by their sides. Its polygon runs along the
pixels' edges and has exactly its area. YOLO's and Label Studio's polygons have no holes: there a hole is
joined to the outer ring by a cut of no width. YOLO's files have no place for a confidence.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree.ElementTree import Element, SubElement, tostring

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from pycocotools import mask as run_lengths
from scipy import ndimage

from ssgcam.bulk.inputs import InputImage
from ssgcam.bulk.mask_files import Labels, voc_colors
from ssgcam.data.masks import read_raw_mask
from ssgcam.files import write_json, write_text, written_whole
from ssgcam.version import __version__

ExportFormat = Literal["coco", "yolo", "geojson", "labelstudio"]
Ring = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MaskObject:
    """Pixels of one class that are connected by their sides.

    Attributes:
        value: Of the class in the mask.
        area: The rows and columns of the box around it.
        mask: ``[height, width]`` bool, inside the box.
    """

    value: int
    area: tuple[slice, slice]
    mask: NDArray[np.bool_]

    def rings(self) -> list[Ring]:
        """The outer ring and the holes of the polygon, each ``[n, 2]``: x and y in pixels, open."""
        height, width = self.mask.shape
        # each pixel's closed square on a grid that also has the pixels' edges and corners
        grid = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
        grid[1::2, 1::2] = self.mask
        squares = np.pad(cv2.dilate(grid, np.ones((3, 3), np.uint8)), 1)
        contours, tree = cv2.findContours(squares, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        order = np.argsort(tree[0, :, 3] >= 0, kind="stable")  # the outer ring has no parent
        rows, columns = self.area
        corner = columns.start, rows.start
        return [_along_edges(contours[n][:, 0] - 1) / 2 + corner for n in order]


def _along_edges(points: NDArray[Any]) -> NDArray[Any]:
    """Corners of a contour ``[n, 2]`` on the doubled grid, without OpenCV's diagonal shortcuts."""
    following = np.roll(points, -1, axis=0)
    diagonal = (points != following).all(axis=1)
    corners = np.where(points % 2 == 0, points, following)[diagonal]  # where pixels' corners are
    points = np.insert(points, np.flatnonzero(diagonal) + 1, corners, axis=0)
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns: NDArray[np.bool_] = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return points[turns]


def without_holes(rings: Sequence[Ring]) -> Ring:
    """One ring around the same area: each hole is joined to the outer ring by a cut of no width."""
    outer, *holes = rings
    for hole in holes:
        distances = np.linalg.norm(outer[:, None] - hole, axis=2)
        i, j = np.unravel_index(distances.argmin(), distances.shape)
        around = np.concatenate([np.roll(hole, -j, axis=0), hole[[j]]])
        outer = np.concatenate([outer[: i + 1], around, outer[i:]])
    return outer


def objects_of(labels: Labels) -> list[MaskObject]:
    """The objects of a mask ``[H, W]``, by value and then from the top."""
    found = []
    for value in np.unique(labels[labels > 0]).tolist():
        components, _ = ndimage.label(labels == value)
        for index, area in enumerate(ndimage.find_objects(components), 1):
            found.append(MaskObject(value, area, components[area] == index))
    return found


def without_small_objects(labels: Labels, least: int) -> Labels:
    """A mask ``[H, W]`` whose objects of fewer than ``least`` pixels have become background."""
    kept = labels.copy()
    for found in objects_of(labels) if least > 1 else ():
        if found.mask.sum() < least:
            kept[found.area][found.mask] = 0
    return kept


@dataclass(frozen=True)
class Mask:
    """An image and its mask.

    Attributes:
        image: The image.
        path: The mask's file, indexed, with 0 for background.
        facts: What the manifest says of it.
    """

    image: InputImage
    path: Path
    facts: Mapping[str, Any]

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The facts of each class that has pixels in the mask."""
        return [one for one in self.facts["classes"] if one["pixels"]]

    @property
    def predicted_iou(self) -> float:
        """The lowest of its classes; 2 for an empty mask, which comes last."""
        return min((one["predicted_iou"] for one in self.objects), default=2.0)

    @property
    def probabilities(self) -> dict[int, float]:
        """Of the class, by its value in the mask."""
        return {one["value"]: one["probability"] for one in self.facts["classes"]}

    def labels(self) -> Labels:
        """The mask, ``[H, W]``."""
        return read_raw_mask(self.path).astype(np.uint8)


def export_masks(
    formats: Iterable[ExportFormat], images: Sequence[Mask], names: Sequence[str], out: Path
) -> None:
    """Write the objects of masks for other tools, each file whole or not at all.

    Args:
        formats: Of ``"coco"``, ``"yolo"``, ``"geojson"`` and ``"labelstudio"``.
        images: The images with their masks.
        names: Of the classes; ``names[k]`` has value k + 1 in the masks.
        out: The folder to write to, see the top of this module.

    Raises:
        SsgcamError: If a mask can't be read or a file not written.
    """
    writers = {"coco": _coco, "yolo": _yolo, "geojson": _geojson, "labelstudio": _labelstudio}
    for name in formats:
        writers[name](images, names, out)


def _coco(images: Sequence[Mask], names: Sequence[str], out: Path) -> None:
    entries, annotations = [], list[dict[str, Any]]()
    for number, (each, labels, objects) in enumerate(_read(images), 1):
        height, width = labels.shape
        name = each.image.name
        entries.append({"id": number, "file_name": name, "width": width, "height": height})
        for found in objects:
            mask = np.zeros(labels.shape, dtype=np.uint8)
            mask[found.area] = found.mask
            runs = run_lengths.encode(np.asfortranarray(mask))
            box, area = run_lengths.toBbox(runs).astype(int).tolist(), int(run_lengths.area(runs))
            place = {"bbox": box, "area": area, "iscrowd": 0}
            place |= {"segmentation": {"size": runs["size"], "counts": runs["counts"].decode()}}
            about = {"category_id": found.value, "score": each.probabilities[found.value]}
            annotations.append({"id": len(annotations) + 1, "image_id": number, **about, **place})
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(names)]
    content = {"categories": categories, "images": entries, "annotations": annotations}
    write_json(out / "coco.json", content)


def _yolo(images: Sequence[Mask], names: Sequence[str], out: Path) -> None:
    folder = out / "yolo"
    for each, labels, objects in _read(images):
        lines = []
        for found in objects:
            ring = without_holes(found.rings()) / labels.shape[::-1]
            lines.append(" ".join([str(found.value - 1), *(f"{x:.6f}" for x in ring.ravel())]))
        output, suffix = each.image.output, each.image.path.suffix
        write_text(folder / "labels" / f"{output}.txt", "".join(f"{line}\n" for line in lines))
        with written_whole(folder / "images" / f"{output}{suffix}") as temporary:
            shutil.copyfile(each.image.path, temporary)
    content = {"path": str(folder), "train": "images", "val": "images"}
    text = yaml.safe_dump({**content, "names": dict(enumerate(names))}, sort_keys=False)
    write_text(folder / "data.yaml", text)


def _geojson(images: Sequence[Mask], names: Sequence[str], out: Path) -> None:
    for each, _, objects in _read(images):
        features = []
        for found in objects:
            value = found.value
            rings = [[*ring.tolist(), ring[0].tolist()] for ring in found.rings()]
            label = {"name": names[value - 1], "color": list(voc_colors()[value])}
            measured = {"probability": each.probabilities[value]}
            about = {"objectType": "annotation", "classification": label, "measurements": measured}
            geometry = {"type": "Polygon", "coordinates": rings}
            features.append({"type": "Feature", "geometry": geometry, "properties": about})
        content = {"type": "FeatureCollection", "features": features}
        write_json(out / "geojson" / f"{each.image.output}.geojson", content)


def _labelstudio(images: Sequence[Mask], names: Sequence[str], out: Path) -> None:
    tasks = []
    for each, labels, objects in _read(images):
        height, width = labels.shape
        kind: dict[str, Any] = {"type": "polygonlabels", "from_name": "label", "to_name": "image"}
        kind |= {"original_width": width, "original_height": height, "image_rotation": 0}
        result: list[dict[str, Any]] = []
        for number, found in enumerate(objects):
            points = (100 * without_holes(found.rings()) / (width, height)).tolist()
            value = {"points": points, "closed": True, "polygonlabels": [names[found.value - 1]]}
            score = each.probabilities[found.value]
            result.append({"id": f"object{number}", "score": score, "value": value, **kind})
        top = max((region["score"] for region in result), default=0.0)
        prediction = {"model_version": f"ssgcam {__version__}", "score": top, "result": result}
        local = each.image.path.absolute().as_posix().lstrip("/")
        data = {"image": f"/data/local-files/?d={local}"}
        tasks.append({"data": data, "predictions": [prediction]})
    write_json(out / "labelstudio.json", tasks)
    view = Element("View")  # the labeling interface
    SubElement(view, "Image", name="image", value="$image")
    choices = SubElement(view, "PolygonLabels", name="label", toName="image")
    for number, name in enumerate(names, 1):
        SubElement(choices, "Label", value=name, background=f"#{bytes(voc_colors()[number]).hex()}")
    write_text(out / "labelstudio.xml", tostring(view, encoding="unicode") + "\n")


def _read(images: Iterable[Mask]) -> Iterator[tuple[Mask, Labels, list[MaskObject]]]:
    for each in images:
        labels = each.labels()
        yield each, labels, objects_of(labels)
