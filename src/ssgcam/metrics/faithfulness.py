"""Does the map rank what the network relies on? Insertion, deletion, Average Drop and Increase.

These work on NORMALISED inputs: ``probabilities`` here takes what the network takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssgcam.core.maps import scale
from ssgcam.errors import SsgcamError
from ssgcam.metrics.parts import Parts, check_count, check_images, double
from ssgcam.metrics.perturbation import (
    Probabilities,
    answers,
    class_values,
    replacement_sweep,
)
from ssgcam.metrics.regions import fit_maps, gaussian_blur, pixel_ranks


def insertion_deletion(
    probabilities: Probabilities,
    inputs: Tensor,
    maps: Tensor,
    *,
    pixels_per_step: int | None = None,
    classes: Tensor | None = None,
    sigma: float = 0.05,
    batch_size: int = 64,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """The probability of a class while pixels appear or go, strongest first.

    Petsiuk et al. 2018, "RISE" (BMVC). Deletion: the top k pixels of the normalised input become
    zeros. Insertion: the top k pixels of the input replace those of the blurred input. k = 0, s,
    2 s, ... and at last all pixels.

    Args:
        probabilities: From normalised inputs to class probabilities.
        inputs: ``[N, C, H, W]``, normalised.
        maps: ``[N, h, w]``.
        pixels_per_step: s; None takes one row's worth, W (224 of 224 x 224 in the paper).
        classes: ``[N]``; None takes each input's top class.
        sigma: The blur's standard deviation as a share of the shorter side.
        batch_size: Inputs per call of the network.
        seed: Fixes the order among ties.

    Returns:
        Curves ``[N, 2, S + 1]`` (insertion, deletion) and the share of pixels at each point
        ``[S + 1]`` float64, from 0 to 1.

    Raises:
        SsgcamError: If shapes don't fit or a setting is out of range.
    """
    check_images(inputs, maps)
    height, width = inputs.shape[-2:]
    step = width if pixels_per_step is None else pixels_per_step
    if step < 1:
        raise SsgcamError(f"{step} pixels for each step is too few; pass at least 1")
    if classes is None:
        batches = torch.split(inputs, max(1, batch_size))
        classes = torch.cat([answers(probabilities, batch).argmax(1) for batch in batches])
    check_count(len(inputs), "inputs", classes, "classes")
    pixels = height * width
    counts = torch.arange(0, pixels + step, step).clamp(max=pixels)
    ranks = pixel_ranks(fit_maps(maps, height, width), seed)
    pairs = ((inputs, gaussian_blur(inputs, sigma)), (torch.zeros_like(inputs), inputs))
    curves = [
        replacement_sweep(probabilities, inside, outside, ranks, counts, classes, batch_size)[0]
        for inside, outside in pairs
    ]
    return torch.stack(curves, 1), counts.double() / pixels


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
        probabilities: From normalised inputs to class probabilities.
        pixels_per_step: Pixels for each step; None takes the width.
        sigma: The blur's standard deviation as a share of the shorter side.
        batch_size: Inputs per call of the network.
        seed: Fixes the order among ties.
    """

    def __init__(
        self,
        probabilities: Probabilities,
        pixels_per_step: int | None = None,
        sigma: float = 0.05,
        batch_size: int = 64,
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
    batch_size: int = 64,
) -> Tensor:
    """Average Drop and Increase of each image.

    Chattopadhyay et al. 2018, "Grad-CAM++" (WACV): Y = p_c(x), O = p_c(x * map), the map divided by
    its maximum. Drop = max(0, Y - O) / Y (0 where Y is 0), increase = O > Y.

    Args:
        probabilities: From normalised inputs to class probabilities.
        inputs: ``[N, C, H, W]``, normalised.
        maps: ``[N, h, w]``, not negative.
        classes: ``[N]``; None takes each input's top class.
        batch_size: Inputs per call of the network.

    Returns:
        Parts ``[N, 2]`` float32: (drop in [0, 1], increase 0 or 1).

    Raises:
        SsgcamError: If shapes don't fit, a map is negative or the batch size is below 1.
    """
    check_images(inputs, maps)
    if batch_size < 1:
        raise SsgcamError(f"the batch size is {batch_size}; pass at least 1")
    fitted = fit_maps(maps, *inputs.shape[-2:]).to(inputs.device)
    if bool((fitted < 0).any()):
        raise SsgcamError("a map for Average Drop has negative values; apply relu to it first")
    weights = scale(fitted)[:, None].to(inputs.dtype)
    if classes is not None:
        check_count(len(inputs), "inputs", classes, "classes")
        classes = classes.to(inputs.device)
    rows = []
    for items in torch.split(torch.arange(len(inputs), device=inputs.device), batch_size):
        whole = answers(probabilities, inputs[items])
        masked = answers(probabilities, inputs[items] * weights[items])
        wanted = whole.argmax(1) if classes is None else classes[items]
        before, after = class_values(whole, wanted), class_values(masked, wanted)
        drop = torch.where(before > 0, (before - after).clamp(min=0) / before, 0.0)
        rows.append(torch.stack([drop, (after > before).float()], 1))
    return torch.cat(rows)


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

    def __init__(self, probabilities: Probabilities, batch_size: int = 64) -> None:
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
