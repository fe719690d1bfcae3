"""Tiny data sets and networks for the tests of the evaluation."""

from __future__ import annotations

import json

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from helpers.networks import Small
from ssgcam import LoadedModel, Preprocessing

SIDE = 32
LAYERS = ["act1", "act2"]
NAMES = ("red", "green", "blue")


class Blobs(nn.Module):
    """A network that really sees the color of a blob: class k is the k-th channel's bright part."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU()
        self.pool = nn.AvgPool2d(4)
        self.act2 = nn.ReLU()
        self.fc = nn.Linear(3, 3)
        with torch.no_grad():
            self.conv.weight.zero_()
            for k in range(3):
                self.conv.weight[k, :, 1, 1] = -0.5
                self.conv.weight[k, k, 1, 1] = 1.0
            self.conv.bias.zero_()
            self.fc.weight.copy_(8 * torch.eye(3))
            self.fc.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        x = self.act2(self.pool(self.act(self.conv(images))))
        return self.fc(x.mean((2, 3)))


def blobs() -> LoadedModel:
    """Localises perfectly; layers ``act`` (32x32) and ``act2`` (8x8)."""
    return _loaded(Blobs(), "helpers.evaluation_cases:blobs")


def noise() -> LoadedModel:
    """Random weights, dropout, batch norm; layers ``act1`` and ``act2``."""
    torch.manual_seed(3)
    return _loaded(Small(3), "helpers.evaluation_cases:noise")


def _loaded(network: nn.Module, name: str) -> LoadedModel:
    plain = Preprocessing((SIDE, SIDE), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return LoadedModel(network.eval(), name, plain, NAMES)


def picture(color: int, box: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
    """A blob of one color on noise; ``box`` is inclusive."""
    width, height = size
    generator = np.random.default_rng([color, *box])
    pixels = generator.integers(0, 40, (height, width, 3), dtype=np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0 : y1 + 1, x0 : x1 + 1, color] = 220
    return Image.fromarray(pixels)


def boxed_tree(root, size=(100, 80), count=7):
    """``images/`` beside ``boxes.json``; every third image has two boxes."""
    (root / "images").mkdir(parents=True)
    entries = []
    for k in range(count):
        color = k % 3
        box = (10 + 4 * k, 12 + 3 * k, 40 + 4 * k, 40 + 3 * k)
        picture(color, box, size).save(root / "images" / f"{k}.png")
        boxes = [box, (0, 0, 5, 5)] if k % 3 == 0 else [box]
        entries.append({"image": f"{k}.png", "label": color, "boxes": boxes, "group": f"g{k // 2}"})
    (root / "boxes.json").write_text(json.dumps(entries))
    return root


def masked_tree(root, size=(48, 40), count=6, values=(1, 2, 3), ignored=False):
    """``images/`` beside ``masks/``: image k shows class k % 3; image 1 has no object."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for k in range(count):
        color = k % 3
        box = (6 + 2 * k, 4 + 2 * k, 24 + 2 * k, 20 + 2 * k)
        mask = np.zeros((size[1], size[0]), np.uint8)
        if k == 1:
            Image.new("RGB", size, (20, 20, 20)).save(root / "images" / f"{k}.png")
        else:
            picture(color, box, size).save(root / "images" / f"{k}.png")
            mask[box[1] : box[3] + 1, box[0] : box[2] + 1] = values[color]
            if ignored:
                mask[box[1], :] = 200
        Image.fromarray(mask).save(root / "masks" / f"{k}.png")
    return root


def stacked(model, samples):
    """All images as the network's input, and their sizes (height, width)."""
    from ssgcam.images import read_image

    photos = [read_image(sample.image) for sample in samples]
    return model.preprocessing(photos), [(photo.height, photo.width) for photo in photos]
