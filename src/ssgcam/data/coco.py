"""How is a COCO instances file (JSON) read?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssgcam.data import rle
from ssgcam.data.collect import Collector, Layout, Missing, check_folder
from ssgcam.data.masks import StoredMask
from ssgcam.data.sample import IGNORE, Mask, SampleSet
from ssgcam.data.tables import read_json
from ssgcam.errors import SsgcamError, require

LAYOUT = Layout("coco", "COCO", ("annotations/instances_*.json",))


class Annotation(NamedTuple):
    """One object of an image.

    Attributes:
        label: Its class index; None: its pixels are ignored, and it is neither label nor box.
        box: x, y, width and height.
        segmentation: Its polygons or RLE (see `segmentation_pixels`), if it has any.
        area: Its area; objects of smaller area lie on top in the mask.
    """

    label: int | None
    box: Sequence[Any]
    segmentation: Any
    area: float


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
    segmentation gives no masks. Polygons are drawn by pycocotools (``pip install 'ssgcam[coco]'``),
    needed only when a mask is read.

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
    check_folder(root)
    source = root / annotations if annotations else _choose_file(root, split)
    content = read_json(source)
    collector = Collector(root, missing)
    try:
        categories = sorted((item["id"], str(item["name"])) for item in content["categories"])
        index = {number: label for label, (number, _) in enumerate(categories)}
        of_image: dict[int, list[Annotation]] = defaultdict(list)
        for item in content["annotations"]:
            box, pixels = item["bbox"], item.get("segmentation")
            label = None if item.get("iscrowd") else index[item["category_id"]]
            area = float(item.get("area") or box[2] * box[3])
            of_image[item["image_id"]].append(Annotation(label, box, pixels, area))
        masks = any(item.segmentation for items in of_image.values() for item in items)
        folder = root / images if images else _images_folder(root, source, content["images"])
        check_folder(folder)
        for record in content["images"]:
            image = folder / record["file_name"]
            if collector.present(image, listed_in=source):
                size = (int(record["width"]), int(record["height"]))
                add_annotated(collector, image, source, of_image[record["id"]], size, masks)
    except SsgcamError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SsgcamError(
            f"'{source}' is not a COCO instances file ({type(error).__name__}: {error}); it needs "
            "images, annotations and categories"
        ) from error
    names = [name for _, name in categories]
    return collector.finish("coco", names, names if masks else ())


def find_coco_files(root: Path) -> list[Path]:
    """List the instances files in ``annotations``, or else the COCO files of annotation tools."""
    published = sorted(root.glob(LAYOUT.signs[0]))
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


def _split_of(path: Path) -> str:
    """The split that a file is for; Roboflow names the folder after it."""
    stem = path.stem.removeprefix("instances_")
    return path.parent.name if stem == "_annotations.coco" else stem


def _choose_file(root: Path, split: str | None) -> Path:
    found = find_coco_files(root) or [LAYOUT.locate(root)]  # raises an error
    splits = [_split_of(path) for path in found]
    if split is None and len(found) == 1:
        return found[0]
    if split not in splits:
        what = f"no split '{split}'" if split else f"{len(found)} splits"
        raise SsgcamError(f"'{root}' has {what}; choose one with --split: {', '.join(splits)}")
    return found[splits.index(split)]


def _images_folder(root: Path, source: Path, images: Sequence[Mapping[str, Any]]) -> Path:
    split = _split_of(source)
    folders = [root / "images" / split, root / split, root / "images", source.parent]
    folders = [folder for folder in folders if folder.is_dir()]
    for folder in folders:
        if images and (folder / images[0]["file_name"]).is_file():
            return folder
    return folders[0] if len(folders) > 1 or source.parent == root else root / split


def add_annotated(
    collector: Collector,
    image: Path,
    source: Path,
    annotations: Iterable[Annotation],
    size: tuple[int, int],
    masks: bool,
) -> None:
    """Add an image with the labels and boxes of its objects, and a mask of them.

    Args:
        collector: Where to add it.
        image: The image file.
        source: The file with the annotations.
        annotations: The objects.
        size: Width and height that the annotation declares.
        masks: Whether the sample gets a mask.
    """
    boxes = [(item.box, item.label) for item in annotations if item.label is not None]
    regions = tuple(
        (IGNORE if item.label is None else item.label + 1, item.segmentation)
        for item in sorted(annotations, key=lambda item: (item.label is not None, -item.area))
        if item.segmentation
    )
    mask = CocoMask(size, regions) if masks else None
    collector.add(image, source, boxes, "width_height", mask=mask, size=size)


@dataclass(frozen=True)
class CocoMask(StoredMask):
    """A mask painted from polygons or RLE.

    Attributes:
        size: Width and height in the annotation's pixels.
        regions: Mask value and segmentation of each object; later ones lie on top.
    """

    size: tuple[int, int]
    regions: tuple[tuple[int, Any], ...] = field(hash=False)

    def read(self, size: tuple[int, int]) -> Mask:
        """Paint the mask; see `ssgcam.data.sample.MaskSource.read`."""
        width, height = self.size
        mask = np.zeros((height, width), dtype=np.uint8)
        for value, segmentation in self.regions:
            mask[segmentation_pixels(segmentation, height, width)] = value
        return self.upright(mask, size, "a mask made of polygons")


def segmentation_pixels(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels of a COCO segmentation.

    Args:
        segmentation: RLE, plain or compressed; or a list of polygons ``[x0, y0, x1, y1, ...]``; or
            ``{"polygons": [[outline, hole, ...], ...]}``, whose rings are such polygons.
        height: Of its image.
        width: Of its image.

    Returns:
        ``bool[H, W]``.

    Raises:
        SsgcamError: If it is damaged, or pycocotools is not installed (polygons only).
    """
    if isinstance(segmentation, Mapping) and "polygons" in segmentation:
        mask = np.zeros((height, width), dtype=bool)
        for outline, *holes in segmentation["polygons"]:
            hidden = segmentation_pixels(holes, height, width)
            mask |= segmentation_pixels([outline], height, width) & ~hidden
        return mask
    if isinstance(segmentation, Mapping):
        return rle.decode({**segmentation, "size": (height, width)})
    # A polygon has three points; pycocotools takes four numbers for a box.
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    coco = require("pycocotools.mask", "coco")
    try:
        parts = coco.frPyObjects(polygons, height, width)
        return np.asarray(coco.decode(coco.merge(parts)), dtype=bool)
    except Exception as error:  # pycocotools raises bare exceptions
        raise SsgcamError(f"a polygon is damaged ({error}); fix it") from error
