"""Does the answer depend on the highest pixels, when what replaces them gives nothing away? ROAD.

Rong, Leemann, Borisov, Kasneci, Kasneci 2022, "A Consistent and Efficient Evaluation Strategy for
Attribution Methods" (ICML). Replaced pixels take the weighted mean of their neighbors, so that neither
their shape nor their color shows the network which pixels a map chose. The linear systems are solved
exactly: some 10 seconds for a map of 224 x 224 and nine areas on a processor core.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import diags_array, eye_array, kron
from scipy.sparse.linalg import spsolve
from torch import Tensor

from ssgcam.metrics.checks import check, check_images
from ssgcam.metrics.perturbation import (
    Probabilities,
    class_answers,
    fit_maps,
    pixel_counts,
    pixel_ranks,
)

ROAD_AREAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def linear_imputation(
    images: Tensor, missing: Tensor, *, noise: float = 0.01, seed: int = 0
) -> Tensor:
    """Replace pixels by noisy linear imputation.

    Every missing pixel equals the weighted mean of its neighbors in the image, missing ones included:
    weight 1/6 for direct and 1/12 for diagonal neighbors, one sparse linear system for each image.
    Then Gaussian noise is added, the same field for every image.

    Args:
        images: ``[N, C, H, W]``, normalized.
        missing: ``[N, H, W]`` bool, at least one pixel of each image False.
        noise: Standard deviation of the noise; 0 adds none.
        seed: Of the noise.

    Returns:
        ``[N, C, H, W]``, on the device and in the dtype of ``images``.

    Raises:
        SsgcamError: If the shapes don't fit or all pixels of an image are missing.
    """
    check(
        missing.shape == (len(images), *images.shape[2:]),
        f"images {list(images.shape)} and missing {list(missing.shape)} don't fit; "
        "pass [N, C, H, W] and [N, H, W]",
    )
    check(
        not missing.flatten(1).all(1).any(),
        "all pixels of an image are missing; leave at least one to impute from",
    )
    height, width = images.shape[2:]
    down, right = (diags_array([1.0, 1.0], offsets=[-1, 1], shape=(n, n)) for n in (height, width))
    direct = kron(eye_array(height), right) + kron(down, eye_array(width))
    weights = (direct / 6 + kron(down, right) / 12).tocsr()
    system = (diags_array(weights.sum(1)) - weights).tocsr()
    generator = torch.Generator().manual_seed(seed)
    field = noise * torch.randn(images.shape[1:], generator=generator, dtype=torch.float64)
    imputed = images.detach().cpu().double().flatten(2).mT.contiguous().numpy()  # [N, H * W, C]
    for pixels, gone in zip(imputed, missing.cpu().flatten(1).numpy(), strict=True):
        if gone.any():
            known = weights[gone][:, ~gone] @ pixels[~gone]
            solved = spsolve(system[gone][:, gone].tocsc(), known, permc_spec="MMD_AT_PLUS_A")
            pixels[gone] = solved.reshape(known.shape) + field.flatten(1).mT.numpy()[gone]
    result = torch.from_numpy(np.swapaxes(imputed, 1, 2).reshape(images.shape))
    return result.to(images.device, images.dtype)


def road_parts(
    probabilities: Probabilities,
    images: Tensor,
    maps: Tensor,
    classes: Tensor,
    *,
    areas: Sequence[float] = ROAD_AREAS,
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """The class probability after the highest and after the lowest pixels were imputed.

    Args:
        probabilities: The network, softmax included.
        images: ``[N, C, H, W]``, normalized.
        maps: ``[N, h, w]``, the maps of ``classes``.
        classes: ``[N]``.
        areas: Shares of the pixels to impute, in (0, 1).
        seed: Of the noise and of the order among ties.
        batch_size: Images of one batch; None takes :func:`ssgcam.metrics.images_at_once`.

    Returns:
        Parts ``[N, 2, Q]`` float32: the probability without the highest (MoRF) and without the lowest
        (LeRF) pixels at each area. :func:`road_score` of their mean is the number.

    Raises:
        SsgcamError: If shapes don't fit or a setting is out of range.
    """
    check_images(images, maps)
    height, width = images.shape[2:]
    counts = pixel_counts(areas, height * width).tolist()
    ranks = pixel_ranks(fit_maps(maps, height, width), seed)
    found = []
    for order in (ranks, height * width - 1 - ranks):
        for count in counts:
            imputed = linear_imputation(images, order < count, seed=seed)
            found.append(class_answers(probabilities, imputed, classes, batch_size)[:, 1])
    return torch.stack(found, 1).view(len(images), 2, len(counts))


def road_score(means: Tensor) -> Tensor:
    """ROAD: mean over areas of (LeRF - MoRF) / 2; higher is better.

    Args:
        means: ``[..., 2, Q]``, the mean of :func:`road_parts` over images.

    Returns:
        ``[...]`` in [-.5, .5].
    """
    return (means[..., 1, :] - means[..., 0, :]).mean(-1) / 2
