"""Train a classifier from image-level labels: :func:`train_classifier`, its data and its results."""

from ssgcam.training.classifier import predict, train_classifier
from ssgcam.training.data import LabeledImages, labeled_images, split_by_group
from ssgcam.training.report import ClassificationReport, MultiLabelReport, TrainingResult, evaluate
from ssgcam.training.segmenter import SegmenterResult, train_segmenter
from ssgcam.training.settings import SegmenterSettings, TrainingSettings

__all__ = [
    "ClassificationReport",
    "LabeledImages",
    "MultiLabelReport",
    "SegmenterResult",
    "SegmenterSettings",
    "TrainingResult",
    "TrainingSettings",
    "evaluate",
    "labeled_images",
    "predict",
    "split_by_group",
    "train_classifier",
    "train_segmenter",
]
