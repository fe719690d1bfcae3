"""From labeled photos to batches: which photo comes when, which random view of it, in what shape.

The seed of a random view is a function of the training's seed, the epoch and the position in it, so
that a training that continues after a kill sees the same batches, whatever reads them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssgcam.preprocessing import Preprocessing
from ssgcam.training.data import Samples, augment, draw_balanced
from ssgcam.training.settings import TrainingSettings


@dataclass(frozen=True)
class Photos(Dataset[tuple[Tensor, int]]):
    """Inputs ``[3, H, W]`` and labels by (index, seed): a random view, or with None the fixed one.

    Attributes:
        samples: Labeled photos.
        preprocessing: Of the network.
        augmentation: Turn, flip and recolor random views.
        color: See :func:`ssgcam.training.data.augment`.
    """

    samples: Samples
    preprocessing: Preprocessing
    augmentation: bool = False
    color: float = 0.0

    def __getitem__(self, key: tuple[int, tuple[int, ...] | None]) -> tuple[Tensor, int]:
        """One input and its label."""
        index, seed = key
        generator = None if seed is None else np.random.default_rng(seed)
        image = self.samples.image(index, generator)
        if generator is not None and self.augmentation:
            image = augment(image, generator, self.color)
        return self.preprocessing([image])[0], self.samples.labels[index]


def epoch_size(samples: Samples, settings: TrainingSettings) -> int:
    """Photos an epoch; a last batch of one photo, which batch-norm can't take, is left out."""
    count = settings.samples_per_epoch or len(samples.labels)
    return count - 1 if count > 1 and count % settings.batch_size == 1 else count


def training_batches(
    samples: Samples,
    settings: TrainingSettings,
    preprocessing: Preprocessing,
    epoch: int,
    count: int,
) -> DataLoader[tuple[Tensor, int]]:
    """The batches of one epoch: ``[B, 3, H, W]`` random views and ``[B]`` labels.

    Args:
        samples: Labeled photos.
        settings: Of the training.
        preprocessing: Of the network.
        epoch: Its number, part of all seeds.
        count: Photos in it.
    """
    balanced = settings.balance == "sampling"
    drawn = draw_balanced(
        samples.labels if balanced else [0] * len(samples.labels),
        count,
        np.random.default_rng((settings.seed, epoch)),
    )
    return DataLoader(
        Photos(samples, preprocessing, settings.augmentation, settings.color),
        settings.batch_size,
        sampler=[(index, (settings.seed, epoch, position)) for position, index in enumerate(drawn)],
        num_workers=settings.workers,
        generator=torch.Generator(),
    )


def fixed_batches(
    samples: Samples, preprocessing: Preprocessing, batch_size: int, workers: int
) -> DataLoader[tuple[Tensor, int]]:
    """All photos once, in order, in their fixed views."""
    return DataLoader(
        Photos(samples, preprocessing),
        batch_size,
        sampler=[(index, None) for index in range(len(samples.labels))],
        num_workers=workers,
        generator=torch.Generator(),
    )
