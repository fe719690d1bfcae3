"""Windows around the red cells of ``malaria_iml``: for training, calibration and test, by field.

A window is 160 px of a blood-smear field, about two cell diameters, around one cell. It is labeled
infected or healthy, which is all that a network is trained on. The cells' boxes, and the ellipses
in them, are for calibration and test.

    windows = WindowSet.read(data / "malaria_iml")
    test = windows.fixed(fold=0, split="test")         # Window records, the same every time
    images = [windows.image(w) for w in test]          # PIL, 160x160: for Preprocessing
    masks = [windows.mask(w, size=112) for w in test]  # bool [112, 112]: ellipses of infected cells

Boxes are ``(x0, y0, x1, y1)`` with the right and bottom edge exclusive, as in the data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from ssgcam.errors import SsgcamError

WINDOW = 160
JITTER = 35
SIZE = 112
INFECTED = frozenset({"ring", "trophozoite", "schizont", "gametocyte"})
HEALTHY = "red blood cell"
#: A healthy window shows at most this share of any infected or difficult cell, wherever it moves.
TOLERATED = 0.1

Split = Literal["train", "calibration", "test"]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Cell:
    """One annotated cell: its type and its box in the field, in pixels."""

    type: str
    box: Box

    @property
    def infected(self) -> bool:
        """Whether the type is a stage of the parasite."""
        return self.type in INFECTED


@dataclass(frozen=True)
class Window:
    """A square of a field.

    Attributes:
        field: File name of the field.
        fold: The fold whose networks it is for.
        split: What it is for in that fold.
        box: In the field, in pixels.
        cell: The box of its cell in the window, in pixels of the window; cut at its edges.
        type: The annotated type of that cell.
        label: 0 healthy, 1 infected.
    """

    field: str
    fold: int
    split: Split
    box: tuple[int, int, int, int]
    cell: Box
    type: str
    label: int


@dataclass(frozen=True)
class WindowSet:
    """The windows of a data set.

    Attributes:
        folder: Holds ``images/``.
        cells: The cells of each field.
        sizes: Width and height of each field.
        folds: Number of folds.
        seed: Of the folds, the fixed windows' places and the choice of healthy cells.
        calibration_cells: Infected cells in the calibration fields of each fold, about.
    """

    folder: Path
    cells: dict[str, tuple[Cell, ...]]
    sizes: dict[str, tuple[int, int]]
    folds: int = 3
    seed: int = 0
    calibration_cells: int = 45
    _pixels: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, folder: Path, folds: int = 3, seed: int = 0) -> WindowSet:
        """Read ``annotations.json``; photos are read when they are first needed.

        Raises:
            SsgcamError: If it is not there.
        """
        file = Path(folder) / "annotations.json"
        if not file.is_file():
            raise SsgcamError(f"no '{file}'; give --data the folder that holds 'malaria_iml'")
        fields = json.loads(file.read_text(encoding="utf-8"))
        return cls(
            Path(folder),
            {
                entry["image"]: tuple(
                    Cell(item["type"], tuple(item["box"])) for item in entry["objects"]
                )
                for entry in fields
            },
            {entry["image"]: (entry["width"], entry["height"]) for entry in fields},
            folds,
            seed,
        )

    @cached_property
    def fold_of(self) -> dict[str, int]:
        """The fold that tests each field: infected cells evenly, then fields evenly."""
        names = sorted(self.cells)
        order = np.random.default_rng(self.seed).permutation(len(names))
        shuffled = [names[index] for index in order]
        infected = [0] * self.folds
        fields = [0] * self.folds
        result = {}
        for name in sorted(shuffled, key=self._infected, reverse=True):
            fold = min(range(self.folds), key=lambda k: (infected[k], fields[k]))
            result[name] = fold
            infected[fold] += self._infected(name)
            fields[fold] += 1
        return result

    def fields(self, fold: int, split: Split) -> tuple[str, ...]:
        """The fields of one part of one fold, sorted. The three parts are disjoint."""
        if not 0 <= fold < self.folds:
            raise SsgcamError(f"fold {fold} is not one of 0 to {self.folds - 1}")
        test = sorted(name for name, number in self.fold_of.items() if number == fold)
        rest = sorted(set(self.cells) - set(test))
        order = np.random.default_rng((self.seed, 1, fold)).permutation(len(rest))
        calibration: list[str] = []
        for index in order:
            if sum(map(self._infected, calibration)) >= self.calibration_cells:
                break
            calibration.append(rest[index])
        parts = {"test": test, "calibration": calibration, "train": set(rest) - set(calibration)}
        return tuple(sorted(parts[split]))

    def fixed(self, fold: int, split: Split, healthy: int | None = None) -> tuple[Window, ...]:
        """Windows of all infected cells and of some healthy ones, each moved once by up to 35 px.

        Args:
            fold: From 0.
            split: Which fields.
            healthy: Number of healthy cells, drawn evenly over the fields; twice the infected ones
                if None.

        Returns:
            The infected windows, then the healthy ones; the same with every call.
        """
        names = self.fields(fold, split)
        infected = [(name, cell) for name in names for cell in self.cells[name] if cell.infected]
        wanted = 2 * len(infected) if healthy is None else healthy
        chosen = infected + self._spread(names, wanted)
        return tuple(
            self.window(name, cell, fold, split, np.random.default_rng(self._key(name, cell)))
            for name, cell in chosen
        )

    def window(
        self, name: str, cell: Cell, fold: int, split: Split, generator: np.random.Generator | None
    ) -> Window:
        """A window around a cell, moved at random (if there is a generator) inside the field."""
        x0, y0, x1, y1 = cell.box
        shift = (0, 0) if generator is None else generator.integers(-JITTER, JITTER + 1, 2)
        width, height = self.sizes[name]
        left = int(np.clip(round((x0 + x1 - WINDOW) / 2 + shift[0]), 0, width - WINDOW))
        top = int(np.clip(round((y0 + y1 - WINDOW) / 2 + shift[1]), 0, height - WINDOW))
        inside = _clip((x0 - left, y0 - top, x1 - left, y1 - top))
        box = (left, top, left + WINDOW, top + WINDOW)
        return Window(name, fold, split, box, inside, cell.type, int(cell.infected))

    def image(self, window: Window) -> Image.Image:
        """The window's photo: RGB, 160x160."""
        if window.field not in self._pixels:
            with Image.open(self.folder / "images" / window.field) as photo:
                self._pixels[window.field] = np.asarray(photo.convert("RGB"))
        left, top, right, bottom = window.box
        return Image.fromarray(self._pixels[window.field][top:bottom, left:right])

    def boxes(self, window: Window, size: int = SIZE) -> tuple[Box, ...]:
        """All infected cells in a window: boxes in pixels of a window resized to ``size``."""
        scale = size / WINDOW
        result = []
        for cell in self.cells[window.field]:
            if cell.infected and _share_inside(cell.box, window.box) > 0:
                left, top = window.box[:2]
                moved = np.subtract(cell.box, (left, top, left, top))
                result.append(_clip(tuple(moved.tolist()), scale))
        return tuple(result)

    def mask(self, window: Window, size: int = SIZE) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """The ellipses in the boxes of all infected cells in a window: bool [size, size].

        A cell that the window cuts gives the part of its whole ellipse that is inside.
        """
        x, y = _pixel_centers(window, size)
        mask = np.zeros((size, size), dtype=bool)
        for cell in self.cells[window.field]:
            if cell.infected:
                x0, y0, x1, y1 = cell.box
                horizontal = (2 * x - x0 - x1) / (x1 - x0)
                mask |= horizontal**2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1
        return mask

    def difficult(self, window: Window, size: int = SIZE) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """The boxes of cells that the experts left undecided, to be ignored: bool [size, size]."""
        boxes = [cell.box for cell in self.cells[window.field] if cell.type == "difficult"]
        return _filled(boxes, window, size)

    def filled(self, window: Window, size: int = SIZE) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """The whole boxes of all infected cells in a window: bool [size, size]."""
        boxes = [cell.box for cell in self.cells[window.field] if cell.infected]
        return _filled(boxes, window, size)

    def healthy_cells(self, name: str) -> tuple[Cell, ...]:
        """Healthy cells of a field whose window shows no infected or difficult cell, however moved.

        A tenth of such a cell at the edge is tolerated.
        """
        others = [cell.box for cell in self.cells[name] if cell.type != HEALTHY]
        width, height = self.sizes[name]
        result = []
        for cell in self.cells[name]:
            if cell.type == HEALTHY:
                x, y = (cell.box[0] + cell.box[2]) / 2, (cell.box[1] + cell.box[3]) / 2
                reach = WINDOW / 2 + JITTER
                near_x, near_y = (
                    np.clip(x, WINDOW / 2, width - WINDOW / 2),
                    np.clip(y, WINDOW / 2, height - WINDOW / 2),
                )
                area = (
                    min(x - reach, near_x - WINDOW / 2),
                    min(y - reach, near_y - WINDOW / 2),
                    max(x + reach, near_x + WINDOW / 2),
                    max(y + reach, near_y + WINDOW / 2),
                )
                if all(_share_inside(box, area) <= TOLERATED for box in others):
                    result.append(cell)
        return tuple(result)

    def _infected(self, name: str) -> int:
        return sum(cell.infected for cell in self.cells[name])

    def _key(self, name: str, cell: Cell) -> list[int]:
        return [self.seed, 2, *name.encode(), *map(int, cell.box)]

    def _spread(self, names: Sequence[str], count: int) -> list[tuple[str, Cell]]:
        """Healthy cells in rounds over the fields, one of each field a round, at random."""
        queues = []
        for name in names:
            generator = np.random.default_rng([self.seed, 3, *name.encode()])
            cells = self.healthy_cells(name)
            queues.append([(name, cells[index]) for index in generator.permutation(len(cells))])
        rounds = range(max(map(len, queues), default=0))
        return [queue[turn] for turn in rounds for queue in queues if turn < len(queue)][:count]


def _filled(boxes: Sequence[Box], window: Window, size: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which pixels of a resized window have their center in a box of its field."""
    x, y = _pixel_centers(window, size)
    mask = np.zeros((size, size), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        mask |= (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    return mask


def _pixel_centers(window: Window, size: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Where the pixels of a resized window lie in the field: x ``[1, size]``, y ``[size, 1]``."""
    centers = (np.arange(size) + 0.5) * WINDOW / size
    return window.box[0] + centers[None, :], window.box[1] + centers[:, None]


def _clip(box: Sequence[float], scale: float = 1.0) -> Box:
    x0, y0, x1, y1 = (float(min(max(value, 0), WINDOW)) * scale for value in box)
    return x0, y0, x1, y1


def _share_inside(box: Box, area: Box) -> float:
    """The share of a box that lies in another."""
    width = min(box[2], area[2]) - max(box[0], area[0])
    height = min(box[3], area[3]) - max(box[1], area[1])
    return max(width, 0.0) * max(height, 0.0) / ((box[2] - box[0]) * (box[3] - box[1]))
