"""Reads any picture file as RGB with 8 bits, and lists the image files that names stand for."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ssgcam.errors import SsgcamError, rephrased, require
from ssgcam.files import expanded

#: Suffixes, in lower case, of the files that count as images in a folder.
IMAGE_EXTENSIONS = frozenset(
    {".avif", ".bmp", ".dcm", ".gif", ".heic", ".heif", ".jp2", ".jpeg", ".jpg"}
    | {".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
_KINDS = "JPEG, PNG, TIFF, WebP, BMP or GIF"
# The only decoders that are tried: some others of Pillow start programs (EPS runs Ghostscript).
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")


@dataclass(frozen=True)
class Reading:
    """How image files are read; the same in training, search, evaluation and use.

    Attributes:
        intensity: For pixels of more than 8 bits, which values become black and white. ``"auto"``: the
            0.1 and 99.9 percentiles of the file. ``"full"``: 0 and 65535, so that files stay
            comparable. ``"LOW,HIGH"``: these two numbers.
        page: Which page of a TIFF or frame of an animation is read, from 1.
        channels: Which channels, from 1, of a TIFF that has other channels than a color picture (extra
            ``tiff``); empty: the first three, or the first of two. If they are given, the pages of a
            TIFF whose pages have one channel each are its channels.

    Raises:
        SsgcamError: If a value is none of these.
    """

    intensity: str = "auto"
    page: int = 1
    channels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check every value."""
        if self.intensity not in ("auto", "full"):
            self.window()
        if self.page < 1:
            raise SsgcamError(f"page is {self.page}; pages count from 1")
        if any(channel < 1 for channel in self.channels):
            raise SsgcamError(f"channels are {self.channels}; channels count from 1")

    def window(self) -> tuple[float, float]:
        """The two numbers of ``"LOW,HIGH"``."""
        try:
            low, high = map(float, self.intensity.split(","))
        except ValueError:
            low = high = math.nan
        if not -math.inf < low < high < math.inf:
            raise SsgcamError(
                f"intensity is '{self.intensity}'; give auto, full or LOW,HIGH, such as 0,4095"
            )
        return low, high


def read_image(path: str | Path, reading: Reading | None = None) -> Image.Image:
    """Read a picture file as RGB with 8 bits, the right way up.

    The format is recognized by the content, not by the name; a color profile is ignored.

    - the EXIF orientation is applied;
    - gray, black and white, palette, CMYK, YCbCr and HSV pixels are converted by Pillow;
    - transparent pixels (RGBA, LA, a transparent palette entry) are laid on white;
    - pixels of more than 8 bits (integers or floating point, gray or color) are scaled by
      ``reading.intensity``;
    - DICOM (extra ``dicom``) is rescaled to its own units, such as Hounsfield units, and then by
      ``reading.intensity``; ``MONOCHROME1`` is inverted.

    The size limit is Pillow's guard against decompression bombs: twice
    ``PIL.Image.MAX_IMAGE_PIXELS``, which is 178,956,970 pixels unless you set it.

    Args:
        path: The file.
        reading: The window of wide pixels, and the page; ``Reading()`` if None.

    Returns:
        A loaded picture of mode ``"RGB"``, at least 1x1. Its ``info["notes"]`` is a list of sentences
        on what was left out or assumed: pages that were not read, the window of wide pixels. Of a TIFF
        with other channels, its ``info["channels"]`` is ``uint8[H, W, C]``, of which the picture shows
        the first three.

    Raises:
        SsgcamError: If the file is missing, a folder, not a picture, cut short, too large, has no
            such page, or has pixels outside the range of ``"full"``.
    """
    reading, path = reading or Reading(), Path(path)
    try:
        with open_image(path) as opened:
            image, notes = _read(opened, path, reading)
    except SsgcamError as error:
        other = _other_reader(path) if isinstance(error.__cause__, UnidentifiedImageError) else None
        if other is None:
            raise
        image, notes = other(path, reading)
    image.info["notes"] = notes
    return image


def image_header(path: str | Path) -> tuple[int, int, int]:
    """Read the size and the turn of a picture without decoding its pixels.

    Args:
        path: The file.

    Returns:
        Width and height of the pixels as stored, and the EXIF orientation, 1 to 8 (1: upright).
        For TIFF, which Pillow turns by itself: the upright size, and 1.

    Raises:
        SsgcamError: As `read_image`, as far as the header tells.
    """
    try:
        with open_image(path) as opened:
            if opened.format == "TIFF":
                return (*_upright(opened).size, 1)
            try:
                orientation = int(opened.getexif().get(ExifTags.Base.Orientation, 1))
            except Exception:  # a broken EXIF block says nothing about which side is up
                orientation = 1
            return (*opened.size, orientation if 1 <= orientation <= 8 else 1)
    except SsgcamError as error:
        if not isinstance(error.__cause__, UnidentifiedImageError):
            raise
        return (*read_image(path).size, 1)  # DICOM, and TIFF with other channels


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Open a picture with Pillow, and say in one sentence what is wrong with a bad file.

    Args:
        path: The file.

    Yields:
        The picture as Pillow opens it: any mode, stored pixels, not loaded yet.

    Raises:
        SsgcamError: As `read_image`; also for what goes wrong inside the ``with`` block.
    """
    path = Path(path)
    if path.is_dir():
        raise SsgcamError(f"'{path}' is a folder; name the image files in it")
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        # as a stream: given a name, Pillow maps the file, and turns some mapped TIFFs wrongly
        with path.open("rb") as stream, Image.open(stream, formats=formats) as opened:
            yield opened
    except SsgcamError:
        raise
    except Exception as error:  # a decoder can raise anything on a damaged file
        raise SsgcamError(_problem(path, error)) from error


def _problem(path: Path, error: Exception) -> str:
    """The sentence on a file that Pillow can't open."""
    if isinstance(error, FileNotFoundError):
        return f"there is no file '{path}'; check the path"
    if isinstance(error, PermissionError):
        return f"'{path}' may not be read; change its permissions"
    if isinstance(error, UnidentifiedImageError):
        what = "is empty (0 bytes)" if path.stat().st_size == 0 else "is not an image"
        if path.suffix.lower() in (".heic", ".heif"):
            what = "is a HEIC picture, which Pillow can't read"
        return f"'{path}' {what}; give {_KINDS} files"
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"'{path}' has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, the limit that "
            "guards against decompression bombs; shrink it or cut it into tiles"
        )
    detail = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return f"'{path}' is cut short or damaged ({detail}); fetch or export it again"


def find_images(patterns: Iterable[str | Path]) -> list[Path]:
    """List the image files that names, folders and glob patterns stand for.

    - A file is taken as it is, whatever its ending. One that does not exist but has an image's
      ending is kept too, so that `read_image` reports it and the other images are still worked on.
    - A folder stands for all files of `IMAGE_EXTENSIONS` in it and its subfolders, sorted by path;
      names that begin with a dot are skipped.
    - A glob (``*``, ``?``, ``[...]``, ``**`` for any depth) stands for the images it matches, and
      for those in the folders it matches, sorted.

    Args:
        patterns: File names, folder names and globs; ``~`` is the home folder.

    Returns:
        The files in the order given, each once.

    Raises:
        SsgcamError: If nothing is given, or one of them stands for no image.
    """
    if isinstance(patterns, (str, Path)):
        patterns = [patterns]
    found: dict[str, Path] = {}
    for pattern in patterns:
        for path in _images_of(expanded(pattern)):
            found.setdefault(os.path.realpath(path), path)
    if not found:
        raise SsgcamError("no image is given; name image files, folders or a pattern like '*.jpg'")
    return list(found.values())


def _images_of(path: Path) -> list[Path]:
    """The image files that one name, folder or glob stands for, sorted.

    A file that a glob matches in several ways comes several times.
    """
    found: list[Path] = []
    if path.is_dir():
        found = images_below(path)
        if not found:
            raise SsgcamError(f"the folder '{path}' holds no image; put {_KINDS} files in it")
    elif path.is_file() or (is_image_name(path) and not glob.has_magic(str(path))):
        found = [path]
    elif not glob.has_magic(str(path)):
        raise SsgcamError(f"there is no file or folder '{path}'; check the path")
    else:
        for hit in map(Path, glob.iglob(str(path), recursive=True)):  # noqa: PTH207
            found += images_below(hit) if hit.is_dir() else [hit] * is_image_name(hit)
        if not found:
            raise SsgcamError(f"no image matches '{path}'; check the pattern")
    return sorted(found)


def is_image_name(path: Path) -> bool:
    """Whether a visible file's name has the suffix of an image."""
    return path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".")


def images_below(folder: Path) -> list[Path]:
    """List the image files in a folder and its subfolders, sorted, without hidden ones.

    Links to folders are followed; each real folder is visited once.
    """
    found: list[Path] = []
    visited = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [path for path in map(Path(parent).joinpath, names) if is_image_name(path)]
    return sorted(found)


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # a broken EXIF block says nothing about which side is up
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    return image.convert("RGB")


def _read(opened: Image.Image, path: Path, reading: Reading) -> tuple[Image.Image, list[str]]:
    notes = _check_page(path, reading.page, getattr(opened, "n_frames", 1))
    if notes and opened.format == "TIFF" and len(opened.getbands()) == 1:
        if reading.channels and reading.page == 1:
            return _read_channels(path, reading, stack=True)
        notes = [f"{notes[0]}; give channels, such as 1,2,3, if its pages are channels"]
    opened.seek(reading.page - 1)
    if opened.mode.startswith(("I", "F")):
        pixels, window = _eight_bits(np.asarray(_upright(opened)), path, reading.intensity)
        return Image.fromarray(pixels).convert("RGB"), notes + window
    if ";16" not in str(getattr(opened, "tile", "")) or opened.mode != "RGB":
        return _rgb(_upright(opened)), notes
    import cv2  # reads the 16 bits of a color, of which Pillow keeps 8

    _, found = cv2.imdecodemulti(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    pixels, window = _eight_bits(found[reading.page - 1][..., ::-1], path, reading.intensity)
    image = Image.fromarray(pixels)
    if opened.format != "TIFF":  # which OpenCV turns upright by itself
        image.getexif()[ExifTags.Base.Orientation] = image_header(path)[2]
        image = ImageOps.exif_transpose(image)
    return image, notes + window


def _other_reader(path: Path) -> Callable[[Path, Reading], tuple[Image.Image, list[str]]] | None:
    """The reader of a file that Pillow does not know, by its first bytes."""
    with path.open("rb") as stream:
        start = stream.read(132)
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _read_channels
    return _read_dicom if start[128:] == b"DICM" else None


def _check_size(path: Path, width: int, height: int) -> None:
    """Raise SsgcamError if pixels that Pillow did not check are more than its limit."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > 2 * limit:
        raise SsgcamError(_problem(path, Image.DecompressionBombError()))


def _check_page(path: Path, page: int, pages: int) -> list[str]:
    """Raise SsgcamError unless a file has this page; what to note if it has others."""
    if page > pages:
        raise SsgcamError(f"'{path}' has no page {page}; give one from 1 to {pages}")
    return [f"page {page} of {pages} was read"] if pages > 1 else []


def _read_dicom(path: Path, reading: Reading) -> tuple[Image.Image, list[str]]:
    pydicom = require("pydicom", "dicom")
    with rephrased(f"'{path}' can't be read as DICOM", "export it without compression", Exception):
        header = pydicom.dcmread(path)
        _check_size(path, header.Columns, header.Rows)
        notes = _check_page(path, reading.page, int(header.get("NumberOfFrames") or 1))
        values = pydicom.pixels.pixel_array(header, index=reading.page - 1)
        values = pydicom.pixels.apply_rescale(values, header)
    pixels, window = _eight_bits(values, path, reading.intensity)
    image = Image.fromarray(pixels).convert("RGB")
    inverted = header.PhotometricInterpretation == "MONOCHROME1"
    return ImageOps.invert(image) if inverted else image, notes + window


def _read_channels(
    path: Path, reading: Reading, stack: bool = False
) -> tuple[Image.Image, list[str]]:
    """A TIFF whose channels are not those of a color picture, or are its pages (``stack``)."""
    tifffile = require("tifffile", "tiff")
    what, hint = f"'{path}' is damaged or can't be read", "export it with one or three channels"
    with rephrased(what, hint, Exception), tifffile.TiffFile(path) as tiff:
        notes = _check_page(path, reading.page, len(tiff.pages))
        first = tiff.pages[reading.page - 1]
        count = len(tiff.pages) if stack else first.samplesperpixel
        channels = reading.channels or ((1, 2, 3) if count >= 3 else (1,))
        if max(channels) > count:
            raise SsgcamError(
                f"'{path}' has no channel {max(channels)}; give some from 1 to {count}"
            )
        chosen = [channel - 1 for channel in channels]
        pages = [tiff.pages[index] for index in chosen] if stack else [first]
        for page in pages:
            _check_size(path, page.imagewidth, page.imagelength)
        if stack:
            notes, values = [], np.stack([page.asarray() for page in pages], axis=-1)
        else:
            values = np.moveaxis(first.asarray(), first.axes.index("S"), -1)[..., chosen]
    if chosen != list(range(count)):
        read = ", ".join(map(str, channels))
        notes = [*notes, f"of {count} channels these were read: {read}"]
    pixels, window = _eight_bits(values, path, reading.intensity)
    image = Image.fromarray(pixels[..., :3] if len(channels) >= 3 else pixels[..., 0]).convert(
        "RGB"
    )
    image.info["channels"] = pixels
    return image, notes + window


def _eight_bits(values: NDArray[Any], path: Path, intensity: str) -> tuple[NDArray[Any], list[str]]:
    """Pixels of any shape as ``uint8``, and a sentence on their window."""
    if values.dtype == np.uint8:
        return values, []
    finite = values if values.dtype.kind == "u" else values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        raise SsgcamError(f"'{path}' has no finite pixel; export it again")
    lowest, highest = float(finite.min()), float(finite.max())
    note = ""
    if intensity == "auto":
        low, high = np.percentile(finite, (0.1, 99.9))
        low, high = (lowest, highest) if low == high else (low, high)
    elif intensity == "full":
        low, high = 0.0, 65535.0
        if lowest < low or highest > high or (finite % 1).any():
            raise SsgcamError(
                f"'{path}' has values from {lowest:g} to {highest:g}, which are not whole numbers of "
                "16 bits (0 to 65535); give the intensity auto or LOW,HIGH"
            )
        if highest - lowest < 0.05 * high:
            note = ", of which the file uses less than 5 %: give the intensity auto or LOW,HIGH"
    else:
        low, high = Reading(intensity).window()
    pixels = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), 64):  # some rows at once: float64 takes eight bytes a value
        part = values[row : row + 64].astype(np.float64)
        scaled = np.nan_to_num((part - low) / (high - low or 1.0), nan=0.0)
        pixels[row : row + 64] = np.rint(255 * scaled.clip(0, 1))
    return pixels, [f"values from {low:g} to {high:g} were read{note}"]
