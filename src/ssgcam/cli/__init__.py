"""The command ``ssgcam``: its subcommands, its exit codes, and one sentence for each error.

A subcommand is a function in a module of its own name. The modules import PyTorch only when a
subcommand runs, so that ``ssgcam --help`` answers at once.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
import traceback
import warnings
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ssgcam.cli import app as page
from ssgcam.cli import (
    evaluate,
    explain,
    inspect,
    layers,
    output,
    search,
    segment,
    train,
    train_segmenter,
)
from ssgcam.errors import SsgcamError, first_line
from ssgcam.version import __version__

#: How PyTorch's exceptions say that memory is used up, on the CPU and on a GPU.
NO_MEMORY = "can't allocate memory|out of memory"


class Commands(TyperGroup):
    """The group of subcommands: handles errors and the options of all subcommands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept the options of all subcommands anywhere on the command line."""
        everywhere = [arg for arg in args if arg in ("--debug", "--quiet", "--json")]
        others = [arg for arg in args if arg not in everywhere]
        output.style.command = shlex.join(["ssgcam", *others])
        return super().parse_args(ctx, [*everywhere, *others])

    def invoke(self, ctx: Any) -> Any:
        """Run a subcommand; an error becomes one sentence and an exit code."""
        if isinstance(sys.stdout, io.TextIOWrapper):  # file names may be no valid text
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except BaseException as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            _report_and_exit(error, f"ssgcam {ctx.invoked_subcommand or ''}".strip())


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 1 a bug of ssgcam; 2 wrong input, or some images failed; "
    "130 interrupted. 'ssgcam COMMAND --help' shows an example of each command.",
)
for _module in (explain, inspect, layers, train, train_segmenter, search, segment, page):
    _name = _module.__name__.rpartition(".")[2]
    app.command(_name.replace("_", "-"), epilog=f"Example: {_module.EXAMPLE}")(
        getattr(_module, _name)
    )
app.add_typer(evaluate.app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ssgcam {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error as well.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Class activation maps of image classifiers, and segmentation masks from them.

    The options below can stand anywhere on the command line, also after a subcommand.
    """
    output.style.quiet, output.style.json = quiet, json


def main() -> None:
    """Run the command."""
    sys.path.insert(0, os.getcwd())  # noqa: PTH109  # for --model module:factory
    warnings.filterwarnings("ignore", module=r"PIL\.")  # read_image reports what matters
    app(prog_name="ssgcam")


def _report_and_exit(error: BaseException, command: str) -> NoReturn:
    if isinstance(error, KeyboardInterrupt):
        code, text = 130, "interrupted; files that were written are complete"
    elif isinstance(error, SsgcamError):
        code, text = 2, str(error)
    elif isinstance(error, OSError):
        named = f"'{error.filename}': {error.strerror}; check the path"
        code, text = 2, named if error.filename else str(error)
    elif hasattr(error, "format_message"):  # a wrong option or argument
        usage = f"; '{command} --help' shows the usage"
        code, text = 2, error.format_message().rstrip(".") + usage
    elif isinstance(error, MemoryError) or re.search(NO_MEMORY, str(error)):
        hint = "give a smaller --batch-size, --input-size or image"
        code, text = 2, f"there is not enough memory ({first_line(error)}); {hint}"
    elif isinstance(error, Exception):
        what = f"{type(error).__name__}: {first_line(error)}"
        hint = "please report it with what --debug shows"
        code, text = 1, f"{what}; this is a bug of ssgcam: {hint}"
    else:
        raise error
    output.warn(text)
    raise typer.Exit(code)
