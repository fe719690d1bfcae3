"""Labeled images as they come, and how a data set on disk becomes them."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssgcam.data import IGNORE, Sample, SampleSet, with_box_masks
from ssgcam.data.classes import match_classes
from ssgcam.errors import SsgcamError
from ssgcam.images import read_image
from ssgcam.models import LoadedModel


@dataclass(frozen=True, eq=False)
class Calibration:
    """Labeled images in memory.

    Attributes:
        images: ``[N, 3, H, W]``, the network's normalized input; or N photos, which are prepared by the
            model's own preprocessing.
        masks: ``[N, h, w]`` (any integer or bool type), 0 background, 255 ignore, anything else
            the object; or a list of N masks, each of its photo's size.
        classes: The network's class that each mask shows: ``[N]``, one index for all, or None for each
            image's top-1 class. -1 is a negative, an image without the object: it gets the most
            probable of the other images' classes.
        groups: What each image belongs to (field, patient, slide); None: every image is its own.
        names: For the report.
    """

    images: Tensor | Sequence[Image.Image]
    masks: Tensor | np.ndarray[Any, Any] | Sequence[np.ndarray[Any, Any]]
    classes: Tensor | Sequence[int] | int | None = None
    groups: Sequence[Hashable] | None = None
    names: Sequence[str] | None = None


def calibration_of(
    samples: SampleSet,
    model: LoadedModel,
    target: int | None,
    boxes: Literal["filled", "ellipse"],
) -> Calibration:
    """Read a data set: a row for each image, or for each class of each image; see ``make_examples``."""
    if not any(sample.mask for sample in samples):
        if not any(sample.boxes for sample in samples):
            raise SsgcamError(
                f"'{samples.root}' has no masks and no boxes; a search needs a few labeled images: put "
                "masks with the same names in 'masks' beside 'images', or boxes in 'boxes.json'"
            )
        samples = with_box_masks(samples, boxes)
    mapping = _network_classes(samples, model, must=target is None)
    images, masks, classes, groups, names = [], [], [], [], []
    for sample in samples:
        photo = read_image(sample.image)
        pixels = model.preprocessing.pixels(photo)
        for label, index in _rows(sample, samples.semantic, mapping, target):
            inside, ignored = samples.object_mask(sample, photo.size, label)
            mask = torch.from_numpy(np.where(ignored, IGNORE, inside)).to(torch.uint8)
            images.append(pixels)
            masks.append(nearest(mask, model.preprocessing.input_size))
            classes.append(index)
            groups.append(sample.group or sample.name)
            names.append(sample.name)
    known = [index for index in classes if index is not None]
    if not known:
        warnings.warn(
            "the masks don't say which class they show, so each image's most probable class is "
            "explained; name one to be sure",
            stacklevel=5,
        )
    return Calibration(
        model.preprocessing.normalize(torch.stack(images)),
        torch.stack(masks),
        known or None,
        groups,
        names,
    )


def nearest(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """``[H, W]`` to ``size``: pixel i takes ``floor((i + 1/2) * side / size)``, in whole numbers."""
    rows = (2 * torch.arange(size[0]) + 1) * mask.shape[0] // (2 * size[0])
    columns = (2 * torch.arange(size[1]) + 1) * mask.shape[1] // (2 * size[1])
    return mask[rows][:, columns]


def _rows(
    sample: Sample, semantic: bool, mapping: dict[int, int], target: int | None
) -> list[tuple[int | None, int | None]]:
    """Which mask (the set's class, or None for all foreground) is explained as which network class.

    The network's class is None if every image's top-1 class is meant, and -1 for an image without any.
    """
    apart = semantic and bool(mapping)
    if target is not None:
        own = [label for label, index in mapping.items() if index == target]
        return [(own[0] if apart and own else None, target)]
    if apart:
        found: list[tuple[int | None, int | None]] = [(k, mapping[k]) for k in sample.labels]
        return found or [(None, -1)]
    if mapping:
        return [(None, mapping[sample.labels[0]] if sample.labels else -1)]
    return [(None, None)]


def _network_classes(samples: SampleSet, model: LoadedModel, must: bool) -> dict[int, int]:
    """The network's class of each of the set's; empty where the set only knows objects."""
    if samples.class_names == ("object",):
        return {}
    names = model.class_names
    try:
        return match_classes(samples, names, len(names) or None, model.name)
    except SsgcamError:
        if must:
            raise
        return {}
