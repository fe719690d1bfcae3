"""What does the network's answer lose when the highlighted pixels are blurred?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssgcam.errors import SsgcamError
from ssgcam.metrics.parts import Parts, check_count, check_images
from ssgcam.metrics.perturber import Perturber, Probabilities
from ssgcam.metrics.regions import gaussian_blur, pixel_counts


def blur_drops(
    probabilities: Probabilities,
    images: Tensor,
    maps: Tensor,
    labels: Tensor,
    *,
    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5),
    sigma: float = 0.05,
    batch_size: int | None = None,
    seed: int = 0,
    first: int = 0,
) -> tuple[Tensor, Tensor]:
    """Blur each image's highlight, and a region of equal area elsewhere, and compare the answers.

    ``x' = (1 - M) x + M G(x)`` in pixel space, before normalization; M is the top share of pixels
    (:func:`ssgcam.metrics.pixel_ranks`), the same share for every method. The control moves the
    same region to a random place (:func:`ssgcam.metrics.moved_ranks`).

    Args:
        probabilities: From images in [0, 1] to class probabilities, normalization included.
        images: ``[N, C, H, W]`` in [0, 1].
        maps: ``[N, h, w]``, the map of the class ``labels``.
        labels: ``[N]``, the true class (the predicted one where the truth isn't known).
        shares: Shares of the image to blur, in (0, 1].
        sigma: The blur's standard deviation as a share of the image's shorter side.
        batch_size: Images for each pass of the network; None takes :func:`images_at_once`.
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
        raise SsgcamError("blurring happens before normalization; pass images in [0, 1]")
    perturber = Perturber(
        probabilities, images, gaussian_blur(images, sigma),
        seed=seed, first=first, batch_size=batch_size,
    )  # fmt: skip
    counts = pixel_counts(shares, perturber.height * perturber.width)
    return blur_sweep(perturber, perturber.ranks(maps), labels, counts)


def blur_sweep(
    perturber: Perturber, ranks: Tensor, labels: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """:func:`blur_drops` for one of many maps of the same images.

    Args:
        perturber: The images.
        ranks: Of the map, ``[N, H, W]``.
        labels: ``[N]``.
        counts: Of :func:`ssgcam.metrics.pixel_counts`.

    Returns:
        As there.
    """
    states = perturber.blurred, perturber.intact
    highlight = perturber.sweep(*states, ranks, torch.cat([counts.new_zeros(1), counts]), labels)
    control = perturber.sweep(*states, perturber.moved(ranks), counts, labels)
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
        probabilities: From images in [0, 1] to class probabilities, normalization included.
        shares: Shares of the image to blur, in (0, 1].
        sigma: The blur's standard deviation as a share of the image's shorter side.
        batch_size: Images for each pass of the network; None takes :func:`images_at_once`.
        seed: Fixes the order among ties and the control's places.
    """

    def __init__(
        self,
        probabilities: Probabilities,
        shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5),
        sigma: float = 0.05,
        batch_size: int | None = None,
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
