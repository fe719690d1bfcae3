"""SSG-CAM: second-order class activation maps, searched layer fusion, masks from image labels."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssgcam.cam import CAM, SSGCAM, Result
    from ssgcam.core.settings import ScoreSettings, SSGSettings
    from ssgcam.errors import SsgcamError
    from ssgcam.models import LoadedModel, load_model, save_model
    from ssgcam.preprocessing import Preprocessing

__version__ = "0.1.0"

__all__ = [
    "CAM",
    "SSGCAM",
    "LoadedModel",
    "Preprocessing",
    "Result",
    "SSGSettings",
    "ScoreSettings",
    "SsgcamError",
    "load_model",
    "save_model",
]

_HOMES = {
    "CAM": "cam",
    "SSGCAM": "cam",
    "LoadedModel": "models",
    "Preprocessing": "preprocessing",
    "Result": "cam",
    "SSGSettings": "core.settings",
    "ScoreSettings": "core.settings",
    "SsgcamError": "errors",
    "load_model": "models",
    "save_model": "models",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: PyTorch takes seconds, and ``ssgcam --help`` needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ssgcam' has no attribute '{name}'")
    return getattr(importlib.import_module(f"ssgcam.{_HOMES[name]}"), name)
