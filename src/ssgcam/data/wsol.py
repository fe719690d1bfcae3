"""The text files of the weakly supervised object localization benchmark (Choe et al. 2020)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ssgcam.data.collect import Collector, Layout, Missing, check_folder
from ssgcam.data.masks import InstanceFiles
from ssgcam.data.sample import Sample, SampleSet
from ssgcam.data.text import read_text, rows, whole
from ssgcam.errors import SsgcamError

LAYOUT = Layout("wsol", "WSOL metadata", ("image_ids.txt", "class_labels.txt"))


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
        resolved = base.resolve()
        images = resolved.parents[2] / "dataset" / resolved.parent.name
        if not images.is_dir():
            raise SsgcamError(
                f"the images of '{base}' are not in '{images}'; say where with images=FOLDER"
            )
    images = Path(images)
    check_folder(images)
    source = base / "image_ids.txt"
    collector = Collector(base, missing)
    labels = {
        name: whole(label, f"the class of '{name}' in '{base / 'class_labels.txt'}'")
        for name, label in rows(base / "class_labels.txt", "image class", ",")
    }
    sizes = _sizes(base / "image_sizes.txt")
    places = base / "localization.txt"
    boxes, objects, ignored = _localization(places)
    for (name,) in rows(source, "image", ","):
        if name not in labels:
            raise SsgcamError(f"'{name}' is not in '{base / 'class_labels.txt'}'; add its class")
        label = labels[name]
        masks = tuple(images / path for path in objects.get(name, ()))
        ignore = images / ignored[name] if name in ignored else None
        files = (images / name, *masks, *((ignore,) if ignore else ()))
        if not collector.present(*files, listed_in=source):
            continue
        frame = collector.frame(images / name, sizes.get(name), base / "image_sizes.txt")
        corners = [(box, label) for box in boxes.get(name, ())]
        kept, box_labels = collector.boxes(
            frame, corners, "inclusive", f"a box of '{name}' in '{places}'"
        )
        mask = InstanceFiles(masks, ignore, frame.orientation) if masks else None
        collector.samples.append(Sample(name, images / name, (label,), kept, box_labels, mask=mask))
    count = max(labels.values(), default=-1) + 1
    names = class_names or [str(number) for number in range(count)]
    return collector.finish("wsol", names, ("object",) if objects else ())


def _sizes(path: Path) -> dict[str, tuple[int, int]]:
    if not path.is_file():
        return {}
    return {
        name: (whole(width, f"a width in '{path}'"), whole(height, f"a height in '{path}'"))
        for name, width, height in rows(path, "image width height", ",")
    }


def _localization(
    path: Path,
) -> tuple[dict[str, list[list[str]]], dict[str, list[str]], dict[str, str]]:
    """Read boxes, mask files and ignore files by image; the first line tells boxes from masks."""
    boxes: dict[str, list[list[str]]] = defaultdict(list)
    masks: dict[str, list[str]] = defaultdict(list)
    ignored: dict[str, str] = {}
    if not path.is_file():
        return boxes, masks, ignored
    first = read_text(path).partition("\n")[0]
    if first.count(",") == 2:
        for name, mask, ignore in rows(path, "image mask ignore", ","):
            masks[name].append(mask)
            if ignore:
                ignored[name] = ignore
    else:
        for name, *corners in rows(path, "image x0 y0 x1 y1", ","):
            boxes[name].append(corners)
    return boxes, masks, ignored
