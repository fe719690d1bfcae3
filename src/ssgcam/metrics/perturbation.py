"""How does the network's answer change when the pixels that a map ranks highest are replaced?

The blur test, insertion and deletion (Petsiuk et al. 2018), Average Drop and Increase (Chattopadhyay
et al. 2018). All functions take normalized images, as the network does, and ``probabilities``, a
function from images ``[B, C, H, W]`` to class probabilities ``[B, K]``. Perturbed images of any image
and area share a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssgcam.core.fusion import resize, scale
from ssgcam.core.smoothing import smooth
from ssgcam.errors import SsgcamError
from ssgcam.metrics.checks import check, check_count, check_images, check_maps, double

Probabilities = Callable[[Tensor], Tensor]
"""From images ``[B, C, H, W]`` to class probabilities ``[B, K]``."""

AREAS = (0.05, 0.1, 0.2, 0.3, 0.5)


def images_at_once(height: int, width: int, device: torch.device, pixels: int | None = None) -> int:
    """How many images make one batch, at least 1.

    Args:
        height: Of the images.
        width: Of the images.
        device: Where the network runs.
        pixels: Of all images of a batch; None takes 2**18 on a CPU (5 images of 224 x 224) and 2**22
            elsewhere.

    Raises:
        SsgcamError: If there are fewer than 1.
    """
    if pixels is None:
        pixels = 2**18 if device.type == "cpu" else 2**22
    check(pixels >= 1, f"{pixels} pixels for each pass are too few; pass at least 1")
    return max(1, pixels // (height * width))


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian, edge-normalized (:func:`ssgcam.core.smoothing.smooth`).

    A constant image stays as it is, so blurring commutes with normalization.

    Args:
        images: ``[N, C, H, W]``.
        sigma: Standard deviation as a share of the shorter side, positive.

    Returns:
        ``[N, C, H, W]``.

    Raises:
        SsgcamError: If sigma is not positive.
    """
    check(sigma > 0, f"the blur's sigma is {sigma} of the side; pass a positive share")
    return smooth(images, sigma)


def fit_maps(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps at the images' size in float32; one with a value that isn't finite becomes zeros.

    Args:
        maps: ``[N, h, w]``.
        height: The images' height.
        width: The images' width.

    Returns:
        ``[N, height, width]``, resized by :func:`ssgcam.core.fusion.resize`.

    Raises:
        SsgcamError: If ``maps`` isn't a non-empty ``[N, h, w]``.
    """
    check_maps(maps)
    values = maps.detach().float()
    usable = values.isfinite().all(-1).all(-1)[:, None, None]
    return resize(torch.where(usable, values, 0.0), (height, width))


def pixel_ranks(maps: Tensor, seed: int) -> Tensor:
    """Rank every pixel of each map, 0 for the highest; ties in a random order.

    Maps have large flat zeros: in index order the top rows would win. The order among equals is one
    random permutation of the grid, the same for every image and method, so that neither the batch
    nor the device changes it.

    Args:
        maps: ``[N, H, W]``, finite.
        seed: Fixes the order among equals.

    Returns:
        ``[N, H, W]`` int64, each map a permutation of 0..H*W - 1. ``ranks < k`` is the top k.
    """
    flat, shuffled = maps.flatten(1), _order_among_ties(maps, seed)
    order = shuffled[flat[:, shuffled].argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(flat.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view(maps.shape)


def top_pixels(maps: Tensor, count: int, seed: int) -> Tensor:
    """``pixel_ranks(maps, seed) < count`` ``[N, H, W]``, without sorting all pixels."""
    flat = maps.flatten(1)
    limits = flat.kthvalue(flat.shape[1] - count + 1, keepdim=True).values
    chosen, shuffled = flat >= limits, _order_among_ties(maps, seed)
    surplus = chosen.sum(1) - count
    for k in surplus.nonzero()[:, 0].tolist():
        ties = shuffled[(flat[k] == limits[k])[shuffled]]
        chosen[k, ties[len(ties) - int(surplus[k]) :]] = False
    return chosen.view(maps.shape)


def _order_among_ties(maps: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(maps[0].numel(), generator=generator).to(maps.device)


def moved_ranks(ranks: Tensor, seed: int, first: int = 0) -> Tensor:
    """The random control: each image's region moved to a random place, same area and shape.

    Every image's ranks are shifted cyclically by a uniform random offset and mirrored (each axis with
    probability 1/2). So ``moved < k`` has exactly k pixels for every k and the region's own shape, cut
    only where it wraps around the image's edge.

    Args:
        ranks: ``[N, H, W]`` of :func:`pixel_ranks`.
        seed: Fixes the moves.
        first: Index of the first image in the whole set: image i gets the same move in any batch.

    Returns:
        ``[N, H, W]`` int64.
    """
    height, width = ranks.shape[1:]
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(first + len(ranks), 4, generator=generator, dtype=torch.float64)[first:]
    moved = []
    for own, (flip_y, shift_y, flip_x, shift_x) in zip(ranks, draws.tolist(), strict=True):
        shifts = -int(shift_y * height), -int(shift_x * width)
        flipped = [axis for axis, flip in enumerate((flip_y, flip_x)) if flip >= 0.5]
        moved.append(own.roll(shifts, (0, 1)).flip(flipped))
    return torch.stack(moved)


def pixel_counts(areas: Sequence[float], pixels: int) -> Tensor:
    """How many pixels each share of the image is: ``round(area * pixels)``, at least 1.

    Raises:
        SsgcamError: If there is no area or one is outside (0, 1].
    """
    check(
        areas and all(0 < area <= 1 for area in areas),
        f"areas {list(areas)} aren't shares of the image; pass numbers in (0, 1]",
    )
    return torch.tensor([max(1, round(area * pixels)) for area in areas])


def class_answers(
    probabilities: Probabilities, images: Tensor, classes: Tensor, batch_size: int | None = None
) -> Tensor:
    """What the network answers about one class of each image, without gradients, in batches.

    Args:
        probabilities: The network, softmax included.
        images: ``[N, C, H, W]``.
        classes: ``[N]``.
        batch_size: None takes :func:`images_at_once`.

    Returns:
        ``[N, 2]`` float32: whether the class is the first of the highest; its probability.

    Raises:
        SsgcamError: If the counts differ, a class is outside 0..K - 1, the batch size is below 1 or the
            answer isn't ``[B, K]`` in [0, 1].
    """
    check_count(len(images), "images", classes, "classes")
    size = _batch_size(images, batch_size)
    found = []
    for some, own in zip(torch.split(images, size), torch.split(classes.long(), size), strict=True):
        with torch.no_grad():
            answer = probabilities(some).float()
        check(
            answer.ndim == 2 and len(answer) == len(some),
            f"probabilities made {list(answer.shape)} of {len(some)} images; return [B, classes]",
        )
        check(
            ((answer >= 0) & (answer <= 1.001)).all(),
            "probabilities left [0, 1] or aren't finite; apply softmax to the logits",
        )
        own = own.to(answer.device)
        if not bool(((own >= 0) & (own < answer.shape[1])).all()):
            raise SsgcamError(
                f"classes {own.tolist()} don't fit the {answer.shape[1]} classes of the network"
            )
        probability = answer.gather(1, own[:, None])[:, 0]
        found.append(torch.stack([(answer.argmax(1) == own).float(), probability], 1))
    return torch.cat(found)


def replaced_answers(
    probabilities: Probabilities,
    inside: Tensor,
    outside: Tensor,
    ranks: Tensor,
    counts: Tensor,
    classes: Tensor,
    batch_size: int | None = None,
) -> Tensor:
    """Answers with the top k pixels of each image from ``inside`` and the rest from ``outside``.

    Args:
        probabilities: The network, softmax included.
        inside: ``[N, C, H, W]``.
        outside: The same shape.
        ranks: ``[N, H, W]`` of :func:`pixel_ranks`.
        counts: ``[V]``, the numbers of pixels k.
        classes: ``[N]``.
        batch_size: Images of one batch, of any image and count; None takes :func:`images_at_once`.

    Returns:
        ``[N, 2, V]`` float32, see :func:`class_answers`.

    Raises:
        SsgcamError: As :func:`class_answers`.
    """
    check_count(len(outside), "images", classes, "classes")
    size = _batch_size(outside, batch_size)
    image = torch.arange(len(ranks)).repeat_interleave(len(counts))
    count = counts.repeat(len(ranks))[:, None, None].to(ranks.device)
    answers = []
    for some, k in zip(torch.split(image, size), torch.split(count, size), strict=True):
        chosen = (ranks[some] < k)[:, None].to(outside.device)
        composed = torch.where(chosen, inside[some], outside[some])
        answers.append(class_answers(probabilities, composed, classes[some], size))
    return torch.cat(answers).view(len(ranks), len(counts), 2).mT


def _batch_size(images: Tensor, given: int | None) -> int:
    if given is None:
        return images_at_once(images.shape[-2], images.shape[-1], images.device)
    check(given >= 1, f"the batch size is {given}; pass at least 1")
    return given


def blur_drops(
    probabilities: Probabilities,
    images: Tensor,
    blurred: Tensor,
    maps: Tensor,
    classes: Tensor,
    *,
    areas: Sequence[float] = AREAS,
    intact: Tensor | None = None,
    control: bool = True,
    seed: int = 0,
    first: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """Blur each image's highest pixels, and a region of equal area elsewhere, and compare the answers.

    ``x' = (1 - M) x + M G(x)``; M is the top share of pixels (:func:`pixel_ranks`), the same share for
    every method. The control moves the same region to a random place (:func:`moved_ranks`).

    Args:
        probabilities: The network, softmax included.
        images: ``[N, C, H, W]``.
        blurred: The same images blurred (:func:`gaussian_blur`; sigma 5 % of the side by default).
        maps: ``[N, h, w]``, the maps of ``classes``.
        classes: ``[N]``, the true class (the predicted one where the truth isn't known).
        areas: Shares of the image to blur, in (0, 1].
        intact: ``[N, 2]``, :func:`class_answers` of the images, where they are known; they are the same
            for every method.
        control: Whether the control is computed, too.
        seed: Fixes the order among ties and the control's places.
        first: Index of the first image in the whole set (:func:`moved_ranks`).
        batch_size: Images of one batch; None takes :func:`images_at_once`.

    Returns:
        Parts ``[N, 2, 2, Q]``: for (highest pixels, control) the drop of (whether the class is on top,
        its probability) at each area. Without the control ``[N, 1, 2, Q]``.

    Raises:
        SsgcamError: If shapes don't fit or a setting is out of range.
    """
    check_images(images, maps)
    height, width = images.shape[-2:]
    counts = pixel_counts(areas, height * width)
    ranks = pixel_ranks(fit_maps(maps, height, width), seed)
    orders = [ranks, moved_ranks(ranks, seed, first)] if control else [ranks]
    if intact is None:
        intact = class_answers(probabilities, images, classes, batch_size)
    answers = [
        replaced_answers(probabilities, blurred, images, order, counts, classes, batch_size)
        for order in orders
    ]
    return torch.stack([intact[..., None] - own for own in answers], 1)


def insertion_deletion(
    probabilities: Probabilities,
    images: Tensor,
    blurred: Tensor,
    maps: Tensor,
    classes: Tensor,
    *,
    counts: Tensor,
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """The probability of a class while pixels appear or go, highest first.

    Petsiuk et al. 2018, "RISE" (BMVC). Deletion: the top k pixels of the normalized image become
    zeros. Insertion: the top k pixels of the image replace those of the blurred image.

    Args:
        probabilities: The network, softmax included.
        images: ``[N, C, H, W]``, normalized.
        blurred: The same images blurred (:func:`gaussian_blur`).
        maps: ``[N, h, w]``.
        classes: ``[N]``, each image's top class in the paper.
        counts: ``[S + 1]`` of :func:`curve_counts`, the numbers of pixels k.
        seed: Fixes the order among ties.
        batch_size: Images of one batch; None takes :func:`images_at_once`.

    Returns:
        Curves ``[N, 2, S + 1]``: insertion, deletion.

    Raises:
        SsgcamError: If shapes don't fit or a setting is out of range.
    """
    check_images(images, maps)
    ranks = pixel_ranks(fit_maps(maps, *images.shape[-2:]), seed)
    answers = [
        replaced_answers(probabilities, inside, outside, ranks, counts, classes, batch_size)
        for inside, outside in ((images, blurred), (torch.zeros_like(images), images))
    ]
    return torch.stack(answers, 1)[:, :, 1]


def curve_counts(pixels: int, step: int) -> Tensor:
    """How many pixels have appeared or gone at each point: 0, step, 2 step, ..., at last all.

    Raises:
        SsgcamError: If the step is below 1.
    """
    check(step >= 1, f"{step} pixels for each step is too few; pass at least 1")
    return torch.arange(0, pixels + step, step).clamp(max=pixels)


def area_under_curve(curves: Tensor, shares: Tensor) -> Tensor:
    """Trapezoid rule over the share of pixels: ``[..., S + 1]`` to ``[...]`` float64 in [0, 1]."""
    values = double(curves)
    return torch.trapezoid(values, shares.to(values.device))


def drop_and_increase(
    probabilities: Probabilities,
    images: Tensor,
    maps: Tensor,
    classes: Tensor,
    batch_size: int | None = None,
    *,
    intact: Tensor | None = None,
) -> Tensor:
    """Average Drop and Increase of each image.

    Chattopadhyay et al. 2018, "Grad-CAM++" (WACV): Y = p_c(x), O = p_c(x * map), the map divided by
    its maximum. Drop = max(0, Y - O) / Y (0 where Y is 0), increase = O > Y.

    Args:
        probabilities: The network, softmax included.
        images: ``[N, C, H, W]``, normalized.
        maps: ``[N, h, w]``, not negative.
        classes: ``[N]``.
        batch_size: Images of one batch; None takes :func:`images_at_once`.
        intact: As for :func:`blur_drops`.

    Returns:
        Parts ``[N, 2]`` float32: (drop in [0, 1], increase 0 or 1).

    Raises:
        SsgcamError: If shapes don't fit, a map is negative or the batch size is below 1.
    """
    check_images(images, maps)
    fitted = fit_maps(maps, *images.shape[-2:]).to(images.device)
    check((fitted >= 0).all(), "a map for Average Drop has negative values; apply relu to it first")
    masked = images * scale(fitted)[:, None].to(images.dtype)
    if intact is None:
        intact = class_answers(probabilities, images, classes, batch_size)
    before, after = intact[:, 1], class_answers(probabilities, masked, classes, batch_size)[:, 1]
    drop = torch.where(before > 0, (before - after).clamp(min=0) / before, 0.0)
    return torch.stack([drop, (after > before).float()], 1)
