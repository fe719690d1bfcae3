"""From an image of any size to a network's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ssgcam.core.settings import check_choice
from ssgcam.errors import SsgcamError, rephrased
from ssgcam.images import Reading, read_image

#: An image, an array ``[H, W]`` or ``[H, W, C]``, or a tensor ``[C, H, W]``; 8 bits or in [0, 1].
Photo = Image.Image | NDArray[Any] | Tensor


@dataclass(frozen=True)
class Preprocessing:
    """From an image to the network's input.

    Attributes:
        input_size: Height and width of the input, in pixels.
        mean: Subtracted from each channel of the image in [0, 1], in the network's channel order:
            three numbers, one for a network whose input is gray, or as many as its input has channels.
        std: Divides each channel after that.
        channel_order: ``"rgb"`` or ``"bgr"``: what the network expects.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``; always antialiased.
        resize_shorter: Shorter side, in pixels, before the weights' own center crop (``crop=True``).
        reading: How image files are read.

    Raises:
        SsgcamError: If the numbers of means and standard deviations differ, or a value is out of range.
    """

    input_size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channel_order: Literal["rgb", "bgr"] = "rgb"
    interpolation: str = "bilinear"
    resize_shorter: int | None = None
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        """Check the number of channels."""
        if not 0 < len(self.mean) == len(self.std):
            raise SsgcamError(
                f"mean has {len(self.mean)} and std {len(self.std)} values; give 3 of each for a color "
                "network, 1 for a gray one, or as many as its input has channels"
            )
        check_choice("channel_order", self.channel_order, Literal["rgb", "bgr"])
        if min(self.input_size) < 1 or min(self.std) <= 0:
            raise SsgcamError(
                f"input_size is {self.input_size} and std {self.std}; give numbers above zero"
            )

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return len(self.mean)

    def read(self, path: str | Path) -> Image.Image:
        """Read an image file; see :func:`ssgcam.images.read_image`."""
        reading = self.reading
        if self.channels not in (1, 3) and not reading.channels:
            reading = replace(reading, channels=tuple(range(1, self.channels + 1)))
        return read_image(path, reading)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Preprocessing:
        """The settings as ``dataclasses.asdict`` wrote them, lists for tuples allowed."""
        lists = {key: tuple(value) for key, value in content.items() if isinstance(value, list)}
        return cls(**{**content, **lists, "reading": Reading(**content["reading"])})

    def __call__(self, images: Photo | Sequence[Photo]) -> Tensor:
        """Prepare photos of any size.

        Args:
            images: One or several, see :func:`as_photos`; each is squashed to ``input_size``.

        Returns:
            ``[N, C, H, W]`` float32, normalized, with C :attr:`channels`.

        Raises:
            SsgcamError: If there is none, or one is no photo.
        """
        return self.normalize(torch.stack([self.pixels(photo) for photo in as_photos(images)]))

    def pixels(self, image: Image.Image, crop: bool = False) -> Tensor:
        """One image at the network's input size, with 8 bits: ``[C, H, W]`` uint8.

        Args:
            image: RGB, or with as many channels as the network takes.
            crop: Use the weights' center crop instead of the whole image squashed to ``input_size``.

        Raises:
            SsgcamError: If the image has not as many channels as the network takes.
        """
        mode = F.InterpolationMode(self.interpolation)
        if self.channels in (1, 3):
            tensor = F.pil_to_tensor(image.convert("RGB" if self.channels == 3 else "L"))
        else:
            values = image.info.get("channels")
            if values is None or values.shape != (image.height, image.width, self.channels):
                raise SsgcamError(
                    f"the network takes {self.channels} channels, which an image does not have; give "
                    "whole TIFF files that have them, or choose them with --channels"
                )
            tensor = torch.from_numpy(values).permute(2, 0, 1)
        if crop:
            left, top, right, bottom = self.crop_box(image.width, image.height)
            tensor = F.crop(tensor, top, left, bottom - top, right - left)
        resized: Tensor = F.resize(tensor, list(self.input_size), mode, antialias=True)
        return resized

    def crop_box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The part of an image that the weights' center crop keeps: left, top, right, bottom."""
        shorter = self.resize_shorter or min(self.input_size)
        scale = min(width, height) / shorter
        crop_h, crop_w = (
            min(side * scale, full)
            for side, full in zip(self.input_size, (height, width), strict=True)
        )
        left, top = round((width - crop_w) / 2), round((height - crop_h) / 2)
        return left, top, max(left + 1, round(left + crop_w)), max(top + 1, round(top + crop_h))

    def normalize(self, pixels: Tensor) -> Tensor:
        """Pixels of 8 bits or in [0, 1], ``[N, C, H, W]``, to the network's input of the same shape."""
        pixels = unit_range(pixels)
        if self.channel_order == "bgr":
            pixels = pixels.flip(-3)
        normalized: Tensor = F.normalize(pixels, list(self.mean), list(self.std))
        return normalized


def as_photos(images: Photo | Sequence[Photo]) -> list[Image.Image]:
    """One or several photos as images.

    Args:
        images: Images, arrays ``[H, W]`` or ``[H, W, C]`` or tensors ``[C, H, W]`` of 8 bits or in
            [0, 1]; one of them, a sequence, or a batch with a first dimension more.

    Raises:
        SsgcamError: If there is none, or one has another shape, type or range.
    """
    several = isinstance(images, list | tuple) or getattr(images, "ndim", 0) > 3
    given: Any = images if several else [images]
    photos = [_as_photo(each) for each in given]
    if not photos:
        raise SsgcamError("there is no photo; give at least one")
    return photos


def _as_photo(photo: Any) -> Image.Image:
    if isinstance(photo, Image.Image):
        return photo
    if isinstance(photo, str | Path):
        raise SsgcamError(f"'{photo}' is a path; read the photo with ssgcam.images.read_image")
    what = f"a photo is {type(photo).__name__} {list(getattr(photo, 'shape', []))}"
    hint = "give an image, an array [H, W, 3] or a tensor [3, H, W], of 8 bits or in [0, 1]"
    with rephrased(what, hint, Exception):
        values = photo.detach().cpu() if isinstance(photo, Tensor) else np.array(photo)
        pixels = F.to_image(values)
        pixels = pixels.float() if pixels.is_floating_point() else pixels.long()
        low, high = pixels.min(), pixels.max()
        if not 0 <= low <= high <= (1 if pixels.is_floating_point() else 255):  # also of NaN
            raise ValueError(f"it has values from {low:g} to {high:g}")
        picture: Image.Image = F.to_pil_image(
            pixels if pixels.is_floating_point() else pixels.byte()
        )
        return picture


def unit_range(pixels: Tensor) -> Tensor:
    """8 bits as float32 in [0, 1]; what is floating point already stays as it is."""
    if pixels.is_floating_point():
        return pixels
    scaled: Tensor = F.to_dtype(pixels, torch.float32, scale=True)
    return scaled
