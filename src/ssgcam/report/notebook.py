"""Pictures and tables as HTML, for what shows itself in a notebook."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image

SIDE = 240  # longer side of a picture, in pixels


def html_pictures(pictures: Iterable[tuple[Image.Image, str]], side: int = SIDE) -> str:
    """Pictures in a row that wraps, each with its caption; embedded, of at most ``side`` pixels."""
    figures = []
    for picture, caption in pictures:
        small = picture.convert("RGB")
        small.thumbnail((side, side))
        stream = io.BytesIO()
        small.save(stream, format="JPEG", quality=85)
        data = base64.b64encode(stream.getvalue()).decode()
        figures.append(
            f'<figure style="margin:4px;max-width:{side}px"><img alt="{escape(caption)}" '
            f'src="data:image/jpeg;base64,{data}"><figcaption>{escape(caption)}</figcaption></figure>'
        )
    return f'<div style="display:flex;flex-wrap:wrap">{"".join(figures)}</div>'


def html_table(columns: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """A table; floats have three digits, None is an empty cell."""

    def line(cells: Iterable[object], tag: str) -> str:
        texts = (
            f"{cell:.3f}" if isinstance(cell, float) else "" if cell is None else str(cell)
            for cell in cells
        )
        return f"<tr>{''.join(f'<{tag}>{escape(text)}</{tag}>' for text in texts)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><caption>{escape(caption)}</caption>{line(columns, 'th')}{body}</table>"
