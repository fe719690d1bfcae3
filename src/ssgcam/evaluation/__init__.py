"""The paper's experiments on any network and data set, with intervals and paired differences.

Each evaluation computes the maps of all methods and layers of a batch from one forward pass and
returns a frozen :class:`Evaluation`; :func:`write_evaluation` writes its tables and pictures.
"""

from ssgcam.core.methods import method_of
from ssgcam.evaluation.grid import evaluate_grid
from ssgcam.evaluation.localization import evaluate_localization
from ssgcam.evaluation.maps import DEFAULT_METHODS, MapSource, MethodsCompared
from ssgcam.evaluation.perturbation import evaluate_perturbation
from ssgcam.evaluation.randomization import evaluate_sanity
from ssgcam.evaluation.report import Evaluation, write_evaluation, write_report
from ssgcam.evaluation.run import EvaluationSettings, limited
from ssgcam.evaluation.scores import Difference, Score
from ssgcam.evaluation.segmentation import evaluate_segmentation

__all__ = [
    "DEFAULT_METHODS",
    "Difference",
    "Evaluation",
    "EvaluationSettings",
    "MapSource",
    "MethodsCompared",
    "Score",
    "evaluate_grid",
    "evaluate_localization",
    "evaluate_perturbation",
    "evaluate_sanity",
    "evaluate_segmentation",
    "limited",
    "method_of",
    "write_evaluation",
    "write_report",
]
