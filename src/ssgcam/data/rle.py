"""How does COCO write a mask as run lengths, plain and compressed?

Runs count pixels down the columns, from the left, beginning with background. The compressed form
writes each count (from the fourth on: its difference from the count two before) in groups of five
bits, lowest first; bit 6 says that more follow, and 48 is added to make printable characters.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssgcam.errors import SsgcamError


def encode(mask: NDArray[Any]) -> dict[str, Any]:
    """Encode a mask as COCO's compressed RLE, ready for JSON.

    Args:
        mask: ``[H, W]``; non-zero is the object.

    Returns:
        ``{"size": [H, W], "counts": str}``.

    Examples:
        >>> encode(np.array([[0, 1], [0, 1]]))
        {'size': [2, 2], 'counts': '22'}
    """
    flat = np.asarray(mask, dtype=bool).ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=False)).tolist()
    counts = [after - before for before, after in pairwise([0, *changes, flat.size])]
    text = ""
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            group = value & 31
            value >>= 5
            more = value != (-1 if group & 16 else 0)
            text += chr(48 + (group | 32 if more else group))
    return {"size": list(mask.shape), "counts": text}


def decode(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Decode COCO's RLE.

    Args:
        rle: ``{"size": [H, W], "counts": ...}`` with a list of counts, or the compressed form as
            ``str`` or ``bytes``.

    Returns:
        ``bool[H, W]``.

    Raises:
        SsgcamError: If the counts don't fill the mask, or are not counts.

    Examples:
        >>> decode({"size": [2, 2], "counts": [2, 2]}).astype(int)
        array([[0, 1],
               [0, 1]])
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        if isinstance(counts, bytes):
            counts = counts.decode("ascii")
        runs = _expand(counts) if isinstance(counts, str) else [int(count) for count in counts]
        if height < 1 or width < 1 or min(runs, default=0) < 0 or sum(runs) != height * width:
            raise ValueError(f"its runs don't fill {width}x{height} pixels")
    except (KeyError, TypeError, ValueError) as error:
        raise SsgcamError(
            f"a run-length mask is damaged ({error}); export the annotations again"
        ) from error
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape((height, width), order="F")


def _expand(text: str) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise ValueError(f"{character!r} is not in the alphabet")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            value -= (1 << shift) if group & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the last count is cut short")
    return counts
