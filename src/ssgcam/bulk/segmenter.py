"""How does a photo become a mask? Which classes are present, and which pixels belong to each.

A class is present where its probability reaches the gate. The mask of a whole photo:

- one class: its map, resized to the photo's size and divided by its maximum, reaches the threshold;
- several: ``argmax(threshold, map_k / (max(map_k) + 1e-5) for each present class k)``, the threshold
  being the constant score of the background; ties go to the lower value (Ahn et al. 2019, see
  :func:`ssgcam.metrics.masks.pseudo_masks`).

In overlapping windows a class's score is the average over windows (``bulk.windows``) of its probability
times its map divided by its maximum, and zero in a window where the class is not present. That score
is not divided by its maximum again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssgcam.bulk.export import without_small_objects
from ssgcam.bulk.inputs import InputImage
from ssgcam.bulk.mask_files import indexed, mask_overlay
from ssgcam.bulk.windows import Windows, window_weight
from ssgcam.cam import CAM
from ssgcam.core import fusion as pipeline
from ssgcam.core.augment import Augmentation
from ssgcam.core.capture import capture
from ssgcam.core.settings import check_range
from ssgcam.core.target import logits_of
from ssgcam.errors import SsgcamError
from ssgcam.files import write_png, written_whole
from ssgcam.models import LoadedModel
from ssgcam.recipe import BoundRecipe, Guarantee

#: Most classes in a mask of 8 bits; 0 is the background and 255 usually means "ignore".
MOST_CLASSES = 254
#: The folders of the overlays and of the maps, below that of the masks.
OVERLAYS, MAPS = "overlays", "maps"
#: The folders of the masks with a guarantee; in the last one 255 is between inner and outer mask.
INNER, OUTER, UNDECIDED = "inner", "outer", "undecided"
IGNORED = 255
#: Change of the threshold by which the stability of a mask is measured.
STABILITY_STEP = 0.05


@dataclass(frozen=True)
class MaskRule:
    """From probabilities and maps to a mask.

    Attributes:
        classes: Value k + 1 stands for class ``classes[k]``. Empty: value 1 stands for the most
            probable class of each photo, whichever it is.
        threshold: Of the map, or the background's score, 0 to 1; see the top of this module. The
            default is that of the pseudo-masks of the evaluation.
        gate: Lowest probability of a class that is present, 0 to 1.
        windows: Windows over large photos; whole photos if None.
        min_object: Smaller objects become background; pixels connected by their sides.
        guarantee: Thresholds of an inner and an outer mask of the only class, if they are written.
    """

    classes: tuple[int, ...]
    threshold: float = 0.15
    gate: float = 0.5
    windows: Windows | None = None
    min_object: int = 1
    guarantee: Guarantee | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        check_range("threshold", self.threshold, 0, 1)
        check_range("gate", self.gate, 0, 1)
        if self.min_object < 1:
            raise SsgcamError(f"min_object is {self.min_object}; give at least 1 pixel")
        if len(set(self.classes)) < len(self.classes):
            raise SsgcamError(f"classes {list(self.classes)} names a class twice; name each once")
        if len(self.classes) > MOST_CLASSES:
            raise SsgcamError(
                f"{len(self.classes)} classes are more than the {MOST_CLASSES} that a mask of 8 bits "
                "can tell apart; name the classes to segment, or 'top' for the most probable one of "
                "each photo"
            )
        if self.windows is not None and not self.classes:
            raise SsgcamError(
                "the most probable class may differ from window to window; name the classes to segment"
            )


@dataclass(frozen=True, eq=False)
class ClassScores:
    """A class in an image.

    Attributes:
        index: The class.
        probability: Of the class; in windows the highest.
        scores: ``[h, w]`` float32 on the CPU, not negative; None if the class is not present.
        agreement: IoU with the mask of the mirrored image, or None.
        unusual: In what the image is unlike the calibration images of the recipe.
    """

    index: int
    probability: float
    scores: Tensor | None
    agreement: float | None = None
    unusual: Sequence[str] = ()


#: The rows and columns of a window, its pixels' weights, and the classes in it by value.
Window = tuple[tuple[slice, slice], Tensor, dict[int, ClassScores]]


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A network with a rule, and the files that are written; a task of ``bulk.stream``.

    Attributes:
        model: The network; its preprocessing is used for photos and windows.
        rule: From scores to masks.
        explainer: Makes the maps, with the network of ``model``; None for a segmentation network, whose
            outputs are used in place of a classifier's maps.
        out: The folder of the masks, absolute.
        overlays: Write overlays as well.
        soft: Write the maps as well.
        images_at_once: Photos, or windows of one photo, in each pass of the network.
        mirror: Compare with the mask of the mirrored image, for the predicted IoU.
    """

    model: LoadedModel
    rule: MaskRule
    explainer: CAM | BoundRecipe | None = None
    _: KW_ONLY
    out: Path = Path()
    overlays: bool = False
    soft: bool = False
    images_at_once: int = 16
    mirror: bool = False

    def explained(
        self, images: Tensor, classes: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Sequence[Sequence[str]]]:
        """Maps of the network's input, or the scores of a segmentation network.

        The score of a class is ``p / (p + p_0)``, with the probabilities of the class and of the
        background at a pixel. At a threshold of 0.5 the mask is the largest output. The class's
        probability is the largest of its pixels.

        Args:
            images: ``[N, C, H, W]``.
            classes: ``[N, K]``; those of the rule that may be present if None. A segmentation network
                gives all of its classes.

        Returns:
            For ``K`` classes of each image the classes and their probabilities, ``[N, K]``, the maps or
            scores, ``[N, K, h, w]``, not negative, on the CPU, and for each image in what it is unlike
            the calibration images of the recipe.

        Raises:
            SsgcamError: If an image can't be explained.
        """
        if self.explainer is None:
            with torch.no_grad():
                p = self.model.network(images).float().softmax(1).cpu()
            objects = p[:, 1:]
            scores = objects / (objects + p[:, :1]).clamp_min(torch.finfo(p.dtype).tiny)
            every = torch.arange(objects.shape[1]).expand(len(images), -1)
            return every, objects.amax((2, 3)), scores, [()] * len(images)
        wanted = self._classes_to_explain(images) if classes is None else classes
        result = self.explainer(images, wanted)
        unusual: list[list[str]] = [[] for _ in images]
        if (
            isinstance(self.explainer, BoundRecipe)
            and self.explainer.recipe.calibration_statistics
            and result.classes.ndim == 1
            and not self.rule.windows
        ):
            unusual = self.explainer.unusual(result)
        shape = len(images), -1
        classes, probabilities = result.classes.view(shape), result.class_probabilities.view(shape)
        maps = result.maps.view(*classes.shape, *result.maps.shape[-2:])
        return classes, probabilities, maps.cpu(), unusual

    @property
    def batch_size(self) -> int:
        """A batch of whole photos, or one photo in windows."""
        return 1 if self.rule.windows else self.images_at_once

    def to_device(self, device: torch.device | None) -> None:
        """Move the network."""
        self.model.network.to(device)

    def read(self, image: InputImage) -> tuple[dict[str, Any], Tensor | Image.Image]:
        """The facts of a photo, and its pixels at the network's size or in full."""
        photo = self.model.preprocessing.read(image.path)
        pixels = photo if self.rule.windows else self.model.preprocessing.pixels(photo)
        return {"size": list(photo.size), "notes": photo.info["notes"]}, pixels

    def compute(
        self, images: Sequence[tuple[dict[str, Any], Any]]
    ) -> list[tuple[dict[str, Any], dict[int, ClassScores]]]:
        """The facts of each photo and the classes in it."""
        facts, pixels = zip(*images, strict=True)
        if self.rule.windows:
            return list(zip(facts, map(self.in_windows, pixels), strict=True))
        return list(zip(facts, self.in_images(torch.stack(pixels)), strict=True))

    def write(
        self, image: InputImage, made: tuple[dict[str, Any], dict[int, ClassScores]]
    ) -> tuple[list[str], dict[str, Any]]:
        """Write the mask and, if asked for, the maps and the overlay (the photo is read again)."""
        facts, found = made
        width, height = facts["size"]
        size = height, width
        scores = self.full_scores(found, size)
        labels = self.mask(scores, size).numpy()
        outputs = list[str]()

        def write(name: str, picture: Image.Image) -> None:
            outputs.append(name)
            write_png(self.out / name, picture)

        write(f"{image.output}.png", indexed(labels))
        for value, score in scores.items() if self.soft else ():
            suffix = f"_{value}" if len(self.rule.classes) > 1 else ""
            levels = (score.clamp(0, 1) * 65535).round().numpy().astype(np.uint16)
            write(f"{MAPS}/{image.output}{suffix}.png", Image.fromarray(levels))
        if self.overlays:
            outputs.append(f"{OVERLAYS}/{image.output}.jpg")
            with written_whole(self.out / outputs[-1]) as temporary:
                picture = mask_overlay(self.model.preprocessing.read(image.path), labels)
                picture.save(temporary, format="JPEG", quality=90)
        if self.rule.guarantee is not None:
            bounds = self.inner_and_outer(scores.get(1, torch.zeros(size)))
            for folder, bound in bounds.items():
                write(f"{folder}/{image.output}.png", indexed(bound))
            facts["undecided"] = round(float((bounds[UNDECIDED] == IGNORED).mean()), 6)
        if unusual := [name for one in found.values() for name in one.unusual]:
            facts["unusual"] = unusual
            unlike = f"unlike the calibration images in: {', '.join(unusual)}"
            facts["notes"] = [*facts["notes"], unlike]
        pixels = np.bincount(labels.ravel(), minlength=max(found) + 1).tolist()
        stability = self.stability(scores, size)
        classes = [
            {
                "value": value,
                "class": one.index,
                "name": self.model.class_names[one.index] if self.model.class_names else "",
                "probability": round(one.probability, 6),
                "pixels": pixels[value],
                "stability": stability.get(value),
                "predicted_iou": predicted_iou(labels == value, one, stability[value])
                if pixels[value]
                else None,
            }
            for value, one in sorted(found.items())
        ]
        return outputs, {**facts, "classes": classes}

    def in_images(self, pixels: Tensor) -> list[dict[int, ClassScores]]:
        """The present classes of a batch, and how sure the network is of them.

        Args:
            pixels: RGB with 8 bits or in [0, 1], ``[N, 3, H, W]``, of the network's input size.

        Returns:
            For each image by value: the present classes or, if there is none, the most probable one
            of the rule's, without scores. Scores are of input size.

        Raises:
            SsgcamError: If an image can't be explained.
        """
        images = self.model.inputs(pixels)
        classes, probabilities, maps, unusual = self.explained(images)
        mirrored = None
        if self.mirror:
            _, _, of_mirror_images, _ = self.explained(images.flip(-1), classes)
            mirrored = of_mirror_images.flip(-1)
        found: list[dict[int, ClassScores]] = []
        for n, row in enumerate(classes.tolist()):
            found.append({})
            present = probabilities[n] >= self.rule.gate
            shown = present.nonzero()[:, 0] if present.any() else probabilities[n].argmax()[None]
            for k in shown.tolist():
                value = self.rule.classes.index(row[k]) + 1 if self.rule.classes else 1
                agreement = None
                if mirrored is not None:
                    both = maps[n, k], mirrored[n, k]
                    agreement = _iou(*(each >= self.rule.threshold for each in both))
                scores = maps[n, k] if present[k] else None
                found[-1][value] = ClassScores(
                    row[k], float(probabilities[n, k]), scores, agreement, unusual[n]
                )
        return found

    def at_size(self, one: ClassScores, size: Sequence[int]) -> Tensor:
        """The scores ``[H, W]`` of a present class at the size of the photo or window.

        They are compared with the threshold: a map is divided by its maximum and, in windows,
        multiplied by the probability of the class.
        """
        assert one.scores is not None
        height, width = size
        scores = pipeline.resize(one.scores[None], (height, width))[0]
        if self.explainer is None:  # those of a segmentation network are in [0, 1]
            return scores
        if self.rule.windows:
            return one.probability * pipeline.scale(scores)
        if len(self.rule.classes) < 2:
            return pipeline.scale(scores)
        return scores / (scores.amax() + 1e-5)

    def full_scores(
        self, found: dict[int, ClassScores], size: tuple[int, int]
    ) -> dict[int, Tensor]:
        """By value, ascending, the scores ``[H, W]`` of the present classes at the photo's size."""
        present = {v: one for v, one in sorted(found.items()) if one.scores is not None}
        if self.rule.windows:  # they have that size
            return {v: one.scores for v, one in present.items() if one.scores is not None}
        return {v: self.at_size(one, size) for v, one in present.items()}

    def in_windows(self, photo: Image.Image) -> dict[int, ClassScores]:
        """Explain the present classes of a photo (RGB, any size) in windows.

        Memory: 4 bytes for each pixel of the photo and each present class, and 4 bytes more.

        Returns:
            As :meth:`in_images` for one image; scores are the averages at the photo's size.

        Raises:
            SsgcamError: If a window can't be explained.
        """
        weights = torch.zeros(photo.height, photo.width)
        sums: dict[int, Tensor] = {}
        best: dict[int, ClassScores] = {}  # each class where it is most probable
        for area, weight, of_window in self.each_window(photo):
            weights[area] += weight
            for value, one in of_window.items():
                if value not in best or one.probability > best[value].probability:
                    best[value] = one
                if one.scores is not None:
                    total = sums.setdefault(value, torch.zeros_like(weights))
                    total[area] += weight * self.at_size(one, weight.shape)
        if not sums:
            return dict([max(best.items(), key=lambda item: item[1].probability)])
        return {
            value: replace(best[value], scores=total / weights) for value, total in sums.items()
        }

    def each_window(self, photo: Image.Image) -> Iterator[Window]:
        """For each window of a photo its rows and columns, its pixels' weights and what is in it."""
        assert self.rule.windows is not None
        boxes = self.rule.windows.boxes(photo.height, photo.width)
        while batch := list(islice(boxes, self.images_at_once)):
            pixels = [self.model.preprocessing.pixels(photo.crop(box)) for box in batch]
            found = self.in_images(torch.stack(pixels))
            for (left, top, right, bottom), of_window in zip(batch, found, strict=True):
                area = slice(top, bottom), slice(left, right)
                yield area, window_weight(bottom - top, right - left), of_window

    def mask(
        self, scores: dict[int, Tensor], size: tuple[int, int], threshold: float | None = None
    ) -> Tensor:
        """The mask of one photo.

        Args:
            scores: As of :meth:`full_scores`.
            size: The photo's height and width.
            threshold: The rule's by default.

        Returns:
            ``[H, W]`` uint8: 0 background, k + 1 the k-th class of the rule.
        """
        threshold = self.rule.threshold if threshold is None else threshold
        best = torch.full(size, threshold)
        labels = torch.zeros(size, dtype=torch.uint8)
        for value, score in scores.items():
            if len(self.rule.classes) < 2:
                labels[pipeline.threshold(score, threshold)] = value
            else:
                labels[score > best] = value
                best = torch.maximum(best, score)
        return torch.from_numpy(without_small_objects(labels.numpy(), self.rule.min_object))

    def stability(self, scores: dict[int, Tensor], size: tuple[int, int]) -> dict[int, float]:
        """By value the IoU of the masks at a threshold 0.05 lower and 0.05 higher, 0 to 1.

        A low value means that the mask depends much on the threshold. The measure is that of Segment
        Anything (Kirillov et al. 2023, "stability score"), with a step of the map instead of a logit.
        """
        steps = (-STABILITY_STEP, STABILITY_STEP)
        thresholds = [min(1.0, max(0.0, self.rule.threshold + step)) for step in steps]
        wide, narrow = (self.mask(scores, size, threshold) for threshold in thresholds)
        return {value: round(_iou(wide == value, narrow == value), 4) for value in scores}

    def inner_and_outer(self, scores: Tensor) -> dict[str, NDArray[np.uint8]]:
        """The masks of the rule's guarantee, by folder, each ``[H, W]``.

        Args:
            scores: ``[H, W]`` in [0, 1]; zeros if the class is not present.
        """
        guarantee = self.rule.guarantee
        assert guarantee is not None
        outer = pipeline.threshold(scores, guarantee.outer_threshold).numpy()
        least = math.inf if guarantee.inner_threshold is None else guarantee.inner_threshold
        inner = pipeline.threshold(scores, least).numpy() & outer
        undecided = np.where(inner, 1, np.where(outer, IGNORED, 0))
        masks = {INNER: inner, OUTER: outer, UNDECIDED: undecided}
        return {name: mask.astype(np.uint8) for name, mask in masks.items()}

    def _classes_to_explain(self, images: Tensor) -> Tensor | int | None:
        """Columns ``[N, K]``, the most probable first, with every present class; or one for all."""
        if len(self.rule.classes) < 2:
            return self.rule.classes[0] if self.rule.classes else None
        classes = torch.tensor(self.rule.classes, device=images.device)
        probabilities = self._probabilities(images)[:, classes]
        most = max(1, int((probabilities >= self.rule.gate).sum(1).max()))
        return classes[probabilities.argsort(dim=1, descending=True, stable=True)[:, :most]]

    def _probabilities(self, images: Tensor) -> Tensor:
        """``[N, classes of the network]``, the mean over a recipe's views."""
        cam, views = self.explainer, Augmentation()
        if isinstance(cam, BoundRecipe):
            views, cam = cam.recipe.augmentation, cam.cam
        assert cam is not None
        outputs = [capture(cam.network, view.apply(images), []).output for view in views]
        every = [cam.probabilities(logits_of(output)) for output in outputs]
        return torch.stack(every).mean(0)


def predicted_iou(mask: NDArray[np.bool_], one: ClassScores, stability: float) -> float:
    """How well a mask is expected to fit its object, 0 to 1, to order masks by; not calibrated.

    The mean of the stability, of the class probability, of the compactness, and of the agreement with
    the mirrored image if it is known.

    Args:
        mask: ``[H, W]``.
        one: The class of the mask.
        stability: Of the mask, see :meth:`Segmenter.stability`.
    """
    parts = [stability, one.probability, compactness(mask)]
    parts += [] if one.agreement is None else [one.agreement]
    return round(sum(parts) / len(parts), 4)


def compactness(mask: NDArray[np.bool_]) -> float:
    """``sqrt(4 pi area) / perimeter`` of all objects together, holes filled, 0 to 1.

    1 for one disk; less for a ragged outline, for a long object, and for several objects. Area and
    perimeter are those of the polygons through the centers of the outermost pixels.
    """
    kind, method = cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    outlines, _ = cv2.findContours(mask.astype(np.uint8), kind, method)
    area = sum(cv2.contourArea(outline) for outline in outlines)
    perimeter = sum(cv2.arcLength(outline, True) for outline in outlines)
    return min(1.0, math.sqrt(4 * math.pi * area) / perimeter) if perimeter else 0.0


def _iou(one: Tensor, other: Tensor) -> float:
    """Of two bool masks; 0 if both are empty."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 0.0
