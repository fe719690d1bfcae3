"""Does the map tell classes apart? The grid pointing game and class sensitivity.

Grid pointing game: Boehle, Fritz, Schiele 2021, "Convolutional Dynamic Alignment Networks for
Interpretable Classifications" (CVPR); Rao, Boehle, Schiele 2022, "Towards Better Understanding
Attribution Methods" (CVPR). Photos of different classes form one mosaic; the map of a class should lie in
the cell of its photo. Class sensitivity: rank correlation of the maps of two classes of one photo.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssgcam.metrics.checks import check, check_count, check_maps, double
from ssgcam.metrics.perturbation import fit_maps, top_pixels
from ssgcam.metrics.randomization import constant_maps, rank_correlation

TOP_SHARE = 0.1


class Mosaic(NamedTuple):
    """Which photos form a mosaic, row by row.

    Attributes:
        photos: The index of the photo in each of ``rows * rows`` cells.
        asked: The cells whose class is explained; no other cell has the same class.
    """

    photos: tuple[int, ...]
    asked: tuple[int, ...]


def choose_mosaics(labels: Sequence[int], rows: int, count: int, seed: int) -> list[Mosaic]:
    """Choose photos for mosaics at random.

    With at least as many classes as cells, every cell has another class and all are asked for. With
    fewer, one class is asked for, each in turn: it fills one cell, and photos of other classes the rest.

    Args:
        labels: The class of each photo; photos that the network classifies with a probability above
            a stated number, .9 by default.
        rows: Cells along each side, 2 or 3; at least 2.
        count: How many mosaics.
        seed: Fixes the choice.

    Returns:
        ``count`` mosaics.

    Raises:
        SsgcamError: If a setting is below its minimum, or the photos show a single class.
    """
    check(
        rows >= 2 and count >= 1,
        f"{count} mosaics of {rows} rows can't be made; pass at least 1 and 2",
    )
    members: dict[int, list[int]] = {}
    for photo, label in enumerate(labels):
        members.setdefault(label, []).append(photo)
    classes, cells = sorted(members), rows * rows
    check(
        len(classes) >= 2,
        f"the grid pointing game needs photos of at least 2 classes, not {len(classes)}; add "
        "photos or lower the probability that they must reach",
    )
    generator = random.Random(seed)
    mosaics = []
    for number in range(count):
        if len(classes) >= cells:
            chosen = generator.sample(classes, cells)
            photos = [generator.choice(members[label]) for label in chosen]
            asked = tuple(range(cells))
        else:
            label = classes[number % len(classes)]
            others = [photo for other in classes if other != label for photo in members[other]]
            generator.shuffle(others)
            while len(others) < cells - 1:  # too few photos: repeat them
                others += others
            photos = others[: cells - 1]
            asked = (generator.randrange(cells),)
            photos.insert(asked[0], generator.choice(members[label]))
        mosaics.append(Mosaic(tuple(photos), asked))
    return mosaics


def compose_mosaic(images: Tensor, rows: int) -> Tensor:
    """Photos as one image: ``[rows * rows, C, H, W]``, row by row, to ``[C, rows * H, rows * W]``.

    Raises:
        SsgcamError: If there aren't ``rows * rows`` photos.
    """
    check(
        images.ndim == 4 and len(images) == rows * rows,
        f"photos {list(images.shape)} don't fill {rows} x {rows} cells; pass [{rows**2}, C, H, W]",
    )
    _, channels, height, width = images.shape
    cells = images.view(rows, rows, channels, height, width).permute(2, 0, 3, 1, 4)
    return cells.reshape(channels, rows * height, rows * width)


def grid_parts(maps: Tensor, cells: Tensor, rows: int, seed: int = 0) -> Tensor:
    """How much of a mosaic's map lies in the cell of the explained class?

    Powers of a map inflate its share of the mass, so the share of its highest pixels stands beside it.
    The metric is the mean over classes and mosaics; chance is ``1 / rows**2`` for both.

    Args:
        maps: ``[N, h, w]``, one for each mosaic and class asked for; both sides a multiple of ``rows``.
        cells: ``[N]``, the cell of that class, counted row by row from 0.
        rows: Cells along each side.
        seed: Fixes the order among ties.

    Returns:
        Parts ``[N, 2]`` float64 in [0, 1]: the share of the positive mass and the share of the highest
        10 % of the pixels that lie in the cell; both 0 for a map without a positive value or with
        one that isn't finite. Resample whole mosaics (:func:`ssgcam.metrics.bootstrap_interval`).

    Raises:
        SsgcamError: If the counts differ, a side is no multiple of ``rows`` or a cell doesn't exist.
    """
    check_maps(maps)
    check_count(len(maps), "maps", cells, "cells")
    count, height, width = maps.shape
    check(
        not (height % rows or width % rows),
        f"maps of {height} x {width} can't be divided into {rows} x {rows} cells; resize them "
        "to the mosaic",
    )
    check(
        ((cells >= 0) & (cells < rows * rows)).all(),
        f"cells {cells.tolist()} don't fit {rows} x {rows} cells",
    )
    mass = fit_maps(maps, height, width).clamp(min=0)
    top = top_pixels(mass, max(1, round(TOP_SHARE * height * width)), seed)
    image = torch.arange(count)
    shares = []
    for values in (double(mass), double(top)):
        split = values.view(count, rows, height // rows, rows, width // rows).sum((2, 4)).flatten(1)
        own = split[image, cells.to(values.device).long()]
        shares.append(torch.where(mass.amax((1, 2)) > 0, own / values.sum((1, 2)), 0.0))
    return torch.stack(shares, 1)


def compared_classes(logits: Tensor) -> Tensor:
    """The two classes whose maps class sensitivity compares: the most probable one and the 10th.

    Args:
        logits: ``[N, K]`` with K of at least 2; below 10 the second class is the least probable one.

    Returns:
        ``[N, 2]`` int64.

    Raises:
        SsgcamError: If there is only one class.
    """
    count = logits.shape[1]
    check(count >= 2, f"class sensitivity compares two classes; the network has {count}")
    order = logits.detach().argsort(dim=1, descending=True, stable=True)
    return order[:, [0, min(10, count) - 1]]


def class_sensitivity(first: Tensor, second: Tensor) -> Tensor:
    """Rank correlation of the maps of two classes: 1 means that the class plays no part.

    Args:
        first: ``[N, h, w]``, the maps of the most probable class (:func:`compared_classes`).
        second: ``[N, h, w]``, the maps of the other class.

    Returns:
        Parts ``[N, 2]`` float64: (correlation, 1); (0, 1) where one of the two maps is constant or not
        finite, (0, 0) where both are. :func:`ssgcam.metrics.ratio` of their mean is the number.

    Raises:
        SsgcamError: If the shapes differ.
    """
    correlation = rank_correlation(first, second)
    constant = (constant_maps(first) & constant_maps(second)).cpu()
    return torch.stack([correlation.nan_to_num(0.0), double(~constant)], 1)
