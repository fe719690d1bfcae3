"""Every method against a plain Python loop in float64, on signals of either sign."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.signals import scaled, signals
from ssgcam import SsgcamError
from ssgcam.core.forward_methods import score_cam
from ssgcam.core.methods import (
    METHODS,
    eigen_cam,
    grad_cam,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    shapley_cam,
    ssg_cam,
    xgrad_cam,
)
from ssgcam.core.signals import Signal


def loop(signal: Signal, weight: Callable[..., float], outer_relu: bool = True) -> Tensor:
    """``relu(sum_c weight(A_c, g_c, h_c, i, j) * A_cij)`` in plain Python."""
    a, g = signal.activation.tolist(), signal.first.tolist()  # type: ignore[union-attr]
    h = g if signal.curvature is None else signal.curvature.tolist()
    count, channels, height, width = signal.activation.shape
    out = torch.zeros(count, height, width, dtype=torch.float64)
    for n in range(count):
        for i in range(height):
            for j in range(width):
                total = sum(
                    weight(a[n][c], g[n][c], h[n][c], i, j) * a[n][c][i][j] for c in range(channels)
                )
                out[n, i, j] = max(total, 0.0) if outer_relu else total
    return out


def cells(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]


def mean(rows: list[list[float]]) -> float:
    return sum(cells(rows)) / len(cells(rows))


def plus_plus(a: Any, g: Any, h: Any, i: int, j: int) -> float:
    """As the authors' program has it: derivatives of exp(z), alpha normalized where g > 0."""
    total = sum(cells(a))
    alphas = []
    for gradient in cells(g):
        second, third = gradient**2, gradient**3
        below = 2 * second + total * third
        alphas.append(second / (below if below != 0 else 1.0))
    kept = sum(alpha for alpha, gradient in zip(alphas, cells(g), strict=True) if gradient > 0)
    norm = kept if kept != 0 else 1.0
    return sum(
        alpha / norm * max(gradient, 0.0) for alpha, gradient in zip(alphas, cells(g), strict=True)
    )


def xgrad(a: Any, g: Any, h: Any, i: int, j: int) -> float:
    total = sum(cells(a))
    product = sum(x * y for x, y in zip(cells(a), cells(g), strict=True))
    return product / total if total else 0.0


WEIGHTS: dict[str, Callable[..., float]] = {
    "grad_cam": lambda a, g, h, i, j: mean(g),
    "grad_cam_plus_plus": plus_plus,
    "xgrad_cam": xgrad,
    "hires_cam": lambda a, g, h, i, j: g[i][j],
    "layer_cam": lambda a, g, h, i, j: max(g[i][j], 0.0),
    "grad_cam_elementwise": lambda a, g, h, i, j: g[i][j] if g[i][j] * a[i][j] > 0 else 0.0,
    "shapley_cam": lambda a, g, h, i, j: mean(g) - 0.5 * mean(h),
    "activation_sum": lambda a, g, h, i, j: 1.0,
}


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("name", WEIGHTS)
def test_against_a_loop(name: str, signed: bool) -> None:
    signal = signals(signed)
    function = METHODS[name].function
    assert function is not None
    torch.testing.assert_close(function(signal), loop(signal, WEIGHTS[name]))


def test_every_method_has_an_oracle() -> None:
    others = {"ssg_cam", "discriminate", "localize"}  # test_sum_form
    others |= {"finer_cam", "refine_cam", "smoothed_hires_cam", "recipro_cam"}  # test_rivals
    assert set(METHODS) == {*WEIGHTS, *others, "eigen_cam", "score_cam"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.function])
def test_half_precision_signals_are_widened(name: str, dtype: torch.dtype) -> None:
    plain = signals()
    low = Signal(
        plain.activation.to(dtype),
        plain.first.to(dtype) * 1e-3,  # type: ignore[union-attr]
        None,
        plain.curvature.to(dtype) * 1e-3,  # type: ignore[union-attr]
    )
    function = METHODS[name].function
    assert function is not None
    found = function(low)
    assert found.dtype == torch.float32
    assert low.first is not None
    assert low.curvature is not None
    exact = function(
        Signal(low.activation.double(), low.first.double(), None, low.curvature.double())
    )
    np.testing.assert_allclose(scaled(found), scaled(exact), atol=1e-5)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.function])
def test_no_signal_gives_zeros_never_nan(name: str) -> None:
    zero = torch.zeros(2, 3, 4, 4)
    function = METHODS[name].function
    assert function is not None
    for a, g in ((zero, zero), (zero, zero + 1), (zero + 1, zero), (zero + 1, zero - 1)):
        found = function(Signal(a, g, None, zero))
        assert found.shape == (2, 4, 4)
        if name not in ("eigen_cam", "activation_sum"):
            assert not found.any()
        assert found.isfinite().all()


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.function])
def test_images_are_independent(name: str) -> None:
    signal = signals()
    function = METHODS[name].function
    assert function is not None
    whole = function(signal)
    for n in range(3):
        alone = Signal(
            signal.activation[n : n + 1],
            signal.first[n : n + 1],  # type: ignore[index]
            None,
            signal.curvature[n : n + 1],  # type: ignore[index]
        )
        torch.testing.assert_close(function(alone)[0], whole[n])


def test_signals_are_not_written_to() -> None:
    for name, method in METHODS.items():
        if method.function is not None:
            signal = signals(second=name == "ssg_cam")
            parts = (signal.activation, signal.first, signal.second, signal.curvature)
            before = [None if part is None else part.clone() for part in parts]
            method.function(signal)
            for part, copy in zip(parts, before, strict=True):
                assert part is copy is None or torch.equal(part, copy)  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [grad_cam, hires_cam, layer_cam, xgrad_cam, ssg_cam])
def test_missing_gradients_are_said(function: Callable[[Signal], Tensor]) -> None:
    with pytest.raises(SsgcamError, match="needs the gradient"):
        function(Signal(torch.rand(1, 2, 3, 3)))


def test_shapley_cam() -> None:
    signal = signals()
    with pytest.raises(SsgcamError, match="needs the Hessian-vector product"):
        shapley_cam(Signal(signal.activation, signal.first))
    straight = Signal(signal.activation, signal.first, None, torch.zeros_like(signal.activation))
    torch.testing.assert_close(shapley_cam(straight), grad_cam(straight))


def test_grad_cam_plus_plus_at_a_pole() -> None:
    """2 + (sum A) g = 0: the authors' denominator of zero becomes one."""
    a = torch.tensor([[[[-1.0, -1.0]]]], dtype=torch.float64)
    signal = Signal(a, torch.tensor([[[[1.0, 3.0]]]], dtype=torch.float64))
    torch.testing.assert_close(grad_cam_plus_plus(signal), loop(signal, plus_plus))


@pytest.mark.parametrize("signed", [True, False])
def test_eigen_cam_is_the_first_principal_projection(signed: bool) -> None:
    signal = signals(signed)
    found = eigen_cam(signal)
    for n in range(3):
        matrix = signal.activation[n].flatten(1).T.numpy()
        # independently: the leading eigenvector of the channels' second moments
        _, vectors = np.linalg.eigh(matrix.T @ matrix)
        projection = matrix @ vectors[:, -1]
        projection *= np.sign(projection @ matrix.sum(1))
        np.testing.assert_allclose(found[n].flatten().numpy(), np.maximum(projection, 0), atol=1e-9)


def test_eigen_cam_has_a_sign_of_its_own() -> None:
    """Whatever sign the decomposition gives: non-negative activations give a non-negative map."""
    a = torch.rand(4, 6, 5, 5)
    assert (eigen_cam(Signal(a)) > 0).all()
    torch.testing.assert_close(eigen_cam(Signal(a.flip(1))), eigen_cam(Signal(a)))


def masked_sum(images: Tensor, owners: Tensor) -> Tensor:
    """A stand-in for a network and a class: each owner weighs the image by a pattern of its own."""
    pattern = torch.linspace(-1, 1, images[0].numel() * 2, dtype=images.dtype)
    return (images.flatten(1) @ pattern.view(-1, 2)).gather(1, owners[:, None])[:, 0]


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_score_cam_against_a_loop(batch_size: int) -> None:
    a = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    a[0, 2] = 7.0  # a constant channel masks nothing out
    images = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    found = score_cam(a, images, masked_sum, batch_size)
    for n in range(2):
        scores = {}
        for c in range(4):
            if a[n, c].max() > a[n, c].min():
                mask = F.interpolate(a[n : n + 1, c : c + 1], (9, 9), mode="bilinear")
                mask = (mask - mask.min()) / (mask.max() - mask.min())
                scores[c] = float(masked_sum(images[n : n + 1] * mask, torch.tensor([n])))
        total = sum(math.exp(score) for score in scores.values())
        wanted = sum(math.exp(score) / total * a[n, c] for c, score in scores.items())
        torch.testing.assert_close(found[n], wanted.clamp_min(0))  # type: ignore[union-attr]


def test_score_cam_without_a_channel_that_varies() -> None:
    a = torch.ones(2, 4, 3, 3)
    a[1] = torch.rand(4, 3, 3)
    with pytest.raises(SsgcamError, match="only constant channels"):
        score_cam(a, torch.rand(2, 3, 9, 9), masked_sum)
