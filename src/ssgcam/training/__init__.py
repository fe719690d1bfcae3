"""Train a classifier from image-level labels: :func:`train_classifier` and what goes in and out."""

from ssgcam.training.data import ImageFiles, Samples, Subset, read_labeled_images, split_by_group
from ssgcam.training.loop import Epoch, TrainingResult, evaluate, predict, train_classifier
from ssgcam.training.report import ClassificationReport
from ssgcam.training.settings import TrainingSettings

__all__ = [
    "ClassificationReport",
    "Epoch",
    "ImageFiles",
    "Samples",
    "Subset",
    "TrainingResult",
    "TrainingSettings",
    "evaluate",
    "predict",
    "read_labeled_images",
    "split_by_group",
    "train_classifier",
]
