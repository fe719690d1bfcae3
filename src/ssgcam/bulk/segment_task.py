"""Segmenting as a task of the streaming engine: what is read, computed and written for a photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ssgcam.bulk.inputs import InputImage
from ssgcam.bulk.mask_files import indexed, mask_overlay
from ssgcam.bulk.segmenter import Seen, Segmenter
from ssgcam.bulk.stream import SCRATCH
from ssgcam.files import write_png, written_whole
from ssgcam.images import read_image

#: The folder of the overlays, below that of the masks.
OVERLAYS = "overlays"
#: Of the masks. For a mask of 500x375 pixels level 3 takes .4 ms and 5.1 kB, level 6 1.1 ms and 3.5 kB.
COMPRESSION = 3


@dataclass(frozen=True, eq=False)
class SegmentTask:
    """Segmenting as a task of the streaming engine.

    Attributes:
        segmenter: Photos in, what is seen in them out.
        names: Of the network's classes; may be empty.
        out: The folder of the masks, absolute.
        overlays: Write these as well.
    """

    segmenter: Segmenter
    names: tuple[str, ...]
    out: Path
    overlays: bool = False

    @property
    def batch_size(self) -> int:
        """A batch of whole photos, or one photo in windows."""
        return 1 if self.segmenter.rule.windows else self.segmenter.batch_size

    def to_device(self, device: torch.device | None) -> None:
        """Move the network."""
        if device is not None:
            self.segmenter.cam.network.to(device)

    def read(self, image: InputImage) -> tuple[tuple[int, int], Tensor | Image.Image]:
        """A photo's height and width, and its pixels at the network's size or in full."""
        photo = read_image(image.path)
        size = (photo.height, photo.width)
        if self.segmenter.rule.windows:
            return size, photo
        return size, self.segmenter.preprocessing.pixels(photo)

    def compute(
        self, images: Sequence[tuple[tuple[int, int], Tensor | Image.Image]]
    ) -> list[tuple[tuple[int, int], dict[int, Seen]]]:
        """What is seen in each photo, and its size."""
        sizes = [size for size, _ in images]
        pixels = [image for _, image in images if isinstance(image, Tensor)]
        seen = (
            self.segmenter.see(torch.stack(pixels))
            if pixels
            else [
                self.segmenter.see_in_windows(image)
                for _, image in images
                if isinstance(image, Image.Image)
            ]
        )
        return list(zip(sizes, seen, strict=True))

    def write(
        self, image: InputImage, made: tuple[tuple[int, int], dict[int, Seen]]
    ) -> tuple[list[str], dict[str, Any]]:
        """Write the mask, and the overlay; the photo is read again for that."""
        size, seen = made
        mask = self.segmenter.mask(seen, size)
        labels = mask.numpy()
        outputs = [mask_name(image)]
        target = self.out / outputs[0]
        write_png(target, indexed(labels), self.out / SCRATCH, compression=COMPRESSION)
        if self.overlays:
            outputs.append(str(PurePosixPath(OVERLAYS, image.name).with_suffix(".jpg")))
            picture = mask_overlay(read_image(image.path), labels)
            with written_whole(self.out / outputs[1], self.out / SCRATCH) as temporary:
                picture.save(temporary, format="JPEG", quality=90)
        pixels = mask.flatten().bincount(minlength=max(seen) + 1).tolist()
        classes = [
            {
                "value": value,
                "class": what.index,
                "name": self.names[what.index] if self.names else "",
                "probability": round(what.probability, 6),
                "pixels": pixels[value],
            }
            for value, what in sorted(seen.items())
        ]
        return outputs, {"size": [size[1], size[0]], "classes": classes}


def mask_name(image: InputImage) -> str:
    """Where a photo's mask is, relative to the folder of the masks."""
    return str(PurePosixPath(image.name).with_suffix(".png"))
