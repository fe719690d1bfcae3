"""The command ``ssgcam``: its subcommands, and one sentence for whatever goes wrong.

A subcommand is a function of its own name in a module of its own name. The module is imported when
the subcommand is called, so that ``ssgcam --help`` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ssgcam.errors import SsgcamError
from ssgcam.version import __version__

#: Subcommand -> what the overview says about it.
COMMANDS = {
    "explain": "Heat maps of photos, for the class a network sees or any other.",
    "layers": "The layers of a network that one may target, and the default ones.",
    "train": "Train or fine-tune a classifier from image-level labels.",
    "search": "Search the fusion of layers that fits a few labeled masks; writes a recipe.",
    "segment": "Masks of many photos with a recipe.",
    "evaluate": "Measure maps and masks against boxes, masks, or by perturbation.",
}


class Commands(TyperGroup):
    """The group of subcommands."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, in the order of the overview."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import one."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"ssgcam.cli.{cmd_name}")
        if hasattr(module, "app"):  # a subcommand with subcommands of its own
            return typer.main.get_command(module.app)
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(cmd_name)(getattr(module, cmd_name))
        return typer.main.get_command(single)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The overview, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take ``--debug`` wherever it stands."""
        if "--debug" in args:
            args = ["--debug", *(arg for arg in args if arg != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a subcommand; one sentence and an exit code for whatever goes wrong."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except BaseException as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            _explain_and_exit(error, f"ssgcam {ctx.invoked_subcommand or ''}".strip())


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ssgcam {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error as well.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Second-order class activation maps: what a network looks at, and masks from it."""


def main() -> None:
    """Run the command."""
    sys.path.insert(0, os.getcwd())  # noqa: PTH109  # for --model module:factory
    warnings.filterwarnings("ignore", module=r"PIL\.")  # read_image reports what matters
    app(prog_name="ssgcam")


def _explain_and_exit(error: BaseException, command: str) -> NoReturn:
    if isinstance(error, KeyboardInterrupt):
        _say("interrupted; files that were written are whole")
        raise typer.Exit(130)
    if isinstance(error, SsgcamError):
        _say(str(error))
        raise typer.Exit(2)
    if hasattr(error, "format_message"):  # a wrong option or argument
        _say(f"{error.format_message().rstrip('.')}; '{command} --help' shows the usage")
        raise typer.Exit(2)
    if isinstance(error, OSError):
        _say(str(error))
        raise typer.Exit(2)
    if isinstance(error, Exception):
        first = (str(error).splitlines() or [""])[0]
        _say(
            f"{type(error).__name__}: {first}; this is a bug of ssgcam: please report it with what "
            "--debug shows"
        )
        raise typer.Exit(1)
    raise error


def _say(sentence: str) -> None:
    typer.echo(f"ssgcam: {' '.join(sentence.split())}", err=True)
