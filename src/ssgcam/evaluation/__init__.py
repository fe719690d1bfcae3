"""The paper's experiments on any network and data set, with intervals and paired differences.

Each evaluation runs the network once for a batch, whatever the number of methods and layers, and
returns a frozen :class:`Evaluation`; :func:`write_evaluation` writes its tables and pictures.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ssgcam.evaluation.competition import Competition
from ssgcam.evaluation.contenders import DEFAULT_CONTENDERS, Contender, Entrants
from ssgcam.evaluation.figures import Entry
from ssgcam.evaluation.items import limited
from ssgcam.evaluation.localization import evaluate_localization
from ssgcam.evaluation.perturbation import evaluate_perturbation
from ssgcam.evaluation.result import Difference, Evaluation, Score
from ssgcam.evaluation.sanity import evaluate_sanity
from ssgcam.evaluation.segmentation import evaluate_segmentation
from ssgcam.evaluation.settings import EvaluationSettings
from ssgcam.evaluation.unfinished import folder_of

__all__ = [
    "DEFAULT_CONTENDERS",
    "Competition",
    "Contender",
    "Difference",
    "Entrants",
    "Entry",
    "Evaluation",
    "EvaluationSettings",
    "Score",
    "evaluate_localization",
    "evaluate_perturbation",
    "evaluate_sanity",
    "evaluate_segmentation",
    "limited",
    "write_evaluation",
]


def write_evaluation(evaluation: Evaluation, out: str | Path) -> list[Path]:
    """Write ``TASK.json``, ``.csv``, ``_differences.csv``, ``.md`` and pictures.

    What a run has kept there to go on after a cut is removed.

    Args:
        evaluation: What was found.
        out: The folder; made if need be.

    Returns:
        The files.

    Raises:
        SsgcamError: If the folder can't be written to.
    """
    from ssgcam.evaluation.plots import picture_names, write_pictures

    out = Path(out)
    tables = evaluation.write_tables(out, picture_names(evaluation))  # first: they cost hours
    shutil.rmtree(folder_of(out, evaluation.task), ignore_errors=True)
    write_pictures(evaluation, out)
    return [*tables, *(out / name for name in picture_names(evaluation))]
