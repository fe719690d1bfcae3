"""COCO instances JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssgcam.data import rle
from ssgcam.data.collect import Collector, Layout, Missing, check_folder
from ssgcam.data.frames import turned
from ssgcam.data.masks import check_size
from ssgcam.data.sample import IGNORE, LAST_VALUE, Mask, Sample, SampleSet
from ssgcam.data.text import read_json
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
    labels nor boxes; their pixels are to be ignored. In the mask, smaller objects lie on top of
    larger ones, and all on top of crowds. Images without annotations are negatives. A file without
    any segmentation gives no masks. Polygons are drawn by pycocotools (``pip install
    'ssgcam[coco]'``), needed only when a mask is read.

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
                size = (int(record["width"]), int(record["height"]))
                things = of_image[record["id"]]
                sample = _sample(collector, source, image, size, things, index)
                collector.samples.append(sample if masks else replace(sample, mask=None))
    except SsgcamError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
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


def _sample(
    collector: Collector,
    source: Path,
    image: Path,
    size: tuple[int, int],
    things: Sequence[Mapping[str, Any]],
    index: Mapping[int, int],
) -> Sample:
    frame = collector.frame(image, size, source)
    objects = [thing for thing in things if not thing.get("iscrowd")]
    corners = []
    for thing in objects:
        x, y, width, height = (float(number) for number in thing["bbox"])
        corners.append(((x, y, x + width, y + height), index[thing["category_id"]]))
    boxes, box_labels = collector.boxes(
        frame, corners, "exclusive", f"a box of '{image.name}' in '{source}'"
    )
    # Painted in this order: crowds first, then objects from the largest to the smallest.
    painted = sorted(things, key=lambda thing: (not thing.get("iscrowd"), -_area(thing)))
    regions = tuple(
        Region(
            IGNORE if thing.get("iscrowd") else index[thing["category_id"]] + 1,
            _frozen(thing.get("segmentation")),
        )
        for thing in painted
        if thing.get("segmentation")
    )
    return Sample(
        collector.name(image),
        image,
        tuple(sorted({label for _, label in corners})),
        boxes,
        box_labels,
        mask=CocoMask(size, regions, frame.orientation),
    )


def _area(thing: Mapping[str, Any]) -> float:
    return float(thing.get("area") or thing["bbox"][2] * thing["bbox"][3])


def _frozen(segmentation: Any) -> Any:
    """Return polygons or an RLE as nested tuples, so that a sample can't change."""
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        return "rle", counts if isinstance(counts, (str, bytes)) else tuple(counts)
    # A polygon has three points; pycocotools takes four numbers for a box.
    return "polygons", tuple(tuple(map(float, part)) for part in segmentation if len(part) >= 6)


@dataclass(frozen=True)
class Region:
    """One annotation's pixels.

    Attributes:
        value: Its mask value.
        shape: ``("rle", counts)`` or ``("polygons", ((x0, y0, x1, y1, ...), ...))``.
    """

    value: int
    shape: tuple[str, Any]


@dataclass(frozen=True)
class CocoMask:
    """A mask painted from COCO annotations; later regions lie on top.

    Attributes:
        size: Width and height in the annotation's pixels.
        regions: The annotations in painting order.
        orientation: EXIF orientation that turns the annotation's pixels upright.
    """

    size: tuple[int, int]
    regions: tuple[Region, ...]
    orientation: int = 1

    def read(self, size: tuple[int, int]) -> Mask:
        """Paint the mask; see `ssgcam.data.sample.MaskSource.read`."""
        width, height = self.size
        mask = np.zeros((height, width), dtype=np.uint8)
        for region in self.regions:
            mask[self._pixels(*region.shape)] = region.value
        upright = turned(mask, self.orientation)
        check_size((upright.shape[1], upright.shape[0]), size, "a mask of a COCO set")
        return np.ascontiguousarray(upright)

    def _pixels(self, form: str, shape: Any) -> NDArray[np.bool_]:
        width, height = self.size
        if form == "rle":
            return rle.decode({"size": (height, width), "counts": shape})
        if not shape:
            return np.zeros((height, width), dtype=bool)
        coco = require("pycocotools.mask", "coco")
        try:
            parts = coco.frPyObjects([list(polygon) for polygon in shape], height, width)
            return np.asarray(coco.decode(coco.merge(parts)), dtype=bool)
        except Exception as error:  # pycocotools raises bare exceptions
            raise SsgcamError(f"a polygon of a COCO set is damaged ({error}); fix it") from error
