"""What a user is told when something is wrong: one sentence, never a traceback from a command."""

from __future__ import annotations

import importlib
from types import ModuleType


class SsgcamError(ValueError):
    """Bad input. The message is one sentence: what was wrong, where, and what to do."""


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
