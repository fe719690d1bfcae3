"""Many images: how close does ``segment`` come to the network's own speed, and in how much memory?

    python benchmarks/bulk.py             # some minutes
    python benchmarks/bulk.py --quick     # one small case, prints only

Throughput: photos on disk to masks on disk, against one forward pass and one gradient on a batch in
memory with the same network, batch and threads; the two take turns. Memory: peak resident
size of a process that segments 1,000, 10,000 and 100,000 images.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision import models

from common import DOCS, opening, table
from speed import bare_passes
from ssgcam import CAM, LoadedModel, Preprocessing
from ssgcam.bulk.segment import segment_images
from ssgcam.files import write_text

BATCH = 16
#: Network, input side, size of the photos, number of photos.
CASES = {
    "resnet18, 112 px": ("resnet18", 112, (112, 112), 640),
    "resnet34, 224 px": ("resnet34", 224, (320, 240), 160),
    "vgg16, 224 px": ("vgg16", 224, (320, 240), 64),
    "two convolutions, 32 px": ("tiny", 32, (32, 32), 2000),
}


def load(network: str, side: int) -> LoadedModel:
    """A network of random weights with its input size."""
    torch.manual_seed(0)
    if network == "tiny":
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)]
        found: nn.Module = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), *head
        )
    else:
        found = models.get_model(network, weights=None)
    return LoadedModel(found.eval(), network, Preprocessing((side, side)))


def make_photos(folder: Path, count: int, size: tuple[int, int]) -> None:
    """PNG photos of blurred noise."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        small = generator.integers(0, 256, (size[1] // 8 or 1, size[0] // 8 or 1, 3), np.uint8)
        Image.fromarray(small).resize(size).save(folder / f"{number:06}.png")


def throughput(case: str, threads: int, rounds: int, folder: Path) -> list[str]:
    """Images a second of both, and the ratio."""
    network, side, size, count = CASES[case]
    torch.set_num_threads(threads)
    photos = folder / f"{case} {threads}" / "photos"
    make_photos(photos, count, size)
    model = load(network, side)
    batch = torch.randn(BATCH, 3, side, side)
    layers = ["3"] if network == "tiny" else CAM(model).layers(batch)
    passes, cam = bare_passes(model.network, layers, batch), CAM(model, layers)
    seconds: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        out = Path(tempfile.mkdtemp(dir=photos.parent))
        times = [time.perf_counter()]
        for _ in range(count // BATCH):
            passes()
        times.append(time.perf_counter())
        segment_images(photos, model, out, cam=cam, classes=[0], gate=0.0, batch_size=BATCH)
        times.append(time.perf_counter())
        for own, (start, end) in zip(seconds, pairwise(times), strict=True):
            own += [end - start] if number else []  # the first round warms up
    ratios = [bare / whole for bare, whole in zip(*seconds, strict=True)]
    rates = [f"{count / statistics.median(own):.0f}" for own in seconds]
    spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
    return [case, str(threads), str(count), *rates, spread]


def memory(count: int, folder: Path) -> list[str]:
    """Peak memory and rate of a process that segments ``count`` images of 32 px."""
    photos = folder / f"memory {count}" / "photos"
    make_photos(photos, count, (32, 32))
    words = [sys.executable, __file__, "--memory", str(photos)]
    found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return [f"{count:,}", f"{found['peak'] / 1024:.0f}", f"{count / found['seconds']:.0f}"]


def segment_for_memory(photos: Path) -> None:
    """What the process does whose memory is measured."""
    model = load("tiny", 32)
    start = time.perf_counter()
    segment_images(
        photos, model, photos.parent / "masks", cam=CAM(model, ["3"]), classes=[0], gate=0.0
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"peak": peak, "seconds": time.perf_counter() - start}))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small case, prints only")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where photos and masks are written")
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        segment_for_memory(options.memory)
        return
    cases = ["two convolutions, 32 px"] if options.quick else list(CASES)
    threads = sorted({1, os.cpu_count() or 1})[: 1 if options.quick else None]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        rates = [throughput(case, own, options.rounds, folder) for case in cases for own in threads]
        peaks = [memory(n, folder) for n in ([1000] if options.quick else [1000, 10_000, 100_000])]
    header = ["network", "threads", "photos", "passes: images/s", "segment: images/s", "ratio"]
    sections = [
        *opening("Many images", __doc__),
        table(header, rates),
        table(["images", "peak MiB", "images/s"], peaks),
    ]
    print("\n\n".join(sections))
    if not options.quick:
        write_text(options.out / "bulk.md", "\n\n".join(sections) + "\n")


if __name__ == "__main__":
    main()
