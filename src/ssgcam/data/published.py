"""Reads published data sets: PASCAL VOC, ILSVRC (ImageNet), CUB-200-2011 and WSOL's metadata."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from ssgcam.data.classes import numbered
from ssgcam.data.collect import Collector, Layout, Missing, check_folder
from ssgcam.data.masks import FileMask, PaintedMask
from ssgcam.data.sample import IGNORE, SampleSet
from ssgcam.data.tables import rows, whole
from ssgcam.errors import SsgcamError, rephrased
from ssgcam.files import read_lines, read_text

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
    missing: Missing = "error",
) -> SampleSet:
    """Read PASCAL VOC 2012: masks of ``ImageSets/Segmentation``, or boxes of ``ImageSets/Main``.

    The published corners count from 1; here they count from 0. Both tasks have labels and boxes,
    from the XML; labels are the classes of the boxes. Boxes of body parts and of objects marked
    difficult are left out.

    Args:
        root: ``VOC2012``, or a folder above it (``VOCdevkit``, or the one that holds that).
        split: ``"train"``, ``"val"`` or ``"trainval"``, or another list beside them.
        task: ``"segmentation"`` (with masks, 255 to be ignored) or ``"boxes"`` (without).
        masks: The masks' folder, such as ``"SegmentationClassAug"``.
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
        size, boxes = read_xml(xml, CLASSES, first=1, difficult=False)
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
        size, boxes = read_xml(xml, [synset for synset, _ in synsets])
        collector.add(image, xml, boxes, size=size)
    return collector.finish("ilsvrc", [words.split(",")[0] for _, words in synsets])


def read_xml(
    path: Path, classes: Sequence[str], first: int = 0, difficult: bool = True
) -> tuple[tuple[int, int] | None, list[tuple[list[float], int]]]:
    """Read a PASCAL VOC annotation.

    Args:
        path: The XML file.
        classes: The classes of the set, as the XML names them.
        first: The number of the first pixel; corners are returned as counted from 0.
        difficult: Whether objects marked difficult count.

    Returns:
        The image's width and height (None if not declared); and the corners and the class index of
        each object.

    Raises:
        SsgcamError: If it is not XML, or an object lacks a corner or has an unknown class.
    """
    with rephrased(f"'{path}' is not XML", "fetch it again", ElementTree.ParseError):
        tree = ElementTree.fromstring(read_text(path).strip())
    width, height = (
        whole(tree.findtext(f"size/{side}") or 0, f"the {side} in '{path}'")
        for side in ("width", "height")
    )
    boxes = []
    for element in tree.findall("object"):
        name = (element.findtext("name") or "").strip()
        texts = [element.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        with rephrased(f"'{path}' has an object without four corners", "correct it", ValueError):
            corners = [float(text or "") - first for text in texts]
        if name not in classes:
            raise SsgcamError(f"'{path}' has an object of the unknown class '{name}'; correct it")
        if difficult or (element.findtext("difficult") or "0").strip() != "1":
            boxes.append((corners, classes.index(name)))
    return ((width, height) if width and height else None), boxes


def read_list(source: Path) -> list[str]:
    """Read the first word of each line of an image list.

    Raises:
        SsgcamError: If there is no such list; it names the lists that are there.
    """
    if not source.is_file():
        others = sorted(path.stem for path in source.parent.glob("*.txt"))
        hint = f"use one of: {', '.join(others[:8])}" if others else "check the data set's root"
        raise SsgcamError(f"there is no list '{source}'; {hint}")
    return [line.split()[0] for line in read_lines(source)]


_CUB_LISTS = {
    "train_test_split.txt": "image_id is_training_image",
    "image_class_labels.txt": "image_id class_id",
    "bounding_boxes.txt": "image_id x y width height",
}
CUB = Layout("cub", ("images.txt", "images", *_CUB_LISTS, "classes.txt"), ("CUB_200_2011",))
# The masks average five annotators in steps of 51: from 128 on, at least three agree.
_MAJORITY = {value: int(value >= 128) for value in range(256)}
_SPLITS = {"train": ("1",), "test": ("0",), "all": ("0", "1")}


def read_cub(
    root: Path, split: Literal["train", "test", "all"] = "test", missing: Missing = "error"
) -> SampleSet:
    """Read CUB-200-2011.

    A published box is x, y, width and height; x and y are counted from 0 here, and the last pixel
    is x + width - 1. (The WSOL metadata of the same birds say x + width, one pixel more.) If the
    segmentations, a separate archive, are in the root or beside it, they become masks: 1 where at
    least three of five annotators marked the bird.

    Args:
        root: ``CUB_200_2011``, or the folder that holds it.
        split: ``"test"``, ``"train"`` or ``"all"``.
        missing: ``"error"``, or ``"skip"`` to leave out and count images of which a file is
            missing.

    Returns:
        Samples in the order of ``images.txt``, with one label and one box each.

    Raises:
        SsgcamError: If the root, a list, an image or a mask is wrong or missing.
    """
    base = CUB.locate(root)
    if split not in _SPLITS:
        raise SsgcamError(f"--split {split} is unknown; use test, train or all")
    source = base / "images.txt"
    collector = Collector(base, missing)
    tables = {
        name: {number: cells for number, *cells in rows(base / name, columns)}
        for name, columns in _CUB_LISTS.items()
    }
    names = [name for _, name in rows(base / "classes.txt", "class_id class_name")]
    folders = (base / "segmentations", base.parent / "segmentations")
    masks = next((folder for folder in folders if folder.is_dir()), None)
    for number, name in rows(source, "image_id image_name"):
        lacking = next((table for table, found in tables.items() if number not in found), None)
        if lacking:
            raise SsgcamError(
                f"image {number} of '{source}' is not in '{base / lacking}'; fetch the list again"
            )
        (member,), (label,), box = (table[number] for table in tables.values())
        if member not in _SPLITS[split]:
            continue
        image = base / "images" / name
        path = (masks / name).with_suffix(".png") if masks else image
        if collector.present(image, path, listed_in=source):
            index = whole(label, f"the class of image {number} of '{source}'") - 1
            collector.add(
                image,
                base / "bounding_boxes.txt",
                [(box, index)],
                "width_height",
                mask=FileMask(path, _MAJORITY) if masks else None,
            )
    return collector.finish("cub", names, ("object",) if masks else ())


WSOL = Layout("wsol", ("image_ids.txt", "class_labels.txt"))


def read_wsol(
    root: Path, images: str | Path | None = None, missing: Missing = "error"
) -> SampleSet:
    """Read one split of the WSOL benchmark's ``metadata``: CUB, ILSVRC, OpenImages or alike.

    ``image_ids.txt`` lists the images, ``class_labels.txt`` their classes, ``image_sizes.txt`` (if
    there) their sizes, and ``localization.txt`` (if there) either boxes, a line each with
    inclusive corners counted from 0, or mask files with a file of what to ignore.

    Args:
        root: A split's folder, such as ``metadata/CUB/test``.
        images: The folder that image names (and mask names) are relative to; default:
            ``dataset/CUB`` beside ``metadata``, as the benchmark has it.
        missing: ``"error"``, or ``"skip"`` to leave out and count images of which a file is
            missing.

    Returns:
        Samples in the order of ``image_ids.txt``, named by their line in it.

    Raises:
        SsgcamError: If the root, a list, an image or a mask is wrong or missing.
    """
    base = WSOL.locate(root)
    if images is None:
        dataset = base.resolve().parent
        images = dataset.parent.parent / "dataset" / dataset.name
        if not images.is_dir():
            raise SsgcamError(
                f"the images of '{base}' are not in '{images}'; say where with images=FOLDER"
            )
    images = Path(images)
    check_folder(images)
    collector = Collector(base, missing)
    classes, sizes_file, localization = (
        base / f"{name}.txt" for name in ("class_labels", "image_sizes", "localization")
    )
    labels = {
        name: whole(label, f"the class of '{name}' in '{classes}'")
        for name, label in rows(classes, "image class", ",")
    }
    where = f"a size in '{sizes_file}'"
    listed = rows(sizes_file, "image width height", ",") if sizes_file.is_file() else ()
    sizes = {name: (whole(width, where), whole(height, where)) for name, width, height in listed}
    boxes: dict[str, list[list[str]]] = defaultdict(list)
    regions: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    # Three columns in the first line are masks, five are boxes.
    first = read_text(localization).partition("\n")[0] if localization.is_file() else ""
    if first.count(",") == 2:
        for name, mask, ignore in rows(localization, "image mask ignore", ","):
            regions[name] += [(1, images / mask)] + ([(IGNORE, images / ignore)] if ignore else [])
    elif first:
        for name, *corners in rows(localization, "image x0 y0 x1 y1", ","):
            boxes[name].append(corners)
    source = base / "image_ids.txt"
    for (name,) in rows(source, "image", ","):
        if name not in labels:
            raise SsgcamError(f"'{name}' is not in '{classes}'; add its class")
        painted = sorted(regions[name], reverse=True)  # the object on top of what is ignored
        if collector.present(images / name, *(path for _, path in painted), listed_in=source):
            collector.add(
                images / name,
                base,
                [(corners, labels[name]) for corners in boxes[name]],
                labels=[labels[name]],
                mask=PaintedMask(tuple(painted)) if painted else None,
                size=sizes.get(name),
                name=name,
            )
    names = numbered(labels.values(), classes)
    return collector.finish("wsol", names, ("object",) if any(regions.values()) else ())
