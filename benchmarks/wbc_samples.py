"""The white blood cells of ``wbc``: photos, types, expert masks, and folds with every type in each.

    cells = Cells.read(data / "wbc")
    train_classifier(cells.part(fold=0, tested=False), settings)   # types alone
    cells.nucleus(index)                                           # bool [H, W], for calibration and test

The one basophil is left out: a class of one can't be trained and tested.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssgcam.errors import SsgcamError
from ssgcam.images import read_image
from ssgcam.training import ImageFiles, Subset

TYPES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil")
#: Values of the expert masks.
REGIONS = ("background", "cytoplasm", "nucleus")
#: The values of a mask that are a target.
TARGETS = {"whole cell": (1, 2), "nucleus": (2,)}


@dataclass(frozen=True)
class Cells:
    """All crops of four types; every crop is its own group, as no patients or slides are stated.

    Attributes:
        folder: Holds ``images``, ``masks`` and ``labels.csv``.
        photos: The crops with their types.
        folds: Number of folds.
        seed: Of the folds and of the choice of calibration crops.
    """

    folder: Path
    photos: ImageFiles
    folds: int = 3
    seed: int = 0

    @classmethod
    def read(cls, folder: Path, folds: int = 3, seed: int = 0) -> Cells:
        """Read ``labels.csv``; photos and masks are read when they are needed.

        Raises:
            SsgcamError: If it is not there.
        """
        file = folder / "labels.csv"
        if not file.is_file():
            raise SsgcamError(f"no '{file}'; give --data the folder that holds 'wbc'")
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = [
                (f"{int(name):03d}", int(label)) for name, label in list(csv.reader(stream))[1:]
            ]
        kept = [(name, label - 1) for name, label in rows if label <= len(TYPES)]
        names = tuple(name for name, _ in kept)
        files = tuple(folder / "images" / f"{name}.png" for name in names)
        photos = ImageFiles(files, tuple(label for _, label in kept), names, TYPES)
        return cls(folder, photos, folds, seed)

    @cached_property
    def fold_of(self) -> tuple[int, ...]:
        """The fold that tests each crop: those of a type are dealt out in random order."""
        labels = np.asarray(self.photos.labels)
        result = np.zeros(len(labels), dtype=int)
        generator = np.random.default_rng(self.seed)
        dealt = 0
        for label in range(len(TYPES)):
            members = generator.permutation(np.flatnonzero(labels == label))
            result[members] = (np.arange(len(members)) + dealt) % self.folds
            dealt += len(members)
        return tuple(result.tolist())

    def indices(self, fold: int, *, tested: bool) -> list[int]:
        """Crops that a fold tests, or those it doesn't."""
        return [i for i, number in enumerate(self.fold_of) if (number == fold) == tested]

    def part(self, fold: int, *, tested: bool) -> Subset:
        """The same as photos of :mod:`ssgcam.training`."""
        return Subset(self.photos, tuple(self.indices(fold, tested=tested)))

    def calibration(self, fold: int, count: int) -> list[int]:
        """Some crops that the fold's network was trained on, the types in turn."""
        trained = np.random.default_rng((self.seed, fold)).permutation(
            self.indices(fold, tested=False)
        )
        seen = dict.fromkeys(range(len(TYPES)), 0)
        ranked = []
        for place, index in enumerate(trained.tolist()):
            label = self.photos.labels[index]
            seen[label] += 1
            ranked.append((seen[label], place, index))
        return [index for _, _, index in sorted(ranked)[:count]]

    def photo(self, index: int) -> Image.Image:
        """RGB, about 120x120."""
        return read_image(self.photos.paths[index])

    def regions(self, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The expert mask ``[H, W]``: 0 background, 1 cytoplasm, 2 nucleus."""
        with Image.open(self.folder / "masks" / f"{self.photos.groups[index]}.png") as mask:
            return np.asarray(mask, dtype=np.uint8)
