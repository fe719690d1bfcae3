"""Reads a folder of images, with a subfolder for each class or without any labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssgcam.data.collect import Collector
from ssgcam.data.sample import Sample, SampleSet
from ssgcam.errors import SsgcamError
from ssgcam.images import images_below


def read_images(root: Path) -> SampleSet:
    """Read a folder of images without labels.

    Args:
        root: The folder; its subfolders are searched too.

    Returns:
        Samples without labels, boxes or masks, sorted by path.

    Raises:
        SsgcamError: If there is no image in it.
    """
    images = images_below(root)
    samples = [Sample(image.relative_to(root).as_posix(), image) for image in images]
    return Collector(root, samples=samples).finish("images", ())


def class_folders(root: Path) -> dict[str, list[Path]]:
    """List the images of each visible subfolder that has any, by the subfolder's name, sorted."""
    folders = sorted(
        path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    found = {folder.name: images_below(folder) for folder in folders}
    return {name: images for name, images in found.items() if images}


def read_class_folders(root: Path, class_names: Sequence[str] | None = None) -> SampleSet:
    """Read a folder with one subfolder of images for each class.

    Args:
        root: The folder with the class folders.
        class_names: The class folders' names in the order of their indices; default: sorted.

    Returns:
        Samples with one label each, sorted by path.

    Raises:
        SsgcamError: If there is no class folder with images, or one is not in `class_names`.
    """
    folders = class_folders(root)
    if not folders:
        raise SsgcamError(
            f"'{root}' has no class folders: '{root / '<class>' / '<image>'}' is missing; put the "
            "images of each class in a folder of its own"
        )
    names = tuple(class_names or folders)
    unknown = [name for name in folders if name not in names]
    if unknown:
        raise SsgcamError(f"the folder '{root / unknown[0]}' is not among class_names; add it")
    samples = [
        Sample(image.relative_to(root).as_posix(), image, (names.index(folder),))
        for folder, images in folders.items()
        for image in images
    ]
    return Collector(root, samples=samples).finish("classes", names)
