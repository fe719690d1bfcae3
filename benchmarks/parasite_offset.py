"""Outlines that lie beside what they outline: how far, as other fields of the same laboratory say.

An offset between photos and outlines, of the annotators' tool or of the published copy, is a property of
a laboratory as its stain is. It is estimated as a threshold is, on the other fields: masks made for those
are moved, all alike, to where they fit their outlines best; a field's own are moved as far.

    python benchmarks/parasite_offset.py --data DATA     # without any network: where the stain is
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from color import mask_counts
from malaria_windows import WINDOW
from parasite_fields import CELL, Field, read_fields
from ssgcam.metrics import mask_offset
from study import FINAL

#: How far masks are moved at most, in pixels of the window.
REACH = 14
Move = tuple[int, int]
"""Pixels to the right and down."""


def moved_title(name: str) -> str:
    """Of a contender whose masks are moved."""
    return f"{name}, moved"


#: What the search ends with, moved.
MOVED = moved_title(FINAL)


def peers_of(field: str, groups: Sequence[str]) -> Tensor:
    """Which windows are of other fields of the same laboratory, the beginning of a field's name."""
    laboratory = field.split("_")[0]
    alike = [i for i, g in enumerate(groups) if g.split("_")[0] == laboratory and g != field]
    return torch.tensor(alike, dtype=torch.long)


def moved(masks: Tensor, move: Move) -> Tensor:
    """Masks ``[N, H, W]`` moved; nothing comes in from beyond the edge."""
    right, down = move
    made = masks.roll((down, right), (1, 2))
    rows, columns = (torch.arange(side) for side in masks.shape[1:])
    whole = torch.isin(rows - down, rows)[:, None] & torch.isin(columns - right, columns)
    return made & whole


def confusion_of(masks: Tensor, truth: Tensor, move: Move) -> Tensor:
    """``[2, 2]``, pooled over windows, of moved masks."""
    return mask_counts(moved(masks, move), truth).confusions.sum(0).double()


def best_move(masks: Tensor, truth: Tensor) -> Move:
    """Where masks fit their outlines best, by the pooled foreground IoU."""
    found = mask_offset(masks, truth, REACH)
    return found.right, found.down


def told(move: Move, side: int) -> str:
    """A move in a window of ``side`` pixels, in hundredths of a cell's diameter."""
    right, down = (f"{100 * step / side * WINDOW / CELL:+.0f} %" for step in move)
    return f"{right} right, {down} down"


def stain_move(field: Field, reach: int = 6) -> tuple[Move, float, float]:
    """Where the darkest red is, seen from the outlines of a field: no network takes part.

    Returns:
        The move of the outlines after which their correlation with the absence of red, over the windows
        around parasites, is largest; that correlation as it is and after the move.
    """
    near = torch.zeros(field.size, dtype=torch.bool)
    for left, top, right, bottom in field.around(1):
        near[top:bottom, left:right] = True
    dark = 1 - torch.from_numpy(field.pixels[..., 0].copy())[near].double() / 255
    outlined = torch.from_numpy(field.mask == 1)[None]
    steps = range(-reach, reach + 1)
    found = {}
    for move in ((right, down) for right in steps for down in steps):
        inside = moved(outlined, move)[0][near].double()
        found[move] = float(torch.corrcoef(torch.stack([inside, dark]))[0, 1])
    best = max(found, key=lambda move: found[move])
    return best, found[0, 0], found[best]


def main() -> None:
    """Print for each field where its stain is, seen from its outlines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    for name, field in read_fields(parser.parse_args().data / "malaria_masks").items():
        move, before, after = stain_move(field)
        where = told(move, field.windows.side)
        print(
            f"{name}: the stain is {where} of the outlines; correlation {before:.3f}, {after:.3f} there"
        )


if __name__ == "__main__":
    main()
