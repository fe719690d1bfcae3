"""How good are gates and thresholds on labeled windows, where probability times map is thresholded?"""

from __future__ import annotations

import torch

from ssgcam.models import LoadedModel
from ssgcam.recipe import Recipe
from ssgcam.search.calibration_set import CalibrationSet
from ssgcam.search.fitness import fitness, sweep_thresholds
from ssgcam.search.maps import apply_recipe
from ssgcam.search.settings import SearchSettings

#: Gates that are tried keep these shares of the labeled images with the object.
KEPT = (1.0, 0.95, 0.9, 0.75, 0.5)
#: Thresholds that are tried.
THRESHOLDS = tuple(round(0.02 + 0.03 * k, 2) for k in range(32))
#: The smallest object may be at most this share of the area of a small labeled one ...
SMALLEST_SHARE = 0.5
#: ... which is at this quantile of the labeled objects.
SMALL_OBJECT = 0.05


def window_scores(
    model: LoadedModel,
    recipe: Recipe,
    data: CalibrationSet,
    settings: SearchSettings,
) -> tuple[dict[tuple[float, float], float], float]:
    """Score gates and thresholds by the rule of a single window: probability times map.

    Args:
        model: The network.
        recipe: A recipe for it.
        data: Labeled windows with predictions.
        settings: Fitness and batch size.

    Returns:
        The score of each gate and threshold; and the largest area that may be called too small, as a
        share of a window.
    """
    found = apply_recipe(model, recipe, data, settings.batch_size)
    positives = ~data.negatives
    lost = 1 - torch.tensor(KEPT, dtype=torch.float64)
    quantiles = found.probabilities[positives].double().quantile(lost).tolist()
    gates = sorted({recipe.gate, *(gate for gate in quantiles if gate > recipe.gate)})
    maps = found.maps * found.probabilities[:, None, None]
    sweep = sweep_thresholds(maps, data.masks, found.probabilities, settings.fitness)
    scores = {
        (gate, threshold): float(fitness(sweep.at(threshold, gate), settings.fitness))
        for gate in gates
        for threshold in THRESHOLDS
    }
    areas = (data.masks[positives] == 1).flatten(1).double().mean(1)
    return scores, SMALLEST_SHARE * float(areas.quantile(SMALL_OBJECT))
