"""How well do maps localize objects that are known by boxes or masks?

MaxBoxAcc, MaxBoxAccV2 and PxAP: Choe et al. 2020, "Evaluating Weakly Supervised Object Localization
Methods Right" (CVPR), and its reference code. GT-known, Top-1 and Top-5 Loc: the customary numbers at
one fixed threshold (Russakovsky et al. 2015, IJCV). Maps, masks and boxes are compared at 224 x 224.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import torch
from torch import Tensor

from ssgcam.metrics.boxes import SIZE, best_ious, scale_boxes
from ssgcam.metrics.checks import check, check_count, check_maps, double
from ssgcam.metrics.histogram import score_histogram, threshold_counts
from ssgcam.metrics.randomization import constant_maps

DELTAS = (0.3, 0.5, 0.7)
#: The quantized scores of PxAP.
SCORES = torch.arange(1001, dtype=torch.float64) / 1000


def prepare_maps(maps: Tensor, size: int = SIZE) -> Tensor:
    """Bring maps to ``size`` x ``size`` and to [0, 1].

    Bicubic (OpenCV's ``INTER_CUBIC``, as in the reference code: half-pixel centers, a = -0.75, no
    antialiasing), then ``(m - min) / (max - min)`` for each map. A map that is constant or holds a
    value that isn't finite becomes zeros. Preparing twice changes nothing.

    Args:
        maps: ``[N, H, W]``, any range and size. float64 stays float64, all else is float32.
        size: Side of the result.

    Returns:
        ``[N, size, size]`` in [0, 1] on the maps' device.

    Raises:
        SsgcamError: If ``maps`` isn't a non-empty ``[N, H, W]``.
    """
    check_maps(maps)
    values = maps.detach()
    if values.dtype != torch.float64:
        values = values.float()
    usable = ~constant_maps(values)
    if values.shape[1:] != (size, size):
        arrays = values.cpu().numpy()
        resized = [cv2.resize(a, (size, size), interpolation=cv2.INTER_CUBIC) for a in arrays]
        values = torch.stack([torch.from_numpy(a) for a in resized]).to(maps.device)
    shifted = values - values.amin((1, 2), keepdim=True)
    span = shifted.amax((1, 2), keepdim=True)
    usable &= (span.isfinite() & (span > 0)).flatten()
    return torch.where(usable[:, None, None], shifted / span, 0.0)


def quantize(prepared: Tensor) -> Tensor:
    """``uint8(map * 255)``, truncated.

    Args:
        prepared: Maps in [0, 1].

    Returns:
        The same shape in ``uint8``.
    """
    return (prepared * 255).to(torch.uint8)


def resize_mask(mask: Tensor, size: int = SIZE) -> Tensor:
    """Nearest neighbor to ``size`` x ``size``: pixel i takes ``floor(i * side / size)``, exactly.

    In integers, because the libraries' floating-point versions disagree on a row here and there.

    Args:
        mask: ``[H, W]``, any type.
        size: Side of the result.

    Returns:
        ``[size, size]`` of the same type.

    Raises:
        SsgcamError: If ``mask`` isn't a non-empty ``[H, W]``.
    """
    shape = list(mask.shape)
    check(mask.ndim == 2 and mask.numel(), f"a mask has shape {shape}; pass a non-empty [H, W]")
    steps = torch.arange(size, device=mask.device)
    height, width = mask.shape
    return mask[steps * height // size][:, steps * width // size]


def box_hits(
    maps: Tensor, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]], size: int = SIZE
) -> Tensor:
    """For each image and threshold: is the best IoU large enough?

    Args:
        maps: ``[N, h, w]``, the map of the class whose boxes are given, any range.
        boxes: For each image ``[K, 4]``, inclusive, in the original image's pixels.
        sizes: For each image its original (height, width).
        size: The side at which everything is compared.

    Returns:
        Parts ``[N, 4, 1000]`` bool over tau = 0, .001, ..., .999. Row 0: the largest contour's box
        at IoU .5 (MaxBoxAcc). Rows 1 to 3: any contour's box at .3, .5, .7 (MaxBoxAccV2).

    Raises:
        SsgcamError: If the counts differ, or an image has no or a malformed box.
    """
    limits = torch.tensor([0.5, *DELTAS], dtype=torch.float64)[:, None]
    check_count(len(maps), "maps", boxes, "lists of boxes")
    check_count(len(maps), "maps", sizes, "image sizes")
    hits = []
    scores = quantize(prepare_maps(maps, size)).cpu()
    for score, own, (height, width) in zip(scores, boxes, sizes, strict=True):
        ious = best_ious(score, scale_boxes(own, height, width, size))
        hits.append(ious[[0, 1, 1, 1]] >= limits)
    return torch.stack(hits)


def max_box_acc(mean_hits: Tensor) -> Tensor:
    """MaxBoxAcc = max over tau of BoxAcc(tau), ONE tau for the whole set.

    Args:
        mean_hits: ``[..., 4, 1000]``, the mean of :func:`box_hits` over images.

    Returns:
        ``[...]`` in [0, 1].
    """
    return mean_hits[..., 0, :].amax(-1)


def max_box_acc_v2(mean_hits: Tensor) -> Tensor:
    """MaxBoxAccV2 = mean over delta in {.3, .5, .7} of max over tau of BoxAccV2(tau, delta).

    Args:
        mean_hits: ``[..., 4, 1000]``, the mean of :func:`box_hits` over images.

    Returns:
        ``[...]`` in [0, 1].
    """
    return mean_hits[..., 1:, :].amax(-1).mean(-1)


def localization_hits(hits: Tensor, logits: Tensor, labels: Tensor, tau: float = 0.15) -> Tensor:
    """GT-known, Top-1 and Top-5 Loc of each image at one fixed threshold.

    GT-known: the box of the largest contour above ``int(tau * max)`` of the ground-truth class's
    map has an IoU of at least .5 with one of its boxes. Top-k: and the class is among the k highest
    logits (all of them where there are fewer than k classes).

    Args:
        hits: ``[N, 4, 1000]``, of :func:`box_hits` with the maps of the ground-truth class.
        logits: ``[N, classes]``.
        labels: ``[N]`` int64, the ground-truth class.
        tau: The stated threshold as a share of the map's maximum, rounded to thousandths.

    Returns:
        Parts ``[N, 3]`` bool: GT-known, Top-1, Top-5.

    Raises:
        SsgcamError: If counts differ or tau, rounded, is outside 0..0.999.
    """
    check(0 <= tau < 0.9995, f"tau is {tau}; pass a share of the map's maximum from 0 to 0.999")
    check_count(len(hits), "maps", logits, "rows of logits")
    check_count(len(hits), "maps", labels, "labels")
    known = hits[:, 0, round(1000 * round(tau, 3))]
    top = logits.detach().topk(min(5, logits.shape[1]), dim=1).indices
    right = (top == labels.to(top.device)[:, None]).cpu()
    return torch.stack([known, known & right[:, 0], known & right.any(1)], 1)


def pxap_histograms(
    maps: Tensor,
    masks: Sequence[Tensor] | Tensor,
    ignore: Sequence[Tensor] | Tensor | None = None,
    size: int = SIZE,
) -> Tensor:
    """Count each image's background and foreground pixels at each of 1001 scores.

    A pixel's score is the largest of 0, .001, ..., 1 that its prepared map value reaches. Masks are
    resized by nearest neighbor; pixels of ``ignore`` that aren't foreground are left out.

    Args:
        maps: ``[N, h, w]``, any range.
        masks: For each image ``[H, W]``, non-zero on the object. For PxAP-box, the filled boxes
            (:func:`ssgcam.metrics.fill_boxes`).
        ignore: For each image ``[H, W]``, non-zero where a pixel doesn't count.
        size: The side at which everything is compared.

    Returns:
        Parts ``[N, 2, 1001]`` int32: background, foreground.

    Raises:
        SsgcamError: If the counts differ or a mask isn't ``[H, W]``.
    """
    check_count(len(maps), "maps", masks, "masks")
    scores = double(prepare_maps(maps, size))
    device = scores.device
    labels = torch.stack([(resize_mask(mask, size).to(device) != 0).long() for mask in masks])
    if ignore is not None:
        check_count(len(maps), "maps", ignore, "ignore masks")
        void = torch.stack([resize_mask(mask, size).to(device) != 0 for mask in ignore])
        labels[void & (labels == 0)] = -1
    return score_histogram(scores, labels, SCORES[1:]).int()


def pixel_curves(histogram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision, recall and IoU of ``score >= tau`` for tau = 0, .001, ..., 1.

    Args:
        histogram: ``[..., 2, 1001]``, sum or mean of :func:`pxap_histograms` over images.

    Returns:
        Three tensors ``[..., 1001]`` float64; NaN where the quotient is 0/0.
    """
    hit, predicted, true, _ = threshold_counts(double(histogram))
    true = true[..., None]
    return hit / predicted, hit / true, hit / (true + predicted - hit)


def pixel_average_precision(histogram: Tensor) -> Tensor:
    """PxAP = sum over falling tau of Prec(tau) * (Rec(tau) - Rec(previous tau)); 0/0 is skipped.

    Args:
        histogram: ``[..., 2, 1001]``, sum or mean of :func:`pxap_histograms` over images.

    Returns:
        ``[...]`` float64 in [0, 1]; NaN where there is no foreground pixel.
    """
    precision, _, _ = pixel_curves(histogram)
    foreground = double(histogram)[..., 1, :]
    gained_recall = foreground / foreground.sum(-1, keepdim=True)
    return torch.where(gained_recall == 0, 0.0, precision * gained_recall).sum(-1)
