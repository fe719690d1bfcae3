r"""What a method knows of one layer: its activation and the first and second derivatives of the target.

``z`` logits [N, K], ``A`` an activation, ``g = dz_c / dA``, ``p`` the softmax. For a network that is
piecewise linear between the layer and the logits:

    ===================  ==========================  ==========================================
    target               first = dY/dA               second = diagonal of d2Y/dA2
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
``d2f + k df^2`` with the number ``f`` and the factor ``k`` of ``core.target``; behind a piecewise-linear
network ``d2z = 0``, ``d log odds = g_c - g_q``, ``d2 log odds = -Var_q``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ssgcam.core.capture import Captured
from ssgcam.core.layouts import layout_of
from ssgcam.core.network import explaining, rephrased_if
from ssgcam.core.numerics import peak, per_image, unit, wide
from ssgcam.core.target import Scalar, class_and_rivals
from ssgcam.errors import SsgcamError

Needs = Literal["activation", "first", "second", "curvature", "forward"]
#: Of each layer: the fields of a signal after the activation.
Derivatives = dict[str, tuple[Tensor | None, ...]]

_NO_CURVATURE = (
    "the second derivative of a plain logit is identically zero behind ReLU and max-pooling, so "
    "target='logit' gives no second order; use target='exp', or second_exponent=0"
)


@dataclass(frozen=True)
class Signal:
    """What a method knows of one layer.

    Attributes:
        activation: A, ``[N, C, h, w]``.
        first: dY/dA, same shape; ``None`` for methods that need no gradient.
        second: The signed diagonal of d2Y/dA2, same shape; ``None`` where it is ``first ** 2``.
        curvature: The Hessian-vector product H A, same shape, or ``None`` if not asked for.
    """

    activation: Tensor
    first: Tensor | None = None
    second: Tensor | None = None
    curvature: Tensor | None = None


def signals_of(
    captured: Captured,
    scalar: Scalar,
    needs: Needs,
    image_size: tuple[int, int],
    *,
    retain_graph: bool = False,
) -> dict[str, Signal]:
    """The signals of all captured layers for one class of each image.

    Args:
        captured: A forward pass.
        scalar: What is differentiated; its settings say which second order, too
            (``sign="absolute"`` takes its magnitude).
        needs: The most costly part that is wanted; ``"activation"`` and ``"forward"`` differentiate
            nothing.
        image_size: Height and width of the network's input.
        retain_graph: Keep the graph for another call.

    Returns:
        Layer -> signal, whatever the layer's layout ``[N, C, h, w]``.

    Raises:
        SsgcamError: If a layer has no spatial extent, the target does not depend on it, or its second
            derivative is asked for and identically zero.
    """
    layouts = {n: layout_of(a, image_size, n) for n, a in captured.activations.items()}
    found: Derivatives = {}
    with explaining(captured.network), torch.enable_grad():
        every = torch.arange(len(scalar.classes), device=scalar.classes.device)
        scalar = scalar.select(every)  # copies, which were not made in inference mode
        if needs == "curvature":
            found = hessian_activation_product(captured, scalar)
        elif needs in ("first", "second"):
            found = derivatives(
                captured, scalar, need_second=needs == "second", retain_graph=retain_graph
            )
    signals = {}
    for name, layout in layouts.items():
        parts = (captured.activations[name].detach(), *found.get(name, ()))
        signal = Signal(*(part if part is None else layout.maps(part) for part in parts))  # type: ignore[arg-type]
        if signal.second is not None and scalar.settings.sign == "absolute":
            signal = replace(signal, second=signal.second.abs())
        signals[name] = signal
    return signals


def derivatives(
    captured: Captured, scalar: Scalar, *, need_second: bool, retain_graph: bool = False
) -> Derivatives:
    """First and second derivatives of every captured layer; call it inside :func:`explaining`.

    Args:
        captured: A forward pass.
        scalar: What is differentiated.
        need_second: Whether the second order is wanted at all.
        retain_graph: Keep the graph for another call.

    Returns:
        Layer -> first and (signed) second derivative, of the activation's shape, up to a positive
        factor for each image. The second is ``None`` where it is not wanted or just the square of the
        first: a method squares after it has scaled, so that nothing underflows.

    Raises:
        SsgcamError: If the second derivative is asked for and identically zero.
    """
    settings = scalar.settings
    if need_second and settings.second == "hutchinson":
        return _hutchinson(captured, scalar)
    if need_second and settings.name == "logit":
        raise SsgcamError(_NO_CURVATURE)
    if need_second and scalar.compares_classes:
        return _softmax_family(captured, scalar, retain_graph)
    number = scalar.number(captured.output)
    first = captured.gradients(number.sum(), retain_graph=retain_graph)
    if need_second and scalar.function is None and settings.name == "sigmoid":
        factor = scalar.factor(number)
        return {name: (g, per_image(factor, g) * unit(g) ** 2) for name, g in first.items()}
    return {name: (g, None) for name, g in first.items()}


def hessian_activation_product(captured: Captured, scalar: Scalar) -> Derivatives:
    """First derivative, None and ``H A``, the Hessian-vector product, of every layer (ShapleyCAM)."""
    first = captured.gradients(scalar.value(captured.output).sum(), create_graph=True)
    return {
        name: (g.detach(), None, _product(g, a, a.detach()))
        for (name, a), g in zip(captured.activations.items(), first.values(), strict=True)
    }


def _softmax_family(captured: Captured, scalar: Scalar, retain_graph: bool) -> Derivatives:
    """``k u^2 - Var_q`` with ``u = g_c - g_q``: one backward pass for each class of the softmax.

    Weighted mean and variance of ``g_j - g_c`` are updated one class at a time (West 1979).
    """
    factor = scalar.factor(scalar.number(captured.output))
    z = class_and_rivals(captured.output, scalar.classes, scalar.settings.top_classes)
    weights = wide(z[:, 1:]).softmax(1)
    own = captured.gradients(z[:, 0].sum(), retain_graph=True)
    scale: dict[str, Tensor] = {}  # a common factor: the square of 1e-30 would underflow
    mean = {name: torch.zeros_like(wide(g)) for name, g in own.items()}
    variance = {name: torch.zeros_like(each) for name, each in mean.items()}
    for k in range(1, z.shape[1]):
        more = retain_graph or k < z.shape[1] - 1
        weight, total = weights[:, k - 1], weights[:, :k].sum(1)
        for name, g in captured.gradients(z[:, k].sum(), retain_graph=more).items():
            g, g_own = wide(g), wide(own[name])
            if k == 1:
                scale[name] = peak(torch.maximum(g.abs(), g_own.abs()))
            offset = (g - g_own) / scale[name]
            change = offset - mean[name]
            mean[name] += per_image(weight / total, change) * change
            variance[name] += per_image(weight, change) * change * (offset - mean[name])
    return {
        name: (-u * scale[name], per_image(factor, u) * u**2 - variance[name])
        for name, u in mean.items()
    }


def _hutchinson(captured: Captured, scalar: Scalar) -> Derivatives:
    """The true diagonal ``d2f + k df^2``: the last term exactly, ``d2f`` estimated.

    Its estimate is the mean of ``v * (H v)`` over Rademacher probes ``v`` (Hutchinson 1989). Every
    image gets the same probes, so that its map doesn't depend on the batch it came in.
    """
    number = scalar.number(captured.output)
    factor = scalar.factor(number)
    found: Derivatives = {}
    for name, g in captured.gradients(number.sum(), create_graph=True).items():
        activation = captured.activations[name]
        generator = torch.Generator("cpu").manual_seed(scalar.settings.seed)
        d2f = torch.zeros_like(wide(activation))
        for _ in range(scalar.settings.probes):
            bits = torch.randint(0, 2, activation.shape[1:], generator=generator, device="cpu")
            probe = (2 * bits - 1).to(activation).expand_as(activation)
            d2f += probe * _product(g, activation, probe)
        d2f /= scalar.settings.probes
        if scalar.settings.name == "logit" and not d2f.any():
            raise SsgcamError(_NO_CURVATURE)
        # a common factor that keeps both parts in range, however small the gradient is
        largest = d2f.abs().amax(tuple(range(1, d2f.ndim)), keepdim=True).sqrt()
        scale = torch.maximum(peak(wide(g)), largest)
        second = per_image(factor, d2f) * (wide(g) / scale) ** 2 + d2f / scale / scale
        found[name] = (g.detach(), second)
    return found


def _product(gradient: Tensor, activation: Tensor, vector: Tensor) -> Tensor:
    """``H v`` of one layer; zero where the gradient does not depend on the activation.

    Raises:
        SsgcamError: If PyTorch has no second derivative of one of the network's functions.
    """
    if not gradient.requires_grad:
        return torch.zeros_like(activation)
    with rephrased_if(
        "is not implemented",
        "PyTorch has no second derivative of a function of the network ({}); take another method, or "
        "the second order 'squared'",
    ):
        (found,) = torch.autograd.grad(
            gradient, activation, grad_outputs=vector, retain_graph=True, allow_unused=True
        )
    return torch.zeros_like(activation) if found is None else found.detach()
