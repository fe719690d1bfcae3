"""Reads any picture file as RGB with 8 bits, and lists the image files that names stand for."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ssgcam.errors import SsgcamError

#: Suffixes, in lower case, of the files that count as images in a folder.
IMAGE_EXTENSIONS = frozenset(
    {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm"}
    | {".tif", ".tiff", ".webp"}
)
_KINDS = "JPEG, PNG, TIFF, WebP, BMP or GIF"
# The only decoders that are tried: some others of Pillow start programs (EPS runs Ghostscript).
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")


def read_image(path: str | Path) -> Image.Image:
    """Read a picture file as RGB with 8 bits, the right way up.

    The format is told by the content, not by the name. Of an animation or a TIFF of several pages
    the first is read; a color profile is ignored. How pixels become RGB:

    - the EXIF orientation is applied;
    - gray, black and white, palette, CMYK, YCbCr and HSV pixels are converted by Pillow;
    - transparent pixels (RGBA, LA, a transparent palette entry) are laid on white;
    - gray of 16 bits is scaled by the full range of 16 bits, 0 to 65535, not by the values that
      occur in the picture, so that pictures stay comparable (color of 16 bits likewise);
    - floating-point pixels, and integers outside 0 to 65535, have no known range: refused.

    The size limit is Pillow's guard against decompression bombs: twice
    ``PIL.Image.MAX_IMAGE_PIXELS``, which is 178,956,970 pixels unless you set it.

    Args:
        path: The file.

    Returns:
        A loaded picture of mode ``"RGB"``, at least 1x1.

    Raises:
        SsgcamError: If the file is missing, a folder, not a picture, cut short, too large, or of
            pixels with an unknown range.
    """
    with open_image(path) as opened:
        return _rgb(_upright(opened), Path(path))


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
    with open_image(path) as opened:
        if opened.format == "TIFF":
            return (*_upright(opened).size, 1)
        try:
            orientation = int(opened.getexif().get(ExifTags.Base.Orientation, 1))
        except Exception:  # a broken EXIF block says nothing about which side is up
            orientation = 1
        return (*opened.size, orientation if 1 <= orientation <= 8 else 1)


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
    try:
        # as a stream: given a name, Pillow maps the file, and turns some mapped TIFFs wrongly
        with path.open("rb") as stream, Image.open(stream, formats=_formats()) as opened:
            yield opened
    except SsgcamError:
        raise
    except FileNotFoundError as error:
        raise SsgcamError(f"there is no file '{path}'; check the path") from error
    except PermissionError as error:
        raise SsgcamError(f"'{path}' may not be read; change its permissions") from error
    except UnidentifiedImageError as error:
        what = "is empty (0 bytes)" if path.stat().st_size == 0 else "is not an image"
        raise SsgcamError(f"'{path}' {what}; give {_KINDS} files") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise SsgcamError(
            f"'{path}' has more than {limit:,} pixels, the limit that guards against "
            "decompression bombs; shrink it or cut it into tiles"
        ) from error
    except Exception as error:  # a decoder can raise anything on a damaged file
        detail = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise SsgcamError(
            f"'{path}' is cut short or damaged ({detail}); fetch or export it again"
        ) from error


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
        for path, real in images_of(pattern):
            found.setdefault(real, path)
    if not found:
        raise SsgcamError("no image is given; name image files, folders or a pattern like '*.jpg'")
    return list(found.values())


def images_of(pattern: str | Path) -> list[tuple[Path, str]]:
    """The image files that one name, folder or glob stands for, as in :func:`find_images`.

    Args:
        pattern: A file's name, a folder's name or a glob.

    Returns:
        Each file as it was found, sorted, and its real path, with links resolved. A file that a glob
        matches in several ways comes several times.

    Raises:
        SsgcamError: If it stands for no image.
    """
    path = Path(pattern).expanduser()
    found: list[Path] = []
    if path.is_dir():
        found = images_below(path)
        missing = (
            f"the folder '{path}' holds no image; put {_KINDS} files in it or name another folder"
        )
    elif path.is_file():
        found = [path]
    elif glob.has_magic(str(path)):
        missing = f"no image matches '{path}'; check the pattern"
        for hit in map(Path, glob.iglob(str(path), recursive=True)):  # noqa: PTH207
            if hit.is_dir():
                found += images_below(hit)
            elif is_image_name(hit):
                found.append(hit)
    elif is_image_name(path):
        found = [path]
    else:
        raise SsgcamError(f"there is no file or folder '{path}'; check the path")
    if not found:
        raise SsgcamError(missing)
    return [(image, os.path.realpath(image)) for image in sorted(found)]


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


def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # a broken EXIF block says nothing about which side is up
        return image


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _from_wide_gray(image, path)
    if image.mode == "La":  # premultiplied; Pillow converts it to LA only
        image = image.convert("LA")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    return image.convert("RGB")


def _from_wide_gray(image: Image.Image, path: Path) -> Image.Image:
    values = np.asarray(image)
    if values.dtype.kind == "f":
        raise SsgcamError(
            f"'{path}' has floating-point pixels, whose range is unknown; save it with 8 or 16 bits"
        )
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise SsgcamError(
            f"'{path}' has values from {low} to {high}, outside the range of 16 bits (0 to 65535); "
            "save it with 8 or 16 bits"
        )
    gray = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return Image.fromarray(gray).convert("RGB")
