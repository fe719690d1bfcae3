"""PASCAL VOC 2012, and the XML that ILSVRC shares with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from ssgcam.data.collect import Collector, Layout, Missing
from ssgcam.data.masks import FileMask, value_table
from ssgcam.data.sample import IGNORE, Sample, SampleSet
from ssgcam.data.text import read_text, whole
from ssgcam.errors import SsgcamError

LAYOUT = Layout(
    "voc",
    "PASCAL VOC",
    ("JPEGImages", "Annotations", "ImageSets"),
    ("VOC2012", "VOCdevkit/VOC2012"),
)
#: The 20 classes; value k of the published masks is the k-th of them.
CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
_LISTS = {"segmentation": "Segmentation", "boxes": "Main"}


def read_voc(
    root: Path,
    split: str = "val",
    task: Literal["segmentation", "boxes"] = "segmentation",
    masks: str = "SegmentationClass",
    difficult: bool = False,
    missing: Missing = "error",
) -> SampleSet:
    """Read PASCAL VOC 2012: masks of ``ImageSets/Segmentation``, or boxes of ``ImageSets/Main``.

    The published corners count from 1; here they count from 0. Both tasks have labels and boxes,
    from the XML; labels are the classes of the boxes. Boxes of body parts are left out.

    Args:
        root: ``VOC2012``, or a folder above it (``VOCdevkit``, or the one that holds that).
        split: ``"train"``, ``"val"`` or ``"trainval"``, or another list beside them.
        task: ``"segmentation"`` (with masks, 255 to be ignored) or ``"boxes"`` (without).
        masks: The masks' folder, such as ``"SegmentationClassAug"``.
        difficult: Whether objects marked difficult count.
        missing: ``"error"``, or ``"skip"`` to leave out and count images of which a file is
            missing.

    Returns:
        Samples in the list's order.

    Raises:
        SsgcamError: If the root, the list, an image, its XML or its mask is wrong or missing.
    """
    base = LAYOUT.locate(root)
    if task not in _LISTS:
        raise SsgcamError(f"task '{task}' is unknown; use 'segmentation' or 'boxes'")
    source = base / "ImageSets" / _LISTS[task] / f"{split}.txt"
    collector = Collector(base, missing)
    table = value_table({IGNORE: IGNORE, **{value: value for value in range(len(CLASSES) + 1)}})
    for name in listed(source):
        image = base / "JPEGImages" / f"{name}.jpg"
        xml = base / "Annotations" / f"{name}.xml"
        mask = base / masks / f"{name}.png"
        files = (image, xml, mask) if task == "segmentation" else (image, xml)
        if not collector.present(*files, listed_in=source):
            continue
        annotation = read_xml(xml)
        frame = collector.frame(image, annotation.size, xml)
        boxes, labels = collector.boxes(
            frame,
            [
                ([float(corner) - 1 for corner in thing.corners], _class(thing.name, xml))
                for thing in annotation.objects
                if difficult or not thing.difficult
            ],
            "inclusive",
            f"a box in '{xml}'",
        )
        file_mask = FileMask(mask, table, orientation=frame.orientation)
        collector.samples.append(
            Sample(
                collector.name(image),
                image,
                tuple(sorted(set(labels))),
                boxes,
                labels,
                mask=file_mask if task == "segmentation" else None,
            )
        )
    return collector.finish("voc", CLASSES, CLASSES if task == "segmentation" else ())


@dataclass(frozen=True)
class XmlObject:
    """One object of an annotation: its class, its corners as written, whether it is difficult."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class Annotation:
    """One XML file: the image's width and height (None if not said) and its objects."""

    size: tuple[int, int] | None
    objects: tuple[XmlObject, ...]


def read_xml(path: Path) -> Annotation:
    """Read a PASCAL VOC annotation.

    Args:
        path: The XML file.

    Returns:
        What it says, corners as written.

    Raises:
        SsgcamError: If it is not XML, or an object lacks its name or a corner.
    """
    try:
        tree = ElementTree.fromstring(read_text(path).strip())
    except ElementTree.ParseError as error:
        raise SsgcamError(f"'{path}' is not XML ({error}); fetch it again") from error
    size = tuple(
        whole(text, f"the {side} in '{path}'")
        for side in ("width", "height")
        if (text := tree.findtext(f"size/{side}"))
    )
    objects = []
    for thing in tree.findall("object"):
        name = thing.findtext("name")
        texts = [thing.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x0, y0, x1, y1 = (float(text or "") for text in texts)
        except ValueError as error:
            raise SsgcamError(f"'{path}' has an object without four corners; fix it") from error
        if not name:
            raise SsgcamError(f"'{path}' has an object without a name; fix it")
        objects.append(XmlObject(name.strip(), (x0, y0, x1, y1), _is_set(thing, "difficult")))
    return Annotation((size[0], size[1]) if len(size) == 2 and all(size) else None, tuple(objects))


def listed(source: Path) -> Sequence[str]:
    """Read the first word of each line of an image list.

    Raises:
        SsgcamError: If there is no such list; it names those that there are.
    """
    if not source.is_file():
        others = sorted(path.stem for path in source.parent.glob("*.txt"))
        hint = f"use one of: {', '.join(others[:8])}" if others else "check the data set's root"
        raise SsgcamError(f"there is no list '{source}'; {hint}")
    return [line.split()[0] for line in read_text(source).splitlines() if line.strip()]


def _is_set(thing: ElementTree.Element, flag: str) -> bool:
    return (thing.findtext(flag) or "0").strip() == "1"


def _class(name: str, path: Path) -> int:
    if name not in CLASSES:
        raise SsgcamError(f"'{path}' has the class '{name}', which is not one of VOC's 20")
    return CLASSES.index(name)
