"""What is scored: which class of which image, in batches that are read ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ssgcam.data import Sample, SampleSet
from ssgcam.errors import SsgcamError
from ssgcam.evaluation.settings import EvaluationSettings
from ssgcam.images import read_image
from ssgcam.models import LoadedModel
from ssgcam.preprocessing import unit_range
from ssgcam.threads import ahead

Extra = TypeVar("Extra")


@dataclass(frozen=True)
class Item:
    """An image and what to explain in it.

    Attributes:
        sample: The image.
        labels: Classes of the data set.
        classes: The same as the network counts them; may be empty where ``labels`` is.
    """

    sample: Sample
    labels: tuple[int, ...]
    classes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Batch(Generic[Extra]):
    """Some items with their images.

    Attributes:
        first: Index of the first item in the whole set.
        items: The items.
        pixels: RGB in [0, 1] at the network's input size, ``[N, 3, H, W]``, on its device.
        sizes: Height and width of each original image.
        extras: What else was read for each item.
    """

    first: int
    items: list[Item]
    pixels: Tensor
    sizes: list[tuple[int, int]]
    extras: list[Extra]

    @property
    def classes(self) -> Tensor:
        """``[N, K]``: the classes, padded by repeating the first (0 where an item has none)."""
        most = max(1, *(len(item.classes) for item in self.items))
        rows = [
            [*item.classes, *[item.classes[0] if item.classes else 0] * (most - len(item.classes))]
            for item in self.items
        ]
        return torch.tensor(rows, device=self.pixels.device)


def limited(samples: SampleSet, limit: int | None) -> SampleSet:
    """At most ``limit`` samples, spread evenly over the set.

    Raises:
        SsgcamError: If the limit is below 1.
    """
    if limit is None:
        return samples
    if limit < 1:
        raise SsgcamError(f"the limit is {limit}; give at least 1")
    count = len(samples)
    chosen = range(count) if limit >= count else [k * count // limit for k in range(limit)]
    return replace(samples, samples=tuple(samples.samples[k] for k in chosen))


def owners(items: Sequence[Item], bins: int) -> tuple[Tensor, int]:
    """The resampling unit of each item, and how many groups there are.

    Items of one group (field, patient, slide) stay together; without groups, those of one image.

    Args:
        items: In the order in which they are scored.
        bins: At most so many units; the k-th group goes to unit ``k % bins``.

    Returns:
        ``[N]`` int64, and the number of groups.
    """
    numbers: dict[tuple[bool, str], int] = {}
    found = []
    for item in items:
        key = (bool(item.sample.group), item.sample.group or item.sample.name)
        found.append(numbers.setdefault(key, len(numbers)))
    return torch.tensor(found) % bins, len(numbers)


def batches(
    items: Sequence[Item],
    model: LoadedModel,
    settings: EvaluationSettings,
    title: str,
    extra: Callable[[Item, Image.Image], Extra],
    first: int = 0,
) -> Iterator[Batch[Extra]]:
    """Read the items' images ahead by threads; at most two batches wait.

    Args:
        items: What to read.
        model: Says the input's size and the device.
        settings: Batch size, threads and whether to show progress.
        title: Of the progress bar.
        extra: Reads what else an item needs, such as its mask; called in a thread.
        first: Index of the item to begin with.

    Yields:
        Batches in order.

    Raises:
        SsgcamError: If an image or an extra can't be read.
    """

    def read(item: Item) -> tuple[Item, Tensor, tuple[int, int], Extra]:
        photo = read_image(item.sample.image)
        pixels = model.preprocessing.pixels(photo)
        return item, pixels, (photo.height, photo.width), extra(item, photo)

    device = next((p.device for p in model.network.parameters()), torch.device("cpu"))
    stream = ahead(read, items[first:], window=2 * settings.batch_size, workers=settings.workers)
    shown = None if settings.progress else True
    bar = tqdm(total=len(items), initial=first, desc=title, unit="image", disable=shown)
    with bar:
        while chunk := list(islice(stream, settings.batch_size)):
            found, images, sizes, extras = zip(*chunk, strict=True)
            pixels = unit_range(torch.stack(images).to(device))
            yield Batch(first, list(found), pixels, list(sizes), list(extras))
            first += len(chunk)
            bar.update(len(chunk))


def nothing(item: Item, photo: Image.Image) -> None:
    """The extra of items that need none."""
