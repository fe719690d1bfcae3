"""What does the network's answer lose when the highlighted pixels go?

Every measure replaces the top pixels of each image at several areas. Images and areas are packed
into batches of a given size, so the network never sees a batch of one because of a short curve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssgcam.errors import SsgcamError
from ssgcam.metrics.parts import Parts, check_count, check_images
from ssgcam.metrics.regions import (
    fit_maps,
    gaussian_blur,
    moved_ranks,
    pixel_counts,
    pixel_ranks,
)

Probabilities = Callable[[Tensor], Tensor]
"""From images ``[B, C, H, W]`` to class probabilities ``[B, K]``."""


def replacement_sweep(
    probabilities: Probabilities,
    inside: Tensor,
    outside: Tensor,
    ranks: Tensor,
    counts: Tensor,
    classes: Tensor,
    batch_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Class probabilities with the top k pixels from ``inside`` and the others from ``outside``.

    Args:
        probabilities: The network, softmax included.
        inside: ``[N, C, H, W]``.
        outside: ``[N, C, H, W]``.
        ranks: ``[N, H, W]``, 0 for the pixel that is replaced first.
        counts: ``[V]`` numbers of pixels.
        classes: ``[N]``, the class whose probability is read.
        batch_size: Composed images per call of the network.

    Returns:
        The probability of each image's class ``[N, V]`` float32 and whether that class was the
        first of the highest ``[N, V]`` bool.

    Raises:
        SsgcamError: If the network's answer isn't ``[B, K]`` in [0, 1] or a class is past K.
    """
    device = outside.device
    ranks, counts, classes = ranks.to(device), counts.to(device), classes.to(device)
    shape = torch.Size((len(outside), len(counts)))
    if batch_size < 1:
        raise SsgcamError(f"the batch size is {batch_size}; pass at least 1")
    values, right = [], []
    for items in torch.split(torch.arange(shape.numel(), device=device), batch_size):
        image, step = items // len(counts), items % len(counts)
        chosen = (ranks[image] < counts[step][:, None, None])[:, None]
        answer = answers(probabilities, torch.where(chosen, inside[image], outside[image]))
        values.append(class_values(answer, classes[image]))
        right.append(answer.argmax(1) == classes[image])
    return torch.cat(values).view(shape), torch.cat(right).view(shape)


def answers(probabilities: Probabilities, images: Tensor) -> Tensor:
    """``probabilities(images)`` without gradients, refused unless it is ``[B, K]`` in [0, 1]."""
    with torch.no_grad():
        answer = probabilities(images).float()
    if answer.ndim != 2 or len(answer) != len(images):
        raise SsgcamError(
            f"probabilities made {list(answer.shape)} of {len(images)} images; return [B, classes]"
        )
    if not bool(((answer >= 0) & (answer <= 1.001)).all()):
        raise SsgcamError("probabilities left [0, 1] or aren't finite; apply softmax to the logits")
    return answer


def class_values(answer: Tensor, classes: Tensor) -> Tensor:
    """Each row's entry of its class.

    Raises:
        SsgcamError: If a class is outside the answer's columns.
    """
    if not bool(((classes >= 0) & (classes < answer.shape[1])).all()):
        raise SsgcamError(
            f"classes {classes.tolist()} don't fit the {answer.shape[1]} classes of the network"
        )
    return answer.gather(1, classes.long()[:, None]).squeeze(1)


def blur_drops(
    probabilities: Probabilities,
    images: Tensor,
    maps: Tensor,
    labels: Tensor,
    *,
    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5),
    sigma: float = 0.05,
    batch_size: int = 64,
    seed: int = 0,
    first: int = 0,
) -> tuple[Tensor, Tensor]:
    """Blur each image's highlight, and a region of equal area elsewhere, and compare the answers.

    ``x' = (1 - M) x + M G(x)`` in pixel space, before normalisation; M is the top share of pixels
    (:func:`ssgcam.metrics.pixel_ranks`), the same share for every method. The control moves the
    same region to a random place (:func:`ssgcam.metrics.moved_ranks`).

    Args:
        probabilities: From images in [0, 1] to class probabilities, normalisation included.
        images: ``[N, C, H, W]`` in [0, 1].
        maps: ``[N, h, w]``, the map of the class ``labels``.
        labels: ``[N]``, the true class (the predicted one where the truth isn't known).
        shares: Shares of the image to blur, in (0, 1].
        sigma: The blur's standard deviation as a share of the image's shorter side.
        batch_size: Images per call of the network.
        seed: Fixes the order among ties and the control's places.
        first: Index of the first image in the whole set (:func:`ssgcam.metrics.moved_ranks`).

    Returns:
        The intact image's (class is on top, class probability) ``[N, 2]``, and parts
        ``[N, 2, 2, Q]``: for (highlight, control) the drop of each of the two at each share.

    Raises:
        SsgcamError: If shapes don't fit, images leave [0, 1] or a setting is out of range.
    """
    check_images(images, maps)
    check_count(len(images), "images", labels, "labels")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise SsgcamError("blurring happens before normalisation; pass images in [0, 1]")
    height, width = images.shape[-2:]
    counts = pixel_counts(shares, height * width)
    blurred = gaussian_blur(images, sigma)
    ranks = pixel_ranks(fit_maps(maps, height, width), seed)

    def answered(where: Tensor, some: Tensor) -> Tensor:
        value, right = replacement_sweep(
            probabilities, blurred, images, where, some, labels, batch_size
        )
        return torch.stack([right.float(), value], 1)

    highlight = answered(ranks, torch.cat([counts.new_zeros(1), counts]))
    control = answered(moved_ranks(ranks, seed, first), counts)
    intact = highlight[..., :1]
    return intact[..., 0], intact[:, None] - torch.stack([highlight[..., 1:], control], 1)


@dataclass(frozen=True, eq=False)
class BlurDropResult:
    """What :class:`BlurDrop` found; one entry per share in each tuple."""

    n: int
    shares: tuple[float, ...]
    sigma: float
    seed: int
    accuracy: float
    """Of the intact images."""
    probability: float
    """Mean class probability of the intact images."""
    accuracy_drop: tuple[float, ...]
    """Acc(x) - Acc(x')."""
    probability_drop: tuple[float, ...]
    control_accuracy_drop: tuple[float, ...]
    control_probability_drop: tuple[float, ...]
    parts: Tensor
    """``[N, 2, 2, Q]``: (highlight, control) x (accuracy, probability) drops, for the bootstrap."""


class BlurDrop:
    """The blur-the-highlight experiment over any number of batches.

    Args:
        probabilities: From images in [0, 1] to class probabilities, normalisation included.
        shares: Shares of the image to blur, in (0, 1].
        sigma: The blur's standard deviation as a share of the image's shorter side.
        batch_size: Images per call of the network.
        seed: Fixes the order among ties and the control's places.
    """

    def __init__(
        self,
        probabilities: Probabilities,
        shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5),
        sigma: float = 0.05,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        self.probabilities, self.shares, self.sigma = probabilities, tuple(shares), sigma
        self.batch_size, self.seed = batch_size, seed
        self._intact, self._parts = Parts(), Parts()

    def update(self, images: Tensor, maps: Tensor, labels: Tensor) -> None:
        """Score one batch; arguments as for :func:`blur_drops`."""
        intact, drops = blur_drops(
            self.probabilities,
            images,
            maps,
            labels,
            shares=self.shares,
            sigma=self.sigma,
            batch_size=self.batch_size,
            seed=self.seed,
            first=len(self._parts),
        )
        self._intact.add(intact)
        self._parts.add(drops)

    def compute(self) -> BlurDropResult:
        """The result so far.

        Raises:
            SsgcamError: If nothing was scored.
        """
        parts = self._parts.stacked()
        accuracy, probability = self._intact.stacked().double().mean(0).tolist()
        mean = parts.double().mean(0).tolist()
        return BlurDropResult(
            n=len(parts),
            shares=self.shares,
            sigma=self.sigma,
            seed=self.seed,
            accuracy=accuracy,
            probability=probability,
            accuracy_drop=tuple(mean[0][0]),
            probability_drop=tuple(mean[0][1]),
            control_accuracy_drop=tuple(mean[1][0]),
            control_probability_drop=tuple(mean[1][1]),
            parts=parts,
        )
