"""What all readers share: they find a layout's root and check images and boxes."""

from __future__ import annotations

import glob
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ssgcam.data.frames import annotated_pixels, upright_box
from ssgcam.data.masks import FileMask, PaintedMask
from ssgcam.data.sample import IGNORE, LAST_VALUE, Box, Sample, SampleSet
from ssgcam.data.tables import Record, images_named, read_table
from ssgcam.errors import SsgcamError

Missing = Literal["error", "skip"]
#: What the four numbers of a box mean. ``"inclusive"``: x0, y0, x1, y1, the last two being the last
#: pixels of the box. ``"exclusive"``: they are one past it, or edges in continuous coordinates,
#: where pixel 0 reaches from 0 to 1. ``"width_height"``: x0, y0, width, height.
Edges = Literal["inclusive", "exclusive", "width_height"]


@dataclass(frozen=True)
class Layout:
    """How a data set's folder is recognized.

    Attributes:
        kind: The layout's name for `ssgcam.data.read_samples`.
        signs: Files, folders or glob patterns, relative to the root, that must all exist. If only
            the first one does, the folder is taken for an incomplete one of this layout.
        below: Folders below the one given where the root may be as well.
    """

    kind: str
    signs: tuple[str, ...]
    below: tuple[str, ...] = ()

    def find(self, root: Path) -> Path | None:
        """Return the folder at or below `root` that has the layout, or None."""
        for folder in (root, *(root / below for below in self.below)):
            if folder.is_dir() and all(exists(folder, sign) for sign in self.signs):
                return folder
        return None

    def locate(self, root: Path) -> Path:
        """Return the folder that has the layout.

        Raises:
            SsgcamError: If there is none; it says which file was expected where.
        """
        found = self.find(root)
        if found is None:
            missing = next(sign for sign in self.signs if not exists(root, sign))
            raise SsgcamError(
                f"'{root}' is not the root of a {self.kind} set: '{root / missing}' is missing; "
                f"name the folder that holds {' and '.join(map(repr, self.signs))}"
            )
        return found


def exists(folder: Path, sign: str) -> bool:
    """Whether a folder holds a file or folder of this name, or one that this pattern matches."""
    if (folder / sign).exists():
        return True
    return any(glob.iglob(sign, root_dir=folder, recursive=True))  # noqa: PTH207  # also absolute


def check_folder(root: Path) -> None:
    """Raise SsgcamError unless `root` is a folder."""
    if not root.exists():
        raise SsgcamError(f"there is no folder '{root}'; check the path")
    if not root.is_dir():
        raise SsgcamError(f"'{root}' is a file; name the data set's folder")


class Annotation(NamedTuple):
    """One object of an image.

    Attributes:
        label: Its class index; None: its pixels are ignored, and it is neither label nor box.
        box: x, y, width and height.
        segmentation: Its region (see `ssgcam.data.masks.region_pixels`), if it has any.
        area: Its area; objects of smaller area lie on top in the mask.
    """

    label: int | None
    box: tuple[Any, ...]
    segmentation: Any = None
    area: float = 0


class Annotated(NamedTuple):
    """An image file, the file with its annotation, the declared width and height, and the objects."""

    image: Path
    source: Path
    size: tuple[int, int]
    objects: list[Annotation]


@dataclass
class Collector:
    """Checks the images and boxes that a reader finds, and collects the samples.

    Attributes:
        root: The data set's folder; names of samples are relative to it.
        missing: What to do with an image (or its annotation) that is listed but missing.
        stored: Whether annotations are for the pixels as stored, where their size leaves it open
            (see `ssgcam.data.frames.annotated_pixels`).
        samples: The samples so far.
        clipped: How many boxes were clipped or dropped.
        skipped: How many listed images were left out.

    Raises:
        SsgcamError: If `missing` is neither ``"error"`` nor ``"skip"``.
    """

    root: Path
    missing: Missing = "error"
    stored: bool = True
    samples: list[Sample] = field(default_factory=list)
    clipped: int = 0
    skipped: int = 0

    def __post_init__(self) -> None:
        if self.missing not in ("error", "skip"):
            raise SsgcamError(f"--missing {self.missing} is unknown; use error or skip")

    def present(self, *paths: Path, listed_in: Path) -> bool:
        """Whether all files of a sample exist. If not, the sample is counted as skipped.

        Raises:
            SsgcamError: If one is missing and ``missing="error"``.
        """
        absent = next((path for path in paths if not path.is_file()), None)
        if absent is not None and self.missing == "error":
            raise SsgcamError(
                f"'{absent}' is missing but listed in '{listed_in}'; fetch it, or leave such "
                "images out with --missing skip"
            )
        self.skipped += absent is not None
        return absent is None

    def read_tables(self, images: Path, *tables: Path) -> dict[Path, list[Record]]:
        """Read tables (see `read_table`), and return the entries of each image in `images`."""
        records = [(record, table) for table in tables for record in read_table(table)]
        paths = images_named(images, [record.image for record, _ in records])
        found: dict[Path, tuple[Path, list[Record]]] = {}
        for record, table in records:
            found.setdefault(paths[record.image], (table, []))[1].append(record)
        return {
            image: entries
            for image, (table, entries) in found.items()
            if self.present(image, listed_in=table)
        }

    def add(
        self,
        image: Path,
        source: Path,
        boxes: Iterable[tuple[Sequence[Any], int | None]] = (),
        edges: Edges = "inclusive",
        labels: Iterable[int] | None = None,
        mask: FileMask | PaintedMask | None = None,
        size: tuple[int, int] | None = None,
        group: str = "",
        name: str = "",
    ) -> None:
        """Check one image's annotation, turn it upright and add the sample.

        Args:
            image: The image file.
            source: The file with its annotation, for messages.
            boxes: Four numbers (or texts) of each box, and its class index or None.
            edges: What the four numbers mean.
            labels: Image-level classes; default: the classes of the boxes.
            mask: Its mask, if it has one.
            size: Width and height that the annotation declares, if it does.
            group: Its group, if it has one.
            name: Its name; default: its path relative to the root.

        Raises:
            SsgcamError: If the image can't be read or is of another size than declared, or a box
                is not four numbers in order.
        """
        pixels, orientation = annotated_pixels(image, size, source, self.stored)
        where = f"a box of '{image.name}' in '{source}'"
        checked = [(self._box(numbers, edges, pixels, where), label) for numbers, label in boxes]
        kept = [(upright_box(box, pixels, orientation), label) for box, label in checked if box]
        classes = {label for _, label in checked if label is not None}
        # Without a class for each box, none is certain to belong to which.
        certain = all(label is not None for _, label in checked)
        inside = image.is_relative_to(self.root)
        self.samples.append(
            Sample(
                name or (image.relative_to(self.root) if inside else image).as_posix(),
                image,
                tuple(sorted(classes if labels is None else set(labels))),
                tuple(box for box, _ in kept),
                tuple(label for _, label in kept if label is not None and certain),
                group,
                replace(mask, orientation=orientation) if mask else None,
            )
        )

    def annotated(self, kind: str, names: Sequence[str], listed: Sequence[Annotated]) -> SampleSet:
        """Make a set of images whose objects have boxes and, if any has a region, masks.

        In the masks, smaller objects lie on top of larger ones, and all on top of ignored ones.

        Args:
            kind: The layout.
            names: The class names.
            listed: The images; with ``missing="skip"``, those that don't exist are left out.
        """
        masks = any(found.segmentation for each in listed for found in each.objects)
        for image, source, size, objects in listed:
            if not self.present(image, listed_in=source):
                continue
            boxes = [(found.box, found.label) for found in objects if found.label is not None]
            regions = tuple(
                (IGNORE if found.label is None else found.label + 1, found.segmentation)
                for found in sorted(objects, key=lambda each: (each.label is not None, -each.area))
                if found.segmentation
            )
            mask = PaintedMask(regions, size) if masks else None
            self.add(image, source, boxes, "width_height", mask=mask, size=size)
        return self.finish(kind, names, names if masks else ())

    def _box(
        self, numbers: Sequence[Any], edges: Edges, size: tuple[int, int], where: str
    ) -> Box | None:
        """Return a box with inclusive corners, clipped to the image; None if it has no pixel.

        Fractions of inclusive corners are rounded; other boxes get all pixels that they touch.
        """
        form = "x, y, width, height" if edges == "width_height" else "x0, y0, x1, y1"
        try:
            x0, y0, x1, y1 = map(float, numbers)
        except (TypeError, ValueError, OverflowError):
            x0 = y0 = x1 = y1 = math.nan
        if edges == "width_height":
            x1, y1 = x0 + x1, y0 + y1
        if not all(map(math.isfinite, (x0, y0, x1, y1))):
            raise SsgcamError(f"{where} is {list(numbers)!r}; a box is four numbers {form}")
        if x1 < x0 or y1 < y0:
            hint = f"boxes are {form}, and width and height can't be negative"
            raise SsgcamError(f"{where} ends before it begins: {list(numbers)}; {hint}")
        box = math.floor(x0), math.floor(y0), math.ceil(x1) - 1, math.ceil(y1) - 1
        if edges == "inclusive":
            box = round(x0), round(y0), round(x1), round(y1)
        width, height = size
        inside = max(box[0], 0), max(box[1], 0), min(box[2], width - 1), min(box[3], height - 1)
        empty = inside[0] > inside[2] or inside[1] > inside[3]
        self.clipped += empty or inside != box
        return None if empty else inside

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
        if len(mask_names) > LAST_VALUE:
            raise SsgcamError(
                f"'{self.root}' has {len(mask_names)} classes, and a mask can't tell more than "
                f"{LAST_VALUE} apart; leave some out"
            )
        known = set(range(len(class_names)))
        name, times = Counter(sample.name for sample in self.samples).most_common(1)[0]
        if times > 1:
            raise SsgcamError(f"'{name}' is listed twice in '{self.root}'; list it once")
        for sample in self.samples:
            outside = {*sample.labels, *sample.box_labels} - known
            if outside:
                raise SsgcamError(
                    f"'{sample.name}' has class {min(outside)}, outside the {len(class_names)} "
                    "classes of its set; check the class names and --first-label"
                )
        samples, names, of_masks = tuple(self.samples), tuple(class_names), tuple(mask_names)
        return SampleSet(samples, names, self.root, kind, of_masks, self.clipped, self.skipped)
