"""Reads a COCO instances file (JSON)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from ssgcam.data.collect import Annotated, Annotation, Collector, Layout, Missing, check_folder
from ssgcam.data.sample import SampleSet
from ssgcam.data.tables import read_json
from ssgcam.errors import SsgcamError

LAYOUT = Layout("coco", ("annotations/instances_*.json",))


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
    try:
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
        listed = [
            Annotated(
                folder / record["file_name"],
                source,
                (int(record["width"]), int(record["height"])),
                of_image[record["id"]],
            )
            for record in content["images"]
        ]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SsgcamError(
            f"'{source}' is not a COCO instances file ({type(error).__name__}: {error}); it needs "
            "images, annotations and categories"
        ) from error
    return Collector(root, missing).annotated("coco", [name for _, name in categories], listed)


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


def _choose_file(root: Path, split: str | None) -> Path:
    found = {_split_of(path): path for path in find_coco_files(root)}
    if not found:
        return LAYOUT.locate(root)  # raises an error
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
