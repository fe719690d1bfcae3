"""How many object and background pixels reach each score? One histogram for all thresholds at once.

:func:`score_histogram` serves three uses, which differ in their thresholds and labels only:

- PxAP (:func:`ssgcam.metrics.localization.pxap_histograms`): scores in [0, 1], thresholds ``k / 1000``
  for k from 1 to 1000. Level k holds the pixels with the quantized score ``k / 1000``, and
  :func:`threshold_counts` at index k those with a score of at least ``k / 1000``, index 0 all.
- The threshold sweep of the search: maps in [0, 1], the same thresholds in the maps' own dtype. Index
  k of :func:`threshold_counts` is the mask ``map >= k / 1000``; index 0 is dropped.
- The background scores of the pseudo-masks in the evaluation: scores are the map divided by its
  maximum, ``strict=True``, thresholds ``j / 100`` for j from 0 to 99, the label of a pixel is
  ``true class * classes + strongest class``. Index j + 1 of :func:`counts_from_above` holds the pixels
  whose score is above ``j / 100``, so that they keep their strongest class.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssgcam.metrics.checks import check


class ThresholdCounts(NamedTuple):
    """Pixel counts at every threshold, for any number of leading axes.

    Attributes:
        hit: ``[..., T + 1]``, object pixels that reach the threshold.
        predicted: ``[..., T + 1]``, all pixels that reach the threshold.
        true: ``[...]``, object pixels.
        valid: ``[...]``, all counted pixels.
    """

    hit: Tensor
    predicted: Tensor
    true: Tensor
    valid: Tensor


def score_histogram(
    scores: Tensor, labels: Tensor, thresholds: Tensor, *, classes: int = 2, strict: bool = False
) -> Tensor:
    """Count each image's pixels by label and by the number of thresholds that their score reaches.

    Args:
        scores: ``[N, ...]``, compared in the dtype of ``thresholds``.
        labels: The same shape, integer or bool: 0 to ``classes - 1``; for two classes 0 is
            background and 1 the object. Pixels with a negative label are not counted.
        thresholds: ``[T]``, ascending.
        classes: How many labels there are.
        strict: A score must exceed a threshold to reach it, not only equal it.

    Returns:
        ``[N, classes, T + 1]`` int64. Level 0 holds the pixels that reach no threshold, level T those
        that reach all.

    Raises:
        SsgcamError: If the shapes differ or a label is too large.
    """
    check(
        scores.shape == labels.shape,
        f"scores {list(scores.shape)} and labels {list(labels.shape)} differ in shape; "
        "resize one to the other",
    )
    labels = labels.to(scores.device).long().flatten(1)
    highest = int(labels.max()) if labels.numel() else -1
    check(highest < classes, f"label {highest} doesn't fit {classes} classes")
    thresholds = thresholds.to(scores.device)
    levels = len(thresholds) + 1
    values = scores.detach().to(thresholds.dtype).flatten(1).contiguous()
    level = torch.bucketize(values, thresholds, right=not strict)
    image = torch.arange(len(labels), device=labels.device)[:, None]
    index = ((image * classes + labels) * levels + level)[labels >= 0]
    counts = index.bincount(minlength=len(labels) * classes * levels)
    return counts.view(len(labels), classes, levels)


def counts_from_above(histogram: Tensor) -> Tensor:
    """Pixels that reach at least so many thresholds: the cumulative sum from the highest level.

    Args:
        histogram: ``[..., T + 1]`` of :func:`score_histogram`, or its sum or mean over images.

    Returns:
        The same shape: index 0 holds all pixels, index k those that reach the k-th threshold.
    """
    return histogram.flip(-1).cumsum(-1).flip(-1)


def threshold_counts(histogram: Tensor) -> ThresholdCounts:
    """Hit, predicted, true and valid pixels at every threshold, of a two-class histogram.

    Args:
        histogram: ``[..., 2, T + 1]``: background, object.

    Returns:
        Counts in the dtype of the histogram; index 0 of the threshold axis takes every pixel as
        predicted.
    """
    background, hit = counts_from_above(histogram).unbind(-2)
    predicted = background + hit
    return ThresholdCounts(hit, predicted, hit[..., 0], predicted[..., 0])
