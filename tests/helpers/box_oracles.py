"""Maps of many kinds, and the box metrics as plain transcriptions of their definitions."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch

TAUS = [i / 1000 for i in range(1000)]


def noise(rng, side):
    return rng.random((side, side))


def levels(rng, side):
    return rng.integers(0, 4, (side, side)) / 3


def blobs(rng, side):
    y, x = np.mgrid[:side, :side]
    total = np.zeros((side, side))
    for _ in range(rng.integers(1, 4)):
        cy, cx, s = rng.uniform([0, 0, 1], [side, side, side / 3])
        total += rng.random() * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * s * s))
    return total


def ring(rng, side):
    y, x = np.mgrid[:side, :side]
    radius = np.hypot(y - rng.uniform(0, side), x - rng.uniform(0, side))
    return np.exp(-((radius - rng.uniform(2, side / 2)) ** 2) / rng.uniform(1, 20))


def checkers(rng, side):
    y, x = np.mgrid[:side, :side]
    return ((y // rng.integers(1, 4) + x // rng.integers(1, 4)) % 2) * rng.random()


def frame(rng, side):
    m = np.zeros((side, side))
    m[0] = m[-1] = m[:, 0] = m[:, -1] = 1
    return m + 0.2 * rng.random((side, side))


def slope(rng, side):
    y, x = np.mgrid[:side, :side]
    return y * rng.normal() + x * rng.normal() - 5


def dot(rng, side):
    m = np.zeros((side, side))
    m[rng.integers(side), rng.integers(side)] = 1
    return m


def twins(rng, side):
    m = np.zeros((side, side))
    m[1:4, 1:4] = m[-4:-1, -4:-1] = m[1:4, -4:-1] = 1.0
    return m


def constant(rng, side):
    return np.full((side, side), rng.normal())


def nan(rng, side):
    m = rng.random((side, side))
    m[rng.integers(side), rng.integers(side)] = rng.choice([np.nan, np.inf, -np.inf])
    return m


KINDS: list[Callable] = [
    noise, levels, blobs, ring, checkers, frame, slope, dot, twins, constant, nan,
]  # fmt: skip


def plain_prepare(m, size):
    if not np.isfinite(m).all() or m.min() == m.max():
        return np.zeros((size, size), np.uint8)
    m = cv2.resize(m, (size, size), interpolation=cv2.INTER_CUBIC)
    m = m - m.min()
    m = m / m.max()
    return (m * 255).astype(np.uint8)


def shoelace(contour):
    points = contour[:, 0].astype(float)
    ahead = np.roll(points, -1, 0)
    return abs((points[:, 0] * ahead[:, 1] - ahead[:, 0] * points[:, 1]).sum()) / 2


def plain_boxes(score, tau):
    """(all boxes, the box of the largest contour) at one tau."""
    height, width = score.shape
    _, mask = cv2.threshold(score, int(tau * score.max()), 255, cv2.THRESH_BINARY)
    contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    if len(contours) == 0:
        return [[0, 0, 0, 0]], [0, 0, 0, 0]
    boxes, areas = [], []
    for contour in contours:
        x, y = contour[:, 0].min(0)
        far_x, far_y = contour[:, 0].max(0) + 1
        boxes.append([int(x), int(y), int(min(far_x, width - 1)), int(min(far_y, height - 1))])
        areas.append(shoelace(contour))
    return boxes, boxes[areas.index(max(areas))]


def plain_iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0]) + 1
    h = min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(0, w) * max(0, h)
    area = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return shared / (sum(area) - shared)


def random_boxes(rng, height, width, count):
    x, y = rng.integers(0, width, (count, 2)), rng.integers(0, height, (count, 2))
    x.sort(1), y.sort(1)
    return torch.from_numpy(np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1))
