"""What all readers share: finding a layout's root, and checking its images and boxes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ssgcam.data.frames import Frame, image_frame
from ssgcam.data.sample import Box, Sample, SampleSet
from ssgcam.errors import SsgcamError

Missing = Literal["error", "skip"]
#: ``"inclusive"``: x1, y1 are the last pixels of the box. ``"exclusive"``: they are one past it,
#: or edges in continuous coordinates, where pixel 0 reaches from 0 to 1.
Edges = Literal["inclusive", "exclusive"]


@dataclass(frozen=True)
class Layout:
    """How a data set's folder is recognized.

    Attributes:
        kind: The layout's name for `ssgcam.data.read_samples`.
        title: Its name for people.
        signs: Glob patterns, relative to the root, that must all match something. The first is
            the most telling.
        below: Folders below the one given where the root may be as well.
    """

    kind: str
    title: str
    signs: tuple[str, ...]
    below: tuple[str, ...] = ()

    def find(self, root: Path) -> Path | None:
        """Return the folder at or below `root` that has the layout, or None."""
        for folder in (root, *(root / below for below in self.below)):
            if folder.is_dir() and all(any(folder.glob(sign)) for sign in self.signs):
                return folder
        return None

    def locate(self, root: Path) -> Path:
        """Return the folder that has the layout.

        Raises:
            SsgcamError: If there is none; it says which file was expected where.
        """
        check_folder(root)
        found = self.find(root)
        if found is not None:
            return found
        sign = next(sign for sign in self.signs if not any(root.glob(sign)))
        raise _not_root(root, self.title, self.signs, sign)


def check_folder(root: Path) -> None:
    """Raise SsgcamError unless `root` is a folder."""
    if not root.exists():
        raise SsgcamError(f"there is no folder '{root}'; check the path")
    if not root.is_dir():
        raise SsgcamError(f"'{root}' is a file; name the data set's folder")


def check_entries(root: Path, title: str, names: Sequence[str]) -> None:
    """Check that a folder holds what a user says it does.

    Args:
        root: The folder.
        title: What it is, for the message.
        names: Files or folders relative to it.

    Raises:
        SsgcamError: If it is no folder, or one of them is missing.
    """
    check_folder(root)
    for name in names:
        if not (root / name).exists():
            raise _not_root(root, title, names, name)


def _not_root(root: Path, title: str, names: Sequence[str], lacking: str) -> SsgcamError:
    return SsgcamError(
        f"'{root}' is not the root of a {title} set: '{root / lacking}' is missing; name the "
        f"folder that holds {' and '.join(names)}"
    )


class Collector:
    """Checks the images and boxes that a reader finds, and counts what had to give way.

    Args:
        root: The data set's folder; names of samples are relative to it.
        missing: What to do with an image (or its annotation) that is listed but missing.
        stored: Whether annotations are for the pixels as stored, where their size leaves it open
            (see `ssgcam.data.frames.image_frame`).

    Raises:
        SsgcamError: If `missing` is neither ``"error"`` nor ``"skip"``.
    """

    def __init__(self, root: Path, missing: Missing = "error", stored: bool = True) -> None:
        if missing not in ("error", "skip"):
            raise SsgcamError(f"missing='{missing}' is unknown; use 'error' or 'skip'")
        self.root = root
        self.missing = missing
        self.stored = stored
        self.samples: list[Sample] = []
        self.clipped = 0
        self.skipped = 0

    def present(self, *paths: Path, listed_in: Path) -> bool:
        """Whether all files of a sample exist. If not, the sample is counted as skipped.

        Raises:
            SsgcamError: If one is missing and ``missing="error"``.
        """
        for path in paths:
            if not path.is_file():
                if self.missing == "error":
                    raise SsgcamError(
                        f"'{path}' is missing but listed in '{listed_in}'; fetch it, or leave "
                        "such images out with missing='skip'"
                    )
                self.skipped += 1
                return False
        return True

    def frame(
        self, image: Path, declared: tuple[int, int] | None = None, by: Path | None = None
    ) -> Frame:
        """Find out which pixels the image's annotation counts; see `image_frame`."""
        return image_frame(image, declared, by, self.stored)

    def box(self, frame: Frame, corners: Sequence[Any], edges: Edges, where: str) -> Box | None:
        """Check a box, make its corners inclusive, clip it to the image and turn it upright.

        Fractions: inclusive corners are rounded to the nearest pixel; exclusive ones are widened
        to all pixels that the box touches.

        Args:
            frame: The image's frame.
            corners: x0, y0, x1, y1 from pixel 0: numbers, or text that says numbers.
            edges: What the corners mean.
            where: The box as a message names it.

        Returns:
            The box, or None if no pixel of it is in the image (counted as clipped).

        Raises:
            SsgcamError: If the corners are not four numbers in order.
        """
        x0, y0, x1, y1 = _numbers(corners, where)
        if x1 < x0 or y1 < y0:
            raise SsgcamError(
                f"{where} ends before it begins: {list(corners)}; boxes are x0, y0, x1, y1, not x, "
                "y, width, height"
            )
        if edges == "exclusive":
            box = math.floor(x0), math.floor(y0), math.ceil(x1) - 1, math.ceil(y1) - 1
        else:
            box = round(x0), round(y0), round(x1), round(y1)
        width, height = frame.size
        inside = (
            max(box[0], 0),
            max(box[1], 0),
            min(box[2], width - 1),
            min(box[3], height - 1),
        )
        self.clipped += inside != box
        if inside[0] > inside[2] or inside[1] > inside[3]:
            self.clipped += inside == box  # empty, though not past an edge
            return None
        return frame.box(inside)

    def boxes(
        self,
        frame: Frame,
        boxes: Iterable[tuple[Sequence[Any], int]],
        edges: Edges,
        where: str,
    ) -> tuple[tuple[Box, ...], tuple[int, ...]]:
        """Check pairs of corners and class index; return the boxes kept and their classes."""
        kept = [(self.box(frame, corners, edges, where), label) for corners, label in boxes]
        pairs = [(box, label) for box, label in kept if box is not None]
        return tuple(box for box, _ in pairs), tuple(label for _, label in pairs)

    def name(self, image: Path) -> str:
        """Return a sample's name: its path relative to the root, or its own if it is elsewhere."""
        try:
            return image.relative_to(self.root).as_posix()
        except ValueError:
            return image.as_posix()

    def finish(
        self, kind: str, class_names: Sequence[str], mask_names: Sequence[str] = ()
    ) -> SampleSet:
        """Make the set.

        Raises:
            SsgcamError: If no sample is left, two have the same name, or a label has no class.
        """
        if not self.samples:
            what = f"all {self.skipped} are missing" if self.skipped else "its list is empty"
            raise SsgcamError(f"'{self.root}' has no images: {what}; check the folder and split")
        seen: set[str] = set()
        for sample in self.samples:
            if sample.name in seen:
                raise SsgcamError(f"'{sample.name}' is listed twice in '{self.root}'; list it once")
            seen.add(sample.name)
            for label in (*sample.labels, *sample.box_labels):
                if not 0 <= label < len(class_names):
                    raise SsgcamError(
                        f"'{sample.name}' has class {label}, outside the {len(class_names)} "
                        "classes of its set; check first_label and class_names"
                    )
        return SampleSet(
            tuple(self.samples),
            tuple(class_names),
            self.root,
            kind,
            tuple(mask_names),
            self.clipped,
            self.skipped,
        )


def _numbers(values: Sequence[Any], where: str) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise SsgcamError(f"{where} is {values!r}; a box is four numbers x0, y0, x1, y1")
    return numbers
