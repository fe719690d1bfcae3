"""How is a COCO instances file (JSON) read?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssgcam.data import rle
from ssgcam.data.collect import Collector, Layout, Missing, check_folder
from ssgcam.data.masks import StoredMask
from ssgcam.data.sample import IGNORE, LAST_VALUE, Mask, SampleSet
from ssgcam.data.tables import read_json
from ssgcam.errors import SsgcamError, require

LAYOUT = Layout("coco", "COCO", ("annotations/instances_*.json",))


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
        root: The folder that holds ``annotations`` and the images' folder.
        split: Such as ``"val2017"``: ``annotations/instances_val2017.json`` and the images in
            ``val2017`` or ``images/val2017``. Default: the only one there is.
        annotations: The JSON file relative to the root, if it is elsewhere.
        images: The images' folder relative to the root, if it is elsewhere.
        missing: ``"error"``, or ``"skip"`` to leave out and count images that don't exist.

    Returns:
        Samples in the file's order.

    Raises:
        SsgcamError: If the root, the file or an image is wrong or missing.
    """
    check_folder(root)
    source = root / annotations if annotations else _find_annotations(root, split)
    split = split or source.stem.removeprefix("instances_")
    if images is None:
        images = f"images/{split}" if (root / "images" / split).is_dir() else split
    check_folder(root / images)
    content = read_json(source)
    collector = Collector(root, missing)
    try:
        categories = sorted((item["id"], str(item["name"])) for item in content["categories"])
        index = {number: label for label, (number, _) in enumerate(categories)}
        of_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for item in content["annotations"]:
            of_image[item["image_id"]].append(item)
        masks = any(item.get("segmentation") for item in content["annotations"])
        for record in content["images"]:
            image = root / images / record["file_name"]
            if collector.present(image, listed_in=source):
                items = of_image[record["id"]]
                boxes = [
                    (i["bbox"], index[i["category_id"]]) for i in items if not i.get("iscrowd")
                ]
                size = (int(record["width"]), int(record["height"]))
                mask = CocoMask(size, _regions(items, index)) if masks else None
                collector.add(image, source, boxes, "width_height", mask=mask, size=size)
    except SsgcamError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SsgcamError(
            f"'{source}' is not a COCO instances file ({type(error).__name__}: {error}); it needs "
            "images, annotations and categories"
        ) from error
    names = [name for _, name in categories]
    if len(names) > LAST_VALUE:
        raise SsgcamError(
            f"'{source}' has {len(names)} categories, and a mask can't tell more than "
            f"{LAST_VALUE} apart; leave some out"
        )
    return collector.finish("coco", names, names if masks else ())


def _find_annotations(root: Path, split: str | None) -> Path:
    found = sorted(LAYOUT.locate(root).glob(LAYOUT.signs[0]))
    splits = [path.stem.removeprefix("instances_") for path in found]
    if split is None and len(found) == 1:
        return found[0]
    if split not in splits:
        what = f"no split '{split}'" if split else f"{len(found)} splits"
        raise SsgcamError(f"'{root}' has {what}; choose one with split=: {', '.join(splits)}")
    return found[splits.index(split)]


def _regions(
    items: Sequence[Mapping[str, Any]], index: Mapping[int, int]
) -> tuple[tuple[int, Any], ...]:
    """Mask value and segmentation: crowds first, then objects from the largest to the smallest."""

    def order(item: Mapping[str, Any]) -> tuple[bool, float]:
        return not item.get("iscrowd"), -(item.get("area") or item["bbox"][2] * item["bbox"][3])

    return tuple(
        (IGNORE if item.get("iscrowd") else index[item["category_id"]] + 1, item["segmentation"])
        for item in sorted(items, key=order)
        if item.get("segmentation")
    )


@dataclass(frozen=True)
class CocoMask(StoredMask):
    """A mask painted from COCO annotations.

    Attributes:
        size: Width and height in the annotation's pixels.
        regions: Mask value and segmentation (polygons or RLE) of each object; later ones lie on top.
    """

    size: tuple[int, int]
    regions: tuple[tuple[int, Any], ...] = field(hash=False)

    def read(self, size: tuple[int, int]) -> Mask:
        """Paint the mask; see `ssgcam.data.sample.MaskSource.read`."""
        width, height = self.size
        mask = np.zeros((height, width), dtype=np.uint8)
        for value, segmentation in self.regions:
            mask[segmentation_pixels(segmentation, height, width)] = value
        return self.upright(mask, size, "a mask of a COCO set")


def segmentation_pixels(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels of a COCO segmentation.

    Args:
        segmentation: RLE, plain or compressed, or a list of polygons ``[x0, y0, x1, y1, ...]``.
        height: Of its image.
        width: Of its image.

    Returns:
        ``bool[H, W]``.

    Raises:
        SsgcamError: If it is damaged, or pycocotools is not installed (polygons only).
    """
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
        raise SsgcamError(f"a polygon of a COCO set is damaged ({error}); fix it") from error
