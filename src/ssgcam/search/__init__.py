"""DE-SSG-CAM: an evolutionary search over layers, settings and weights, against a few labeled images.

``calibration`` (images and masks) -> ``cache`` (every layer's maps over a grid) -> ``objective`` (fitness
of many candidates at once) -> ``evolution`` (SciPy's, resumable) -> ``steps`` (a recipe and its
variants) -> ``validation`` and ``report`` (does it hold elsewhere?); ``run`` puts them together.
"""

from ssgcam.search.cache import MapCache, MapGrid, build_cache
from ssgcam.search.calibration import Examples, make_examples
from ssgcam.search.evolution import Evolved, evolve
from ssgcam.search.objective import Candidates, Objective, ranked_entries
from ssgcam.search.report import Report
from ssgcam.search.run import Found, search_recipe
from ssgcam.search.samples import Calibration
from ssgcam.search.settings import SearchSettings

__all__ = [
    "Calibration",
    "Candidates",
    "Evolved",
    "Examples",
    "Found",
    "MapCache",
    "MapGrid",
    "Objective",
    "Report",
    "SearchSettings",
    "build_cache",
    "evolve",
    "make_examples",
    "ranked_entries",
    "search_recipe",
]
