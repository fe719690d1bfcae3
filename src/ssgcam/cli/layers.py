"""``ssgcam layers``: what may be targeted in a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ssgcam.core.layers import LayerInfo


def layers(
    model: Annotated[
        str,
        typer.Argument(help="A torchvision name, timm/NAME, a file, or package.module:factory."),
    ],
    weights: Annotated[
        str, typer.Option(help="none, DEFAULT or a file; the layers are the same.")
    ] = "none",
    every: Annotated[
        bool, typer.Option("--all", help="Every place, not only blocks and defaults.")
    ] = False,
) -> None:
    """List the layers that one may target, their shapes, and which are the default and why.

    Any name goes to --layers; NAME:in is a layer's input, NAME@2 its second call.
    """
    from ssgcam.core.layers import list_layers
    from ssgcam.models import check_network, load_model

    loaded = load_model(model, weights)
    noise, _ = check_network(loaded)
    found = list_layers(loaded.network, noise)
    shown = found if every else blocks(found)
    height, width = loaded.preprocessing.input_size
    typer.echo(f"{model}, input {height}x{width}: {len(found)} places to target\n")
    typer.echo(_table(shown))
    if len(shown) < len(found):
        typer.echo(
            f"\n{len(found) - len(shown)} inside these blocks are left out; --all shows them"
        )
    defaults = ",".join(info.name for info in found if info.default)
    typer.echo(f"\n--layers auto takes the last of each resolution: {defaults}")


def blocks(found: Sequence[LayerInfo]) -> list[LayerInfo]:
    """The default layers, and those whose name has at most one dot: blocks, not their insides."""
    return [info for info in found if info.default or info.name.count(".") <= 1]


def _table(rows: Sequence[LayerInfo]) -> str:
    lines = [("layer", "kind", "channels", "map", "values", "default")]
    lines += [
        (
            info.name,
            info.kind,
            str(info.channels),
            f"{info.height}x{info.width}",
            "signed" if info.signed else ">= 0",
            f"yes: {info.why}" if info.default else info.why,
        )
        for info in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if column in (2, 3) else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
