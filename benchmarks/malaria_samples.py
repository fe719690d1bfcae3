"""The windows of ``malaria_iml`` as photos of :mod:`ssgcam.training`, fixed or moving."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from malaria_windows import Cell, Window, WindowSet

CLASS_NAMES = ("healthy", "infected")


@dataclass(frozen=True)
class FixedWindows:
    """Fixed windows as held-out photos of :mod:`ssgcam.training`; the group is the field."""

    source: WindowSet
    windows: tuple[Window, ...]
    class_names: tuple[str, ...] = CLASS_NAMES

    @cached_property
    def labels(self) -> list[int]:
        """0 healthy, 1 infected."""
        return [window.label for window in self.windows]

    @cached_property
    def groups(self) -> list[str]:
        """The fields."""
        return [window.field for window in self.windows]

    def image(self, index: int, generator: np.random.Generator | None = None) -> Image.Image:
        """The fixed window, whatever the generator."""
        return self.source.image(self.windows[index])


@dataclass(frozen=True)
class MovingWindows:
    """All infected and all eligible healthy cells of a fold's training fields, moved at random."""

    source: WindowSet
    fold: int
    class_names: tuple[str, ...] = CLASS_NAMES

    @cached_property
    def cells(self) -> list[tuple[str, Cell]]:
        """A field and a cell for each window."""
        return [
            (name, cell)
            for name in self.source.fields(self.fold, "train")
            for cell in (
                *(cell for cell in self.source.cells[name] if cell.infected),
                *self.source.healthy_cells(name),
            )
        ]

    @cached_property
    def labels(self) -> list[int]:
        """0 healthy, 1 infected."""
        return [int(cell.infected) for _, cell in self.cells]

    @cached_property
    def groups(self) -> list[str]:
        """The fields."""
        return [name for name, _ in self.cells]

    def image(self, index: int, generator: np.random.Generator | None = None) -> Image.Image:
        """A window around the cell, moved by up to 35 px."""
        name, cell = self.cells[index]
        return self.source.image(self.source.window(name, cell, self.fold, "train", generator))
