"""Masks with a guarantee: thresholds of an inner and an outer mask, from images that chose nothing.

The loss is that of the whole command, its class gate included, on images that show the object; see
``metrics.guarantee``. Where images come in groups, the mean loss of a group counts.
"""

from __future__ import annotations

from itertools import compress
from typing import Literal

import numpy as np
from torch import Tensor

from ssgcam.errors import SsgcamError
from ssgcam.metrics.guarantee import choose_guarantee, group_means, least_units, mask_losses
from ssgcam.recipe import Guarantee
from ssgcam.search.calibration_set import CalibrationSet

#: Units with the object that a search needs at least for itself.
LEAST_FOR_SEARCH = 2


def unit_of(data: CalibrationSet) -> Literal["image", "group"]:
    """``"group"`` where some group holds several images."""
    pairs = set(zip(data.groups, data.names, strict=True))
    return "group" if len({group for group, _ in pairs}) < len(pairs) else "image"


def units_with_object(data: CalibrationSet) -> list[str]:
    """The groups (each image is one where there are none) that show the object, in the set's order."""
    return list(dict.fromkeys(compress(data.groups, (~data.negatives).tolist())))


def check_units(data: CalibrationSet, alpha: float) -> None:
    """Refuse a set with too few units for the limit, before anything is computed.

    Raises:
        SsgcamError: With how many more are needed.
    """
    units, needed = len(units_with_object(data)), least_units(alpha)
    if units < needed:
        raise SsgcamError(
            f"a guarantee of {1 - alpha:g} needs {needed} {unit_of(data)}s with the object that the "
            f"search did not see, but there are {units}; add {needed - units} more"
        )


def set_aside(
    data: CalibrationSet, alpha: float, seed: int
) -> tuple[CalibrationSet, CalibrationSet]:
    """Split off images for the guarantee, at random, groups whole.

    Args:
        data: Labeled images.
        alpha: The limit.
        seed: Of the choice.

    Returns:
        The images of the search and those of the guarantee: of the units with the object half, or as many
        as the limit needs; the images of all other groups are the search's.

    Raises:
        SsgcamError: If there are too few; it says how many more are needed.
    """
    units, needed = units_with_object(data), least_units(alpha)
    missing = needed + LEAST_FOR_SEARCH - len(units)
    if missing > 0:
        raise SsgcamError(
            f"a guarantee of {1 - alpha:g} sets {needed} {unit_of(data)}s with the object aside, and "
            f"the search needs {LEAST_FOR_SEARCH}, but there are {len(units)}; add {missing} more, or "
            "give held-out images"
        )
    count = max(needed, len(units) // 2)
    order = np.random.default_rng([seed, 2]).permutation(len(units))
    chosen = {units[index] for index in order[:count]}
    rows = [row for row, group in enumerate(data.groups) if group in chosen]
    others = [row for row, group in enumerate(data.groups) if group not in chosen]
    return data.subset(others), data.subset(rows)


def calibrate(
    maps: Tensor,
    is_open: Tensor,
    data: CalibrationSet,
    alpha: float,
    kind: Literal["held-out", "split", "folds"],
) -> tuple[Guarantee, float]:
    """Choose the thresholds of the inner and the outer mask.

    Args:
        maps: ``[N, h, w]`` in [0, 1], at the size of the masks.
        is_open: ``[N]`` bool: whether the class gate lets the image through.
        data: The N images; those without the object are left out.
        alpha: The limit.
        kind: Where the images come from.

    Returns:
        The guarantee, and the mean share of the image that is undecided.

    Raises:
        SsgcamError: If no threshold of the outer mask keeps the limit.
    """
    rows = (~data.negatives).nonzero()[:, 0]
    groups = [data.groups[row] for row in rows.tolist()]
    losses = group_means(mask_losses(maps[rows], data.masks[rows], is_open[rows]), groups)
    outer, inner = choose_guarantee(losses, alpha)
    area = losses[:, 2].mean(0)
    certain = 0 if inner is None else area[round(1000 * inner)]
    band = area[round(1000 * outer)] - certain
    guarantee = Guarantee(alpha, outer, inner, len(losses), unit_of(data), kind)
    return guarantee, max(0.0, float(band))


def guarantee_warnings(guarantee: Guarantee | None) -> list[str]:
    """What limits a guarantee, a sentence for each."""
    found = []
    if guarantee is not None and guarantee.kind == "folds":
        found.append(
            "The guarantee is approximate: it is calibrated on the folds' maps of the images that the "
            "search used; give held-out images for one that holds."
        )
    if guarantee is not None and guarantee.inner_threshold is None:
        found.append(
            f"The inner mask is always empty: no threshold keeps its mean loss at {guarantee.alpha:g} "
            f"on {guarantee.units} {guarantee.unit}s."
        )
    return found
