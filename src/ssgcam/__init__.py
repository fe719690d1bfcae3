"""SSG-CAM: second-order class activation maps, searched layer fusion, masks from image labels."""

from ssgcam.cam import CAM, SSGCAM, Result
from ssgcam.core.settings import ScoreSettings, SSGSettings
from ssgcam.errors import SsgcamError
from ssgcam.models import LoadedModel, Preprocessing, load_model, save_model

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
