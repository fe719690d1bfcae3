"""Smoothing against ``scipy.ndimage.gaussian_filter``, renormalized at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ssgcam.core.smoothing import gaussian_matrix, smooth


def oracle(signal: torch.Tensor, sigma: float) -> np.ndarray:
    """The filter that takes zeros outside, divided by what it makes of ones; not truncated."""
    cells = sigma * min(signal.shape[-2:])
    out = np.empty(signal.shape)
    ones = np.ones(signal.shape[-2:])
    reach = {"mode": "constant", "truncate": 3 * max(ones.shape) / cells}
    for place in np.ndindex(signal.shape[:-2]):
        plane = signal[place].numpy().astype(np.float64)
        out[place] = gaussian_filter(plane, cells, **reach) / gaussian_filter(ones, cells, **reach)
    return out


@pytest.mark.parametrize("size", [(7, 7), (8, 5), (1, 9), (3, 28), (2, 2)])
@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.37, 1.0])
def test_against_scipy(size: tuple[int, int], sigma: float) -> None:
    signal = torch.randn(2, 3, *size, dtype=torch.float64)
    np.testing.assert_allclose(smooth(signal, sigma).numpy(), oracle(signal, sigma), atol=1e-12)
    single = smooth(signal.float(), sigma)
    np.testing.assert_allclose(single.numpy(), oracle(signal, sigma), atol=2e-6)


@pytest.mark.parametrize("size", [(224, 224), (150, 230)])
@pytest.mark.parametrize("sigma", [0.06, 0.13])
def test_large_maps_against_scipy(size: tuple[int, int], sigma: float) -> None:
    signal = torch.randn(1, 2, *size, dtype=torch.float64)
    found = smooth(signal, sigma)
    np.testing.assert_allclose(found.numpy(), oracle(signal, sigma), atol=1e-12)
    single = smooth(signal.float(), sigma)
    np.testing.assert_allclose(single.numpy(), oracle(signal, sigma), atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cells", [4, 7, 14, 56, 120, 224])
@pytest.mark.parametrize("share", [0.01, 0.06, 0.3])
def test_no_product_with_a_signal_makes_denormal_numbers(
    share: float, cells: int, dtype: torch.dtype
) -> None:
    """They take a hundred times as long. A single point, as small as rounding beside a unit."""
    number = torch.finfo(dtype)
    signal = torch.zeros(1, 1, cells, cells, dtype=dtype)
    signal[..., 0, 0] = number.eps
    found = smooth(signal, share)
    assert found[found > 0].min() >= number.tiny


def test_what_is_left_out_is_far_below_rounding() -> None:
    """Within 7 sigma each weight is the Gaussian's own."""
    distance = torch.arange(56, dtype=torch.float64)[None] - torch.arange(56)[:, None]
    for cells in (0.5, 3.36, 5.6):
        wanted = torch.exp(-0.5 * (distance / cells) ** 2)
        wanted /= wanted.sum(1, keepdim=True)
        found = gaussian_matrix(56, cells).double()
        near = distance.abs() < 7 * cells
        np.testing.assert_allclose(found[near].numpy(), wanted[near].numpy(), rtol=2e-7)
        assert (wanted[found == 0] < 1e-13).all()


def test_half_precision_keeps_its_neighbors() -> None:
    signal = torch.rand(2, 3, 9, 9).half()
    np.testing.assert_allclose(smooth(signal, 0.1).numpy(), oracle(signal, 0.1), atol=2e-3)


@pytest.mark.parametrize("size", [(7, 7), (14, 9), (120, 130)])
def test_channels_last(size: tuple[int, int]) -> None:
    signal = torch.randn(2, 5, *size)
    last = signal.to(memory_format=torch.channels_last)
    torch.testing.assert_close(smooth(last, 0.1), smooth(signal, 0.1), atol=1e-6, rtol=1e-5)


def test_float32_and_other_leading_axes() -> None:
    signal = torch.randn(4, 9, 6)
    found = smooth(signal, 0.2)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), oracle(signal, 0.2), atol=1e-6)


@pytest.mark.parametrize("size", [(4, 5), (9, 6)])
def test_one_map_and_none(size: tuple[int, int]) -> None:
    signal = torch.randn(size)
    np.testing.assert_allclose(smooth(signal, 0.2).numpy(), oracle(signal, 0.2), atol=1e-6)
    assert smooth(torch.randn(0, 3, *size), 0.2).shape == (0, 3, *size)


def test_sigma_zero_changes_nothing() -> None:
    signal = torch.randn(1, 2, 5, 5)
    assert smooth(signal, 0) is signal


def test_a_tiny_sigma_changes_nothing_either() -> None:
    signal = torch.randn(1, 2, 5, 5)
    assert torch.equal(smooth(signal, 1e-9), signal)


def test_a_constant_stays_and_a_huge_sigma_averages() -> None:
    torch.testing.assert_close(
        smooth(torch.full((1, 1, 6, 4), 3.0), 0.4), torch.full((1, 1, 6, 4), 3.0)
    )
    signal = torch.randn(1, 1, 6, 4, dtype=torch.float64)
    average = signal.mean((2, 3), keepdim=True).expand_as(signal)
    torch.testing.assert_close(smooth(signal, 1e4), average, atol=1e-6, rtol=0)


def test_sigma_is_a_fraction_of_the_shorter_side() -> None:
    signal = torch.zeros(1, 1, 9, 21)
    signal[..., 4, 10] = 1
    found = smooth(signal, 0.1)[0, 0]
    torch.testing.assert_close(smooth(signal.mT, 0.1)[0, 0].T, found)
    # 0.9 cells along both axes
    for near in (found[4, 9], found[3, 10]):
        torch.testing.assert_close(
            float(near / found[4, 10]), math.exp(-0.5 / 0.9**2), rtol=1e-4, atol=0
        )


def test_rows_of_the_matrix_sum_to_one() -> None:
    for cells, sigma in ((1, 0.5), (7, 0.01), (7, 0.7), (56, 5.6)):
        matrix = gaussian_matrix(cells, sigma, torch.float64)
        torch.testing.assert_close(matrix.sum(1), torch.ones(cells, dtype=torch.float64))


def test_inside_and_outside_of_inference_mode() -> None:
    with torch.inference_mode():
        smooth(torch.randn(1, 1, 11, 11), 0.123 / 11)
    signal = torch.randn(1, 1, 11, 11, requires_grad=True)
    smooth(signal, 0.123 / 11).sum().backward()
    assert signal.grad is not None
