"""Labeled images for training: where they come from, the split by group, and batches of inputs.

The seed of each random view is a function of the training's seed, the epoch and the position in it,
so that a resumed training gets the same batches, with any number of workers.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F

from ssgcam.data import SampleSet, suggested_group_pattern
from ssgcam.errors import SsgcamError
from ssgcam.images import Reading, read_image
from ssgcam.preprocessing import Preprocessing
from ssgcam.training.settings import TrainingSettings


@dataclass(frozen=True)
class LabeledImages:
    """Images with their classes and one group each.

    Make one of your own to train on images that are not files, such as windows cut at random.

    Attributes:
        labels: A class index for each image; or, where an image may show several classes or none, a
            tuple of class indices for each.
        groups: A field, slide or patient for each image: images of one group are never split up.
        class_names: One for each class.
        read: From an index and a generator to an RGB image: in training a random view of it, drawn
            with the generator; in validation, where the generator is None, always the same view.
        reading: How files are read; it is kept with the trained network.
    """

    labels: Sequence[int] | Sequence[tuple[int, ...]]
    groups: Sequence[str]
    class_names: tuple[str, ...]
    read: Callable[[int, np.random.Generator | None], Image.Image]
    reading: Reading = field(default_factory=Reading)

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def multi_label(self) -> bool:
        """Whether an image may show several classes."""
        return any(isinstance(label, tuple) for label in self.labels)

    def targets(self) -> Tensor:
        """Class indices ``[N]``, or ``[N, classes]`` float32 with 1 for the classes of each image."""
        if not self.multi_label:
            return torch.as_tensor(self.labels)
        targets = torch.zeros(len(self), len(self.class_names))
        for row, label in self.pairs():
            targets[row, label] = 1
        return targets

    def identity(self) -> bytes:
        """Classes, labels and groups; other images, or images in another order, have another one."""
        content = [list(self.class_names), self.targets().tolist(), list(self.groups)]
        return json.dumps(content).encode()

    def pairs(self) -> list[tuple[int, int]]:
        """An image and one of its classes each."""
        return [
            (row, label)
            for row, labels in enumerate(self.labels)
            for label in (labels if isinstance(labels, tuple) else (labels,))
        ]

    def subset(self, indices: Sequence[int]) -> LabeledImages:
        """Some of the images, in the given order."""
        return LabeledImages(
            [self.labels[index] for index in indices],  # type: ignore[arg-type]
            [self.groups[index] for index in indices],
            self.class_names,
            partial(_read_of_subset, self.read, indices),
            self.reading,
        )


def labeled_images(sample_set: SampleSet, reading: Reading | None = None) -> LabeledImages:
    """The images of a data set; without groups each image is a group of its own.

    Where an image has several classes, every image may have any number of them. Classes without images
    are left out.

    Args:
        sample_set: The data set, as :func:`ssgcam.data.read_samples` returns it.
        reading: How its files are read.

    Raises:
        SsgcamError: If a sample has no label though no other has several, only some samples have a
            group, or fewer than two classes have images.
    """
    several = any(len(sample.labels) > 1 for sample in sample_set)
    grouped = any(sample.group for sample in sample_set)
    for sample in sample_set:
        if not sample.labels and not several:
            raise SsgcamError(
                f"'{sample.image}' has no label; training needs a class for each image"
            )
        if bool(sample.group) != grouped:
            raise SsgcamError(f"'{sample.image}' has no group, but other images have; add it")
    pattern = suggested_group_pattern(sample_set)
    if pattern is not None:
        warnings.warn(
            "the names of several images begin alike; if that is the field, patient or slide, give "
            f"--group-pattern '{pattern}', so that no group is both trained and tested on",
            stacklevel=2,
        )
    present = sorted({label for sample in sample_set for label in sample.labels})
    names = tuple(sample_set.class_names[label] for label in present)
    if len(names) < 2:
        raise SsgcamError(
            f"'{sample_set.root}' has images of {len(names)} class(es)"
            f"{f' ({names[0]!r})' if names else ''}, but training needs at least two; give one "
            "folder for each class, or a CSV with the columns image,label,group"
        )
    index = {label: new for new, label in enumerate(present)}
    labels = [tuple(index[label] for label in sample.labels) for sample in sample_set]
    reading = reading or Reading()
    return LabeledImages(
        labels if several else [label for (label,) in labels],
        [sample.group or sample.name for sample in sample_set],
        names,
        partial(_read_file, [sample.image for sample in sample_set], reading),
        reading,
    )


def split_by_group(
    images: LabeledImages, share: float, seed: int
) -> tuple[LabeledImages, LabeledImages]:
    """Hold out about a share of each class without splitting a group.

    Groups are visited in random order; one is held out if that brings the held-out share of the
    classes (each counted relative to its size) nearer to ``share``.

    Args:
        images: What to split.
        share: Share of each class to hold out, between 0 and 1, both excluded.
        seed: Seed of the order of the groups.

    Returns:
        The training part and the held-out part; both have images of every class.

    Raises:
        SsgcamError: If the groups don't allow that.
    """
    if not 0 < share < 1:
        raise SsgcamError(
            f"the held-out share is {share:g}; give one between 0 and 1, or 0 for none"
        )
    names, group_of = np.unique(np.asarray(images.groups), return_inverse=True)
    counts = np.zeros((len(names), len(images.class_names)))
    for row, label in images.pairs():
        counts[group_of[row], label] += 1
    counts /= np.maximum(counts.sum(0), 1)
    held_out, total = np.zeros(len(names), dtype=bool), np.zeros(counts.shape[1])
    for group in np.random.default_rng(seed).permutation(len(names)):
        if np.abs(total + counts[group] - share).sum() < np.abs(total - share).sum():
            held_out[group] = True
            total += counts[group]
    for index, part in enumerate(total):
        if not 1e-9 < part < 1 - 1e-9:
            here = int((counts[:, index] > 0).sum())
            raise SsgcamError(
                f"class '{images.class_names[index]}' can't be on both sides of a split by group "
                f"(it is in {here} of {len(names)} groups); give more or smaller groups, another "
                "seed, or a held-out share of 0"
            )
    chosen = held_out[group_of]
    kept, out = (np.flatnonzero(part).tolist() for part in (~chosen, chosen))
    return images.subset(kept), images.subset(out)


@dataclass(frozen=True)
class Inputs(Dataset[tuple[Tensor, Tensor]]):
    """Network inputs ``[3, H, W]`` and targets by (index, seed): a random view, or a fixed one for None.

    Attributes:
        images: Labeled images.
        preprocessing: The network's.
        augmentation: Whether random views are turned, flipped and recolored.
        color: See :func:`augment`.
    """

    images: LabeledImages
    preprocessing: Preprocessing
    augmentation: bool = False
    color: float = 0.0

    @cached_property
    def targets(self) -> Tensor:
        """Of all images, see ``LabeledImages.targets``."""
        return self.images.targets()

    def __getitem__(self, key: tuple[int, tuple[int, ...] | None]) -> tuple[Tensor, Tensor]:
        """One input and its target."""
        index, seed = key
        generator = None if seed is None else np.random.default_rng(seed)
        image = self.images.read(index, generator)
        if generator is not None and self.augmentation:
            image = augment(image, generator, self.color)
        return self.preprocessing([image])[0], self.targets[index]


def training_batches(
    images: LabeledImages,
    settings: TrainingSettings,
    preprocessing: Preprocessing,
    epoch: int,
    count: int,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """The batches of one epoch: ``[B, 3, H, W]`` random views and their targets.

    Balanced sampling draws a class first and then one of its images; images without any class count
    as one class more.

    Args:
        images: Labeled images.
        settings: Settings of the training.
        preprocessing: The network's.
        epoch: Its number, part of all seeds.
        count: Images in it.
    """
    pairs = (
        images.pairs() if settings.balance == "sampling" else [(n, 0) for n in range(len(images))]
    )
    without = set(range(len(images))) - {row for row, _ in pairs}
    rows, labels = zip(*pairs, *((row, -1) for row in sorted(without)), strict=True)
    drawn = draw_balanced(labels, count, np.random.default_rng((settings.seed, epoch)))
    order = [rows[place] for place in drawn]
    keys = [(index, (settings.seed, epoch, position)) for position, index in enumerate(order)]
    inputs = Inputs(images, preprocessing, settings.augmentation, settings.color)
    return _loader(inputs, settings.batch_size, keys, settings.workers)


def validation_batches(
    images: LabeledImages, preprocessing: Preprocessing, batch_size: int, workers: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """All images once, in order, in their fixed views."""
    keys = [(index, None) for index in range(len(images))]
    return _loader(Inputs(images, preprocessing), batch_size, keys, workers)


def draw_balanced(labels: Sequence[int], count: int, generator: np.random.Generator) -> list[int]:
    """Draw indices with the same number (to one) for each class, in random order.

    Within a class every image is drawn equally often (to one): whole permutations come first.

    Args:
        labels: A class index for each image.
        count: How many to draw.
        generator: Generator of the order.

    Returns:
        ``count`` indices into ``labels``.
    """
    array = np.asarray(labels)
    classes = np.unique(array)
    wanted = math.ceil(count / len(classes))
    columns = []
    for index in classes:
        members = np.flatnonzero(array == index)
        passes = [generator.permutation(members) for _ in range(math.ceil(wanted / len(members)))]
        columns.append(np.concatenate(passes)[:wanted])
    indices: list[int] = generator.permutation(np.stack(columns, 1).ravel()[:count]).tolist()
    return indices


def augment(image: Image.Image, generator: np.random.Generator, color: float) -> Image.Image:
    """Turn, flip and recolor an image, as micrographs have no upright side and stains differ.

    Args:
        image: RGB; with other channels as of :func:`ssgcam.images.read_image`, which are turned too.
        generator: Chooses one of the eight right-angle turns and flips, and the colors.
        color: Largest relative change of brightness, contrast and saturation; hue turns by up to
            a fifth of it (1 is the whole circle). 0 leaves the colors alone, as do other channels than
            one or three.

    Returns:
        The changed image; its sides are swapped if it was turned by 90 degrees.
    """
    turn = int(generator.integers(8))
    channels = image.info.get("channels")
    if turn:
        method = list(Image.Transpose)[turn - 1]
        image = image.transpose(method)
        if channels is not None:
            bands = map(Image.fromarray, np.moveaxis(channels, 2, 0))
            turned = [np.asarray(band.transpose(method)) for band in bands]
            image.info = {**image.info, "channels": np.stack(turned, -1)}
    if color and (channels is None or channels.shape[2] in (1, 3)):
        brightness, contrast, saturation = 1 + generator.uniform(-color, color, 3)
        image = F.adjust_brightness(image, brightness)
        image = F.adjust_contrast(image, contrast)
        image = F.adjust_saturation(image, saturation)
        image = F.adjust_hue(image, generator.uniform(-color / 5, color / 5))
    return image


def _loader(
    inputs: Inputs, batch_size: int, keys: Sequence[object], workers: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    generator = torch.Generator()  # its own: the global generator stays as it is
    return DataLoader(inputs, batch_size, sampler=keys, num_workers=workers, generator=generator)


def _read_file(
    paths: Sequence[Path], reading: Reading, index: int, _: np.random.Generator | None
) -> Image.Image:
    return read_image(paths[index], reading)


def _read_of_subset(
    read: Callable[[int, np.random.Generator | None], Image.Image],
    indices: Sequence[int],
    index: int,
    generator: np.random.Generator | None,
) -> Image.Image:
    return read(indices[index], generator)
