"""How does a mask file, or a box, become a mask in the convention of `ssgcam.data.sample`?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssgcam.data.frames import upright_array
from ssgcam.data.sample import IGNORE, LAST_VALUE, Box, Mask, SampleSet
from ssgcam.errors import SsgcamError
from ssgcam.images import open_image

Shape = Literal["filled", "ellipse"]


def read_raw_mask(path: Path) -> NDArray[np.int64]:
    """Read a mask file's values as stored: palette indices, not colors; no EXIF turn.

    Args:
        path: A PNG (or other lossless picture) that is indexed, gray, or gray in three channels,
            its alpha channel left out; or a JPEG, whose values are 255 from 128 on and 0 below, as
            its compression changes values; or a NumPy file (``.npy``).

    Returns:
        ``int64[H, W]``: the stored values; black and white pictures have 0 and 1.

    Raises:
        SsgcamError: If the file is not a picture or array, or has colors instead of values.
    """
    lossy = False
    if path.suffix.lower() == ".npy":
        try:
            values: NDArray[Any] = np.load(path)
        except (OSError, ValueError) as error:
            raise SsgcamError(f"the mask '{path}' is not a NumPy array; save it again") from error
        if values.ndim != 2 and values.shape[2:] != (1,):
            raise SsgcamError(f"the mask '{path}' has shape {values.shape}; save it as [H, W]")
    else:
        with open_image(path) as image:
            image.load()
            values = np.asarray(image.getchannel("L") if image.mode == "LA" else image)
            lossy = image.format == "JPEG"
    if lossy:
        if 0 < values.max() < 128:
            raise SsgcamError(
                f"the mask '{path}' is a JPEG with values up to {values.max()}, which its "
                "compression has changed; save it as PNG"
            )
        values = np.where(values >= 128, np.uint8(255), np.uint8(0))
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


def map_values(raw: NDArray[np.int64], values: Mapping[int, int] | None, path: Path) -> Mask:
    """Map stored values to mask values.

    Args:
        raw: Stored values, of any shape.
        values: Stored value to mask value, 0 to 255; None: as they are.
        path: The mask's file, for the message.

    Returns:
        ``uint8``, of the same shape.

    Raises:
        SsgcamError: If a stored value is not in `values`, or outside 0 to 255.
    """
    table = {value: value for value in range(256)} if values is None else values
    found, inverse = np.unique(raw, return_inverse=True)
    unknown = [value for value in found.tolist() if value not in table]
    if unknown:
        raise SsgcamError(
            f"the mask '{path}' has the value {unknown[0]}, which stands for nothing; say what it "
            f"is with --mask-values {unknown[0]}:VALUE, 0 for background, 255 for ignore"
        )
    lookup = np.array([table[value] for value in found.tolist()], dtype=np.uint8)
    return lookup[inverse].reshape(raw.shape)


@dataclass(frozen=True)
class StoredMask(ABC):
    """A mask for the pixels of an image as stored; a `ssgcam.data.sample.MaskSource`.

    Attributes:
        orientation: EXIF orientation that turns the mask upright, 1 to 8.
    """

    orientation: int = field(default=1, kw_only=True)

    @abstractmethod
    def read(self, size: tuple[int, int]) -> Mask:
        """Read the mask; see `ssgcam.data.sample.MaskSource.read`."""

    def upright(self, mask: Mask, size: tuple[int, int], name: str) -> Mask:
        """Turn a mask of stored pixels upright and check its size.

        Args:
            mask: ``uint8[H, W]``, as stored.
            size: Width and height of the upright image.
            name: The mask, for the message.

        Raises:
            SsgcamError: If the mask is of another size.
        """
        mask = np.ascontiguousarray(upright_array(mask, self.orientation))
        if mask.shape != size[::-1]:
            raise SsgcamError(
                f"{name} is {mask.shape[1]}x{mask.shape[0]} pixels but its image is "
                f"{size[0]}x{size[1]}; make them the same size"
            )
        return mask


@dataclass(frozen=True)
class FileMask(StoredMask):
    """A mask in a picture file.

    Attributes:
        path: The file.
        values: Stored value to mask value (0 to 255); None: values as they are.
        at_least: If given, stored values from this on are 1 and the others 0.
    """

    path: Path
    values: Mapping[int, int] | None = field(default=None, hash=False)
    at_least: int | None = None

    def read(self, size: tuple[int, int]) -> Mask:
        """Read the file; see `ssgcam.data.sample.MaskSource.read`."""
        raw = read_raw_mask(self.path)
        if self.at_least is None:
            mask = map_values(raw, self.values, self.path)
        else:
            mask = (raw >= self.at_least).astype(np.uint8)
        return self.upright(mask, size, f"the mask '{self.path}'")


@dataclass(frozen=True)
class InstanceFiles(StoredMask):
    """One object in several mask files, with a file of what to ignore (WSOL's OpenImages).

    The files may be of another size than the image: they are resized to it by nearest neighbor,
    as the reference evaluation does.

    Attributes:
        paths: Masks whose non-zero pixels are the object.
        ignore: A mask whose non-zero pixels are ignored where no object is, or None.
    """

    paths: tuple[Path, ...]
    ignore: Path | None = None

    def read(self, size: tuple[int, int]) -> Mask:
        """Read the mask; see `ssgcam.data.sample.MaskSource.read`."""

        def resized(path: Path) -> NDArray[np.bool_]:
            upright = upright_array(read_raw_mask(path), self.orientation) > 0
            picture = Image.fromarray(upright.astype(np.uint8))
            return np.asarray(picture.resize(size, Image.Resampling.NEAREST)) > 0

        objects: NDArray[np.bool_] = np.any([resized(path) for path in self.paths], axis=0)
        mask = objects.astype(np.uint8)
        if self.ignore is not None:
            mask[resized(self.ignore) & ~objects] = IGNORE
        return mask


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

        def area(pair: tuple[Box, int]) -> int:
            x0, y0, x1, y1 = pair[0]
            return (x1 - x0 + 1) * (y1 - y0 + 1)

        pairs = zip(self.boxes, self.values, strict=True)
        for (x0, y0, x1, y1), value in sorted(pairs, key=area, reverse=True):
            if x1 >= width or y1 >= height:
                raise SsgcamError(
                    f"a box reaches pixel ({x1}, {y1}), outside its image of {width}x{height}; "
                    "use the boxes of that very image"
                )
            part = mask[y0 : y1 + 1, x0 : x1 + 1]
            if self.shape == "filled":
                part[:] = value
            else:
                y, x = ((np.arange(side) + 0.5) / side * 2 - 1 for side in part.shape)
                part[x**2 + y[:, None] ** 2 <= 1] = value
        return mask


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
    samples = []
    for sample in sample_set:
        if labeled and not semantic and len(set(sample.box_labels)) > 1:
            raise SsgcamError(
                f"'{sample.name}' has boxes of several classes, and a mask can't tell more than "
                f"{LAST_VALUE} classes apart; use a set with fewer classes"
            )
        values = [label + 1 for label in sample.box_labels] if semantic else [1] * len(sample.boxes)
        samples.append(replace(sample, mask=BoxMask(sample.boxes, tuple(values), shape)))
    names = sample_set.class_names if semantic else ("object",)
    return replace(sample_set, samples=tuple(samples), mask_names=names)
