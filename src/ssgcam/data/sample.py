"""What a reader returns: samples with labels, boxes and masks in one convention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ssgcam.errors import SsgcamError

#: The mask value of pixels that are ignored.
IGNORE = 255
#: The highest mask value that stands for a class.
LAST_VALUE = 254

#: Inclusive corners x0, y0, x1, y1 in pixels: a box of one pixel has x0 == x1 and y0 == y1.
Box = tuple[int, int, int, int]
#: ``uint8[H, W]``: 0 background, 1 to 254 classes, 255 ignore.
Mask = NDArray[np.uint8]


class MaskSource(Protocol):
    """Where a mask comes from. It is read when it is needed, so that a set takes little memory."""

    def read(self, size: tuple[int, int]) -> Mask:
        """Read the mask of an image.

        Args:
            size: Width and height of the image as `ssgcam.images.read_image` gives it
                (``image.size``).

        Returns:
            ``uint8[H, W]``: 0 background, k the k-th of `SampleSet.mask_names` (from 1), 255
            ignore.

        Raises:
            SsgcamError: If the mask can't be read or belongs to an image of another size.
        """
        ...


@dataclass(frozen=True)
class Sample:
    """One image with its labels, boxes, group and mask.

    Coordinates and masks are in the pixels of the image as `ssgcam.images.read_image` gives it,
    that is, after its EXIF orientation.

    Attributes:
        name: Unique in the set: the image's path relative to the set's root, with ``/``.
        image: The image file.
        labels: Image-level class indices, ascending; empty if unknown or none (a negative).
        boxes: Inclusive corners x0, y0, x1, y1, clipped to the image.
        box_labels: The class index of each box; empty if not all boxes of the image have a class.
        group: The field, patient or slide that the image belongs to, or empty.
        mask: Where its mask comes from, if it has one.
    """

    name: str
    image: Path
    labels: tuple[int, ...] = ()
    boxes: tuple[Box, ...] = ()
    box_labels: tuple[int, ...] = ()
    group: str = ""
    mask: MaskSource | None = None


@dataclass(frozen=True)
class SampleSet:
    """The samples of one data set, in the order of its list.

    Attributes:
        samples: The samples.
        class_names: Names of the image-level classes; ``class_names[i]`` is class i.
        root: The folder the set was read from.
        kind: The layout it was read as, such as ``"voc"``.
        mask_names: Names of the mask values; ``mask_names[k - 1]`` is value k. Equal to
            `class_names` if masks tell the classes apart (see `semantic`); ``("object",)`` if they
            only tell objects from background; empty without masks.
        clipped: How many boxes reached past their image's edge and were cut, or had no pixel in
            it and were dropped.
        skipped: How many listed images were left out because they (or their annotation) are
            missing (``missing="skip"``).
    """

    samples: tuple[Sample, ...]
    class_names: tuple[str, ...]
    root: Path
    kind: str
    mask_names: tuple[str, ...] = ()
    clipped: int = 0
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @property
    def semantic(self) -> bool:
        """Whether the mask value of class i is i + 1."""
        return bool(self.mask_names) and self.mask_names == self.class_names

    def object_mask(
        self, sample: Sample, size: tuple[int, int], label: int | None = None
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Read a sample's mask as one object against its background.

        Args:
            sample: A sample of this set.
            size: Width and height of its image.
            label: The class whose pixels are the object. Without it, or if the masks do not tell
                the classes apart, all foreground is.

        Returns:
            The object's pixels and the pixels to ignore, both ``bool[H, W]``.

        Raises:
            SsgcamError: If the sample has no mask, or its mask can't be read.
        """
        if sample.mask is None:
            raise SsgcamError(
                f"'{sample.name}' has no mask; use a set with masks, or make them from boxes with "
                "with_box_masks"
            )
        mask = sample.mask.read(size)
        ignored = mask == IGNORE
        if label is not None and self.semantic:
            return mask == label + 1, ignored
        return (mask > 0) & ~ignored, ignored
