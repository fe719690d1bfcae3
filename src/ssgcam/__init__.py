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

__all__ = ["CAM", "SSGCAM", "CalibrationSet", "LoadedModel", "Preprocessing", "Recipe", "Result"]
__all__ += ["SSGSettings", "SsgcamError", "TargetSettings"]
__all__ += ["load_model", "save_model", "search_recipe", "segment_images"]

#: Modules imported when a name is asked for: PyTorch takes seconds, ``ssgcam --help`` needs none.
_MODULES = {
    "bulk.segment": ("segment_images",),
    "cam": ("CAM", "SSGCAM"),
    "core.settings": ("SSGSettings", "TargetSettings"),
    "errors": ("SsgcamError",),
    "models": ("LoadedModel", "load_model", "save_model"),
    "preprocessing": ("Preprocessing",),
    "recipe": ("Recipe",),
    "result": ("Result",),
    "search": ("CalibrationSet", "search_recipe"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"ssgcam.{module}"), name)
    raise AttributeError(f"module 'ssgcam' has no attribute '{name}'")
