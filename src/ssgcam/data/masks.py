"""Masks from files, polygons, run lengths and boxes, in the convention of `ssgcam.data.sample`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pycocotools.mask
from numpy.typing import NDArray
from PIL import Image

from ssgcam.data.frames import upright_array
from ssgcam.data.sample import LAST_VALUE, Box, Mask, SampleSet
from ssgcam.errors import SsgcamError, rephrased
from ssgcam.files import read_array
from ssgcam.images import open_image

BoxShape = Literal["filled", "ellipse"]
#: Pixels from the image's corner at which no point of a polygon can be.
FARTHEST = 1_000_000


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
    if path.suffix.lower() == ".npy":
        values: NDArray[Any] = np.array(read_array(path))
        if values.ndim != 2 and values.shape[2:] != (1,):
            raise SsgcamError(f"the mask '{path}' has shape {values.shape}; save it as [H, W]")
    else:
        with open_image(path) as image:
            image.load()
            values = np.asarray(image.getchannel("L") if image.mode == "LA" else image)
        if image.format == "JPEG":
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
class FileMask:
    """A mask in a picture file.

    Attributes:
        path: The file.
        values: Stored value to mask value (0 to 255); None: values as they are.
        orientation: EXIF orientation that turns the mask upright, 1 to 8.
    """

    path: Path
    values: Mapping[int, int] | None = field(default=None, hash=False)
    orientation: int = 1

    def read(self, size: tuple[int, int]) -> Mask:
        """Read the file; see `ssgcam.data.sample.MaskSource.read`."""
        mask = map_values(read_raw_mask(self.path), self.values, self.path)
        return _upright(mask, self.orientation, size, f"the mask '{self.path}'")


@dataclass(frozen=True)
class PaintedMask:
    """A mask painted from regions, such as polygons or boxes.

    Attributes:
        regions: Mask value and region of each object (see `region_pixels`); later ones lie on top.
        size: Width and height of the pixels that the regions count; None: those of the image.
        orientation: EXIF orientation that turns these pixels upright, 1 to 8.
    """

    regions: tuple[tuple[int, Any], ...] = field(hash=False)
    size: tuple[int, int] | None = None
    orientation: int = 1

    def read(self, size: tuple[int, int]) -> Mask:
        """Paint the mask; see `ssgcam.data.sample.MaskSource.read`."""
        width, height = self.size or (size[::-1] if self.orientation > 4 else size)
        mask = np.zeros((height, width), dtype=np.uint8)
        for value, region in self.regions:
            mask[region_pixels(region, height, width)] = value
        return _upright(mask, self.orientation, size, "a mask made of polygons")


class BoxRegion(NamedTuple):
    """A region: the pixels of a box (``"filled"``), or of the ellipse inside it (``"ellipse"``).

    The pixels of the ellipse are those whose center is in the ellipse that touches all four sides.
    """

    box: Box
    shape: BoxShape = "filled"


def region_pixels(region: Any, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels of a region.

    Args:
        region: A mask file, whose non-zero pixels are the region and which is resized by nearest
            neighbor, as the WSOL benchmark does; a `BoxRegion`; COCO's run lengths
            (``{"counts": ...}``, plain or compressed); a list of polygons
            ``[x0, y0, x1, y1, ...]``; or ``{"polygons": [[outline, hole, ...], ...]}``, whose
            rings are such polygons.
        height: Of its image.
        width: Of its image.

    Returns:
        ``bool[H, W]``.

    Raises:
        SsgcamError: If it is damaged, or a box is not inside the image.
    """
    pixels = np.zeros((height, width), dtype=bool)
    if isinstance(region, Path):
        picture = Image.fromarray((read_raw_mask(region) > 0).astype(np.uint8))
        return np.asarray(picture.resize((width, height), Image.Resampling.NEAREST)) > 0
    if isinstance(region, BoxRegion):
        x0, y0, x1, y1 = region.box
        if x1 >= width or y1 >= height:
            raise SsgcamError(
                f"a box reaches pixel ({x1}, {y1}), outside its image of {width}x{height}; "
                "use the boxes of that very image"
            )
        part = pixels[y0 : y1 + 1, x0 : x1 + 1]
        y, x = ((np.arange(side) + 0.5) / side * 2 - 1 for side in part.shape)
        part[:] = region.shape == "filled" or x**2 + y[:, None] ** 2 <= 1
    elif isinstance(region, Mapping) and "polygons" in region:
        for outline, *holes in region["polygons"]:
            hidden = region_pixels(holes, height, width)
            pixels |= region_pixels([outline], height, width) & ~hidden
    elif isinstance(region, Mapping):
        return run_length_pixels(region.get("counts"), height, width)
    # A polygon has three points; pycocotools takes four numbers for a box.
    elif polygons := [polygon for polygon in region if len(polygon) >= 6]:
        with rephrased("a polygon is damaged", "correct it", Exception):  # which pycocotools raises
            # its memory grows with the length of the edges, and it ends the process if there is none
            if not all(np.abs(np.asarray(each, float)).max() < FARTHEST for each in polygons):
                raise ValueError(
                    f"it has a point {FARTHEST:,} or more pixels from the image's corner"
                )
            merged = pycocotools.mask.merge(pycocotools.mask.frPyObjects(polygons, height, width))
        return np.asarray(pycocotools.mask.decode(merged), dtype=bool)
    return pixels


def run_length_pixels(counts: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Decode COCO's run lengths; pycocotools does not notice counts that are cut short.

    Runs count pixels down the columns, from the left, beginning with background. The compressed
    form writes each count (from the fourth on: its difference from the count two before) in groups
    of five bits, lowest first; bit 6 says that more follow, and 48 is added to make characters.

    Args:
        counts: A list of counts, or the compressed form as ``str`` or ``bytes``.
        height: Of the mask.
        width: Of the mask.

    Returns:
        ``bool[H, W]``.

    Raises:
        SsgcamError: If the counts don't fill the mask, or are not counts.
    """
    wrong = (TypeError, ValueError, OverflowError)
    with rephrased("a run-length mask is damaged", "export it again", *wrong):
        text = counts.decode("ascii") if isinstance(counts, bytes) else counts
        runs: list[int] = [] if isinstance(text, str) else [int(count) for count in text]
        value = shift = 0
        for character in text if isinstance(text, str) else "":
            group = ord(character) - 48
            if not 0 <= group < 64:
                raise ValueError(f"{character!r} is not in the alphabet")
            value |= (group & 31) << shift
            shift += 5
            if not group & 32:
                value -= (1 << shift) if group & 16 else 0
                runs.append(value + (runs[-2] if len(runs) > 2 else 0))
                value = shift = 0
        if shift or min(runs, default=0) < 0 or sum(runs) != height * width:
            raise ValueError(f"its runs don't fill {width}x{height} pixels")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape((height, width), order="F")


def _upright(mask: Mask, orientation: int, size: tuple[int, int], name: str) -> Mask:
    """Turn a mask of stored pixels upright and check that it has its image's size."""
    mask = np.ascontiguousarray(upright_array(mask, orientation))
    if mask.shape != size[::-1]:
        raise SsgcamError(
            f"{name} is {mask.shape[1]}x{mask.shape[0]} pixels but its image is "
            f"{size[0]}x{size[1]}; make them the same size"
        )
    return mask


def with_box_masks(sample_set: SampleSet, shape: BoxShape = "filled") -> SampleSet:
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
        regions = zip(values, (BoxRegion(box, shape) for box in sample.boxes), strict=True)
        on_top = sorted(regions, key=lambda each: -_area(each[1].box))
        samples.append(replace(sample, mask=PaintedMask(tuple(on_top))))
    names = sample_set.class_names if semantic else ("object",)
    return replace(sample_set, samples=tuple(samples), mask_names=names)


def _area(box: Box) -> int:
    x0, y0, x1, y1 = box
    return (x1 - x0 + 1) * (y1 - y0 + 1)
