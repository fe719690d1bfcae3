"""Masks from files and from boxes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssgcam.data.frames import turned
from ssgcam.data.sample import IGNORE, LAST_VALUE, Box, Mask, Sample, SampleSet
from ssgcam.errors import SsgcamError
from ssgcam.images import open_image

Shape = Literal["filled", "ellipse"]


def read_raw_mask(path: Path) -> NDArray[np.int64]:
    """Read a mask file's values as stored: palette indices, not colors; no EXIF turn.

    Args:
        path: A PNG (or other lossless picture) that is indexed, gray, or gray in three channels.
            An alpha channel is left out.

    Returns:
        ``int64[H, W]``: the stored values; black and white pictures have 0 and 1.

    Raises:
        SsgcamError: If the file is not a picture or has colors instead of values.
    """
    with open_image(path) as image:
        image.load()
        values = np.asarray(image.getchannel("L") if image.mode == "LA" else image)
    if values.ndim == 3:
        channels = values[..., :3]
        if not (channels == channels[..., :1]).all():
            raise SsgcamError(
                f"the mask '{path}' has colors; save it as an indexed or gray PNG with one value "
                "for each class"
            )
        values = channels[..., 0]
    if values.dtype.kind == "f":
        raise SsgcamError(f"the mask '{path}' has fractions; save it with whole values, 8 bits")
    return values.astype(np.int64)


def value_table(values: Mapping[int, int] | None) -> tuple[tuple[int, int], ...] | None:
    """Check a mapping from stored values to mask values (0 to 255) and freeze it.

    Raises:
        SsgcamError: If a mask value is outside 0 to 255.
    """
    if values is None:
        return None
    for raw, value in values.items():
        if not 0 <= value <= IGNORE:
            raise SsgcamError(
                f"values={{{raw}: {value}}} is outside the mask values; map to 0 (background), 1 "
                f"to {LAST_VALUE} (classes) or {IGNORE} (ignore)"
            )
    return tuple(sorted({0: 0, **values}.items()))


def mapped(raw: NDArray[np.int64], values: tuple[tuple[int, int], ...] | None, path: Path) -> Mask:
    """Map stored values to mask values.

    Args:
        raw: ``int64[H, W]``.
        values: Pairs of stored and mask value (see `value_table`); None: as they are, 0 to 255.
        path: The mask's file, for the message.

    Returns:
        ``uint8[H, W]``.

    Raises:
        SsgcamError: If a stored value is in no pair, or outside 0 to 255.
    """
    table = dict(values) if values is not None else {value: value for value in range(256)}
    found = np.unique(raw)
    unknown = [int(value) for value in found if int(value) not in table]
    if unknown:
        raise SsgcamError(
            f"the mask '{path}' has the value {unknown[0]}, which stands for nothing; say what it "
            f"is with values={{{unknown[0]}: ...}}, 0 for background, 255 for ignore"
        )
    lookup = np.array([table[int(value)] for value in found], dtype=np.uint8)
    return lookup[np.searchsorted(found, raw)]


def check_size(found: tuple[int, int], size: tuple[int, int], what: str) -> None:
    """Check that a mask belongs to an image of this size.

    Args:
        found: Width and height of the mask.
        size: Width and height of the image.
        what: The mask as the message names it.

    Raises:
        SsgcamError: If they differ; it names both sizes.
    """
    if found != size:
        raise SsgcamError(
            f"{what} is {found[0]}x{found[1]} pixels but its image is {size[0]}x{size[1]}; make "
            "them the same size"
        )


@dataclass(frozen=True)
class FileMask:
    """A mask in a picture file.

    Attributes:
        path: The file.
        values: Pairs of stored and mask value (see `value_table`); None: values as they are.
        at_least: If given, stored values from this on are 1 and the others 0.
        orientation: EXIF orientation of the image, if the mask is for its pixels as stored.
    """

    path: Path
    values: tuple[tuple[int, int], ...] | None = None
    at_least: int | None = None
    orientation: int = 1

    def read(self, size: tuple[int, int]) -> Mask:
        """Read the mask; see `ssgcam.data.sample.MaskSource.read`."""
        raw = turned(read_raw_mask(self.path), self.orientation)
        check_size((raw.shape[1], raw.shape[0]), size, f"the mask '{self.path}'")
        if self.at_least is not None:
            return (raw >= self.at_least).astype(np.uint8)
        return mapped(raw, self.values, self.path)


@dataclass(frozen=True)
class InstanceFiles:
    """One object in several mask files, with a file of what to ignore (WSOL's OpenImages).

    The files may be of another size than the image: they are resized to it by nearest neighbor,
    as the reference evaluation does.

    Attributes:
        paths: Masks whose non-zero pixels are the object.
        ignore: A mask whose non-zero pixels are to be ignored where no object is, or None.
        orientation: EXIF orientation of the image, if the masks are for its pixels as stored.
    """

    paths: tuple[Path, ...]
    ignore: Path | None = None
    orientation: int = 1

    def read(self, size: tuple[int, int]) -> Mask:
        """Read the mask; see `ssgcam.data.sample.MaskSource.read`."""
        objects: NDArray[np.bool_] = np.any([self._read(path, size) for path in self.paths], axis=0)
        mask = objects.astype(np.uint8)
        if self.ignore is not None:
            mask[self._read(self.ignore, size) & ~objects] = IGNORE
        return mask

    def _read(self, path: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
        upright = turned(read_raw_mask(path), self.orientation) > 0
        picture = Image.fromarray(upright.astype(np.uint8))
        return np.asarray(picture.resize(size, Image.Resampling.NEAREST)) > 0


@dataclass(frozen=True)
class BoxMask:
    """A mask drawn from boxes; where boxes overlap, the smaller one is on top.

    Attributes:
        boxes: Inclusive corners.
        values: The mask value of each box.
        shape: ``"filled"``: all pixels of the box. ``"ellipse"``: the pixels whose center is in
            the ellipse that touches the box's four sides.
    """

    boxes: tuple[Box, ...]
    values: tuple[int, ...]
    shape: Shape = "filled"

    def read(self, size: tuple[int, int]) -> Mask:
        """Draw the mask; see `ssgcam.data.sample.MaskSource.read`."""
        width, height = size
        mask = np.zeros((height, width), dtype=np.uint8)
        for (x0, y0, x1, y1), value in sorted(
            zip(self.boxes, self.values, strict=True), key=lambda pair: -_area(pair[0])
        ):
            if x1 >= width or y1 >= height:
                raise SsgcamError(
                    f"a box reaches pixel ({x1}, {y1}), outside its image of {width}x{height}; "
                    "use the boxes of that very image"
                )
            part = mask[y0 : y1 + 1, x0 : x1 + 1]
            if self.shape == "filled":
                part[:] = value
            else:
                across = (np.arange(part.shape[1]) + 0.5) / part.shape[1] * 2 - 1
                down = (np.arange(part.shape[0]) + 0.5) / part.shape[0] * 2 - 1
                part[across**2 + down[:, None] ** 2 <= 1] = value
        return mask


def _area(box: Box) -> int:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)


def with_box_masks(sample_set: SampleSet, shape: Shape = "filled") -> SampleSet:
    """Give every sample a mask made of its boxes; a sample without boxes gets an empty mask.

    The mask tells classes apart (value: class index + 1) if every box has a class and there are at
    most 254 classes. Otherwise the value is 1 and `SampleSet.mask_names` is ``("object",)``.

    Args:
        sample_set: A set with boxes.
        shape: ``"filled"`` boxes, or their inscribed ``"ellipse"``, which fits round objects
            better.

    Returns:
        The set with these masks in place of its own.

    Raises:
        SsgcamError: If the set has no box, the shape is unknown, or one image has boxes of several
            of more than 254 classes.
    """
    if shape not in ("filled", "ellipse"):
        raise SsgcamError(f"box mask shape '{shape}' is unknown; use 'filled' or 'ellipse'")
    if not any(sample.boxes for sample in sample_set):
        raise SsgcamError(f"'{sample_set.root}' has no boxes to make masks of; give masks instead")
    labeled = all(len(sample.box_labels) == len(sample.boxes) for sample in sample_set)
    semantic = labeled and len(sample_set.class_names) <= LAST_VALUE
    if labeled and not semantic:
        _refuse_mixed(sample_set.samples)
    samples = tuple(
        replace(
            sample,
            mask=BoxMask(
                sample.boxes,
                tuple(label + 1 for label in sample.box_labels)
                if semantic
                else (1,) * len(sample.boxes),
                shape,
            ),
        )
        for sample in sample_set
    )
    names = sample_set.class_names if semantic else ("object",)
    return replace(sample_set, samples=samples, mask_names=names)


def _refuse_mixed(samples: Iterable[Sample]) -> None:
    for sample in samples:
        if len(set(sample.box_labels)) > 1:
            raise SsgcamError(
                f"'{sample.name}' has boxes of several classes, and a mask can't tell more than "
                f"{LAST_VALUE} classes apart; use a set with fewer classes"
            )
