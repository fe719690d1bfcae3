"""Masks against scikit-learn, the boundary score against all pairs of boundary pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from ssgcam.errors import SsgcamError
from ssgcam.metrics import (
    BoundaryF,
    Segmentation,
    bootstrap_interval,
    boundary_f_score,
    class_iou,
    confusion_matrix,
    foreground_iou,
    image_ious,
    mask_boundary,
    mean_iou,
    mean_of_ratios,
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


def test_pseudo_masks_are_background_without_evidence():
    maps = torch.zeros(1, 2, 3, 3)
    maps[0, 1, 0, 0] = float("nan")
    assert not pseudo_masks(maps, torch.ones(1, 2, dtype=torch.bool)).any()
    tiny = torch.full((1, 1, 3, 3), 1e-7)  # 1e-7 / (1e-7 + 1e-5) is below the background
    assert not pseudo_masks(tiny, torch.ones(1, 1, dtype=torch.bool)).any()
    tie = torch.full((1, 2, 1, 1), 2.0)
    assert pseudo_masks(tie, torch.ones(1, 2, dtype=torch.bool)).item() == 1


def test_confusion_matrix_equals_scikit_learn():
    rng = np.random.default_rng(1)
    metric = Segmentation([f"c{k}" for k in range(6)])
    everything = []
    for shape in ((20, 30), (7, 5), (40, 11)):
        prediction, truth = labels(rng, 6, shape)
        prediction[prediction == 5] = 0
        truth[truth == 5] = 0  # a class that nobody shows
        metric.update(prediction[None], [truth])
        kept = truth != 255
        everything.append((truth[kept], prediction[kept]))
        expected = sk.confusion_matrix(truth[kept], prediction[kept], labels=range(6))
        assert confusion_matrix(prediction, truth, 6).tolist() == expected.tolist()
    truth, prediction = (torch.cat(parts) for parts in zip(*everything, strict=True))
    result = metric.compute()
    expected = sk.confusion_matrix(truth, prediction, labels=range(6))
    assert result.confusion.tolist() == expected.tolist()
    iou = sk.jaccard_score(truth, prediction, labels=range(5), average=None)
    np.testing.assert_allclose([row.iou for row in result.table[:5]], iou)
    assert np.isnan(result.table[5].iou)
    assert result.mean_iou == pytest.approx(iou.mean())
    precision, recall, _, pixels = sk.precision_recall_fscore_support(
        truth, prediction, labels=range(5)
    )
    np.testing.assert_allclose([row.precision for row in result.table[:5]], precision)
    np.testing.assert_allclose([row.recall for row in result.table[:5]], recall)
    assert [row.pixels for row in result.table[:5]] == pixels.tolist()
    assert result.binary is None
    per_image = [float(mean_iou(part)) for part in result.parts]
    assert abs(np.mean(per_image) - result.mean_iou) > 0.01  # another number, not to be mixed up


def test_the_three_binary_ious():
    rng = np.random.default_rng(2)
    pairs = [labels(rng, 2, (9, 9)) for _ in range(5)]
    pairs.append((torch.zeros(4, 4), torch.zeros(4, 4)))  # both empty: skipped
    pairs.append((torch.ones(4, 4), torch.zeros(4, 4)))  # a false alarm: 0
    metric = Segmentation(["background", "parasite"])
    metric.update([p.long() for p, _ in pairs], [t.long() for _, t in pairs])
    result = metric.compute()
    binary = result.binary
    assert binary is not None
    kept = [(p[t != 255].numpy(), t[t != 255].numpy()) for p, t in pairs]
    everything = [np.concatenate(parts) for parts in zip(*kept, strict=True)]
    foreground = sk.jaccard_score(everything[1], everything[0])
    background = sk.jaccard_score(everything[1], everything[0], pos_label=0)
    each = [sk.jaccard_score(t, p) for p, t in kept if t.any() or p.any()]
    assert binary.foreground == pytest.approx(foreground)
    assert binary.mean_with_background == pytest.approx((foreground + background) / 2)
    assert binary.mean_per_image == pytest.approx(np.mean(each))
    assert (binary.images, binary.skipped) == (6, 1)
    assert len({round(v, 6) for v in (foreground, background, binary.mean_per_image)}) == 3
    interval = bootstrap_interval(image_ious(result.parts), ratio, seed=0, samples=100)
    assert interval.value == pytest.approx(binary.mean_per_image)
    interval = bootstrap_interval(result.parts, foreground_iou, seed=0, samples=100)
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


def plain_boundary(mask):
    height, width = mask.shape
    points = []
    for y in range(height):
        for x in range(width):
            beside = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
            inside = [mask[b] for b in beside if 0 <= b[0] < height and 0 <= b[1] < width]
            if mask[y, x] and not all(inside):
                points.append((y, x))
    return points


def plain_boundary_f(prediction, truth, void, tolerance):
    reach = tolerance * (prediction.shape[0] ** 2 + prediction.shape[1] ** 2) ** 0.5
    a, b = plain_boundary(prediction), plain_boundary(truth)

    def share(points, others):
        counted = [p for p in points if not void[p]]
        if not counted:
            return 1.0
        near = [
            min(((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2) ** 0.5 for q in others) <= reach
            for p in counted
        ]
        return sum(near) / len(near)

    if not [p for p in a + b if not void[p]]:
        return float("nan")
    if not a or not b:
        return 0.0
    precision, recall = share(a, b), share(b, a)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def disc(rng, shape):
    y, x = np.ogrid[: shape[0], : shape[1]]
    cy, cx = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
    return np.hypot(y - cy, x - cx) < rng.uniform(0, min(shape) / 2)


def test_boundary_f_equals_all_pairs():
    rng = np.random.default_rng(3)
    seen = []
    for index in range(60):
        shape = (30, 40)  # diagonal 50: tolerances of exactly 1, 2, 3, 5 pixels
        truth = disc(rng, shape) | (disc(rng, shape) if index % 3 else False)
        prediction = (
            np.roll(truth, rng.integers(-3, 4, 2), (0, 1)) if index % 2 else disc(rng, shape)
        )
        void = rng.random(shape) < (0.0, 0.3)[index % 2]
        tolerance = (0.02, 0.04, 0.06, 0.1)[index % 4]
        expected = plain_boundary_f(prediction, truth, void, tolerance)
        masks = [torch.from_numpy(m) for m in (prediction, truth, void)]
        assert boundary_f_score(*masks, tolerance) == pytest.approx(expected, nan_ok=True)
        seen.append(expected)
    assert len({round(s, 6) for s in seen}) > 20


def test_boundary_edge_cases():
    full, empty = torch.ones(9, 9), torch.zeros(9, 9)
    assert not mask_boundary(full).any()  # the image's edge is no outline
    assert np.isnan(boundary_f_score(empty, empty))
    inner = torch.zeros(9, 9)
    inner[3:6, 3:6] = 1
    assert boundary_f_score(inner, empty) == 0
    assert boundary_f_score(inner, inner) == 1
    assert int(mask_boundary(inner).sum()) == 8
    ring = torch.zeros(9, 9)
    ring[2:7, 2:7] = 1
    wider = torch.zeros(9, 9)
    wider[2:7, 2:7] = 1
    void = ring - inner
    assert boundary_f_score(wider, inner, void, 0.12) == 1  # its outline lies in the void
    assert boundary_f_score(wider, inner, void, 0.01) == 0


def test_boundary_f_of_classes():
    rng = np.random.default_rng(4)
    pairs = []
    for _ in range(4):
        truth = np.zeros((30, 40), int)
        truth[disc(rng, truth.shape)], truth[disc(rng, truth.shape)] = 1, 2
        truth[rng.random(truth.shape) < 0.05] = 255
        prediction = np.roll(truth % 255, 1, 0)
        pairs.append((torch.from_numpy(prediction), torch.from_numpy(truth)))
    metric = BoundaryF(classes=4, tolerance=0.03)
    for prediction, truth in pairs:
        metric.update([prediction], [truth])
    result = metric.compute()
    means = []
    for label in (1, 2):
        scores = [
            plain_boundary_f((p == label).numpy(), (t == label).numpy(), (t == 255).numpy(), 0.03)
            for p, t in pairs
        ]
        means.append(np.nanmean(scores))
    np.testing.assert_allclose(result.by_class, [*means, np.nan])
    assert result.value == pytest.approx(np.mean(means))
    interval = bootstrap_interval(result.parts, mean_of_ratios, seed=1, samples=50)
    assert interval.value == pytest.approx(result.value)


def test_bad_input_is_one_sentence():
    mask = torch.zeros(3, 3).long()
    with pytest.raises(SsgcamError, match="labels 0 to 2, which don't fit 2 classes"):
        confusion_matrix(mask, mask + torch.arange(3), 2)
    with pytest.raises(SsgcamError, match="prediction holds labels"):
        confusion_matrix(mask + 255, mask, 2)
    with pytest.raises(SsgcamError, match="differ in shape"):
        confusion_matrix(mask, mask[:2], 2)
    with pytest.raises(SsgcamError, match="too few classes"):
        Segmentation(["background"])
    with pytest.raises(SsgcamError, match="update"):
        Segmentation(["a", "b"]).compute()
    with pytest.raises(SsgcamError, match="negative"):
        pseudo_masks(-torch.rand(1, 1, 3, 3), torch.ones(1, 1))
    with pytest.raises(SsgcamError, match="between 0 and 1"):
        pseudo_masks(torch.rand(1, 1, 3, 3), torch.ones(1, 1), background=1.5)
    with pytest.raises(SsgcamError, match="can't be compared"):
        boundary_f_score(mask, mask[:2])
