"""Evaluation of maps and masks: pure functions of tensors, thin accumulators, bootstrap intervals.

Each metric is two pure functions, from images to per-image parts and from their mean to the number.
An accumulator (``update``, ``compute``) collects the parts, and its frozen result carries them as
``parts`` for :func:`bootstrap_interval` and :func:`paired_difference`.
"""

from ssgcam.metrics.bootstrap import (
    Interval,
    bootstrap_interval,
    identity,
    paired_difference,
    resample_counts,
)
from ssgcam.metrics.boundary import BoundaryF, BoundaryResult, boundary_f_score, mask_boundary
from ssgcam.metrics.boxes import (
    BoxAccuracy,
    BoxAccuracyResult,
    best_ious,
    box_hits,
    box_iou,
    contour_boxes,
    max_box_acc,
    max_box_acc_v2,
)
from ssgcam.metrics.faithfulness import (
    DropIncrease,
    DropIncreaseResult,
    InsertionDeletion,
    InsertionDeletionResult,
    area_under_curve,
    drop_and_increase,
    insertion_deletion,
)
from ssgcam.metrics.localisation import (
    LocalisationAccuracy,
    LocalisationResult,
    localisation_hits,
)
from ssgcam.metrics.masks import (
    BinaryIoU,
    ClassScore,
    Segmentation,
    SegmentationResult,
    class_iou,
    confusion_matrix,
    foreground_iou,
    image_ious,
    mean_iou,
    pseudo_masks,
)
from ssgcam.metrics.parts import mean_of_ratios, ratio
from ssgcam.metrics.perturbation import BlurDrop, BlurDropResult, blur_drops, replacement_sweep
from ssgcam.metrics.pixels import (
    PixelPrecision,
    PixelPrecisionResult,
    PointingGame,
    PointingResult,
    near_object,
    peak_hits,
    pixel_average_precision,
    pixel_curves,
    pointing_hits,
    score_histograms,
)
from ssgcam.metrics.preparation import (
    fill_boxes,
    prepare_maps,
    quantise,
    resize_mask,
    scale_boxes,
)
from ssgcam.metrics.regions import fit_maps, gaussian_blur, moved_ranks, pixel_ranks
from ssgcam.metrics.sanity import (
    SanityResult,
    cascade,
    constant_maps,
    judge,
    rank_correlation,
    sanity_check,
)

__all__ = [
    "BinaryIoU",
    "BlurDrop",
    "BlurDropResult",
    "BoundaryF",
    "BoundaryResult",
    "BoxAccuracy",
    "BoxAccuracyResult",
    "ClassScore",
    "DropIncrease",
    "DropIncreaseResult",
    "InsertionDeletion",
    "InsertionDeletionResult",
    "Interval",
    "LocalisationAccuracy",
    "LocalisationResult",
    "PixelPrecision",
    "PixelPrecisionResult",
    "PointingGame",
    "PointingResult",
    "SanityResult",
    "Segmentation",
    "SegmentationResult",
    "area_under_curve",
    "best_ious",
    "blur_drops",
    "bootstrap_interval",
    "boundary_f_score",
    "box_hits",
    "box_iou",
    "cascade",
    "class_iou",
    "confusion_matrix",
    "constant_maps",
    "contour_boxes",
    "drop_and_increase",
    "fill_boxes",
    "fit_maps",
    "foreground_iou",
    "gaussian_blur",
    "identity",
    "image_ious",
    "insertion_deletion",
    "judge",
    "localisation_hits",
    "mask_boundary",
    "max_box_acc",
    "max_box_acc_v2",
    "mean_iou",
    "mean_of_ratios",
    "moved_ranks",
    "near_object",
    "paired_difference",
    "peak_hits",
    "pixel_average_precision",
    "pixel_curves",
    "pixel_ranks",
    "pointing_hits",
    "prepare_maps",
    "pseudo_masks",
    "quantise",
    "rank_correlation",
    "ratio",
    "replacement_sweep",
    "resample_counts",
    "resize_mask",
    "sanity_check",
    "scale_boxes",
    "score_histograms",
]
