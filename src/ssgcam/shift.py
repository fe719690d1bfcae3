"""Which images are unlike the calibration images of a recipe, and in what?

An image is described by a few named statistics, each a short vector. For each a search keeps the median
and a robust scale over its calibration images. The distance of an image is the root mean square of
``(value - center) / scale`` over the vector; where it exceeds the statistic's limit, the image is unlike
the calibration images. The limits are such that at most a stated share of the calibration images would
be flagged, each by center and scale of the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssgcam.result import Result

#: A normal distribution's standard deviation in units of its median absolute deviation.
MAD_TO_DEVIATION = 1.4826
#: Scales are at least this share of the median magnitude of their statistic.
LEAST_SCALE = 1e-3
#: Probabilities nearer to 0 or 1 count as this near.
EXTREME = 1e-6
#: The least scale and limit, so that values can be divided by them.
TINY = 1e-12
#: Limits are proportional to this quantile of a statistic's distances.
USUAL = 0.9
#: The largest share of the calibration images that may be flagged.
FALSE_ALARMS = 0.05


@dataclass(frozen=True)
class Statistic:
    """What is usual among the calibration images.

    Attributes:
        name: Such as ``"activations of layer3"``.
        center: Median of each component.
        scale: Robust standard deviation of each component, above 0.
        limit: Distances above it are unusual.
    """

    name: str
    center: tuple[float, ...]
    scale: tuple[float, ...]
    limit: float

    def distance(self, values: Tensor) -> Tensor:
        """Root mean square of ``(value - center) / scale``: ``[N, D]`` to ``[N]`` float64."""
        center, scale = values.new_tensor(self.center), values.new_tensor(self.scale)
        return ((values - center) / scale).square().mean(1).sqrt()


def image_statistics(result: Result, masks: Tensor) -> dict[str, Tensor]:
    """The statistics of a batch.

    Args:
        result: Of ``[N]`` images with one class each.
        masks: ``[N, H, W]`` bool.

    Returns:
        By name ``[N, D]`` float64 on the CPU. The class probability is given as log odds. Picture
        intensity is mean and standard deviation of each channel; picture sharpness is, for each channel,
        the mean second difference of neighboring pixels over the mean first difference.
    """
    images, maps = result.images, result.maps
    assert images is not None
    assert result.pooled is not None
    first, second = (
        images.diff(n, 2).abs().mean((2, 3)) + images.diff(n, 3).abs().mean((2, 3)) for n in (1, 2)
    )
    found = {f"activations of {name}": values for name, values in result.pooled.items()}
    found |= {
        "class probability": result.class_probabilities.double().logit(EXTREME)[:, None],
        "map mass": maps.mean((1, 2))[:, None],
        "mask area": masks.float().mean((1, 2))[:, None],
        "picture intensity": torch.cat([images.mean((2, 3)), images.std((2, 3))], 1),
        "picture sharpness": second / first.clamp_min(torch.finfo(first.dtype).tiny),
    }
    return {name: values.detach().double().cpu() for name, values in found.items()}


def summarize(values: Mapping[str, Tensor]) -> tuple[Statistic, ...]:
    """What is usual, from the statistics of the calibration images.

    Each image's distances are measured from center and scale of the other images. A statistic's limit is
    a common factor times the :data:`USUAL` quantile of its distances; the factor is the smallest that
    flags at most the share :data:`FALSE_ALARMS` of the images by any statistic.

    Args:
        values: By name ``[N, D]``, N at least 2.
    """
    distances = {}
    for name, own in values.items():
        others = [torch.cat([own[:n], own[n + 1 :]]) for n in range(len(own))]
        left_out = [_statistic(name, o).distance(own[n : n + 1]) for n, o in enumerate(others)]
        distances[name] = torch.cat(left_out)
    usual = {name: each.quantile(USUAL).clamp_min(TINY) for name, each in distances.items()}
    largest = torch.stack([each / usual[name] for name, each in distances.items()]).amax(0)
    kept = math.ceil((1 - FALSE_ALARMS) * len(largest) - 1e-9)
    factor = float(largest.sort().values[kept - 1])
    limits = {name: max(factor * float(each), TINY) for name, each in usual.items()}
    return tuple(_statistic(name, own, limits[name]) for name, own in values.items())


def in_limits(statistics: Sequence[Statistic], values: Mapping[str, Tensor]) -> Tensor:
    """Each statistic's distance in units of its limit, ``[N, number of statistics]``.

    Args:
        statistics: Of the calibration images.
        values: Of the images, by name ``[N, D]``.
    """
    return torch.stack([each.distance(values[each.name]) / each.limit for each in statistics], 1)


def unusual(statistics: Sequence[Statistic], values: Mapping[str, Tensor]) -> list[list[str]]:
    """For each image the names of the statistics that are unusual, the most unusual first.

    Args:
        statistics: Of the calibration images.
        values: Of the images, by name ``[N, D]``.
    """
    if not statistics:
        return [[] for _ in next(iter(values.values()))]
    return [
        [statistics[k].name for k in row.argsort(descending=True).tolist() if row[k] > 1]
        for row in in_limits(statistics, values)
    ]


def _statistic(name: str, values: Tensor, limit: float = 1.0) -> Statistic:
    """What is usual among ``[N, D]`` values: median and robust standard deviation, in five digits."""
    center = values.median(0).values
    deviations = (values - center).abs()
    scale = MAD_TO_DEVIATION * deviations.median(0).values
    scale = torch.where(scale > 0, scale, deviations.mean(0))  # most values are the same
    scale = torch.maximum(scale, (LEAST_SCALE * values.abs().median()).clamp_min(TINY))
    return Statistic(name, _rounded(center), _rounded(scale), limit)


def _rounded(values: Tensor) -> tuple[float, ...]:
    """Five significant digits, to keep a recipe short."""
    return tuple(float(f"{value:.5g}") for value in values.tolist())
