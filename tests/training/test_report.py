"""The report of a training, against scikit-learn, and the interval of a recall."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics

from helpers.training_sets import discs, labels_only
from ssgcam.training import evaluate
from ssgcam.training.report import recall_interval


@pytest.mark.parametrize("classes", [2, 4])
def test_report_against_scikit_learn(classes):
    generator = np.random.default_rng(classes)
    labels = generator.choice(classes, 200)
    scores = generator.normal(size=(200, classes)) + 1.2 * np.eye(classes)[labels]
    probabilities = torch.as_tensor(scores).softmax(1)
    names = tuple("abcd"[:classes])
    groups = [f"g{index % 20}" for index in range(200)]
    result = evaluate(probabilities, labels_only(labels.tolist(), groups, names))
    called = probabilities.argmax(1).numpy()
    assert np.array_equal(result.confusion, metrics.confusion_matrix(labels, called))
    recalls = metrics.recall_score(labels, called, average=None)
    assert result.recalls == pytest.approx(recalls)
    auc = (
        metrics.roc_auc_score(labels, probabilities[:, 1])
        if classes == 2
        else metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    )
    assert result.roc_auc == pytest.approx(auc, abs=1e-6)

    confidence, right = probabilities.max(1).values.numpy(), called == labels
    bins = np.minimum((confidence * 15).astype(int), 14)
    expected = sum(
        (bins == b).mean() * abs(right[bins == b].mean() - confidence[bins == b].mean())
        for b in np.unique(bins)
    )
    assert result.calibration_error == pytest.approx(expected, abs=1e-6)
    assert (result.n, result.n_groups) == (200, 20)
    for recall, (low, high) in zip(result.recalls, result.intervals, strict=True):
        assert low < recall < high
    assert json.loads(json.dumps(asdict(result)))["confusion"] == [
        list(r) for r in result.confusion
    ]
    assert f"recall {recalls[0]:.3f}" in str(result)


def interval(right: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    return recall_interval(torch.from_numpy(right), groups.tolist())


def test_recall_interval_against_the_binomial_and_wilsons():
    right = np.repeat([True, True, True, False], 25)
    alone = interval(right, np.arange(100))
    exact = stats.binom.ppf([0.025, 0.975], 100, 0.75) / 100
    assert alone == pytest.approx(exact, abs=0.011)
    low, high = interval(right, np.arange(100) // 25)  # four groups, one all wrong
    assert (low, high) == (0.25, 1.0)
    wilson = 10 / (10 + stats.norm.ppf(0.975) ** 2)  # ten of ten
    assert interval(np.ones(50, bool), np.arange(50) // 5) == pytest.approx((wilson, 1))
    assert interval(np.zeros(50, bool), np.arange(50) // 5) == pytest.approx((0, 1 - wilson))
    assert np.isnan(interval(np.zeros(0, bool), np.zeros(0))).all()


def test_recall_interval_agrees_with_a_bootstrap_written_out():
    generator = np.random.default_rng(3)
    right, groups = generator.random(300) < 0.8, generator.integers(0, 30, 300)
    hits, sizes = np.bincount(groups, right), np.bincount(groups)
    chosen = generator.integers(30, size=(20000, 30))
    expected = np.percentile(hits[chosen].sum(1) / sizes[chosen].sum(1), [2.5, 97.5])
    assert interval(right, groups) == pytest.approx(expected, abs=0.006)
    # what version 0.1 gave with resamples of its own
    assert interval(right, groups) == pytest.approx((0.77381, 0.85485), abs=0.006)


@pytest.mark.filterwarnings("ignore:No positive samples")
def test_a_class_without_images_has_no_recall():
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])
    result = evaluate(probabilities, labels_only([0, 1]))
    assert result.recalls[:2] == (1.0, 1.0)
    assert np.isnan(result.recalls[2])


def test_evaluate_scores_predictions_of_images():
    images = discs(8, 2)
    perfect = torch.eye(2)[images.labels]
    assert evaluate(perfect, images).recalls == (1.0, 1.0)
    assert evaluate(perfect.flip(1), images).confusion == ((0, 4), (4, 0))
