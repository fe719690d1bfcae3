"""Gates and thresholds on labeled windows, against a loop."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from helpers.networks import Bright
from helpers.search_sets import SHORT, squares
from ssgcam.core.augment import Augmentation
from ssgcam.metrics import confusion_matrix, foreground_iou
from ssgcam.models import LoadedModel
from ssgcam.preprocessing import Preprocessing
from ssgcam.search import search_recipe
from ssgcam.search.window_scores import window_scores

pytestmark = pytest.mark.filterwarnings(
    "ignore:(The calibration set is small|The images come from|No image is without)"
)


def test_the_score_is_that_of_probability_times_map() -> None:
    model = LoadedModel(Bright().eval(), "bright", Preprocessing((32, 32)))
    data = squares(8, negatives=2)
    settings = replace(SHORT, folds=0, refinement=None, augmentations=(), views=(Augmentation(),))
    recipe = search_recipe(model, data, ["act"], settings=settings).recipe
    data = data.with_predictions(model)
    scores, smallest_object = window_scores(model, recipe, data, settings)
    gates, thresholds = (list(dict.fromkeys(values)) for values in zip(*scores, strict=True))
    assert list(scores) == [(gate, threshold) for gate in gates for threshold in thresholds]
    result = recipe.bind(model)(data.images, data.classes)
    p = result.probabilities[range(8), data.classes]
    positives = ~data.negatives
    assert gates[0] == recipe.gate
    lost = torch.tensor([0, 0.05, 0.1, 0.25, 0.5]).double()
    quantiles = p[positives].double().quantile(lost)
    assert len(gates) > 1
    assert all(float((quantiles - gate).abs().min()) < 1e-6 for gate in gates[1:])
    assert gates == sorted(gates)
    for gate in gates:
        for t, threshold in ((3, 0.11), (13, 0.41)):
            assert thresholds[t] == threshold
            masks = (result.maps * p[:, None, None] >= threshold) & (p >= gate)[:, None, None]
            pooled = sum(
                confusion_matrix(mask.long(), truth, 2)
                for mask, truth in zip(masks, data.masks, strict=True)
            )
            expected = float(foreground_iou(pooled))
            assert scores[gate, threshold] == pytest.approx(expected, abs=2e-3)
    assert smallest_object == pytest.approx(0.5 * 144 / 32**2)
