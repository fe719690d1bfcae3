"""The networks and the photos of ``many_images.py``."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision import models

from ssgcam import LoadedModel, Preprocessing

BATCH = 16


@dataclass(frozen=True)
class Case:
    """A network, its input's side and the photos it is given."""

    network: str
    side: int
    photo: tuple[int, int]
    ending: str
    images: int


CASES = (
    Case("resnet18", 112, (160, 160), "png", 1280),
    Case("resnet34", 224, (500, 375), "jpg", 192),
    Case("tiny", 32, (32, 32), "png", 4096),
    Case("resnet34", 112, (160, 160), "png", 640),
    Case("vgg16", 224, (500, 375), "jpg", 96),
)


def tiny() -> LoadedModel:
    """Two convolutions at 32 pixels: so little work that all the rest shows."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
    )  # fmt: skip
    return LoadedModel(network.eval(), "tiny", Preprocessing((32, 32)))


def load(case: Case) -> LoadedModel:
    """The case's network with random weights and two classes."""
    if case.network == "tiny":
        return tiny()
    torch.manual_seed(0)
    network = models.get_model(case.network, weights=None, num_classes=2).eval()
    return LoadedModel(network, case.network, Preprocessing((case.side, case.side)))


def generate(folder: Path, count: int, size: tuple[int, int], ending: str) -> None:
    """Smooth random pictures, a thousand to a folder; those that are there are kept."""

    def write(index: int) -> None:
        path = folder / f"{index // 1000:04}" / f"{index:07}.{ending}"
        if not path.exists():
            coarse = np.random.default_rng(index).integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)

    for part in range(-(-count // 1000)):
        (folder / f"{part:04}").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(write, range(count), chunksize=100):
            pass


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of processor time."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cpu
