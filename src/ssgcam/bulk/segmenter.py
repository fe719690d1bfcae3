"""From photos to label masks: which classes does the network see, and where.

A class is present where its probability reaches the gate. The mask of a photo seen whole:

- one class: the map, resized to the photo's size and divided by its maximum, reaches the threshold;
- several: ``argmax(threshold, map_k / (max(map_k) + 1e-5) for each present class k)``, the threshold
  being the constant score of the background; ties go to the lower value (Ahn et al. 2019, see
  :func:`ssgcam.metrics.masks.pseudo_masks`).

In overlapping windows a class's score is the average over windows (``bulk.windows``) of its probability
times its map divided by its maximum, and zero in a window where the gate is shut. That score is not
divided by anything again: it reaches the threshold, or the argmax, as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from PIL import Image
from torch import Tensor

from ssgcam.bulk.windows import Average, Windows
from ssgcam.cam import CAM
from ssgcam.core import fusion as pipeline
from ssgcam.core.augment import Augmentation
from ssgcam.core.capture import capture
from ssgcam.core.settings import check_range
from ssgcam.core.target import logits_of
from ssgcam.errors import SsgcamError
from ssgcam.preprocessing import Preprocessing
from ssgcam.recipe import BoundRecipe
from ssgcam.threads import ahead

#: Threshold of the background without a recipe, as for the pseudo-masks of the evaluation.
DEFAULT_THRESHOLD = 0.15
#: Gate without a recipe.
DEFAULT_GATE = 0.5
#: Most classes in a mask of 8 bits; 0 is the background and 255 is left to "ignore".
MOST_CLASSES = 254


@dataclass(frozen=True)
class MaskRule:
    """What is marked in a mask, and when.

    Attributes:
        classes: Value k + 1 stands for class ``classes[k]``. Empty: value 1 stands for the most
            probable class of each photo, whichever it is.
        threshold: Of the map, or the background's score, 0 to 1; see the top of this module.
        gate: Lowest probability of a class that is present, 0 to 1.
        windows: Look through windows; at the whole photo if None.
    """

    classes: tuple[int, ...]
    threshold: float = DEFAULT_THRESHOLD
    gate: float = DEFAULT_GATE
    windows: Windows | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        check_range("threshold", self.threshold, 0, 1)
        check_range("gate", self.gate, 0, 1)
        if len(set(self.classes)) < len(self.classes):
            raise SsgcamError(f"classes {list(self.classes)} names a class twice; name each once")
        if len(self.classes) > MOST_CLASSES:
            raise SsgcamError(
                f"{len(self.classes)} classes are more than the {MOST_CLASSES} that a mask of 8 bits "
                "can tell apart; name those to mark with --class, or 'top' for the most probable "
                "one of each photo"
            )
        if self.windows is not None and not self.classes:
            raise SsgcamError(
                "the most probable class may differ from window to window; name the classes to mark"
            )


@dataclass(frozen=True, eq=False)
class Seen:
    """A class in an image.

    Attributes:
        index: The class.
        probability: Of the class; in windows the highest.
        scores: ``[h, w]`` float32 on the CPU, not negative; None if the gate is shut.
    """

    index: int
    probability: float
    scores: Tensor | None


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A network with a rule: photos in, what is seen in them out; see the top of this module.

    Attributes:
        explainer: Makes the maps.
        preprocessing: From a photo, or a window of it, to the network's input.
        rule: Classes, threshold, gate, windows.
        batch_size: Windows in each pass of the network.
    """

    explainer: CAM | BoundRecipe
    preprocessing: Preprocessing
    rule: MaskRule
    batch_size: int = 16

    @property
    def cam(self) -> CAM:
        """The network with its layers."""
        return self.explainer.cam if isinstance(self.explainer, BoundRecipe) else self.explainer

    def see(self, pixels: Tensor) -> list[dict[int, Seen]]:
        """Explain the present classes of a batch.

        Args:
            pixels: RGB with 8 bits or in [0, 1], ``[N, 3, H, W]``, of the network's input size.

        Returns:
            For each image by value what was seen: the present classes or, if there is none, the most
            probable one of the rule's, without scores. Scores are the maps at input size.

        Raises:
            SsgcamError: If an image can't be explained.
        """
        device = next(iter(self.cam.network.parameters()), pixels).device
        images = self.preprocessing.normalize(pixels.to(device))
        return self._one(images) if len(self.rule.classes) < 2 else self._several(images)

    def see_in_windows(self, photo: Image.Image) -> dict[int, Seen]:
        """Look at a photo through windows.

        Memory: 4 bytes for each pixel of the photo and each class that is present.

        Args:
            photo: RGB, any size.

        Returns:
            As :meth:`see` for one image; scores are the averages at the photo's size.

        Raises:
            SsgcamError: If a window can't be explained.
        """
        windows = self.rule.windows
        assert windows is not None
        boxes = list(windows.boxes(photo.height, photo.width))
        cut = partial(_cut, self.preprocessing, photo)
        inputs = zip(boxes, ahead(cut, boxes, window=2 * self.batch_size), strict=True)
        averages: dict[int, Average] = {}
        found: dict[int, Seen] = {}
        while chunk := list(islice(inputs, self.batch_size)):
            batch = self.see(torch.stack([pixels for _, pixels in chunk]))
            for (box, _), seen in zip(chunk, batch, strict=True):
                for value, what in seen.items():
                    if value not in found or what.probability > found[value].probability:
                        found[value] = what
                    if what.scores is not None:
                        if value not in averages:
                            averages[value] = windows.average(photo.height, photo.width)
                        size = (box[3] - box[1], box[2] - box[0])
                        averages[value].add(box, what.probability * _at(what.scores, size))
        present = {
            value: Seen(found[value].index, found[value].probability, average.finished())
            for value, average in averages.items()
        }
        return present or dict([max(found.items(), key=lambda item: item[1].probability)])

    def mask(self, seen: dict[int, Seen], size: tuple[int, int]) -> Tensor:
        """The mask of what was seen.

        Args:
            seen: Of one photo.
            size: Its height and width.

        Returns:
            ``[H, W]`` uint8: 0 background, k + 1 the k-th class of the rule.
        """
        whole = self.rule.windows is None
        present = sorted((v, what.scores) for v, what in seen.items() if what.scores is not None)
        if len(self.rule.classes) < 2:
            if not present:
                return torch.zeros(size, dtype=torch.uint8)
            ((value, scores),) = present
            full = _at(scores, size) if whole else scores
            return value * pipeline.threshold(full, self.rule.threshold).to(torch.uint8)
        scaled = ((v, _at(scores, size, 1e-5) if whole else scores) for v, scores in present)
        return strongest(scaled, size, self.rule.threshold)

    def _one(self, images: Tensor) -> list[dict[int, Seen]]:
        result = self.explainer(images, self.rule.classes[0] if self.rule.classes else None)
        assert result.probabilities is not None
        probabilities = result.probabilities.gather(1, result.classes[:, None])[:, 0].tolist()
        maps = result.maps.cpu()
        return [
            {1: Seen(index, probability, maps[i] if probability >= self.rule.gate else None)}
            for i, (index, probability) in enumerate(
                zip(result.classes.tolist(), probabilities, strict=True)
            )
        ]

    def _several(self, images: Tensor) -> list[dict[int, Seen]]:
        """First the probabilities, then the maps of the present classes alone."""
        classes = torch.tensor(self.rule.classes, device=images.device)
        probabilities = self._probabilities(images)[:, classes]
        present = probabilities >= self.rule.gate
        ranked = probabilities.argsort(dim=1, descending=True, stable=True)
        rows = present.any(1).nonzero()[:, 0]
        found: list[dict[int, Seen]] = [{} for _ in images]
        if len(rows):
            chosen = ranked[rows, : int(present.sum(1).max())]
            maps = self.explainer(images[rows], classes[chosen]).maps.cpu()
            for i, row in enumerate(rows.tolist()):
                for k in range(int(present[row].sum())):
                    place = int(chosen[i, k])
                    found[row][place + 1] = Seen(
                        self.rule.classes[place], float(probabilities[row, place]), maps[i, k]
                    )
        for row, seen in enumerate(found):
            if not seen:
                place = int(ranked[row, 0])
                seen[place + 1] = Seen(
                    self.rule.classes[place], float(probabilities[row, place]), None
                )
        return found

    def _probabilities(self, images: Tensor) -> Tensor:
        """``[N, classes of the network]``, the mean over a recipe's views."""
        recipe = self.explainer.recipe if isinstance(self.explainer, BoundRecipe) else None
        views = recipe.augmentation if recipe else Augmentation()
        total = torch.zeros(())
        for view in views:
            logits = logits_of(capture(self.cam.network, view.apply(images), []).output)
            if not bool(logits.isfinite().all()):
                raise SsgcamError("the network returned NaN or infinity; check its weights")
            total = total.to(logits) + (
                logits.softmax(1) if self.cam.output == "softmax" else logits.sigmoid()
            )
        return total / views.views


def strongest(
    scores: Iterable[tuple[int, Tensor]], size: tuple[int, int], background: float
) -> Tensor:
    """Label every pixel with the highest score, or 0 where none is above the background's.

    Args:
        scores: Values, ascending, each with ``[H, W]``; taken one at a time. Ties go to the lower.
        size: Height and width.
        background: Its score.

    Returns:
        ``[H, W]`` uint8.
    """
    best = torch.full(size, background)
    labels = torch.zeros(size, dtype=torch.uint8)
    for value, score in scores:
        labels[score > best] = value
        best = torch.maximum(best, score)
    return labels


def _at(scores: Tensor, size: tuple[int, int], epsilon: float = 0.0) -> Tensor:
    """A map ``[h, w]`` at another size, divided by its maximum (plus epsilon)."""
    resized = pipeline.resize(scores[None], size)
    if epsilon:
        return (resized / (resized.amax() + epsilon))[0]
    return pipeline.scale(resized)[0]


def _cut(
    preprocessing: Preprocessing, photo: Image.Image, box: tuple[int, int, int, int]
) -> Tensor:
    return preprocessing.pixels(photo.crop(box))
