"""How the cells of a table become text, in reports, in notebooks and on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

TableCell = str | int | float | None


def cell_texts(rows: Sequence[Sequence[TableCell]]) -> list[tuple[str, ...]]:
    """The cells of a table as text: where a column has floats, its numbers have equal decimals."""
    columns = []
    for column in zip(*rows, strict=True):
        floats = [value for value in column if isinstance(value, float) and math.isfinite(value)]
        decimals = max((len(f"{v:.3f}".rstrip("0").partition(".")[2]) for v in floats), default=0)
        columns.append(
            [
                "" if value is None else str(value) if isinstance(value, str) or not floats
                else f"{value:z.{decimals}f}"
                for value in column
            ]
        )  # fmt: skip
    return list(zip(*columns, strict=True))
