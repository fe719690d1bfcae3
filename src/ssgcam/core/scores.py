r"""The scalar that is differentiated, and the second-order signal that goes with it.

``z`` logits [N, K], ``A`` an activation, ``g = dz_c / dA``, ``p`` the softmax. Each score is divided
by its own value held constant, which cancels when a map is scaled by its maximum and keeps anything
from over- or underflowing (the Grad-CAM++ device; Chattopadhyay et al. 2018). So ``Y = 1``, and for a
network that is piecewise linear between the layer and the logits (method.md, first and second order):

    ===================  ==========================  ==========================================
    score                first = dY/dA               second = diagonal of d2Y/dA2
    ===================  ==========================  ==========================================
    exp                  g                           g^2
    probability          g - gbar                    (g - gbar)^2 - Var_p
    log_probability      g - gbar                    -Var_p
    sigmoid (*)          g                           (1 - 2 p) g^2
    odds                 g - g_q                     (g - g_q)^2 - Var_q
    logit                g                           refused: identically zero
    a function f         df/dA                       (df/dA)^2, as ``exp(f)``
    ===================  ==========================  ==========================================

``gbar`` and ``Var_p`` are the mean and variance of the classes' gradients under ``p``; ``g_q`` and
``Var_q`` under the softmax over the other classes. With more classes than ``top_classes`` the least
probable ones are left out, as if the network had only the others. log_probability is not divided by
its value. (*) divided by p (1 - p) instead, so that nothing vanishes as p -> 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssgcam.core.capture import Captured
from ssgcam.core.settings import ScoreSettings
from ssgcam.errors import SsgcamError

ScoreFunction = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Signal:
    """What a method needs to know of one layer.

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


def logits_of(output: Any) -> Tensor:
    """The network's output if it is logits ``[N, K]``, or one sentence on what else to do.

    Raises:
        SsgcamError: If it is something else.
    """
    if not isinstance(output, Tensor):
        raise SsgcamError(
            f"the network returned a {type(output).__name__}, not a tensor of logits [N, K]; wrap "
            "it to return one, or give a score function from its output to one number per image"
        )
    if output.ndim != 2:
        raise SsgcamError(
            f"the network returned a tensor of shape {list(output.shape)}, not logits [N, K]; "
            "give a score function from its output to one number per image"
        )
    return output


def score_value(
    output: Any, classes: Tensor, settings: ScoreSettings, function: ScoreFunction | None = None
) -> Tensor:
    """The score ``Y`` of each image, as a differentiable function of the output.

    Args:
        output: The network's output: logits ``[N, K]``, or anything if ``function`` is given.
        classes: ``[N]`` class indices.
        settings: Which score.
        function: A user's own score, from the output to ``[N]``.

    Returns:
        ``[N]``. Its first and second derivatives are those of the table above.
    """
    if function is not None:
        return _relative_exp(_checked(function(output), len(classes)))
    z = _target_logit(output, classes)
    if settings.score == "logit":
        return z
    if settings.score == "exp":
        return _relative_exp(z)
    if settings.score == "sigmoid":
        # p / (p (1 - p)) with a constant denominator: dY = dz, and d2Y = (1 - 2 p) dz^2
        p = z.detach().sigmoid()
        shift = z - z.detach()
        return shift + 0.5 * (1 - 2 * p) * shift**2
    log_p, log_odds = _log_probability_and_odds(output, classes, settings.top_classes)
    if settings.score == "log_probability":
        return log_p
    return _relative_exp(log_p if settings.score == "probability" else log_odds)


def derivatives(
    captured: Captured,
    classes: Tensor,
    settings: ScoreSettings,
    *,
    need_second: bool,
    function: ScoreFunction | None = None,
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
        Target spelling -> first and (signed) second derivative, of the activation's shape. The
        second is ``None`` where it is not wanted or just the square of the first: a method squares
        after it has scaled, so that nothing underflows.

    Raises:
        SsgcamError: If the second derivative is asked for and identically zero.
    """
    named = function is None
    if not need_second:
        value = _first_order_value(captured.output, classes, settings, function)
        first = captured.gradients(value.sum(), retain_graph=retain_graph)
        return {name: (gradient, None) for name, gradient in first.items()}
    if settings.second == "hutchinson":
        return _hutchinson(captured, classes, settings, function, retain_graph)
    if named and settings.score == "logit":
        raise SsgcamError(_NO_CURVATURE)
    if named and settings.score in ("probability", "log_probability", "odds"):
        return _softmax_family(captured, classes, settings, retain_graph)
    value = _first_order_value(captured.output, classes, settings, function)
    first = captured.gradients(value.sum(), retain_graph=retain_graph)
    if named and settings.score == "sigmoid":
        factor = 1 - 2 * _target_logit(captured.output, classes).detach().sigmoid()
        return {
            name: (g, factor.view(-1, *[1] * (g.ndim - 1)) * _wide(g) ** 2)
            for name, g in first.items()
        }
    return {name: (g, None) for name, g in first.items()}


def hessian_activation_product(
    captured: Captured, classes: Tensor, settings: ScoreSettings, function: ScoreFunction | None
) -> dict[str, tuple[Tensor, Tensor]]:
    """First derivative and Hessian-vector product ``H A`` for every layer on its own (ShapleyCAM)."""
    value = score_value(captured.output, classes, settings, function).sum()
    first = captured.gradients(value, create_graph=True)
    return {
        name: (g.detach(), _product(g, activation, activation.detach()))
        for (name, activation), g in zip(captured.activations.items(), first.values(), strict=True)
    }


_NO_CURVATURE = (
    "the second derivative of a plain logit is identically zero behind ReLU and max-pooling, so "
    "score='logit' gives no second order; use score='exp', or second_exponent=0"
)


def _first_order_value(
    output: Any, classes: Tensor, settings: ScoreSettings, function: ScoreFunction | None
) -> Tensor:
    """A function of the output with the score's first derivative, by the shortest way."""
    if function is not None:
        return _checked(function(output), len(classes))
    if settings.score in ("exp", "logit", "sigmoid"):
        return _target_logit(output, classes)
    log_p, log_odds = _log_probability_and_odds(output, classes, settings.top_classes)
    return log_odds if settings.score == "odds" else log_p


def _softmax_family(
    captured: Captured, classes: Tensor, settings: ScoreSettings, retain_graph: bool
) -> dict[str, tuple[Tensor, Tensor | None]]:
    logits = logits_of(captured.output)
    chosen = _looked_at(logits, classes, settings.top_classes)  # [N, M], the class itself first
    z = logits.gather(1, chosen)
    log_weights = z.detach().to(torch.promote_types(z.dtype, torch.float32))
    if settings.score == "odds":
        log_weights = log_weights.clone()
        log_weights[:, 0] = -torch.inf
    weights = log_weights.softmax(1)
    steps = z.shape[1]
    own = captured.gradients(z[:, 0].sum(), retain_graph=True)
    own = {name: _wide(g) for name, g in own.items()}
    # variance about the own class's gradient, one class at a time: no [N, M, C, h, w] tensor
    mean = {name: torch.zeros_like(g) for name, g in own.items()}
    square = {name: torch.zeros_like(g) for name, g in own.items()}
    for step in range(1, steps):
        last = step == steps - 1
        other = captured.gradients(z[:, step].sum(), retain_graph=retain_graph or not last)
        for name, g in other.items():
            weight = weights[:, step].view(-1, *[1] * (g.ndim - 1)).to(own[name].dtype)
            offset = _wide(g) - own[name]
            mean[name].add_(weight * offset)
            square[name].add_(weight * offset**2)
    signals = {}
    for name in own:
        variance = (square[name] - mean[name] ** 2).clamp_min(0)
        first = -mean[name]  # g_c minus the mean gradient
        second = -variance if settings.score == "log_probability" else first**2 - variance
        signals[name] = (first, second)
    return signals


def _hutchinson(
    captured: Captured,
    classes: Tensor,
    settings: ScoreSettings,
    function: ScoreFunction | None,
    retain_graph: bool,
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Diagonal of the Hessian: mean of ``v * (H v)`` over Rademacher probes (Hutchinson 1989)."""
    value = score_value(captured.output, classes, settings, function)
    first = captured.gradients(value.sum(), create_graph=True)
    signals: dict[str, tuple[Tensor, Tensor | None]] = {}
    for name, g in first.items():
        activation = captured.activations[name]
        generator = torch.Generator().manual_seed(settings.seed)
        diagonal = torch.zeros_like(activation)
        for _ in range(settings.probes):
            bits = torch.randint(0, 2, activation.shape, generator=generator)
            probe = (2 * bits - 1).to(activation)
            diagonal += probe * _product(g, activation, probe)
        diagonal /= settings.probes
        if function is None and settings.score == "logit" and not diagonal.any():
            raise SsgcamError(_NO_CURVATURE)
        signals[name] = (g.detach(), diagonal)
    return signals


def _product(gradient: Tensor, activation: Tensor, vector: Tensor) -> Tensor:
    """``H v`` of one layer; zero where the gradient does not depend on the activation."""
    if not gradient.requires_grad:
        return torch.zeros_like(activation)
    with torch.inference_mode(False), torch.enable_grad():
        (found,) = torch.autograd.grad(
            gradient, activation, grad_outputs=vector, retain_graph=True, allow_unused=True
        )
    return torch.zeros_like(activation) if found is None else found.detach()


def _relative_exp(z: Tensor) -> Tensor:
    return torch.exp(z - z.detach())


def _wide(g: Tensor) -> Tensor:
    return g.to(torch.promote_types(g.dtype, torch.float32))


def _target_logit(output: Any, classes: Tensor) -> Tensor:
    return logits_of(output).gather(1, classes[:, None])[:, 0]


def _looked_at(logits: Tensor, classes: Tensor, top: int) -> Tensor:
    """The class itself, then the most probable others: ``[N, min(top, K)]``."""
    others = logits.detach().scatter(1, classes[:, None], -torch.inf)
    count = min(top, logits.shape[1]) - 1
    if count < 1:
        raise SsgcamError(
            "a network with one output has no other class to compare with; use score='sigmoid' or 'exp'"
        )
    return torch.cat([classes[:, None], others.topk(count, 1).indices], 1)


def _log_probability_and_odds(output: Any, classes: Tensor, top: int) -> tuple[Tensor, Tensor]:
    logits = logits_of(output)
    z = logits.gather(1, _looked_at(logits, classes, top))
    return z.log_softmax(1)[:, 0], z[:, 0] - z[:, 1:].logsumexp(1)


def _checked(value: Any, images: int) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != (images,):
        shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise SsgcamError(
            f"the score function returned {shape}; it must return one number for each of the "
            f"{images} images: [{images}]"
        )
    return value
