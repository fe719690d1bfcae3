"""Which class of each image is explained: the one asked for, or the network's first choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssgcam.core.target import TargetFunction, logits_of
from ssgcam.errors import SsgcamError


def logits_and_classes(
    output: Any,
    wanted: Tensor | Sequence[int] | int | None,
    images: Tensor,
    function: TargetFunction | None,
) -> tuple[Tensor | None, Tensor]:
    """What a network said of a batch, and what of it is explained.

    Args:
        output: The network's output.
        wanted: As for :func:`chosen_classes`.
        images: The batch, ``[N, C, H, W]``.
        function: A user's own score, which alone says what is explained.

    Returns:
        Logits ``[N, K]`` without a graph and class indices; ``None`` and zeros ``[N]`` for a function.

    Raises:
        SsgcamError: If the output is not logits or not finite, or the classes don't fit.
    """
    if function is not None:
        if wanted is not None:
            raise SsgcamError(
                "classes were given along with a score function, which alone says what is "
                "explained; leave them out"
            )
        return None, torch.zeros(len(images), dtype=torch.long, device=images.device)
    logits = logits_of(output).detach()
    if not math.isfinite(logits.sum()):  # one number to wait for; finite ones may sum to infinity
        for image in (~logits.isfinite().all(1)).nonzero().flatten().tolist():
            raise SsgcamError(
                f"the network returned NaN or infinity for image {image} of the batch; check its "
                "weights and the preprocessing, or use a wider number format"
            )
    return logits, chosen_classes(logits, wanted)


def chosen_classes(logits: Tensor, wanted: Tensor | Sequence[int] | int | None) -> Tensor:
    """Class indices of a batch.

    Args:
        logits: ``[N, K]``.
        wanted: ``None`` for the top-1 class of each image, one index for all, ``[N]`` indices, or
            ``[N, classes]`` for several of each image.

    Returns:
        ``[N]`` or ``[N, classes]`` whole numbers on the device of the logits.

    Raises:
        SsgcamError: If they are no such numbers or out of range.
    """
    images, count = logits.shape
    if wanted is None:
        return logits.argmax(1)
    try:
        classes = torch.as_tensor(wanted, device=logits.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SsgcamError(
            f"classes is {wanted!r}; give one index, [N] or [N, K] whole numbers"
        ) from error
    if classes.ndim == 0:
        classes = classes.expand(images)
    whole = not (classes.is_floating_point() or classes.dtype == torch.bool)
    if not whole or classes.ndim > 2 or classes.shape[0] != images or not classes.numel():
        raise SsgcamError(
            f"classes has shape {list(classes.shape)} and type {classes.dtype} for {images} images; "
            "give [N] or [N, K] whole numbers"
        )
    outside = classes[(classes < 0) | (classes >= count)]
    if len(outside):
        raise SsgcamError(
            f"class {int(outside[0])} is out of range: the network has {count} classes, "
            f"0 to {count - 1}"
        )
    return classes.long()
