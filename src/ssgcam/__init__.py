"""SSG-CAM: second-order class activation maps, searched layer fusion, masks from image labels."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ssgcam.cam import CAM, SSGCAM, Result
from ssgcam.core.settings import ScoreSettings, SSGSettings
from ssgcam.errors import SsgcamError
from ssgcam.models import LoadedModel, load_model, save_model
from ssgcam.preprocessing import Preprocessing
from ssgcam.recipe import Recipe

if TYPE_CHECKING:
    from ssgcam.search import Calibration, search_recipe
    from ssgcam.segment import segment_images

__version__ = "0.1.0"

__all__ = [
    "CAM",
    "SSGCAM",
    "Calibration",
    "LoadedModel",
    "Preprocessing",
    "Recipe",
    "Result",
    "SSGSettings",
    "ScoreSettings",
    "SsgcamError",
    "load_model",
    "save_model",
    "search_recipe",
    "segment_images",
]

#: Imported when first asked for: these bring plotting along.
_ON_DEMAND = {
    "Calibration": "ssgcam.search",
    "search_recipe": "ssgcam.search",
    "segment_images": "ssgcam.segment",
}


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return getattr(import_module(_ON_DEMAND[name]), name)
    raise AttributeError(f"module 'ssgcam' has no attribute '{name}'")
