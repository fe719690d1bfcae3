"""Write the parts of the docs site that come from the source: commands, options and error messages.

MkDocs calls :func:`on_page_markdown` for each page. A line ``<!-- generated: NAME -->`` of a page is
replaced by what the function ``NAME`` of :data:`PARTS` returns.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import griffe
import typer

SOURCE = Path(__file__).parent.parent / "src" / "ssgcam"
MARKER = re.compile(r"<!-- generated: (\w+) -->")
#: Sphinx's cross-references, as the docstrings have them.
ROLE = re.compile(r":(?:func|class|data|attr|meth|mod):`~?([\w.]+)`")
#: Where a message comes from, in the words of a user: the first fitting path counts.
TOPICS = (
    ("The network and its weights", "models", "checkpoints", "preprocessing", "core/network"),
    ("Layers", "core/layers", "core/layouts", "core/capture", "core/tracing", "core/fast"),
    ("Methods, targets and classes", "cam", "result", "core"),
    ("Image files", "images", "bulk/inputs"),
    ("Data sets, masks and boxes", "data"),
    ("Search and recipes", "search", "recipe"),
    ("Many images", "bulk", "manifest", "files"),
    ("Training", "training"),
    ("Evaluation and measures", "evaluation", "metrics"),
    ("The page in the browser", "app"),
    ("The command line", "cli"),
    ("Other", ""),
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Insert the generated parts of a page."""
    return MARKER.sub(lambda found: PARTS[found[1]](), markdown)


def commands() -> str:
    """Every subcommand: what it does, an example, and a table of its options for each group."""
    from ssgcam.cli import app

    parts = []
    for name, command in _leaves(typer.main.get_command(app), "ssgcam"):
        text = re.sub(r"\s*\n(?!\n)\s*", " ", (command.help or "").strip())
        parts.append(f"## {name}\n\n{text}\n")
        if command.epilog:
            parts.append(f"```sh\n{command.epilog.removeprefix('Example: ')}\n```\n")
        groups: dict[str, list[str]] = {}
        for parameter in command.params:
            title = getattr(parameter, "rich_help_panel", None) or (
                "Options" if parameter.param_type_name == "option" else "Arguments"
            )
            groups.setdefault(title, []).append(_option_row(parameter))
        for title, rows in groups.items():
            parts.append(
                "\n".join([f"| {title} | default | meaning |", "| --- | --- | --- |", *rows, ""])
            )
    return "\n".join(parts)


def _leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    for key, inner in getattr(command, "commands", {}).items():
        yield from _leaves(inner, f"{name} {key}")
    if not hasattr(command, "commands"):
        yield name, command


def _option_row(parameter: Any) -> str:
    spellings = [*parameter.opts, *parameter.secondary_opts]
    names = "`, `".join(spellings) if parameter.param_type_name == "option" else parameter.name
    shown = parameter.show_default if isinstance(parameter.show_default, str) else None
    default = parameter.default
    if parameter.required:
        shown = "required"
    elif shown is None:
        plain = default is None or callable(default) or isinstance(default, bool)
        shown = ("on" if default is True else "") if plain else f"`{default}`"
    text = " ".join((parameter.help or "").split()).replace("|", "\\|")
    return f"| `{names}` | {shown} | {text} |"


def errors() -> str:
    """Every message of :class:`ssgcam.SsgcamError` in the source, by topic."""
    topics: dict[str, set[str]] = {title: set() for title, *_ in TOPICS}
    for path, message in error_messages():
        topics[_topic(path)].add(message)
    parts = []
    for title, messages in topics.items():
        if messages:
            rows = sorted(messages, key=lambda text: re.sub(r"<\.\.\.>|\W", "", text).lower())
            parts.append(f"## {title}\n\n" + "\n".join(f"- {_marked(row)}" for row in rows) + "\n")
    return "\n".join(parts)


def error_messages() -> list[tuple[str, str]]:
    """Module (``core/layers``) and text of each error; what is filled in stands as ``<...>``."""
    found = []
    for file in sorted(SOURCE.rglob("*.py")):
        module = file.relative_to(SOURCE).with_suffix("").as_posix()
        tree = ast.parse(file.read_text("utf-8"))
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", "") == "SsgcamError"
                and node.args
            ):
                text = _text(node.args[0], tree)
                if re.search(r"[a-z]{2}", re.sub(r"<[^>]*>", "", text)):
                    found.append((module, text))
    return found


def _text(node: ast.expr, tree: ast.Module) -> str:
    """The text of a string expression; an expression within it becomes ``<...>``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, tree) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, tree) + _text(node.right, tree)
    if isinstance(node, ast.Name):
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and statement.targets[0].id == node.id:  # type: ignore[attr-defined]
                return _text(statement.value, tree)
    return "<...>"


def _topic(path: str) -> str:
    for title, *starts in TOPICS:
        if any(path == start or path.startswith((f"{start}/", f"{start}_")) for start in starts):
            return title
    return TOPICS[-1][0]


def _marked(message: str) -> str:
    """A message in Markdown: what was wrong in bold, what to do after it."""
    wrong, semicolon, advice = message.partition("; ")
    wrong, advice = (
        re.sub("(<...>)+", "…", text).replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
        for text in (wrong, advice)
    )
    return f"**{wrong}**{semicolon}{advice}"


PARTS: dict[str, Callable[[], str]] = {"commands": commands, "errors": errors}


class PlainReferences(griffe.Extension):
    """Turns Sphinx's cross-references in docstrings into plain code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
