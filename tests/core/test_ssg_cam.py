"""SSG-CAM in its gradient and Taylor forms against a plain loop."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.signals import scaled, signals
from ssgcam import SsgcamError, SSGSettings
from ssgcam.core.methods import (
    grad_cam_elementwise,
    layer_cam,
    ssg_cam,
    ssg_cams,
)
from ssgcam.core.signals import Signal


def blurred(plane: np.ndarray, sigma: float) -> np.ndarray:
    """The edge-normalized Gaussian, cell by cell."""
    height, width = plane.shape
    s = sigma * min(height, width)
    if s == 0:
        return plane
    out = np.zeros_like(plane)
    for i in range(height):
        for j in range(width):
            total = weight_sum = 0.0
            for k in range(height):
                for m in range(width):
                    weight = math.exp(-((i - k) ** 2 + (j - m) ** 2) / (2 * s * s))
                    total += weight * plane[k, m]
                    weight_sum += weight
            out[i, j] = total / weight_sum
    return out


def brute_ssg(signal: Signal, settings: SSGSettings) -> np.ndarray:
    """The two forms as written in the docs, without any scaling."""
    a = signal.activation.numpy()
    g = signal.first.numpy()  # type: ignore[union-attr]
    second = g**2 if signal.second is None else signal.second.numpy()
    out = np.zeros((a.shape[0], *a.shape[2:]))
    for n in range(a.shape[0]):
        for c in range(a.shape[1]):
            if settings.form == "gradient":
                e, f = g[n, c], second[n, c]
            else:
                e, f = g[n, c] * a[n, c], second[n, c] * a[n, c] ** 2
            term = np.ones_like(e)
            for part, power in (
                (e, settings.first_exponent),
                (f, settings.second_exponent),
            ):
                if power:  # a zero power leaves that order out
                    term = term * np.maximum(blurred(part, settings.sigma), 0) ** power
            out[n] += term * (a[n, c] if settings.form == "gradient" else 1)
    return np.maximum(out, 0)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("second", [True, False])
@pytest.mark.parametrize("form", ["taylor", "gradient"])
@pytest.mark.parametrize(
    ("sigma", "a", "b"),
    [
        (0, 1, 0),
        (0.2, 2, 0),
        (0.2, 1, 1),
        (0.4, 1, 0.5),
        (0.1, 0, 1),
        (0.1, 0, 1.5),
        (0.3, 2, 1.7),
        (0, 0.5, 0.5),
        (0.2, 2, 2),
    ],
)
def test_ssg_cam_against_a_loop(
    form: Any, second: bool, signed: bool, sigma: float, a: float, b: float
) -> None:
    signal = signals(signed, second=second)
    settings = SSGSettings(form, sigma, a, b)
    np.testing.assert_allclose(
        scaled(ssg_cam(signal, settings)), scaled(brute_ssg(signal, settings)), atol=1e-12
    )


@pytest.mark.parametrize("form", ["taylor", "gradient"])
def test_ssg_cam_contains_layer_cam(form: Any) -> None:
    signal = signals(signed=False)
    found = ssg_cam(signal, SSGSettings(form, 0, 1, 0))
    np.testing.assert_allclose(scaled(found), scaled(layer_cam(signal)), atol=1e-12)


def test_the_taylor_form_of_first_order_is_elementwise_grad_cam() -> None:
    signal = signals(signed=True)
    settings = SSGSettings("taylor", 0, 1, 0)
    found, wanted = ssg_cam(signal, settings), grad_cam_elementwise(signal)
    np.testing.assert_allclose(scaled(found), scaled(wanted), atol=1e-12)
    # LayerCAM and the gradient form lose what is negative twice
    assert not np.allclose(scaled(found), scaled(layer_cam(signal)))
    settings = SSGSettings("gradient", 0, 1, 0)
    np.testing.assert_allclose(scaled(ssg_cam(signal, settings)), scaled(layer_cam(signal)))


def test_sigma_does_nothing_to_the_gradient_form_of_a_constant_gradient() -> None:
    """As before global average pooling."""
    a, g = torch.rand(2, 4, 5, 5, dtype=torch.float64), torch.randn(2, 4, 1, 1).double()
    signal = Signal(a, g.expand_as(a))
    plain, smoothed = (ssg_cam(signal, SSGSettings("gradient", s)) for s in (0, 0.3))
    torch.testing.assert_close(plain, smoothed)
    plain, smoothed = (ssg_cam(signal, SSGSettings("taylor", s)) for s in (0, 0.3))
    assert not torch.allclose(plain, smoothed)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (4.0, 4.0), (0.0, 4.0), (1.0, 0.0), (0.3, 0.2)])
@pytest.mark.parametrize("form", ["taylor", "gradient"])
@pytest.mark.parametrize("given", [True, False])
def test_factors_per_image_cancel_however_small(form: Any, a: float, b: float, given: bool) -> None:
    signal = signals(second=given)
    settings = SSGSettings(form, 0.2, a, b)
    wanted = scaled(ssg_cam(signal, settings))

    def part(tensor: Tensor | None, factor: float) -> Tensor | None:
        return None if tensor is None else (tensor.float() * factor)

    for activation_factor, factor, second_factor in (
        (1, 1e-30, 1e-35),
        (1e-20, 1e20, 1e-3),
        (1e15, 1e-8, 1e30),
    ):
        tiny = Signal(
            part(signal.activation, activation_factor),  # type: ignore[arg-type]
            part(signal.first, factor),
            part(signal.second, second_factor),
        )
        np.testing.assert_allclose(scaled(ssg_cam(tiny, settings)), wanted, atol=2e-4)


@pytest.mark.parametrize("form", ["taylor", "gradient"])
def test_cells_that_are_far_apart_in_size_do_not_underflow_together(form: Any) -> None:
    """Where A is large g is tiny: fourth powers of their product leave float32."""
    a, g = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    a[..., 0, 0], g[..., 0, 0] = 1e12, 1e-12
    a[..., 1, 1], g[..., 1, 1] = 1e-12, 1e12
    a[..., 0, 1], g[..., 0, 1] = 1e-12, 1e-12
    found = ssg_cam(Signal(a, g), SSGSettings(form, 0, 4, 4))
    wanted = brute_ssg(Signal(a.double(), g.double()), SSGSettings(form, 0, 4, 4))
    np.testing.assert_allclose(scaled(found), scaled(wanted), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("form", ["taylor", "gradient"])
def test_evidence_that_is_small_beside_what_speaks_against_does_not_underflow(form: Any) -> None:
    a, g = torch.ones(1, 1, 1, 4), torch.tensor([[[[-1.0, -1.0, 1e-12, 2e-12]]]])
    found = ssg_cam(Signal(a, g, torch.full_like(g, 1.0)), SSGSettings(form, 0, 4, 0.5))
    np.testing.assert_allclose(scaled(found), [[[0, 0, 0.5**4, 1]]], rtol=1e-4)


@pytest.mark.parametrize("given", [True, False])
def test_nor_does_it_where_both_orders_share_an_exponent(given: bool) -> None:
    """The product of both orders leaves float32, though neither does."""
    a, g = torch.ones(1, 1, 1, 4), torch.tensor([[[[-1.0, -1.0, 1e-16, 2e-16]]]])
    second = torch.tensor([[[[1.0, 1.0, 1e-30, 1e-30]]]]) if given else None
    found = ssg_cam(Signal(a, g, second), SSGSettings("taylor", 0, 0.3, 0.3))
    ratio = 0.5**0.3 if given else 0.5**0.9
    np.testing.assert_allclose(scaled(found), [[[0, 0, ratio, 1]]], rtol=1e-4)


@pytest.mark.parametrize("form", ["taylor", "gradient"])
@pytest.mark.parametrize("sigma", [0, 0.06])
@pytest.mark.parametrize("sign", [1, -1])
def test_equal_exponents_in_float32_against_the_loop(form: Any, sigma: float, sign: int) -> None:
    """Every image has evidence, so that both orders go through one logarithm; second order signed."""
    torch.manual_seed(1)
    a, g = torch.randn(3, 8, 14, 14).relu(), torch.randn(3, 8, 14, 14)
    signal = Signal(a, g, sign * torch.randn(3, 8, 14, 14))
    settings = SSGSettings(form, sigma, 0.5, 0.5)
    assert settings.first_exponent == settings.second_exponent
    wide = Signal(*(part.double() for part in (a, g, signal.second)))  # type: ignore[union-attr]
    wanted = brute_ssg(wide, settings)
    assert (wanted.max((1, 2)) > 0).all()
    np.testing.assert_allclose(scaled(ssg_cam(signal, settings)), scaled(wanted), atol=1e-5)


@pytest.mark.parametrize("form", ["taylor", "gradient"])
@pytest.mark.parametrize("sigma", [0, 0.06])
def test_float32_against_the_loop_at_the_size_of_real_layers(form: Any, sigma: float) -> None:
    """Sparse and signed, images apart by 1e25 and one without any evidence, default exponents."""
    torch.manual_seed(0)
    a, g = torch.randn(4, 8, 14, 14).relu(), torch.randn(4, 8, 14, 14)
    size = torch.tensor([1e-20, 1.0, 1e5, 0.0])[:, None, None, None]
    settings = SSGSettings(form, sigma, 0.5, 0.5)
    found = ssg_cam(Signal(a, g * size), settings)
    assert not found[3].any()
    wanted = brute_ssg(Signal(a[:3].double(), g[:3].double()), settings)
    np.testing.assert_allclose(scaled(found[:3]), scaled(wanted), atol=1e-5)


@pytest.mark.parametrize("factors", [(1e-25, 1e-25), (1e25, 1e25), (1e-30, 1e30)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_that_leave_the_number_format(
    factors: tuple[float, float], dtype: torch.dtype
) -> None:
    signal = signals()
    assert signal.first is not None
    extreme = Signal(
        (signal.activation * factors[0]).to(dtype), (signal.first * factors[1]).to(dtype)
    )
    settings = SSGSettings("taylor", 0.06, 0.3, 0.3)
    found, wanted = ssg_cam(extreme, settings), brute_ssg(signal, settings)
    np.testing.assert_allclose(scaled(found), scaled(wanted), atol=1e-5)


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.3), (4.0, 4.0), (0.0, 0.3), (0.01, 0.0)])
def test_a_cell_without_evidence_stays_exactly_zero(a: float, b: float) -> None:
    """Its logarithm is minus infinity, and no small number may be left of that."""
    signal = signals(second=True)
    assert signal.first is not None
    assert signal.second is not None
    signal.first[:, :, 1, 2] = signal.second[:, :, 1, 2] = -1.0
    signal.activation.abs_()
    for dtype in (torch.float32, torch.float64):
        parts = (signal.activation.to(dtype), signal.first.to(dtype), signal.second.to(dtype))
        found = ssg_cam(Signal(*parts), SSGSettings("taylor", 0, a, b))
        assert not found[:, 1, 2].any()
        assert (found > 0).any()


def test_not_a_number_is_not_swallowed() -> None:
    for wrong in (math.nan, math.inf):
        signal = signals()
        assert signal.first is not None
        signal.first[1, 2, 0, 1] = wrong
        found = ssg_cam(signal)
        assert not found[1].isfinite().all()
        assert found[0].isfinite().all()
        assert found[2].isfinite().all()


def test_many_settings_at_once() -> None:
    every = [
        SSGSettings(form, sigma, a, b)  # type: ignore[arg-type]
        for form in ("taylor", "gradient")
        for sigma in (0, 0.2)
        for a, b in ((0, 1), (1, 0), (1, 1))
    ]
    every += every[-1:] * 2  # the same object again
    for second in (True, False):
        signal = signals(second=second)
        for settings, found in zip(every, ssg_cams(signal, every), strict=True):
            torch.testing.assert_close(found, ssg_cam(signal, settings))


@pytest.mark.parametrize("wrong", [
    {"form": "taylors"}, {"sigma": -0.1}, {"sigma": 1.5}, {"sigma": float("nan")},
    {"first_exponent": -1}, {"second_exponent": 5}, {"first_exponent": 0, "second_exponent": 0},
])  # fmt: skip
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(SsgcamError, match=next(iter(wrong))):
        SSGSettings(**wrong)
