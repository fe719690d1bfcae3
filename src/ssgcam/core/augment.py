"""Several views of each image, flipped and resized, whose maps are averaged.

For each view the network runs once, its layer maps are flipped back and go through the pipeline of
``core.fusion`` up to the scaling of the fused map: resized to the working size, divided by their maximum,
raised to gamma, averaged over layers with their weights. The mean over views is what is then
divided by its maximum. So every view has the same say, and so has every layer in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ssgcam.core.fusion import resize
from ssgcam.core.settings import check_choice, check_range
from ssgcam.errors import SsgcamError

Flips = Literal["none", "horizontal", "vertical", "both"]
_AXES: dict[Flips, tuple[tuple[int, ...], ...]] = {
    "none": ((),),
    "horizontal": ((), (-1,)),
    "vertical": ((), (-2,)),
    "both": ((), (-1,), (-2,), (-2, -1)),
}


@dataclass(frozen=True)
class Augmentation:
    """Which views of an image are averaged: every scale with every flip.

    Attributes:
        flips: ``"none"``, ``"horizontal"`` (as it is and mirrored left to right), ``"vertical"`` or
            ``"both"`` (as it is, two mirrorings, and their product).
        scales: Factors of the input's height and width, 0.1 to 10 each; the first one's unflipped
            view decides the class where none is given.
    """

    flips: Flips = "none"
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Check every value."""
        check_choice("flips", self.flips, Flips)
        if not self.scales:
            raise SsgcamError("scales is empty; give at least one, such as 1.0")
        for value in self.scales:
            check_range("scales", value, 0.1, 10)

    def __iter__(self) -> Iterator[View]:
        """The views; the first is unflipped."""
        return (View(scale, axes) for scale in self.scales for axes in _AXES[self.flips])


@dataclass(frozen=True)
class View:
    """One way to look at an image.

    Attributes:
        scale: Factor of height and width.
        axes: The axes that are flipped, of -2 (rows) and -1 (columns).
    """

    scale: float
    axes: tuple[int, ...]

    def apply(self, images: Tensor) -> Tensor:
        """``[N, C, H, W]`` resized (bilinear, antialiased along with shrinking) and flipped."""
        height, width = (max(1, round(side * self.scale)) for side in images.shape[-2:])
        images = resize(images, (height, width))
        return images.flip(self.axes) if self.axes else images

    def undo(self, maps: Tensor) -> Tensor:
        """Flip maps ``[..., h, w]`` back; their resolution stays."""
        return maps.flip(self.axes) if self.axes else maps
