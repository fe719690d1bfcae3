"""Which pixels does a perturbation touch, and with what are they replaced?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ssgcam.core.fusion import resize
from ssgcam.core.smoothing import smooth
from ssgcam.errors import SsgcamError
from ssgcam.metrics.parts import check_maps


def fit_maps(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps at the images' size in float32; one with a value that isn't finite becomes zeros.

    Args:
        maps: ``[N, h, w]``.
        height: The images' height.
        width: The images' width.

    Returns:
        ``[N, height, width]``, resized as everywhere (:func:`ssgcam.core.fusion.resize`).

    Raises:
        SsgcamError: If ``maps`` isn't a non-empty ``[N, h, w]``.
    """
    check_maps(maps)
    values = maps.detach().float()
    usable = values.flatten(1).isfinite().all(1)[:, None, None]
    values = torch.where(usable, values, 0.0)
    return resize(values, (height, width))


def pixel_ranks(maps: Tensor, seed: int) -> Tensor:
    """Rank every pixel of each map, 0 for the highest; ties in an order drawn from the seed.

    Maps have large flat zeros: in index order the top rows would win. The order among equals is one
    random permutation of the grid, the same for every image and method, so that neither the batch
    nor the device changes it.

    Args:
        maps: ``[N, H, W]``, finite.
        seed: Fixes the order among equals.

    Returns:
        ``[N, H, W]`` int64, each map a permutation of 0..H*W - 1. ``ranks < k`` is the top k.
    """
    flat = maps.flatten(1)
    shuffled = _shuffled(flat.shape[1], seed, str(maps.device))
    order = flat[:, shuffled].argsort(dim=1, descending=True, stable=True)
    places = torch.arange(flat.shape[1], device=maps.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, shuffled[order], places)
    return ranks.view(maps.shape)


def moved_ranks(ranks: Tensor, seed: int, first: int = 0) -> Tensor:
    """The control: each image's highlight moved to a random place, same area and shape.

    Every image's ranks are mirrored (each axis with probability 1/2) and shifted cyclically by a
    uniform random offset. So ``moved < k`` has exactly k pixels for every k and is the highlight's
    own shape, cut only where it wraps around the image's edge.

    Args:
        ranks: ``[N, H, W]`` of :func:`pixel_ranks`.
        seed: Fixes the moves.
        first: Index of the first image in the whole set: image i gets the same move in any batch.

    Returns:
        ``[N, H, W]`` int64.
    """
    return placed(ranks, *control_places(ranks.shape, seed, first, ranks.device))


def control_places(
    shape: Sequence[int], seed: int, first: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Where the control of :func:`moved_ranks` takes each image's rows and columns from.

    Args:
        shape: Of the images or their ranks, ``[N, ..., H, W]``.
        seed: As there.
        first: As there.
        device: Of the result.

    Returns:
        ``[N, H]`` and ``[N, W]`` int64.
    """
    n, height, width = shape[0], shape[-2], shape[-1]
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(first + n, 4, generator=generator, dtype=torch.float64)[first:]
    draws = draws.to(device, torch.float32 if device.type == "mps" else torch.float64)
    return _moved(draws[:, 0], draws[:, 1], height), _moved(draws[:, 2], draws[:, 3], width)


def placed(ranks: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Ranks ``[N, H, W]`` with the rows and columns of :func:`control_places`."""
    image = torch.arange(len(ranks), device=ranks.device)[:, None, None]
    return ranks[image, rows[:, :, None], columns[:, None, :]]


def pixel_counts(shares: tuple[float, ...], pixels: int) -> Tensor:
    """How many pixels each share of the image is: ``round(share * pixels)``, at least 1.

    Raises:
        SsgcamError: If there is no share or one is outside (0, 1].
    """
    if not shares or not all(0 < share <= 1 for share in shares):
        raise SsgcamError(
            f"areas {list(shares)} aren't shares of the image; pass numbers in (0, 1]"
        )
    return torch.tensor([max(1, round(share * pixels)) for share in shares])


def gaussian_blur(images: Tensor, share: float) -> Tensor:
    """Blur with a Gaussian of sigma = ``share`` of the shorter side.

    Edge-normalized (:func:`ssgcam.core.smoothing.smooth`), so a constant image stays as it is and
    blurring commutes with normalization.

    Args:
        images: ``[N, C, H, W]``.
        share: sigma / min(H, W), positive.

    Returns:
        ``[N, C, H, W]``.

    Raises:
        SsgcamError: If the share is not positive.
    """
    if not share > 0:
        raise SsgcamError(f"the blur's sigma is {share} of the side; pass a positive share")
    return smooth(images, share)


@lru_cache(maxsize=8)
def _shuffled(pixels: int, seed: int, device: str) -> Tensor:
    """A permutation, shared between calls: don't write to it."""
    with torch.inference_mode(False):
        order = torch.randperm(pixels, generator=torch.Generator().manual_seed(seed))
        return order.to(device)


def _moved(mirror: Tensor, shift: Tensor, side: int) -> Tensor:
    place = torch.arange(side, device=shift.device)
    place = torch.where((mirror < 0.5)[:, None], place, side - 1 - place)
    return (place + (shift * side).long()[:, None]) % side
