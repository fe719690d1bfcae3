"""PAMR against its definition, written out pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ssgcam.core.refine import Refinement, pamr
from ssgcam.errors import SsgcamError


def loop(image: Tensor, values: Tensor, settings: Refinement) -> np.ndarray:
    """One image ``[C, H, W]``, one map ``[H, W]``: the definition in the docstring of ``pamr``."""
    pixels, current = image.numpy(), values.numpy().copy()
    channels, height, width = pixels.shape
    steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    weights: dict[tuple[int, int], list[tuple[int, int, float]]] = {}
    for i in range(height):
        for j in range(width):
            places = [
                (min(max(i + y * d, 0), height - 1), min(max(j + x * d, 0), width - 1))
                for d in settings.dilations
                for y, x in steps
            ]
            affinity = np.zeros(len(places))
            for c in range(channels):
                around = [pixels[c, p, q] for p, q in places]
                sample = around + [pixels[c, i, j]] * len(settings.dilations)
                spread = np.std(sample, ddof=1)
                for n, value in enumerate(around):
                    distance = abs(pixels[c, i, j] - value)
                    if spread > 0:
                        affinity[n] -= distance / (settings.temperature * spread) / channels
            alpha = np.exp(affinity - affinity.max())
            alpha /= alpha.sum()
            weights[i, j] = [(p, q, a) for (p, q), a in zip(places, alpha, strict=True)]
    for _ in range(settings.iterations):
        before = current.copy()
        for (i, j), parts in weights.items():
            current[i, j] = sum(a * before[p, q] for p, q, a in parts)
    return current


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_equals_the_plain_loop(temperature: float) -> None:
    settings = Refinement(iterations=2, dilations=(1, 3), temperature=temperature)
    images = torch.rand(2, 3, 7, 9, dtype=torch.float64)
    images[0, :, :3] = 0.25  # constant neighborhoods
    maps = torch.rand(2, 1, 7, 9, dtype=torch.float64)
    found = pamr(images, maps, settings)
    for n in range(2):
        np.testing.assert_allclose(found[n, 0], loop(images[n], maps[n, 0], settings), atol=1e-12)


def test_a_map_follows_the_edges_of_the_image() -> None:
    image = torch.zeros(1, 3, 24, 24)
    image[..., 8:16, 8:16] = 1
    blurred = torch.zeros(1, 1, 24, 24)
    blurred[..., 6:18, 6:18] = 0.6
    blurred[..., 9:15, 9:15] = 1
    found = pamr(image, blurred, Refinement(dilations=(1, 2)))[0, 0]
    inside, ring = found[8:16, 8:16], found[6:8, 6:18]
    assert inside.min() > ring.max()
    assert blurred[0, 0, 8, 8] == blurred[0, 0, 7, 7]  # the map alone did not tell them apart


def test_units_of_the_image_do_not_matter() -> None:
    images, maps = torch.rand(2, 3, 12, 10).double(), torch.rand(2, 1, 12, 10).double()
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.1])
    normalized = (images - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(pamr(images, maps), pamr(normalized, maps))


def test_means_stay_in_range_and_constants_stay() -> None:
    images = torch.rand(1, 3, 16, 16)
    maps = torch.rand(1, 2, 16, 16)
    found = pamr(images, maps)
    assert found.shape == maps.shape
    assert bool((found >= maps.amin()).all() and (found <= maps.amax()).all())
    constant = torch.full((1, 1, 16, 16), 0.3)
    torch.testing.assert_close(pamr(images, constant), constant)


def test_a_batch_gives_the_same_as_each_image() -> None:
    images, maps = torch.rand(5, 3, 8, 8), torch.rand(5, 2, 8, 8)
    whole = pamr(images, maps)
    torch.testing.assert_close(pamr(images[2:3], maps[2:3]), whole[2:3])
    assert whole.shape == (5, 2, 8, 8)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: pamr(torch.rand(2, 3, 4, 4), torch.rand(3, 1, 4, 4)), "don't fit"),
        (lambda: pamr(torch.rand(2, 3, 4, 4), torch.rand(2, 4, 4)), "don't fit"),
        (lambda: pamr(torch.rand(2, 3, 4, 4), torch.rand(2, 1, 2, 2)), "don't fit"),
        (lambda: pamr(torch.rand(3, 4, 4), torch.rand(3, 1, 4)), "don't fit"),
        (lambda: Refinement(dilations=()), "dilations"),
        (lambda: Refinement(dilations=(0,)), "dilations"),
        (lambda: Refinement(iterations=0), "iterations"),
        (lambda: Refinement(temperature=0), "temperature"),
    ],
)
def test_refusals(wrong, said: str) -> None:
    with pytest.raises(SsgcamError, match=said):
        wrong()


def test_the_smallest_settings_are_allowed() -> None:
    settings = Refinement(iterations=1, dilations=(1,), temperature=0.01)
    assert pamr(torch.rand(1, 3, 4, 4), torch.rand(1, 1, 4, 4), settings).shape == (1, 1, 4, 4)
