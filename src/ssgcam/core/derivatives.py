r"""First- and second-order signals: the derivatives of the score by every captured layer.

``z`` logits [N, K], ``A`` an activation, ``g = dz_c / dA``, ``p`` the softmax. For a network that is
piecewise linear between the layer and the logits:

    ===================  ==========================  ==========================================
    score                first = dY/dA               second = diagonal of d2Y/dA2
    ===================  ==========================  ==========================================
    exp                  g                           g^2
    probability          p (g - gbar)                p [(g - gbar)^2 - Var_p]
    log_probability      g - gbar                    -Var_p
    sigmoid              p (1 - p) g                 p (1 - p) (1 - 2 p) g^2
    odds, p / (1 - p)    o (g - g_q)                 o [(g - g_q)^2 - Var_q]
    logit                g                           refused: identically zero
    a function f         df/dA                       (df/dA)^2, as ``exp(f)``
    ===================  ==========================  ==========================================

``gbar`` and ``Var_p`` are the mean and variance of the classes' gradients under ``p``; ``g_q`` and
``Var_q`` under the softmax over the other classes.

Both orders are returned up to a positive factor for each image and layer, which cancels when a map is
scaled by its maximum, so that nothing over- or underflows, nor vanishes as p -> 1. They are ``df`` and
``d2f + k df^2`` with the number ``f`` and the bend ``k`` of ``core.target``; behind a piecewise-linear
network ``d2z = 0``, ``d log odds = g_c - g_q``, ``d2 log odds = -Var_q``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssgcam.core.capture import Captured
from ssgcam.core.network import explaining, outside_inference_mode
from ssgcam.core.scaling import peak, per_image, unit, wide
from ssgcam.core.settings import TargetSettings
from ssgcam.core.target import (
    TargetFunction,
    bend_of,
    class_and_rivals,
    class_score,
    score_value,
)
from ssgcam.errors import SsgcamError

_NO_CURVATURE = (
    "the second derivative of a plain logit is identically zero behind ReLU and max-pooling, so "
    "score='logit' gives no second order; use score='exp', or second_exponent=0"
)


def derivatives(
    captured: Captured,
    classes: Tensor,
    settings: TargetSettings,
    *,
    need_second: bool,
    function: TargetFunction | None = None,
    retain_graph: bool = False,
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """First- and second-order signals of every captured layer.

    Args:
        captured: A forward pass.
        classes: ``[N]`` class indices.
        settings: Score and kind of second order.
        need_second: Whether the second order is wanted at all.
        function: A user's own score, from the output to ``[N]``.
        retain_graph: Keep the graph for another call.

    Returns:
        Target spelling -> first and (signed) second derivative, of the activation's shape, up to a
        positive factor for each image. The second is ``None`` where it is not wanted or just the
        square of the first: a method squares after it has scaled, so that nothing underflows.

    Raises:
        SsgcamError: If the second derivative is asked for and identically zero.
    """
    named = function is None
    with explaining(captured.network), torch.enable_grad():
        classes = outside_inference_mode(classes)
        if need_second and settings.second == "hutchinson":
            return _hutchinson(captured, classes, settings, function)
        if need_second and settings.score == "logit":
            raise SsgcamError(_NO_CURVATURE)
        if need_second and named and settings.score in ("probability", "log_probability", "odds"):
            return _softmax_family(captured, classes, settings, retain_graph)
        number = class_score(captured.output, classes, settings, function)
        first = captured.gradients(number.sum(), retain_graph=retain_graph)
    if need_second and named and settings.score == "sigmoid":
        bend = bend_of(number, settings)
        return {name: (g, per_image(bend, g) * unit(g) ** 2) for name, g in first.items()}
    return {name: (g, None) for name, g in first.items()}


def hessian_activation_product(
    captured: Captured, classes: Tensor, settings: TargetSettings, function: TargetFunction | None
) -> dict[str, tuple[Tensor, Tensor]]:
    """First derivative and Hessian-vector product ``H A`` for every layer on its own (ShapleyCAM)."""
    with explaining(captured.network), torch.enable_grad():
        classes = outside_inference_mode(classes)
        value = score_value(captured.output, classes, settings, function).sum()
        first = captured.gradients(value, create_graph=True)
        return {
            name: (g.detach(), _product(captured.network, g, activation, activation.detach()))
            for (name, activation), g in zip(
                captured.activations.items(), first.values(), strict=True
            )
        }


def _softmax_family(
    captured: Captured, classes: Tensor, settings: TargetSettings, retain_graph: bool
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """``k u^2 - Var_q`` with ``u = g_c - g_q``: one backward pass for each class that is looked at."""
    bend = bend_of(class_score(captured.output, classes, settings), settings)
    z = class_and_rivals(captured.output, classes, settings.top_classes)
    weights = wide(z[:, 1:]).softmax(1)
    own = captured.gradients(z[:, 0].sum(), retain_graph=True)
    size: dict[str, Tensor] = {}
    mean: dict[str, Tensor] = {}
    spread: dict[str, Tensor] = {}
    # weighted mean and variance of g_j - g_c, one class at a time (West 1979): no [N, K, C, h, w]
    total = torch.zeros_like(weights[:, 0])
    for step in range(1, z.shape[1]):
        last = step == z.shape[1] - 1
        other = captured.gradients(z[:, step].sum(), retain_graph=retain_graph or not last)
        weight = weights[:, step - 1]
        total = total + weight
        for name, g in other.items():
            offset = wide(g) - wide(own[name])
            if step == 1:
                # a common factor: the square of 1e-30 would underflow
                larger = torch.maximum(wide(g).abs(), wide(own[name]).abs())
                size[name] = per_image(peak(larger), offset)
                mean[name] = torch.zeros_like(offset)
                spread[name] = torch.zeros_like(offset)
            step_away = offset / size[name] - mean[name]
            mean[name] += per_image(weight / total, offset) * step_away
            spread[name] += (
                per_image(weight, offset) * step_away * (offset / size[name] - mean[name])
            )
    return {
        name: (-toward * size[name], per_image(bend, toward) * toward**2 - spread[name])
        for name, toward in mean.items()
    }


def _hutchinson(
    captured: Captured, classes: Tensor, settings: TargetSettings, function: TargetFunction | None
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """The true diagonal ``d2f + k df^2``: the last term exactly, ``d2f`` estimated.

    Its estimate is the mean of ``v * (H v)`` over Rademacher probes ``v`` (Hutchinson 1989). Every
    image gets the same probes, so that its map doesn't depend on the batch it came in.
    """
    number = class_score(captured.output, classes, settings, function)
    bend = bend_of(number, settings, function)
    first = captured.gradients(number.sum(), create_graph=True)
    signals: dict[str, tuple[Tensor, Tensor | None]] = {}
    for name, g in first.items():
        activation = captured.activations[name]
        generator = torch.Generator("cpu").manual_seed(settings.seed)
        curved = torch.zeros_like(wide(activation))
        for _ in range(settings.probes):
            bits = torch.randint(0, 2, activation.shape[1:], generator=generator, device="cpu")
            probe = (2 * bits - 1).to(activation).expand_as(activation)
            curved += probe * _product(captured.network, g, activation, probe)
        curved /= settings.probes
        if settings.score == "logit" and not curved.any():
            raise SsgcamError(_NO_CURVATURE)
        # a common factor that keeps both parts in range, however small the gradient is
        size = per_image(torch.maximum(peak(wide(g)), peak(curved, empty=0).sqrt()), curved)
        second = per_image(bend, curved) * (wide(g) / size) ** 2 + curved / size / size
        signals[name] = (g.detach(), second)
    return signals


def _product(network: nn.Module, gradient: Tensor, activation: Tensor, vector: Tensor) -> Tensor:
    """``H v`` of one layer; zero where the gradient does not depend on the activation."""
    if not gradient.requires_grad:
        return torch.zeros_like(activation)
    with explaining(network):
        (found,) = torch.autograd.grad(
            gradient, activation, grad_outputs=vector, retain_graph=True, allow_unused=True
        )
    return torch.zeros_like(activation) if found is None else found.detach()
