"""Pseudo-masks pixel by pixel, confusion matrices and IoUs against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from ssgcam.errors import SsgcamError
from ssgcam.metrics import (
    bootstrap_interval,
    class_iou,
    confusion_matrix,
    foreground_iou,
    image_ious,
    mean_iou,
    pseudo_masks,
    ratio,
)


def labels(rng, classes, shape, void=0.1):
    truth = rng.integers(0, classes, shape)
    truth[rng.random(shape) < void] = 255
    prediction = np.where(rng.random(shape) < 0.5, truth % 255, rng.integers(0, classes, shape))
    prediction[prediction >= classes] = 0
    return torch.from_numpy(prediction), torch.from_numpy(truth)


def test_pseudo_masks_pixel_by_pixel():
    rng = np.random.default_rng(0)
    maps = rng.random((4, 3, 6, 7)) ** 3 * rng.uniform(0, 5, (4, 3, 1, 1))
    maps[1, 0] = 0
    present = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]], bool)
    found = pseudo_masks(torch.from_numpy(maps), torch.from_numpy(present), background=0.2)
    for n in range(4):
        for y in range(6):
            for x in range(7):
                scores = [0.2] + [
                    maps[n, k, y, x] / (maps[n, k].max() + 1e-5) if present[n, k] else -1
                    for k in range(3)
                ]
                assert int(found[n, y, x]) == int(np.argmax(scores))
    assert set(found[0].flatten().tolist()) == {0, 1, 2, 3}
    assert not found[2].any()


def test_pseudo_masks_are_background_where_maps_are_zero_or_not_finite():
    maps = torch.zeros(1, 2, 3, 3)
    maps[0, 1, 0, 0] = float("nan")
    assert not pseudo_masks(maps, torch.ones(1, 2, dtype=torch.bool)).any()
    tiny = torch.full((1, 1, 3, 3), 1e-7)  # 1e-7 / (1e-7 + 1e-5) is below the background
    assert not pseudo_masks(tiny, torch.ones(1, 1, dtype=torch.bool)).any()
    tie = torch.full((1, 2, 1, 1), 2.0)
    assert pseudo_masks(tie, torch.ones(1, 2, dtype=torch.bool)).item() == 1


def test_confusion_matrix_equals_scikit_learn():
    rng = np.random.default_rng(1)
    everything, parts = [], []
    for shape in ((20, 30), (7, 5), (40, 11)):
        prediction, truth = labels(rng, 6, shape)
        prediction[prediction == 5] = 0
        truth[truth == 5] = 0  # a class that nobody shows
        parts.append(confusion_matrix(prediction, truth, 6))
        kept = truth != 255
        everything.append((truth[kept], prediction[kept]))
        expected = sk.confusion_matrix(truth[kept], prediction[kept], labels=range(6))
        assert parts[-1].tolist() == expected.tolist()
    truth, prediction = (torch.cat(both) for both in zip(*everything, strict=True))
    pooled = torch.stack(parts).sum(0)
    expected = sk.confusion_matrix(truth, prediction, labels=range(6))
    assert pooled.tolist() == expected.tolist()
    iou = sk.jaccard_score(truth, prediction, labels=range(5), average=None)
    np.testing.assert_allclose(class_iou(pooled)[:5], iou)
    assert class_iou(pooled)[5].isnan()
    assert float(mean_iou(pooled)) == pytest.approx(iou.mean())
    per_image = [float(mean_iou(part)) for part in parts]
    assert abs(np.mean(per_image) - iou.mean()) > 0.01  # another number, not to be mixed up


def test_the_three_binary_ious():
    rng = np.random.default_rng(2)
    pairs = [labels(rng, 2, (9, 9)) for _ in range(5)]
    pairs.append((torch.zeros(4, 4), torch.zeros(4, 4)))  # both empty: skipped
    pairs.append((torch.ones(4, 4), torch.zeros(4, 4)))  # a false alarm: 0
    parts = torch.stack([confusion_matrix(p, t, 2) for p, t in pairs])
    pooled, each_image = parts.sum(0), image_ious(parts)
    kept = [(p[t != 255].numpy(), t[t != 255].numpy()) for p, t in pairs]
    everything = [np.concatenate(parts) for parts in zip(*kept, strict=True)]
    foreground = sk.jaccard_score(everything[1], everything[0])
    background = sk.jaccard_score(everything[1], everything[0], pos_label=0)
    each = [sk.jaccard_score(t, p) for p, t in kept if t.any() or p.any()]
    assert float(foreground_iou(pooled)) == pytest.approx(foreground)
    assert float(mean_iou(pooled)) == pytest.approx((foreground + background) / 2)
    assert float(ratio(each_image.mean(0))) == pytest.approx(np.mean(each))
    assert each_image[:, 1].tolist() == [1, 1, 1, 1, 1, 0, 1]
    assert len({round(v, 6) for v in (foreground, background, np.mean(each))}) == 3
    interval = bootstrap_interval(each_image, ratio, seed=0, samples=100)
    assert interval.value == pytest.approx(np.mean(each))
    interval = bootstrap_interval(parts, foreground_iou, seed=0, samples=100)
    assert interval.value == pytest.approx(foreground)


def test_batched_iou_keeps_leading_dimensions():
    matrices = torch.randint(1, 50, (2, 3, 4, 4))
    found = class_iou(matrices)
    for i in range(2):
        for j in range(3):
            m = matrices[i, j].double()
            for k in range(4):
                union = m[k].sum() + m[:, k].sum() - m[k, k]
                assert float(found[i, j, k]) == pytest.approx(float(m[k, k] / union))


def test_bad_input_is_one_sentence():
    mask = torch.zeros(3, 3).long()
    with pytest.raises(SsgcamError, match="labels 0 to 2, which don't fit 2 classes"):
        confusion_matrix(mask, mask + torch.arange(3), 2)
    with pytest.raises(SsgcamError, match="prediction holds labels"):
        confusion_matrix(mask + 255, mask, 2)
    with pytest.raises(SsgcamError, match="differ in shape"):
        confusion_matrix(mask, mask[:2], 2)
    with pytest.raises(SsgcamError, match="negative"):
        pseudo_masks(-torch.rand(1, 1, 3, 3), torch.ones(1, 1))
    for background in (0.0, 1.0, 1.5):
        with pytest.raises(SsgcamError, match="between 0 and 1"):
            pseudo_masks(torch.rand(1, 1, 3, 3), torch.ones(1, 1), background=background)
