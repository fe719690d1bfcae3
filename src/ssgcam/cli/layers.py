"""``ssgcam layers``: which layers of a network can be targeted?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ssgcam.cli import output
from ssgcam.cli.options import MODEL, WEIGHTS

if TYPE_CHECKING:
    from ssgcam.core.tracing import LayerInfo

EXAMPLE = "ssgcam layers resnet34"


def layers(
    model: Annotated[str, typer.Argument(help=MODEL)],
    weights: Annotated[str, typer.Option(help=WEIGHTS)] = "none",
    every: Annotated[
        bool, typer.Option("--all", help="All layers, not only blocks and defaults.")
    ] = False,
) -> None:
    """List the layers that can be targeted, their shapes, and which are the defaults and why.

    They are the same with any weights.

    Any name can be given to --layers; NAME:in is a layer's input, NAME@2 its second call.
    """
    from ssgcam.core.layers import list_layers
    from ssgcam.models import check_network, load_model

    loaded = load_model(model, weights)
    noise, _ = check_network(loaded)
    found = list_layers(loaded.network, noise)
    blocks = [info for info in found if every or info.default or info.name.count(".") <= 1]
    height, width = loaded.preprocessing.input_size
    output.say(f"{model}, input {height}x{width}: {len(found)} layers can be targeted\n")
    output.say(_table(blocks))
    if len(blocks) < len(found):
        output.say(f"\n{len(found) - len(blocks)} layers inside these blocks: see --all")
    defaults = ",".join(info.name for info in found if info.default)
    output.say(f"\n--layers auto takes the last of each resolution: {defaults}")
    output.result(model=model, layers=[asdict(info) for info in found])


def _table(rows: Sequence[LayerInfo]) -> str:
    lines = [("layer", "kind", "channels", "map", "values", "default")]
    for info in rows:
        size = "x".join(map(str, info.layout.resolution))
        sign = "signed" if info.signed else ">= 0"
        why = f"yes: {info.why}" if info.default else info.why
        lines.append((info.name, info.kind, str(info.channels), size, sign, why))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
