"""What an explanation holds, for one class of each image or for several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ssgcam.core.signals import Signal
from ssgcam.errors import SsgcamError
from ssgcam.preprocessing import Photo, as_photos

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image


@dataclass(frozen=True, eq=False)
class Result:
    """Heat maps of a batch; printed as one short line.

    Attributes:
        maps: ``[N, H, W]`` (or ``[N, K, H, W]`` for K classes of each image) in [0, 1], at input
            size, the layers fused; all zeros where there is no evidence.
        layer_maps: Layer -> ``[N, h, w]`` (or ``[N, K, h, w]``), raw, float32, not scaled.
        classes: The explained classes, ``[N]`` or ``[N, K]``.
        logits: ``[N, classes]``, or ``None`` for a network explained by a user's score function.
        probabilities: Softmax or sigmoid of the logits, or ``None``.
        evidence: Whether a map has any, ``[N]`` or ``[N, K]``, bool.
        notes: For each map, flattened, why it has no evidence in some layer; empty if it has.
        images: The network's input, for pictures.
        class_names: One for each output; empty if unknown.
        pooled: Layer -> activations averaged over positions, ``[N, channels]``, float32.
    """

    maps: Tensor
    layer_maps: dict[str, Tensor]
    classes: Tensor
    logits: Tensor | None
    probabilities: Tensor | None
    evidence: Tensor
    notes: tuple[str, ...]
    images: Tensor | None = None
    class_names: tuple[str, ...] = ()
    pooled: dict[str, Tensor] | None = None

    def __repr__(self) -> str:
        count, (height, width) = len(self.classes), self.maps.shape[-2:]
        return (
            f"Result({count} image{'s' * (count != 1)}, classes [{_first_few(self.classes.tolist())}], "
            f"map {height} x {width}, layers {_first_few(list(self.layer_maps))})"
        )

    @property
    def class_probabilities(self) -> Tensor:
        """The probabilities of the explained classes, of the shape of ``classes``.

        Raises:
            SsgcamError: If a user's score function was explained, so that there are none.
        """
        if self.probabilities is None:
            raise SsgcamError(
                "a target function was explained, so there are no class probabilities"
            )
        columns = self.classes.view(len(self.classes), -1)
        return self.probabilities.gather(1, columns).view(self.classes.shape)

    def overlay(self, photos: Photo | Sequence[Photo] | None = None) -> list[Image.Image]:
        """The maps over their photos: one RGB picture for each map, flattened.

        Args:
            photos: The N photos, any size, or the only one; the network's input,
                stretched to its range, if None.

        Raises:
            SsgcamError: If the number of photos is another than that of the images.
        """
        from ssgcam.report.heatmap import overlay

        maps = self.maps.detach().float().cpu().flatten(0, -3).numpy()
        own = self._inputs() if photos is None else as_photos(photos)
        if len(own) != len(self.classes):
            raise SsgcamError(
                f"{len(own)} photos for {len(self.classes)} images; give one for each"
            )
        each = len(maps) // len(own)
        return [overlay(own[k // each], values) for k, values in enumerate(maps)]

    def titles(self) -> list[str]:
        """Class and probability of each map, flattened."""
        indices = self.classes.flatten().tolist()
        names = [self.class_names[k] if self.class_names else f"class {k}" for k in indices]
        if self.probabilities is None:
            return names
        shares = self.class_probabilities.flatten().tolist()
        return [f"{name} {share:.1%}" for name, share in zip(names, shares, strict=True)]

    def plot(self, photos: Photo | Sequence[Photo] | None = None) -> Figure:
        """A figure with a row of overlays for each image; ``photos`` as for :meth:`overlay`.

        A notebook shows it as the last value of a cell.
        """
        from ssgcam.report.notebook import NotebookFigure

        pictures = self.overlay(photos)
        columns = len(pictures) // len(self.classes)
        figure = NotebookFigure((3 * columns, 3.2 * len(self.classes)), layout="constrained")
        grid = figure.subplots(len(self.classes), columns, squeeze=False)
        for axes, picture, title in zip(grid.flat, pictures, self.titles(), strict=True):
            axes.imshow(picture)
            axes.set_title(title, fontsize=9)
            axes.set_axis_off()
        return figure

    def _inputs(self) -> list[Image.Image]:
        from torchvision.transforms.v2.functional import to_pil_image

        if self.images is None:
            raise SsgcamError("the result holds no images; pass photos")
        images = self.images.detach().float().cpu()
        low, high = (pick(images, (1, 2, 3), keepdim=True) for pick in (torch.amin, torch.amax))
        return [to_pil_image(each) for each in (images - low) / (high - low).clamp_min(1e-12)]

    def _repr_html_(self) -> str:
        from ssgcam.report.notebook import html_pictures

        return html_pictures(zip(self.overlay(), self.titles(), strict=True))


def _first_few(values: Sequence[Any]) -> str:
    """The first three values, separated by commas; a list in brackets."""
    few = [f"[{_first_few(each)}]" if isinstance(each, list) else str(each) for each in values[:3]]
    return ", ".join(few + ["..."] * (len(values) > 3))


def in_shape_of(classes: Tensor, parts: list[Tensor]) -> Tensor:
    """Join ``[N, ...]`` of each of K classes to ``[N, ...]`` or ``[N, K, ...]``, as the classes are."""
    return torch.stack(parts, 1) if classes.ndim == 2 else parts[0]


def missing_evidence(layer_maps: dict[str, Tensor], signals: dict[str, Signal]) -> list[str]:
    """For each image why a layer gave nothing; empty where all gave something.

    Args:
        layer_maps: Layer -> its map ``[N, h, w]``, not negative.
        signals: Layer -> what that was made of.

    Returns:
        ``N`` texts.

    Raises:
        SsgcamError: If a map is not finite.
    """
    peaks = [layer_map.amax((1, 2)) for layer_map in layer_maps.values()]
    values = torch.stack(peaks).tolist()  # at once: a device is waited for
    notes: list[list[str]] = [[] for _ in values[0]]
    for (name, signal), of_layer in zip(signals.items(), values, strict=True):
        if not all(map(math.isfinite, of_layer)):
            raise SsgcamError(
                f"layer '{name}' gave values that are not finite (an overflow of its number format, or "
                "a broken network); use float32 or another layer"
            )
        for index, value in enumerate(of_layer):
            if value <= 0:
                notes[index].append(f"no evidence in layer '{name}': {_why(signal, index)}")
    return ["; ".join(of_image) for of_image in notes]


def _why(signal: Signal, index: int) -> str:
    if signal.first is not None and not signal.first[index].any():
        return "the class score does not change with it"
    if signal.second is not None and not (signal.second[index] > 0).any():
        return "every second derivative is negative (sign='absolute' takes their magnitude)"
    return "nothing in it speaks for the class"
