"""DE-SSG-CAM: an evolutionary search over layers, settings and weights, against a few labeled images.

``calibration_set`` (images and masks) -> ``cache`` (every layer's maps over a grid) -> ``objective`` and
``fitness`` (many candidates at once) -> ``evolution`` (SciPy's) -> ``maps`` and ``validation`` (does it
hold on other images?) -> ``report``; ``search`` puts them together.
"""

from ssgcam.search.cache import MapCache, build_cache
from ssgcam.search.calibration_set import CalibrationSet
from ssgcam.search.report import Report
from ssgcam.search.search import SearchResult, search_recipe
from ssgcam.search.settings import MapGrid, SearchSettings

__all__ = [
    "CalibrationSet",
    "MapCache",
    "MapGrid",
    "Report",
    "SearchResult",
    "SearchSettings",
    "build_cache",
    "search_recipe",
]
