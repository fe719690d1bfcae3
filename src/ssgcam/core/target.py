"""The scalar that is differentiated.

Every score ``Y`` is a function of one number ``f`` per image: up to a positive factor for each image,
``dY ~ df`` and ``d2Y ~ d2f + k df^2``, ``k`` the bend. With logits ``z`` [N, K] and ``p = sigmoid(f)``:

    ===================  ==========================  ==========================================
    exp, a function      f = z_c, its value          k = 1
    logit                f = z_c                     k = 0
    sigmoid              f = z_c                     k = 1 - 2 p
    odds                 f = log odds                k = 1
    probability          f = log odds                k = 1 - 2 p
    log_probability      f = log odds                k = -p
    ===================  ==========================  ==========================================

The log odds are those of the softmax, ``z_c - log sum_{j != c} exp(z_j)``; with more classes than
``top_classes`` the least probable ones are left out, as if the network had only the others. ``exp`` is
``exp(z_c)`` divided by its own value held constant (the Grad-CAM++ device; Chattopadhyay et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssgcam.core.scaling import wide
from ssgcam.core.settings import Score, TargetSettings
from ssgcam.errors import SsgcamError

TargetFunction = Callable[[Any], Tensor]


def settings_and_function(
    score: TargetSettings | Score | TargetFunction | None, default: Score
) -> tuple[TargetSettings, TargetFunction | None]:
    """The score that is meant by its settings, its name, a user's own function, or nothing.

    Raises:
        SsgcamError: If it is something else.
    """
    if score is None:
        return TargetSettings(score=default), None
    if isinstance(score, str):
        return TargetSettings(score=score), None
    if isinstance(score, TargetSettings):
        return score, None
    if callable(score):
        return TargetSettings(score=default), score
    raise SsgcamError(f"score is {score!r}; give a score's name, a TargetSettings or a function")


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


def class_score(
    output: Any, classes: Tensor, settings: TargetSettings, function: TargetFunction | None = None
) -> Tensor:
    """The number ``f`` of each image, with a graph: a logit, log odds or the function's value.

    Args:
        output: The network's output: logits ``[N, K]``, or anything if ``function`` is given.
        classes: ``[N]`` class indices.
        settings: Which score.
        function: A user's own score, from the output to ``[N]``.

    Returns:
        ``[N]``.

    Raises:
        SsgcamError: If the output is not what the score takes.
    """
    if function is not None:
        return _checked(function(output), len(classes))
    if settings.score in ("exp", "logit", "sigmoid"):
        return logits_of(output).gather(1, classes[:, None])[:, 0]
    z = class_and_rivals(output, classes, settings.top_classes)
    return z[:, 0] - z[:, 1:].logsumexp(1)


def bend_of(
    number: Tensor, settings: TargetSettings, function: TargetFunction | None = None
) -> Tensor:
    """The bend ``k`` of the table above, ``[N]``, where ``f`` is this number."""
    number = wide(number)
    if function is not None or settings.score in ("exp", "odds", "logit"):
        return torch.full_like(number, float(settings.score != "logit"))
    p = number.sigmoid()
    return -p if settings.score == "log_probability" else 1 - 2 * p


def score_value(
    output: Any, classes: Tensor, settings: TargetSettings, function: TargetFunction | None = None
) -> Tensor:
    """A differentiable function of the output whose derivatives are those of the score ``Y``.

    Args:
        output: As for :func:`class_score`.
        classes: As well.
        settings: As well.
        function: As well.

    Returns:
        ``[N]``. Its first and second derivatives are those of the score, up to a positive factor
        for each image; its value means nothing.
    """
    number = class_score(output, classes, settings, function)
    shift = number - number.detach()
    return shift + 0.5 * bend_of(number, settings, function) * shift**2


def class_and_rivals(output: Any, classes: Tensor, top: int) -> Tensor:
    """Logits, float32 or wider, of the class, then of the likeliest others: ``[N, min(top, K)]``."""
    logits = logits_of(output)
    others = logits.detach().scatter(1, classes[:, None], -torch.inf)
    count = min(top, logits.shape[1]) - 1
    if count < 1:
        raise SsgcamError(
            "a network with one output has no other class to compare with; use score='sigmoid' or 'exp'"
        )
    chosen = torch.cat([classes[:, None], others.topk(count, 1).indices], 1)
    return logits.gather(1, chosen).to(torch.promote_types(logits.dtype, torch.float32))


def _checked(value: Any, images: int) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != (images,):
        shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise SsgcamError(
            f"the score function returned {shape}; it must return one number for each of the "
            f"{images} images: [{images}]"
        )
    return value
