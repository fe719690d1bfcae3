"""What does the command print: text for people, JSON for programs, or errors only?"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ssgcam.bulk.inputs import InputImage
    from ssgcam.manifest import Entry


@dataclass
class Style:
    """The choice of ``--quiet`` and ``--json``.

    Attributes:
        quiet: Print neither text nor progress bars.
        json: Print one JSON object instead of text.
        command: The command line.
    """

    quiet: bool = False
    json: bool = False
    command: str = ""

    @property
    def progress(self) -> bool:
        """Whether to show progress bars."""
        return not self.quiet


style = Style()


def say(text: str) -> None:
    """Print text, unless ``--quiet`` or ``--json`` was given."""
    if not style.quiet and not style.json:
        typer.echo(text)


def above_bars(text: str, *, error: bool = True) -> None:
    """Print a line above the progress bars, to the standard error or the standard output."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr if error else sys.stdout)


def image_done(image: InputImage, entry: Entry) -> None:
    """Print above the progress bars why an image failed and, as :func:`say` does, remarks on it."""
    if entry.error:
        above_bars(f"ssgcam: {entry.error}")
    if style.quiet or style.json:
        return
    for note in entry.facts.get("notes", ()):
        above_bars(f"{image.path}: {note}")


def result(**values: Any) -> None:
    """Print the result as one JSON object if ``--json`` was given."""
    if style.json:
        typer.echo(json.dumps(values, ensure_ascii=False, default=str))


def warn(sentence: str) -> None:
    """Print a sentence to the standard error; the name of the command is red on a terminal."""
    name = typer.style("ssgcam:", fg=typer.colors.RED)
    typer.echo(f"{name} {' '.join(sentence.split())}", err=True)


@contextmanager
def printed_warnings() -> Iterator[set[str]]:
    """Print the warnings of the block as sentences, each once, when they occur.

    Yields:
        The sentences so far.
    """
    printed: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in printed:
            printed.add(str(message))
            warn(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield printed
