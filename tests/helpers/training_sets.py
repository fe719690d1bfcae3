"""Small labeled images for the tests of training: gray noise, with a dark disc in class 1."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ssgcam.data import read_samples
from ssgcam.images import Reading
from ssgcam.training import LabeledImages, TrainingSettings, labeled_images

TINY = TrainingSettings(
    model="mobilenet_v3_small",  # batch-norm and dropout
    input_size=32,
    epochs=2,
    batch_size=8,
    samples_per_epoch=24,
    device="cpu",
)


@dataclass
class Reader:
    """Reads image ``index``: class 1 shows a dark disc at a random place.

    Attributes:
        labels: The class of each image.
        stops_at: Raise KeyboardInterrupt at this read.
        reads: The indices read so far.
    """

    labels: list[int]
    stops_at: int | None = None
    reads: list[int] = field(default_factory=list)

    def __call__(self, index: int, generator: np.random.Generator | None = None) -> Image.Image:
        self.reads.append(index)
        if len(self.reads) == self.stops_at:
            raise KeyboardInterrupt
        noise = np.random.default_rng(index)
        pixels = noise.integers(150, 200, (32, 32, 3))
        if self.labels[index]:
            x, y = (generator or noise).integers(10, 22, 2)
            rows, columns = np.mgrid[:32, :32]
            pixels[(rows - y) ** 2 + (columns - x) ** 2 < 64] //= 4
        return Image.fromarray(pixels.astype(np.uint8))


def discs(count: int, positive: int = 3, stops_at: int | None = None) -> LabeledImages:
    """``count`` images, every ``positive``-th with a disc, in groups of four."""
    labels = [int(index % positive == 0) for index in range(count)]
    groups = [f"field{index // 4}" for index in range(count)]
    return LabeledImages(labels, groups, ("empty", "disc"), Reader(labels, stops_at))


def labels_only(labels, groups=None, class_names=("a", "b", "c")) -> LabeledImages:
    """Labels and groups without images."""
    return LabeledImages(
        labels, groups or list(map(str, range(len(labels)))), class_names, Reader([])
    )


def class_folders(folder: Path, **counts: int) -> Path:
    """One subfolder for each class; files are named after slides of two images."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            image = Reader([int(name == "healthy")])(0)
            image.save(folder / name / f"slide{index // 2}_{index}.png")
    return folder


def table(file: Path, rows: list[list[str]]) -> Path:
    """Write a CSV."""
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return file


def read_labeled_images(path: Path, pattern: str | None = None, reading: Reading | None = None):
    """The labeled images of a folder or table."""
    return labeled_images(read_samples(path, group_pattern=pattern), reading)


def halves(count: int, folder: Path) -> list[list[str]]:
    """Write images whose left half, right half, both or none is dark; rows of image and labels."""
    rows = []
    for index in range(count):
        pixels = np.random.default_rng(index).integers(150, 200, (32, 32, 3))
        labels = [name for k, name in enumerate(("left", "right")) if index >> k & 1]
        for name in labels:
            pixels[:, 16 * (name == "right") :][:, :16] //= 4
        file = folder / f"{index}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(file)
        rows.append([file.name, ";".join(labels)])
    return rows
