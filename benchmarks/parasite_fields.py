"""The fields of ``malaria_masks``, seen through windows of the same size in cells as ``malaria_iml``'s.

There a window of 160 px shows cells of about 85 px. Here cells are about 20 px (``mpidb_*``) or 35 px
(``radboud_*``) wide, so that windows of 38 and 66 px, enlarged to the network's input, show as much.

    fields = read_fields(data / "malaria_masks")
    for window in fields["mpidb_00"].around(copies=3):     # one parasite each, moved at random
        fields["mpidb_00"].photo(window), fields["mpidb_00"].truth(window)
    list(fields["mpidb_00"].grid)                          # the whole field, half overlapping
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from malaria_windows import JITTER, WINDOW
from ssgcam import load_model
from ssgcam.bulk.windows import Windows
from ssgcam.errors import SsgcamError
from ssgcam.images import read_image
from ssgcam.training import Samples

#: Cell diameters in pixels, by laboratory; that of malaria_iml is 85.
CELLS = {"mpidb": 20, "radboud": 35}
CELL = 85
PARASITE, IGNORE = 255, 127
OVERLAP = 0.5
#: Color of the empty background in malaria_iml: 90th percentile of each channel, median of fields.
BACKGROUND = (189, 217, 190)
#: Of the adapted networks: each leaves out one field of each laboratory. With two folds (four fields to
#: learn from) recall on the windows of the others was .59 and .31: no adaptation worth the name.
FOLDS = 4
CLASS_NAMES = ("healthy", "infected")

Box = tuple[int, int, int, int]


def fold_of(name: str) -> int:
    """The fold whose network was not trained on a field: the number in its name."""
    return int(name.rpartition("_")[2]) % FOLDS


@dataclass(frozen=True, eq=False)
class Field:
    """One field.

    Attributes:
        name: Such as ``"mpidb_00"``.
        pixels: ``[H, W, 3]`` uint8.
        mask: ``[H, W]`` uint8: 0 background, 1 parasite, 255 ignore.
    """

    name: str
    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    mask: np.ndarray[Any, np.dtype[np.uint8]]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.mask.shape[0]), int(self.mask.shape[1])

    @cached_property
    def windows(self) -> Windows:
        """Half-overlapping windows of about two cell diameters."""
        return Windows(round(CELLS[self.name.split("_")[0]] * WINDOW / CELL), OVERLAP)

    @cached_property
    def grid(self) -> tuple[Box, ...]:
        """The windows that cover the field."""
        return tuple(self.windows.boxes(*self.size))

    @cached_property
    def parasites(self) -> tuple[tuple[float, float], ...]:
        """The center (x, y) of every outlined parasite."""
        labels, count = ndimage.label(self.mask == 1)
        centers = ndimage.center_of_mass(self.mask == 1, labels, range(1, count + 1))
        return tuple((float(x) + 0.5, float(y) + 0.5) for y, x in centers)

    def moved(self, center: tuple[float, float], shift: Sequence[float]) -> Box:
        """A window around a point, moved by a share of its side, inside the field."""
        side = self.windows.side
        left, top = (
            int(np.clip(round(at - side / 2 + move * side), 0, length - side))
            for at, move, length in zip(center, shift, self.size[::-1], strict=True)
        )
        return left, top, left + side, top + side

    def around(self, copies: int, seed: int = 0) -> Iterator[Box]:
        """Windows around each parasite, moved at random as those of ``malaria_iml``; always the same."""
        reach = JITTER / WINDOW
        for number, center in enumerate(self.parasites):
            generator = np.random.default_rng([seed, number, *self.name.encode()])
            for _ in range(copies):
                yield self.moved(center, generator.uniform(-reach, reach, 2))

    def photo(self, box: Box) -> Image.Image:
        """What a window shows."""
        left, top, right, bottom = box
        return Image.fromarray(self.pixels[top:bottom, left:right])

    def truth(self, box: Box) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The mask in a window."""
        left, top, right, bottom = box
        return self.mask[top:bottom, left:right]

    def shows_parasite(self, box: Box) -> bool:
        """The image-level label: any parasite pixel in the window."""
        return bool((self.truth(box) == 1).any())

    def share_shown(self, box: Box) -> float:
        """How much of a parasite a window shows, of that of which it shows most; 0 to 1."""
        labels, _ = ndimage.label(self.mask == 1)
        whole = np.bincount(labels.ravel())
        left, top, right, bottom = box
        shown = np.bincount(labels[top:bottom, left:right].ravel(), minlength=len(whole))
        return float((shown[1:] / whole[1:]).max(initial=0))


def balanced(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """White balance, without any label: the empty background gets the color it has in malaria_iml."""
    here = np.percentile(pixels.reshape(-1, 3), 90, axis=0)
    factors = np.array(BACKGROUND) / here
    changed: np.ndarray[Any, np.dtype[np.uint8]] = (
        np.clip(pixels * factors, 0, 255).round().astype(np.uint8)
    )
    return changed


def read_fields(folder: Path, balance: bool = True) -> dict[str, Field]:
    """All fields by name, white-balanced unless told otherwise.

    Raises:
        SsgcamError: If there are none.
    """
    files = sorted((folder / "images").glob("*.png"))
    if not files:
        raise SsgcamError(
            f"no 'images/*.png' in '{folder}'; give --data the folder of malaria_masks"
        )
    found = {}
    for file in files:
        with Image.open(folder / "masks" / file.name) as opened:
            values = np.asarray(opened)
        mask = np.select([values == PARASITE, values == IGNORE], [1, 255], 0).astype(np.uint8)
        pixels = np.asarray(read_image(file))
        found[file.stem] = Field(file.stem, balanced(pixels) if balance else pixels, mask)
    return found


@dataclass(frozen=True, eq=False)
class MovingWindows:
    """Windows of some fields with their labels, for :mod:`ssgcam.training`; the group is the field.

    One for each parasite, and one for each window of the grid that shows none. A random view is moved
    by up to ``reach`` of its side, as far as its label stays right.
    """

    fields: tuple[Field, ...]
    reach: float = 0.35
    class_names: tuple[str, ...] = CLASS_NAMES

    @cached_property
    def items(self) -> list[tuple[Field, tuple[float, float], int]]:
        """Field, center and label."""
        shown = [(field, center, 1) for field in self.fields for center in field.parasites]
        free = [
            (field, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), 0)
            for field in self.fields
            for box in field.grid
            if not field.shows_parasite(box)
        ]
        return shown + free

    @cached_property
    def labels(self) -> list[int]:
        """0 healthy, 1 infected."""
        return [label for _, _, label in self.items]

    @cached_property
    def groups(self) -> list[str]:
        """The fields."""
        return [field.name for field, _, _ in self.items]

    def image(self, index: int, generator: np.random.Generator | None = None) -> Image.Image:
        """The window; moved with a generator."""
        field, center, label = self.items[index]
        box = field.moved(center, (0, 0))
        if generator is not None:
            for _ in range(8):
                tried = field.moved(center, generator.uniform(-self.reach, self.reach, 2))
                if field.shows_parasite(tried) == bool(label):
                    box = tried
                    break
        return field.photo(box)


@dataclass(frozen=True, eq=False)
class GridWindows:
    """The windows that cover some fields, as held-out photos of :mod:`ssgcam.training`."""

    fields: tuple[Field, ...]
    class_names: tuple[str, ...] = CLASS_NAMES

    @cached_property
    def items(self) -> list[tuple[Field, Box]]:
        """Field and window."""
        return [(field, box) for field in self.fields for box in field.grid]

    @cached_property
    def labels(self) -> list[int]:
        """0 healthy, 1 infected."""
        return [int(field.shows_parasite(box)) for field, box in self.items]

    @cached_property
    def groups(self) -> list[str]:
        """The fields."""
        return [field.name for field, _ in self.items]

    def image(self, index: int, generator: np.random.Generator | None = None) -> Image.Image:
        """The window, whatever the generator."""
        field, box = self.items[index]
        return field.photo(box)


@dataclass(frozen=True, eq=False)
class CoarseWindows:
    """Windows of ``malaria_iml``, as coarse as they would be in these fields, added to others.

    The others are repeated until both sources show about as many infected windows, as training draws
    evenly within a class.

    Attributes:
        own: Windows of these fields.
        source: Windows of ``malaria_iml``: photos of 160x160 px.
        class_names: Of both.
    """

    own: MovingWindows
    source: Samples
    class_names: tuple[str, ...] = CLASS_NAMES

    @cached_property
    def repeats(self) -> int:
        """How often each window of these fields is listed."""
        return max(1, round(sum(self.source.labels) / sum(self.own.labels)))

    @cached_property
    def labels(self) -> list[int]:
        """0 healthy, 1 infected."""
        return self.own.labels * self.repeats + list(self.source.labels)

    @cached_property
    def groups(self) -> list[str]:
        """The fields."""
        return self.own.groups * self.repeats + list(self.source.groups)

    def image(self, index: int, generator: np.random.Generator | None = None) -> Image.Image:
        """A window of these fields, or one of ``malaria_iml`` shrunk to the size of one of theirs."""
        repeated = len(self.own.labels) * self.repeats
        if index < repeated:
            return self.own.image(index % len(self.own.labels), generator)
        photo = self.source.image(index - repeated, generator)
        sides = [round(cell * WINDOW / CELL) for cell in CELLS.values()]
        side = sides[0] if generator is None else int(generator.choice(sides))
        return photo.resize((side, side), Image.Resampling.BILINEAR)


def main() -> None:
    """Print what there is: fields, parasites, windows, and of how many parasites they show little."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="what this network thinks of the windows around parasites")
    options = parser.parse_args()
    fields = read_fields(options.data / "malaria_masks")
    if options.model:
        model = load_model(options.model)
        shown = [field.photo(box) for field in fields.values() for box in field.around(2)]
        with torch.inference_mode():
            logits = model.network(model.preprocessing(shown))
        infected = model.probabilities(logits)[:, 1]
        print(
            f"{len(shown)} windows around parasites: infected with probability {infected.mean():.2f}"
        )
    for name, field in fields.items():
        shares = [field.share_shown(box) for box in field.grid if field.shows_parasite(box)]
        less = sum(share < 0.5 for share in shares)
        print(
            f"{name}: {len(field.parasites)} parasites, {len(field.grid)} windows, {len(shares)} show "
            f"any of a parasite, {less} less than half of one"
        )


if __name__ == "__main__":
    main()
