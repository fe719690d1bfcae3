"""Reads the text files of the weakly supervised localization benchmark (Choe 2020)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ssgcam.data.collect import Collector, Layout, Missing, check_folder
from ssgcam.data.masks import PaintedMask
from ssgcam.data.sample import IGNORE, SampleSet
from ssgcam.data.tables import read_text, rows, whole
from ssgcam.errors import SsgcamError

LAYOUT = Layout("wsol", ("image_ids.txt", "class_labels.txt"))


def read_wsol(
    root: Path,
    images: str | Path | None = None,
    class_names: Sequence[str] | None = None,
    missing: Missing = "error",
) -> SampleSet:
    """Read one split of the WSOL benchmark's ``metadata``: CUB, ILSVRC, OpenImages or alike.

    ``image_ids.txt`` lists the images, ``class_labels.txt`` their classes, ``image_sizes.txt`` (if
    there) their sizes, and ``localization.txt`` (if there) either boxes, a line each with
    inclusive corners counted from 0, or mask files with a file of what to ignore.

    Args:
        root: A split's folder, such as ``metadata/CUB/test``.
        images: The folder that image names (and mask names) are relative to; default:
            ``dataset/CUB`` beside ``metadata``, as the benchmark has it.
        class_names: Names of the classes; default: their numbers.
        missing: ``"error"``, or ``"skip"`` to leave out and count images of which a file is
            missing.

    Returns:
        Samples in the order of ``image_ids.txt``, named by their line in it.

    Raises:
        SsgcamError: If the root, a list, an image or a mask is wrong or missing.
    """
    base = LAYOUT.locate(root)
    if images is None:
        split = base.resolve()
        images = split.parents[2] / "dataset" / split.parent.name
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
    sizes: dict[str, tuple[int, int]] = {}
    for name, *numbers in (
        rows(sizes_file, "image width height", ",") if sizes_file.is_file() else ()
    ):
        width, height = (whole(number, f"a size in '{sizes_file}'") for number in numbers)
        sizes[name] = width, height
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
    names = class_names or [str(number) for number in range(max(labels.values(), default=-1) + 1)]
    return collector.finish("wsol", names, ("object",) if any(regions.values()) else ())
