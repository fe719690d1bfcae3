"""What a classifier is trained on: labeled photos, their groups, a split by group, augmentation.

A source of photos is anything with the four members of :class:`Samples`;
:func:`read_labeled_images` makes one from class folders or from a CSV. All randomness comes from a
generator that the caller seeds for each photo, so that a training that was killed continues exactly.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from torchvision.transforms.v2 import functional as F

from ssgcam.data.folders import class_folders
from ssgcam.errors import SsgcamError
from ssgcam.images import read_image


class Samples(Protocol):
    """Photos with one class and one group each.

    Attributes:
        class_names: One for each class.
        labels: A class index for each photo.
        groups: A field, slide or patient for each photo: photos of one group are never split up.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def labels(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def groups(self) -> Sequence[str]: ...  # noqa: D102

    def image(self, index: int, generator: np.random.Generator | None) -> Image.Image:
        """An RGB photo: a random view of it with a generator, always the same one without."""
        ...


@dataclass(frozen=True)
class ImageFiles:
    """Photos in files.

    Attributes:
        paths: One file for each photo.
        labels: A class index for each photo.
        groups: A group for each photo.
        class_names: One for each class.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    groups: tuple[str, ...]
    class_names: tuple[str, ...]

    def image(self, index: int, generator: np.random.Generator | None = None) -> Image.Image:
        """Read one photo as RGB; a file has one view, so the generator is not used.

        Raises:
            SsgcamError: If the file can't be read as an image.
        """
        return read_image(self.paths[index])


@dataclass(frozen=True)
class Subset:
    """Some photos of another source, in the given order."""

    source: Samples
    indices: tuple[int, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The source's classes, all of them."""
        return self.source.class_names

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """A class index for each photo of the subset."""
        return tuple(self.source.labels[index] for index in self.indices)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """A group for each photo of the subset."""
        return tuple(self.source.groups[index] for index in self.indices)

    def image(self, index: int, generator: np.random.Generator | None = None) -> Image.Image:
        """The source's photo."""
        return self.source.image(self.indices[index], generator)


def read_labeled_images(path: Path, group_pattern: str | None = None) -> ImageFiles:
    """Find the labeled photos of a folder of class folders or of a CSV.

    Args:
        path: A folder with one sub-folder of photos for each class, or a CSV with the columns
            ``image`` (a path, relative to the CSV), ``label`` and, if there are groups, ``group``.
        group_pattern: For class folders: a regular expression searched for in the file name; what
            it matches (or its first parenthesis) is the group. Without it each file is a group.

    Returns:
        The photos; classes in alphabetical order.

    Raises:
        SsgcamError: If there is nothing to read there, a column, label or file is missing, or fewer
            than two classes have photos.
    """
    path = Path(path)
    if path.is_dir():
        rows = _class_folders(path, group_pattern)
    elif path.is_file():
        if group_pattern is not None:
            raise SsgcamError(
                f"a group pattern is for class folders, but '{path}' is a CSV; "
                "put the groups in its 'group' column"
            )
        rows = _table(path)
    else:
        raise SsgcamError(f"'{path}' does not exist; give a folder of class folders or a CSV")
    names = tuple(sorted({label for _, label, _ in rows}))
    if len(names) < 2:
        raise SsgcamError(
            f"'{path}' has photos of {len(names)} class(es)"
            f"{f' ({names[0]!r})' if names else ''}, but training needs at least two; "
            "give one folder for each class, or a CSV with the columns image,label,group"
        )
    index = {name: number for number, name in enumerate(names)}
    return ImageFiles(
        tuple(file for file, _, _ in rows),
        tuple(index[label] for _, label, _ in rows),
        tuple(group for _, _, group in rows),
        names,
    )


def _class_folders(folder: Path, group_pattern: str | None) -> list[tuple[Path, str, str]]:
    try:
        pattern = re.compile(group_pattern) if group_pattern is not None else None
    except re.error as error:
        raise SsgcamError(
            f"group pattern '{group_pattern}' is not a regular expression ({error}); correct it"
        ) from error
    rows = []
    for label, files in class_folders(folder).items():
        for file in files:
            group = str(file.relative_to(folder))
            if pattern is not None:
                match = pattern.search(file.name)
                group = (match[1] if pattern.groups else match[0]) if match else ""
                if not group:
                    raise SsgcamError(
                        f"group pattern '{group_pattern}' matches nothing in the name of '{file}'; "
                        "give a pattern that fits every file"
                    )
            rows.append((file, label, group))
    return rows


def _table(file: Path) -> list[tuple[Path, str, str]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or [])
            table = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SsgcamError(
            f"'{file}' can't be read as a CSV ({error}); "
            "give a UTF-8 table with the columns image,label,group"
        ) from error
    missing = [name for name in ("image", "label") if name not in columns]
    if missing:
        raise SsgcamError(
            f"'{file}' has no column '{missing[0]}' (its columns: {', '.join(columns) or 'none'}); "
            "its first line must name the columns image,label,group"
        )
    rows = []
    for number, row in enumerate(table, start=2):
        name, label = (row["image"] or "").strip(), (row["label"] or "").strip()
        image = file.parent / name
        group = (row["group"] or "").strip() if "group" in columns else name
        for column, value in (("image", name), ("label", label), ("group", group)):
            if not value:
                raise SsgcamError(f"'{file}' has no {column} on line {number}; fill it in")
        if not image.is_file():
            raise SsgcamError(
                f"'{image}', named on line {number} of '{file}', does not exist; "
                "image paths are relative to the CSV"
            )
        rows.append((image, label, group))
    return rows


def split_by_group(samples: Samples, share: float, seed: int) -> tuple[Subset, Subset]:
    """Hold out about a share of each class, never splitting a group.

    Groups are visited in random order; one is held out if that brings the held-out share of the
    classes (each counted relative to its size) nearer to ``share``.

    Args:
        samples: What to split.
        share: Of each class, between 0 and 1, both excluded.
        seed: Of the order of the groups.

    Returns:
        The training part and the held-out part; both have photos of every class.

    Raises:
        SsgcamError: If the groups don't allow that.
    """
    if not 0 < share < 1:
        raise SsgcamError(
            f"the held-out share is {share:g}; give one between 0 and 1, or 0 for none"
        )
    labels, (names, group_of) = (
        np.asarray(samples.labels),
        np.unique(np.asarray(samples.groups), return_inverse=True),
    )
    counts = np.zeros((len(names), len(samples.class_names)))
    np.add.at(counts, (group_of, labels), 1)
    counts /= np.maximum(counts.sum(0), 1)
    held_out, total = np.zeros(len(names), dtype=bool), np.zeros(counts.shape[1])
    for group in np.random.default_rng(seed).permutation(len(names)):
        if np.abs(total + counts[group] - share).sum() < np.abs(total - share).sum():
            held_out[group] = True
            total += counts[group]
    for index, part in enumerate(total):
        if not 1e-9 < part < 1 - 1e-9:
            here = int((counts[:, index] > 0).sum())
            raise SsgcamError(
                f"class '{samples.class_names[index]}' can't be on both sides of a split by group "
                f"(it is in {here} of {len(names)} groups); give more or smaller groups, another "
                "seed, or a held-out share of 0"
            )
    chosen = held_out[group_of]
    return (
        Subset(samples, tuple(np.flatnonzero(~chosen).tolist())),
        Subset(samples, tuple(np.flatnonzero(chosen).tolist())),
    )


def draw_balanced(labels: Sequence[int], count: int, generator: np.random.Generator) -> list[int]:
    """Draw indices with the same number (to one) for each class, in random order.

    Within a class every photo is drawn equally often (to one): whole permutations come first.

    Args:
        labels: A class index for each photo.
        count: How many to draw.
        generator: Of the order.

    Returns:
        ``count`` indices into ``labels``.
    """
    array = np.asarray(labels)
    classes = np.unique(array)
    drawn = []
    for index in classes:
        members = np.flatnonzero(array == index)
        wanted = math.ceil(count / len(classes))
        passes = [generator.permutation(members) for _ in range(math.ceil(wanted / len(members)))]
        drawn.append(np.concatenate(passes)[:wanted])
    indices: list[int] = generator.permutation(np.stack(drawn, 1).ravel()[:count]).tolist()
    return indices


def augment(image: Image.Image, generator: np.random.Generator, color: float) -> Image.Image:
    """A microscope has no up or left, and stains differ: turn, flip and recolor a photo.

    Args:
        image: RGB.
        generator: Of one of the eight right-angle turns and flips, and of the colors.
        color: Largest relative change of brightness, contrast and saturation; hue turns by up to
            a fifth of it (1 is the whole circle). 0 leaves the colors alone.

    Returns:
        The changed photo; its sides are swapped if it was turned by 90 degrees.
    """
    turn = int(generator.integers(8))
    if turn:
        image = image.transpose(list(Image.Transpose)[turn - 1])
    if color:
        brightness, contrast, saturation = 1 + generator.uniform(-color, color, 3)
        image = F.adjust_brightness(image, brightness)
        image = F.adjust_contrast(image, contrast)
        image = F.adjust_saturation(image, saturation)
        image = F.adjust_hue(image, generator.uniform(-color / 5, color / 5))
    return image
