"""Does a mask cover the object? Pseudo-masks, confusion matrix, mean IoU, the three binary IoUs.

Everything derives from one confusion matrix ``[C, C]`` (rows: truth, columns: prediction) as in the
PASCAL VOC segmentation task (Everingham et al. 2010, IJCV). Papers mix the averages: each function
names the one it computes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssgcam.errors import SsgcamError
from ssgcam.metrics.checks import check, double


def strongest_class(maps: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """The strongest present class of every pixel and its score ``map_k / (max(map_k) + 1e-5)``.

    Args:
        maps: ``[N, K, H, W]``, not negative. A map with a value that isn't finite counts as zeros.
        present: ``[N, K]`` bool: the image-level classes.

    Returns:
        Scores ``[N, H, W]`` float32, -1 where no class is present, and classes ``[N, H, W]`` int64.

    Raises:
        SsgcamError: If the shapes don't fit or a map is negative.
    """
    check(
        maps.ndim == 4 and present.shape == maps.shape[:2],
        f"maps {list(maps.shape)} and present {list(present.shape)} don't fit; "
        "pass [N, K, H, W] and [N, K]",
    )
    values = maps.detach().float()
    values = torch.where(values.isfinite().all(-1).all(-1)[..., None, None], values, 0.0)
    check((values >= 0).all(), "a map for pseudo-masks has negative values; apply relu to it first")
    scores = values / (values.amax((2, 3), keepdim=True) + 1e-5)
    best = scores.masked_fill(~present.bool()[..., None, None], -1.0).max(1)
    return best.values, best.indices


def pseudo_masks(maps: Tensor, present: Tensor, background: float = 0.15) -> Tensor:
    """Label every pixel with its strongest present class, or background.

    ``argmax(background, map_k / (max(map_k) + 1e-5) for each present class k)``, the maximum taken
    for each image and class (Ahn et al. 2019, "Weakly Supervised Learning of Instance Segmentation
    with Inter-pixel Relations", CVPR). Ties go to the lower label.

    Args:
        maps: As for :func:`strongest_class`.
        present: As there.
        background: The constant score of the background channel, in (0, 1).

    Returns:
        ``[N, H, W]`` int64: 0 is background, k + 1 is class k.

    Raises:
        SsgcamError: As there, or if the background is outside (0, 1).
    """
    check(0 < background < 1, f"the background score is {background}; pass one between 0 and 1")
    scores, classes = strongest_class(maps, present)
    return torch.where(scores > background, classes + 1, 0)


def confusion_matrix(
    prediction: Tensor, truth: Tensor, classes: int, ignore: int | None = 255
) -> Tensor:
    """Count the pixels of one image (or of one batch, pooled) by true and predicted label.

    Args:
        prediction: Integer labels 0..classes - 1 (or bool), any shape.
        truth: The same shape; ``ignore`` marks pixels that don't count.
        classes: Labels including background.
        ignore: The label to leave out (255 in PASCAL VOC), or None.

    Returns:
        ``[classes, classes]`` int64: rows are the truth, columns the prediction.

    Raises:
        SsgcamError: If the shapes differ or a counted label is out of range.
    """
    check(
        prediction.shape == truth.shape,
        f"prediction {list(prediction.shape)} and truth {list(truth.shape)} differ in shape; "
        "resize the prediction to the truth",
    )
    truth, prediction = truth.long(), prediction.to(truth.device).long()
    if ignore is not None:
        counted = truth != ignore
        truth, prediction = truth[counted], prediction[counted]
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise SsgcamError(
                f"the {name} holds labels {int(labels.min())} to {int(labels.max())}, which don't "
                f"fit {classes} classes (background is one)"
            )
    counts = torch.bincount((truth * classes + prediction).flatten(), minlength=classes**2)
    return counts.view(classes, classes)


def class_iou(confusion: Tensor) -> Tensor:
    """IoU of each class: TP / (TP + FP + FN).

    Args:
        confusion: ``[..., C, C]``, sums or means over images.

    Returns:
        ``[..., C]`` float64 in [0, 1]; NaN where the union is empty.
    """
    matrix = double(confusion)
    hit = matrix.diagonal(dim1=-2, dim2=-1)
    return hit / (matrix.sum(-1) + matrix.sum(-2) - hit)


def mean_iou(confusion: Tensor) -> Tensor:
    """VOC mIoU: the mean of :func:`class_iou` over classes with a non-empty union.

    Background is a class. The matrix must be pooled over the whole set: a mean of per-image mIoUs
    is another number.

    Args:
        confusion: ``[..., C, C]``, sums or means over images.

    Returns:
        ``[...]`` float64 in [0, 1]; NaN where no class occurs.
    """
    return class_iou(confusion).nanmean(-1)


def foreground_iou(confusion: Tensor) -> Tensor:
    """IoU of class 1 of a pooled binary confusion matrix ``[..., 2, 2]``."""
    return class_iou(confusion)[..., 1]


def image_ious(confusions: Tensor) -> Tensor:
    """Per-image foreground IoU of a binary task, with the images that don't count marked.

    ``ratio`` of the mean of these parts is the mean per-image foreground IoU.

    Args:
        confusions: ``[N, 2, 2]``, one matrix per image.

    Returns:
        Parts ``[N, 2]`` float64: (IoU, 1), or (0, 0) where truth and prediction are both empty.
    """
    iou = foreground_iou(confusions)
    return torch.stack([iou.nan_to_num(0.0), (~iou.isnan()).double()], -1)
