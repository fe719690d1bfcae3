"""The exception for bad input, whose message is one sentence, and parts of such sentences."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType


class SsgcamError(ValueError):
    """Bad input. The message is one sentence: what was wrong, where, and what to do."""


def did_you_mean(wanted: str, known: Sequence[str], cutoff: float = 0.6) -> str:
    """The part of a sentence that names the nearest of the known names, or nothing.

    Args:
        wanted: What was given.
        known: What could be meant.
        cutoff: Least similarity, 0 to 1, as of ``difflib.get_close_matches``.

    Example:
        >>> did_you_mean("resnet35", ["resnet34", "vgg16"])
        "; did you mean 'resnet34'?"
    """
    close = difflib.get_close_matches(wanted, known, 3, cutoff)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def first_line(error: BaseException, length: int = 160) -> str:
    """The first line of an exception's message, or its type if it has none, shortened."""
    text = str(getattr(error, "strerror", None) or error).strip()
    return (text.splitlines() or [type(error).__name__])[0][:length]


@contextmanager
def rephrased(what: str, hint: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn exceptions of other libraries into an SsgcamError that says ``what (detail); hint``.

    Args:
        what: What is wrong, and where.
        hint: What to do.
        kinds: The exceptions; of others and of `SsgcamError` nothing is changed.

    Example:
        >>> with rephrased("'a.txt' holds no number", "correct it", ValueError):
        ...     float("x")
        Traceback (most recent call last):
        ssgcam.errors.SsgcamError: 'a.txt' holds no number (could not convert ...); correct it
    """
    try:
        yield
    except SsgcamError:
        raise
    except kinds as error:
        unclear = isinstance(error, (LookupError, NameError, TypeError, AttributeError))
        detail = f"{type(error).__name__}: " * unclear + first_line(error)
        raise SsgcamError(f"{what} ({detail}); {hint}") from error


def require(module: str, extra: str) -> ModuleType:
    """Import an optional library or say which ``pip install`` brings it.

    Args:
        module: The module's import name, such as ``"timm"``.
        extra: The extra of this package that installs it.

    Returns:
        The imported module.

    Raises:
        SsgcamError: If the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = getattr(error, "name", None) or module
        raise SsgcamError(
            f"'{missing}' is not installed; run: pip install 'ssgcam[{extra}]'"
        ) from error
