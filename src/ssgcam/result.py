"""What an explanation holds, for one class of each image or for several."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ssgcam.core.signals import Signal
from ssgcam.errors import SsgcamError


@dataclass(frozen=True)
class Result:
    """Heat maps of a batch.

    Attributes:
        maps: ``[N, H, W]`` (or ``[N, K, H, W]`` for K classes of each image) in [0, 1], at input
            size, the layers fused; all zeros where there is no evidence.
        layer_maps: Layer -> ``[N, h, w]`` (or ``[N, K, h, w]``), raw, float32, not scaled.
        classes: The explained classes, ``[N]`` or ``[N, K]``.
        logits: ``[N, classes]``, or ``None`` for a network explained by a user's score function.
        probabilities: Softmax or sigmoid of the logits, or ``None``.
        evidence: Whether a map has any, ``[N]`` or ``[N, K]``, bool.
        notes: For each map, flattened, why it has no evidence in some layer; empty if it has.
    """

    maps: Tensor
    layer_maps: dict[str, Tensor]
    classes: Tensor
    logits: Tensor | None
    probabilities: Tensor | None
    evidence: Tensor
    notes: tuple[str, ...]


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
