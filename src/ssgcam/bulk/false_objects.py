"""Gate, threshold and smallest object for windows over photos, from photos without the object.

A photo without the object is looked at by the very windows of ``bulk.segmenter``. Every connected object
of its mask is a false one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import torch
from PIL import Image
from torch import Tensor

from ssgcam.bulk.segmenter import MaskRule, Segmenter
from ssgcam.bulk.windows import Windows
from ssgcam.core import fusion as pipeline
from ssgcam.errors import SsgcamError
from ssgcam.models import LoadedModel
from ssgcam.recipe import Recipe, WindowRule


def choose_window_rule(
    model: LoadedModel,
    recipe: Recipe,
    photos: Sequence[Path],
    windows: Windows,
    scores: Mapping[tuple[float, float], float],
    smallest_object: float,
    *,
    allowed: float = 0.1,
    batch_size: int = 16,
    progress: Callable[[int], object] = lambda photos: None,
) -> WindowRule:
    """Of the rules that keep the allowed number of false objects, the one with the best score.

    For each gate and threshold, the smallest object is as small as the allowed number permits.

    Args:
        model: The network.
        recipe: For one class.
        photos: Photos without the object.
        windows: Over the photos.
        scores: The score on labeled windows of each rule, a gate and a threshold.
        smallest_object: The largest area that may be called too small, as a share of a window.
        allowed: False objects for each photo, as a mean.
        batch_size: Windows in each pass of the network.
        progress: Called with 1 after each photo.

    Returns:
        The rule. If none keeps the allowed number, the one with the fewest false objects; its
        ``false_objects`` is then above ``allowed``.

    Raises:
        SsgcamError: If there are no photos, or the recipe is not for one class.
    """
    if len(recipe.classes) != 1:
        raise SsgcamError(
            "windows over photos without the object need one class; name it with --class"
        )
    if not photos:
        raise SsgcamError("there are no photos without the object; give a folder that holds some")
    rule = MaskRule(recipe.classes, gate=0.0, windows=windows)
    segmenter = Segmenter(model, rule, recipe.bind(model), images_at_once=batch_size)
    gates = sorted({gate for gate, _ in scores})
    sizes: dict[tuple[float, float], list[int]] = {each: [] for each in scores}
    for path in photos:
        of_photo = scores_by_gate(segmenter, model.preprocessing.read(path), gates)
        by_gate = dict(zip(gates, of_photo, strict=True))
        for (gate, threshold), found in sizes.items():
            found.extend(object_sizes(pipeline.threshold(by_gate[gate], threshold)))
        progress(1)
    largest = max(1, int(smallest_object * windows.side**2))
    keep = int(allowed * len(photos) + 1e-9)  # so many false objects may stay
    rules = []
    for rule_of, found in sizes.items():
        found.sort(reverse=True)
        needed = found[keep] + 1 if len(found) > keep else 1
        least = min(needed, largest)
        left = sum(size >= least for size in found)
        rank = min(keep - left, 0), scores[rule_of], -least
        rules.append((rank, *rule_of, least, left / len(photos)))
    _, gate, threshold, least, rate = max(rules)
    return WindowRule(
        windows.side, windows.overlap, gate, threshold, least, len(photos), allowed, rate
    )


def scores_by_gate(
    segmenter: Segmenter, photo: Image.Image, gates: Sequence[float]
) -> list[Tensor]:
    """For each gate the score ``[H, W]`` of a photo, as of ``Segmenter.in_windows`` with that gate.

    Args:
        segmenter: With windows, one class and a gate of 0.
        photo: RGB.
        gates: The gates.
    """
    weights = torch.zeros(photo.height, photo.width)
    totals = [torch.zeros_like(weights) for _ in gates]
    for area, weight, of_window in segmenter.each_window(photo):
        one = of_window[1]
        weights[area] += weight
        score = weight * segmenter.at_size(one, weight.shape)
        for gate, total in zip(gates, totals, strict=True):
            if one.probability >= gate:
                total[area] += score
    return [total / weights for total in totals]


def object_sizes(mask: Tensor) -> list[int]:
    """Pixels of each object of a mask ``[H, W]``; objects are connected by their sides."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.byte().numpy(), connectivity=4)
    return [int(size) for size in stats[1:, cv2.CC_STAT_AREA]]
