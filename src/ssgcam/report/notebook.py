"""Pictures, tables and figures that a notebook shows; pictures as text that HTML can embed."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from matplotlib.figure import Figure
from PIL import Image

from ssgcam.report.tables import TableCell, cell_texts

SIDE = 240  # longer side of a picture, in pixels


class NotebookFigure(Figure):
    """A Matplotlib figure that a notebook shows without pyplot and ``%matplotlib inline``."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png")
        return stream.getvalue()


def jpeg(picture: Image.Image, side: int, quality: int = 85) -> bytes:
    """A picture as a JPEG file of at most ``side`` pixels in width and height."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    stream = io.BytesIO()
    small.save(stream, format="JPEG", quality=quality, optimize=True)
    return stream.getvalue()


def data_url(kind: str, data: bytes) -> str:
    """A file as the address of a picture in HTML; ``kind`` such as ``"jpeg"``."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def html_pictures(pictures: Iterable[tuple[Image.Image, str]], side: int = SIDE) -> str:
    """Pictures in a row that wraps, each with its caption; embedded, of at most ``side`` pixels."""
    figures = []
    for picture, caption in pictures:
        url = data_url("jpeg", jpeg(picture, side))
        figures.append(
            f'<figure style="margin:4px;max-width:{side}px"><img alt="{escape(caption)}" '
            f'src="{url}"><figcaption>{escape(caption)}</figcaption></figure>'
        )
    return f'<div style="display:flex;flex-wrap:wrap">{"".join(figures)}</div>'


def html_table(
    columns: Sequence[str], rows: Sequence[Sequence[TableCell]], caption: str = ""
) -> str:
    """A table; the floats of a column have equal decimals, None is an empty cell."""

    def line(texts: Iterable[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(text)}</{tag}>' for text in texts)}</tr>"

    body = "".join(line(row, "td") for row in cell_texts(rows))
    return f"<table><caption>{escape(caption)}</caption>{line(columns, 'th')}{body}</table>"
