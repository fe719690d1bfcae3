"""Does the map rank what the network relies on? Insertion, deletion, Average Drop and Increase.

These work on NORMALISED inputs: ``probabilities`` here takes what the network takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssgcam.core.fusion import scale
from ssgcam.errors import SsgcamError
from ssgcam.metrics.parts import Parts, check_count, check_images, double
from ssgcam.metrics.perturber import Perturber, Probabilities, class_values
from ssgcam.metrics.regions import fit_maps, gaussian_blur


def insertion_deletion(
    probabilities: Probabilities,
    inputs: Tensor,
    maps: Tensor,
    *,
    pixels_per_step: int | None = None,
    classes: Tensor | None = None,
    sigma: float = 0.05,
    batch_size: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """The probability of a class while pixels appear or go, strongest first.

    Petsiuk et al. 2018, "RISE" (BMVC). Deletion: the top k pixels of the normalized input become
    zeros. Insertion: the top k pixels of the input replace those of the blurred input. k = 0, s,
    2 s, ... and at last all pixels.

    Args:
        probabilities: From normalized inputs to class probabilities.
        inputs: ``[N, C, H, W]``, normalized.
        maps: ``[N, h, w]``.
        pixels_per_step: s; None takes one row's worth, W (224 of 224 x 224 in the paper).
        classes: ``[N]``; None takes each input's top class.
        sigma: The blur's standard deviation as a share of the shorter side.
        batch_size: Inputs for each pass of the network; None takes :func:`images_at_once`.
        seed: Fixes the order among ties.

    Returns:
        Curves ``[N, 2, S + 1]`` (insertion, deletion) and the share of pixels at each point
        ``[S + 1]`` float64, from 0 to 1.

    Raises:
        SsgcamError: If shapes don't fit or a setting is out of range.
    """
    check_images(inputs, maps)
    height, width = int(inputs.shape[-2]), int(inputs.shape[-1])
    counts = curve_counts(height * width, width if pixels_per_step is None else pixels_per_step)
    perturber = Perturber(
        probabilities, inputs, gaussian_blur(inputs, sigma), seed=seed, batch_size=batch_size
    )
    if classes is None:
        classes = perturber.intact.answer.argmax(1)
    check_count(len(inputs), "inputs", classes, "classes")
    curves = curve_sweep(perturber, perturber.ranks(maps), classes, counts)
    return curves, counts.double() / (height * width)


def curve_counts(pixels: int, step: int) -> Tensor:
    """How many pixels have appeared or gone at each point: 0, step, 2 step, ..., at last all.

    Raises:
        SsgcamError: If the step is below 1.
    """
    if step < 1:
        raise SsgcamError(f"{step} pixels for each step is too few; pass at least 1")
    return torch.arange(0, pixels + step, step).clamp(max=pixels)


def curve_sweep(perturber: Perturber, ranks: Tensor, classes: Tensor, counts: Tensor) -> Tensor:
    """The curves of :func:`insertion_deletion` for one of many maps of the same inputs.

    Args:
        perturber: The inputs.
        ranks: Of the map, ``[N, H, W]``.
        classes: ``[N]``.
        counts: Of :func:`curve_counts`.

    Returns:
        ``[N, 2, S + 1]``.
    """
    pairs = ((perturber.intact, perturber.blurred), (perturber.empty, perturber.intact))
    curves = [perturber.sweep(*states, ranks, counts, classes)[:, 1] for states in pairs]
    return torch.stack(curves, 1)


def area_under_curve(curves: Tensor, shares: Tensor) -> Tensor:
    """Trapezoid rule over the share of pixels: ``[..., S + 1]`` to ``[...]`` float64 in [0, 1]."""
    values = double(curves)
    return torch.trapezoid(values, shares.to(values.device))


@dataclass(frozen=True, eq=False)
class InsertionDeletionResult:
    """What :class:`InsertionDeletion` found."""

    n: int
    pixels_per_step: int
    sigma: float
    seed: int
    insertion: float
    """Mean area under the insertion curve; higher is better."""
    deletion: float
    """Mean area under the deletion curve; lower is better."""
    shares: Tensor
    """``[S + 1]``."""
    insertion_curve: Tensor
    """``[S + 1]``, mean over images, as is ``deletion_curve``."""
    deletion_curve: Tensor
    parts: Tensor
    """``[N, 2]``: (insertion, deletion) AUC of every image, for the bootstrap."""


class InsertionDeletion:
    """Insertion and deletion over any number of batches of one size.

    Args:
        probabilities: From normalized inputs to class probabilities.
        pixels_per_step: Pixels for each step; None takes the width.
        sigma: The blur's standard deviation as a share of the shorter side.
        batch_size: Inputs for each pass of the network; None takes :func:`images_at_once`.
        seed: Fixes the order among ties.
    """

    def __init__(
        self,
        probabilities: Probabilities,
        pixels_per_step: int | None = None,
        sigma: float = 0.05,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        self.probabilities, self.pixels_per_step = probabilities, pixels_per_step
        self.sigma, self.batch_size, self.seed = sigma, batch_size, seed
        self._curves = Parts()
        self._shares = torch.empty(0, dtype=torch.float64)

    def update(self, inputs: Tensor, maps: Tensor, classes: Tensor | None = None) -> None:
        """Score one batch; arguments as for :func:`insertion_deletion`.

        Raises:
            SsgcamError: As there, or if the inputs' size changes.
        """
        if self.pixels_per_step is None:
            self.pixels_per_step = inputs.shape[-1]
        curves, shares = insertion_deletion(
            self.probabilities,
            inputs,
            maps,
            pixels_per_step=self.pixels_per_step,
            classes=classes,
            sigma=self.sigma,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        if len(self._curves) and not torch.equal(shares, self._shares):
            raise SsgcamError("the inputs' size changed between updates; keep to one size")
        self._shares = shares
        self._curves.add(curves)

    def compute(self) -> InsertionDeletionResult:
        """The result so far.

        Raises:
            SsgcamError: If nothing was scored.
        """
        curves = self._curves.stacked()
        areas = area_under_curve(curves, self._shares)
        insertion, deletion = areas.mean(0).tolist()
        mean = curves.double().mean(0)
        return InsertionDeletionResult(
            n=len(curves),
            pixels_per_step=self.pixels_per_step or 0,
            sigma=self.sigma,
            seed=self.seed,
            insertion=insertion,
            deletion=deletion,
            shares=self._shares,
            insertion_curve=mean[0],
            deletion_curve=mean[1],
            parts=areas,
        )


def drop_and_increase(
    probabilities: Probabilities,
    inputs: Tensor,
    maps: Tensor,
    classes: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Average Drop and Increase of each image.

    Chattopadhyay et al. 2018, "Grad-CAM++" (WACV): Y = p_c(x), O = p_c(x * map), the map divided by
    its maximum. Drop = max(0, Y - O) / Y (0 where Y is 0), increase = O > Y.

    Args:
        probabilities: From normalized inputs to class probabilities.
        inputs: ``[N, C, H, W]``, normalized.
        maps: ``[N, h, w]``, not negative.
        classes: ``[N]``; None takes each input's top class.
        batch_size: Inputs for each pass of the network; None takes :func:`images_at_once`.

    Returns:
        Parts ``[N, 2]`` float32: (drop in [0, 1], increase 0 or 1).

    Raises:
        SsgcamError: If shapes don't fit, a map is negative or the batch size is below 1.
    """
    check_images(inputs, maps)
    perturber = Perturber(probabilities, inputs, inputs, batch_size=batch_size)
    if classes is None:
        classes = perturber.intact.answer.argmax(1)
    check_count(len(inputs), "inputs", classes, "classes")
    return masked_drops(perturber, maps, classes)


def masked_drops(perturber: Perturber, maps: Tensor, classes: Tensor) -> Tensor:
    """:func:`drop_and_increase` of one of many maps of the same inputs."""
    inputs = perturber.intact.images
    fitted = fit_maps(maps, perturber.height, perturber.width).to(inputs.device)
    if bool((fitted < 0).any()):
        raise SsgcamError("a map for Average Drop has negative values; apply relu to it first")
    weights = scale(fitted)[:, None].to(inputs.dtype)
    classes = classes.to(inputs.device)
    before = class_values(perturber.intact.answer, classes)
    after = class_values(perturber.ask(inputs * weights), classes)
    drop = torch.where(before > 0, (before - after).clamp(min=0) / before, 0.0)
    return torch.stack([drop, (after > before).float()], 1)


@dataclass(frozen=True, eq=False)
class DropIncreaseResult:
    """What :class:`DropIncrease` found."""

    n: int
    average_drop: float
    """Mean of max(0, Y - O) / Y in [0, 1]; lower is better."""
    increase: float
    """Share of images with O > Y; higher is better."""
    parts: Tensor
    """:func:`drop_and_increase` of every image, for the bootstrap."""


class DropIncrease:
    """Average Drop and Increase over any number of batches."""

    def __init__(self, probabilities: Probabilities, batch_size: int | None = None) -> None:
        self.probabilities, self.batch_size = probabilities, batch_size
        self._parts = Parts()

    def update(self, inputs: Tensor, maps: Tensor, classes: Tensor | None = None) -> None:
        """Score one batch; arguments as for :func:`drop_and_increase`."""
        rows = drop_and_increase(self.probabilities, inputs, maps, classes, self.batch_size)
        self._parts.add(rows)

    def compute(self) -> DropIncreaseResult:
        """The result so far.

        Raises:
            SsgcamError: If nothing was scored.
        """
        parts = self._parts.stacked()
        drop, increase = parts.double().mean(0).tolist()
        return DropIncreaseResult(len(parts), drop, increase, parts)
