"""A small network, a recipe for it, photos and masks for the tests of ``bulk``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from helpers.networks import Small
from ssgcam import LoadedModel, Preprocessing, SSGSettings
from ssgcam.fingerprint import Fingerprint, parameter_hash
from ssgcam.recipe import Recipe, RecipeLayer

SIDE = 16


def small(output: str = "softmax") -> LoadedModel:
    torch.manual_seed(0)
    network = Small().eval()
    with torch.no_grad():  # so that some photos pass a gate and others don't
        network.fc.weight *= 30
        typical = F.interpolate(1.3 * torch.randn(64, 3, 4, 4), (SIDE, SIDE), mode="bicubic")
        network.fc.bias -= network(typical).mean(0)
    names = ("cat", "dog", "house cat")
    return LoadedModel(network, "small", Preprocessing((SIDE, SIDE)), names, output)


def recipe_for(model: LoadedModel, **changes) -> Recipe:
    settings = {
        "layers": (
            RecipeLayer("act1", 1.0, SSGSettings(sigma=0.1), 0.5, (4, 16, 16)),
            RecipeLayer("act2", 2.0, SSGSettings(sigma=0.0), 1.0, (6, 8, 8)),
        ),
        "threshold": 0.4,
        "gate": 0.3,
        "network": Fingerprint("small", (SIDE, SIDE), parameter_hash(model.network)),
        "working_size": (SIDE, SIDE),
        "classes": (1,),
    }
    return Recipe(**{**settings, **changes})


def photos(folder: Path, count: int = 5, size: tuple[int, int] = (30, 20)) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(count):
        coarse = np.random.default_rng(index).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        paths.append(folder / f"{index:03}.png")
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def mask_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.array(image)


def files_below(folder: Path) -> dict[str, bytes]:
    """All files, the manifest's lines in any order."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    found["manifest.jsonl"] = b"".join(sorted(found["manifest.jsonl"].splitlines(keepends=True)))
    return found
