"""Reads PASCAL VOC 2012 and ILSVRC 2012 (ImageNet), which share their XML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from ssgcam.data.collect import Collector, Layout, Missing
from ssgcam.data.masks import FileMask
from ssgcam.data.sample import IGNORE, SampleSet
from ssgcam.data.tables import read_text, rows, whole
from ssgcam.errors import SsgcamError

VOC = Layout("voc", ("JPEGImages", "Annotations", "ImageSets"), ("VOC2012", "VOCdevkit/VOC2012"))
ILSVRC = Layout(
    "ilsvrc", tuple(f"{name}/CLS-LOC" for name in ("Data", "Annotations", "ImageSets")), ("ILSVRC",)
)
_NAMES = """
aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person
pottedplant sheep sofa train tvmonitor
"""
#: The 20 classes; value k of the published masks is the k-th of them.
CLASSES = tuple(_NAMES.split())
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
    base = VOC.locate(root)
    if task not in _LISTS:
        raise SsgcamError(f"task '{task}' is unknown; use 'segmentation' or 'boxes'")
    source = base / "ImageSets" / _LISTS[task] / f"{split}.txt"
    collector = Collector(base, missing)
    values = {value: value for value in (*range(len(CLASSES) + 1), IGNORE)}
    for name in read_list(source):
        image = base / "JPEGImages" / f"{name}.jpg"
        xml = base / "Annotations" / f"{name}.xml"
        mask = FileMask(base / masks / f"{name}.png", values) if task == "segmentation" else None
        if not collector.present(image, xml, *([mask.path] if mask else []), listed_in=source):
            continue
        size, objects = read_xml(xml, CLASSES)
        boxes = [
            ([corner - 1 for corner in corners], label)
            for corners, label, is_difficult in objects
            if difficult or not is_difficult
        ]
        collector.add(image, xml, boxes, mask=mask, size=size)
    return collector.finish("voc", CLASSES, CLASSES if task == "segmentation" else ())


def read_ilsvrc(root: Path, split: str = "val", missing: Missing = "error") -> SampleSet:
    """Read ILSVRC 2012 in the layout of its CLS-LOC archive.

    Class i is the i-th synset of ``LOC_synset_mapping.txt`` (in the root or above it), which is
    sorted, as torchvision's weights expect. Corners are taken as inclusive, counted from 0: the
    published ones reach from 0 to width - 1, and some one pixel further, which is clipped.

    Args:
        root: ``ILSVRC``, which holds ``Data/CLS-LOC``, or the folder that holds it.
        split: ``"val"``, ``"train_loc"`` or another list of ``ImageSets/CLS-LOC``. The images are
            in the folder of the first word of its name (``train``, ``val``).
        missing: ``"error"``, or ``"skip"`` to leave out and count images without file or XML.

    Returns:
        Samples in the list's order; labels are the classes of the boxes.

    Raises:
        SsgcamError: If the root, the list, the mapping, an image or its XML is wrong or missing.
    """
    base = ILSVRC.locate(root)
    source = base / "ImageSets" / "CLS-LOC" / f"{split}.txt"
    folder = split.split("_")[0]
    collector = Collector(base, missing)
    mappings = [folder / "LOC_synset_mapping.txt" for folder in (base, base.parent)]
    mapping = next((path for path in mappings if path.is_file()), None)
    if mapping is None:
        raise SsgcamError(
            f"'{mappings[0]}' is missing, which names the classes; put it there or beside '{base}'"
        )
    synsets = sorted(rows(mapping, "synset words"))
    for name in read_list(source):
        image = base / "Data" / "CLS-LOC" / folder / f"{name}.JPEG"
        xml = base / "Annotations" / "CLS-LOC" / folder / f"{name}.xml"
        if not collector.present(image, xml, listed_in=source):
            continue
        size, objects = read_xml(xml, [synset for synset, _ in synsets])
        boxes = [(corners, label) for corners, label, _ in objects]
        collector.add(image, xml, boxes, size=size)
    return collector.finish("ilsvrc", [words.split(",")[0] for _, words in synsets])


def read_xml(
    path: Path, classes: Sequence[str]
) -> tuple[tuple[int, int] | None, list[tuple[list[float], int, bool]]]:
    """Read a PASCAL VOC annotation.

    Args:
        path: The XML file.
        classes: The classes of the set, as the XML names them.

    Returns:
        The image's width and height (None if not declared); and for each object its corners as
        written, its class index, and whether it is marked difficult.

    Raises:
        SsgcamError: If it is not XML, or an object lacks a corner or has an unknown class.
    """
    try:
        tree = ElementTree.fromstring(read_text(path).strip())
    except ElementTree.ParseError as error:
        raise SsgcamError(f"'{path}' is not XML ({error}); fetch it again") from error
    width, height = (
        whole(tree.findtext(f"size/{side}") or 0, f"the {side} in '{path}'")
        for side in ("width", "height")
    )
    objects = []
    for element in tree.findall("object"):
        name = (element.findtext("name") or "").strip()
        texts = [element.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        try:
            corners = [float(text or "") for text in texts]
        except ValueError as error:
            raise SsgcamError(f"'{path}' has an object without four corners; fix it") from error
        if name not in classes:
            raise SsgcamError(
                f"'{path}' has an object of class '{name}', which is not one of the "
                f"{len(classes)} classes of its set; fix it"
            )
        difficult = (element.findtext("difficult") or "0").strip() == "1"
        objects.append((corners, classes.index(name), difficult))
    return ((width, height) if width and height else None), objects


def read_list(source: Path) -> list[str]:
    """Read the first word of each line of an image list.

    Raises:
        SsgcamError: If there is no such list; it names the lists that are there.
    """
    if not source.is_file():
        others = sorted(path.stem for path in source.parent.glob("*.txt"))
        hint = f"use one of: {', '.join(others[:8])}" if others else "check the data set's root"
        raise SsgcamError(f"there is no list '{source}'; {hint}")
    return [line.split()[0] for line in read_text(source).splitlines() if line.strip()]
