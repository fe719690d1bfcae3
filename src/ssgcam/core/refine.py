"""Refinement guided by the image: maps flow between neighboring pixels of similar color.

Pixel-adaptive mask refinement, PAMR (Araslanov and Roth 2020, "Single-Stage Semantic Segmentation
from Image Labels", CVPR, section 4.2): parameter-free iterations of a local affinity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ssgcam.core.settings import check_range
from ssgcam.errors import SsgcamError

#: Steps to the eight neighbors, in units of a dilation.
_STEPS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


@dataclass(frozen=True)
class Refinement:
    """Settings of :func:`pamr`.

    Attributes:
        iterations: How often the map is averaged over its neighbors, 1 to 100.
        dilations: Distances, in pixels, of the eight neighbors; each 1 or more.
        temperature: Of the affinity, in local standard deviations, 0.01 to 10.
    """

    iterations: int = 10
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)
    temperature: float = 0.1

    def __post_init__(self) -> None:
        """Check every value."""
        check_range("iterations", self.iterations, 1, 100)
        check_range("temperature", self.temperature, 0.01, 10)
        if not self.dilations or min(self.dilations) < 1:
            raise SsgcamError(f"dilations are {self.dilations}; give distances of 1 pixel or more")


def pamr(images: Tensor, maps: Tensor, settings: Refinement | None = None) -> Tensor:
    r"""Refine maps by the images they belong to.

    The neighborhood ``N(i)`` of a pixel are its eight neighbors at each dilation (pixels beyond the
    edge repeat the edge). With ``I`` one color channel, ``s_i`` the standard deviation (unbiased) of
    ``I`` over ``N(i)`` and ``i`` itself once for each dilation, and ``t`` the temperature:

        k_ij = - mean over channels of |I_i - I_j| / (t s_i)
        alpha_ij = softmax of k_ij over j in N(i)
        repeat:  m_i <- sum_j alpha_ij m_j

    The paper writes ``s_i^2`` for the denominator, which depends on the units of the image; ``t s_i``
    with ``t = 0.1``, as in the authors' own program, does not, so that it makes no difference whether
    and how the image is normalized. A channel that is constant over the neighborhood counts as
    equal (``|I_i - I_j| / s_i = 0``).

    Args:
        images: ``[N, C, H, W]``, any floating-point units.
        maps: ``[N, K, H, W]``, K of each image.
        settings: Iterations, dilations and temperature.

    Returns:
        ``[N, K, H, W]``. Every value is a mean of the map's, so none lies outside the map's own range;
        a constant map stays as it is.

    Raises:
        SsgcamError: If images and maps have other shapes, or differ in number, height or width.
    """
    settings = settings or Refinement()
    same = images.shape[:1] == maps.shape[:1] and images.shape[2:] == maps.shape[2:]
    if images.ndim != 4 or not same:
        raise SsgcamError(
            f"images {list(images.shape)} and maps {list(maps.shape)} don't fit; give [N, C, H, W] "
            "and [N, K, H, W]"
        )
    refined = []
    for image, value in zip(torch.split(images, 1), torch.split(maps, 1), strict=True):
        affinity = _affinity(image.to(value.dtype), settings)
        for _ in range(settings.iterations):
            around = _neighbors(value, settings.dilations)
            value = torch.einsum("njhw,nkjhw->nkhw", affinity, around)
        refined.append(value)
    return torch.cat(refined)


def _affinity(images: Tensor, settings: Refinement) -> Tensor:
    """``alpha``: ``[N, J, H, W]``, positive, summing to one over the J neighbors."""
    around = _neighbors(images, settings.dilations)  # [N, C, J, H, W]
    itself = images[:, :, None]
    own = itself.expand(-1, -1, len(settings.dilations), -1, -1)
    spread = torch.cat([around, own], 2).std(2, keepdim=True)
    distance = (around - itself).abs() / torch.where(spread > 0, spread, torch.inf)
    return (-distance / settings.temperature).mean(1).softmax(1)


def _neighbors(tensor: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """The neighbors of every pixel: ``[N, K, H, W]`` to ``[N, K, 8 * len(dilations), H, W]``."""
    height, width = tensor.shape[-2:]
    reach = max(dilations)
    padded = F.pad(tensor, (reach,) * 4, mode="replicate")
    parts = [
        padded[..., reach + y * d : reach + y * d + height, reach + x * d : reach + x * d + width]
        for d in dilations
        for y, x in _STEPS
    ]
    return torch.stack(parts, 2)
