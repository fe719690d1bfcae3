"""SSG-CAM: second-order class activation maps, searched layer fusion, masks from image labels."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ssgcam.version import __version__ as __version__

if TYPE_CHECKING:
    from ssgcam.bulk.segment import segment_images
    from ssgcam.cam import CAM, SSGCAM
    from ssgcam.core.settings import SSGSettings, TargetSettings
    from ssgcam.errors import SsgcamError
    from ssgcam.models import LoadedModel, load_model, save_model
    from ssgcam.preprocessing import Preprocessing
    from ssgcam.recipe import Recipe
    from ssgcam.result import Result
    from ssgcam.search import CalibrationSet, search_recipe

__all__ = [
    "CAM",
    "SSGCAM",
    "CalibrationSet",
    "LoadedModel",
    "Preprocessing",
    "Recipe",
    "Result",
    "SSGSettings",
    "SsgcamError",
    "TargetSettings",
    "load_model",
    "save_model",
    "search_recipe",
    "segment_images",
]

#: Imported when first asked for: PyTorch takes seconds, and ``ssgcam --help`` needs none of it.
_HOMES = {
    "CAM": "cam",
    "SSGCAM": "cam",
    "CalibrationSet": "search",
    "LoadedModel": "models",
    "Preprocessing": "preprocessing",
    "Recipe": "recipe",
    "Result": "result",
    "SSGSettings": "core.settings",
    "TargetSettings": "core.settings",
    "SsgcamError": "errors",
    "load_model": "models",
    "save_model": "models",
    "search_recipe": "search",
    "segment_images": "bulk.segment",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ssgcam' has no attribute '{name}'")
    return getattr(import_module(f"ssgcam.{_HOMES[name]}"), name)
