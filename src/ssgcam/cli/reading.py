"""How the commands are told to read a data set with boxes or masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssgcam.errors import SsgcamError

if TYPE_CHECKING:
    from ssgcam.data import SampleSet

Kind = Annotated[
    str, typer.Option(help="auto, boxes, voc, coco, cub, ilsvrc, wsol, pairs, classes or images.")
]
Edges = Annotated[
    str | None,
    typer.Option(help="Right and bottom edges of boxes in a table: inclusive or exclusive."),
]
Split = Annotated[str | None, typer.Option(help="The list of a published data set, such as val.")]
FirstLabel = Annotated[
    int | None, typer.Option(help="The number of the first class in a table, where it isn't 0.")
]
MaskValues = Annotated[
    str | None,
    typer.Option(help="What stored mask values mean, such as 255:1,127:255 (255: ignored)."),
]


def read_data(given: dict[str, Any], folder: Path) -> SampleSet:
    """Read a data set with the options of its reader among all that a command was given."""
    from ssgcam.data import read_samples

    options = {name: given.get(name) for name in ("edges", "split", "first_label", "void")}
    if given["mask_values"] is not None:
        options["values"] = dict(_pair(text) for text in given["mask_values"].split(","))
    told = {name: value for name, value in options.items() if value is not None}
    return read_samples(folder, given["kind"], **told)


def _pair(text: str) -> tuple[int, int]:
    stored, _, value = text.partition(":")
    if not (stored.strip().isdecimal() and value.strip().isdecimal()):
        raise SsgcamError(f"'{text}' in --mask-values is no pair; give STORED:VALUE, such as 255:1")
    return int(stored), int(value)
