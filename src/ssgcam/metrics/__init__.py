"""Evaluation of maps and masks: pure functions from images to parts, and from their mean to the number.

Parts are rows, one for each image, such as hits, histograms or confusion matrices. A statistic of their
mean over images is the metric, and :func:`bootstrap_interval` of the same parts and statistic is its
interval, or that of the difference from a rival.

========================  ==============================================================================
module                    question
========================  ==============================================================================
``localization``          How well do maps localize objects? MaxBoxAcc, GT-known, PxAP
``pointing``              Does the map peak on the object?
``masks``                 Does a mask cover the object? Pseudo-masks, confusion matrix, IoUs
``boundary``              Does a mask's outline follow the object's?
``offset``                Are masks displaced from the objects?
``perturbation``          How does the network's answer change without the highest pixels?
``road``                  The same with imputed pixels
``randomization``         Does a map depend on the network's weights?
``discrimination``        Does the map tell classes apart?
``guarantee``             At which thresholds do masks keep a stated limit on their errors?
``bootstrap``             How uncertain is a number?
``histogram``, ``boxes``  What the others build on
========================  ==============================================================================
"""
# ruff: noqa: I001 - a name on each line would hide the list; the imported names are public

from ssgcam.metrics.bootstrap import (
    Interval, bootstrap_interval, identity, mean_of_ratios, parts_by_class, ratio, resample_counts,
)  # fmt: skip
from ssgcam.metrics.boundary import boundary_f_score, boundary_parts, mask_boundary
from ssgcam.metrics.boxes import TAUS, best_ious, box_iou, contour_boxes, fill_boxes, scale_boxes
from ssgcam.metrics.discrimination import (
    Mosaic, choose_mosaics, class_sensitivity, compared_classes, compose_mosaic, grid_parts,
)  # fmt: skip
from ssgcam.metrics.guarantee import (
    SplitCheck, Thresholds, check_splits, choose_guarantee, group_means, least_units, mask_losses,
)  # fmt: skip
from ssgcam.metrics.histogram import (
    ThresholdCounts, counts_from_above, score_histogram, threshold_counts,
)  # fmt: skip
from ssgcam.metrics.localization import (
    SCORES, box_hits, localization_hits, max_box_acc, max_box_acc_v2, pixel_average_precision,
    pixel_curves, prepare_maps, pxap_histograms, quantize, resize_mask,
)  # fmt: skip
from ssgcam.metrics.masks import (
    class_iou, confusion_matrix, foreground_iou, image_ious, mean_iou, pseudo_masks, strongest_class,
)  # fmt: skip
from ssgcam.metrics.offset import MaskOffset, mask_offset
from ssgcam.metrics.perturbation import (
    AREAS, area_under_curve, blur_drops, class_answers, curve_counts, drop_and_increase, fit_maps,
    gaussian_blur, images_at_once, insertion_deletion, moved_ranks, pixel_counts, pixel_ranks,
    replaced_answers, top_pixels,
)  # fmt: skip
from ssgcam.metrics.pointing import near_object, peak_hits
from ssgcam.metrics.randomization import cascade, constant_maps, rank_correlation, stage_names
from ssgcam.metrics.road import ROAD_AREAS, linear_imputation, road_parts, road_score
