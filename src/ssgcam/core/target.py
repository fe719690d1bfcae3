r"""The scalar that is differentiated.

Every target ``Y`` is a function of one number ``f`` of each image. Up to a positive factor for each image
``dY = df`` and ``d2Y = d2f + k df^2``. With logits ``z`` [N, K] and ``p = sigmoid(f)``:

    ===================  ==========================  ==========================================
    target               f                           k
    ===================  ==========================  ==========================================
    exp, a function      z_c, the function's value   1
    logit                z_c                         0
    sigmoid              z_c                         1 - 2 p
    odds                 log odds                    1
    probability          log odds                    1 - 2 p
    log_probability      log odds                    -p
    mean_of_mask         mean of z_c over its mask   1
    ===================  ==========================  ==========================================

The log odds are those of the softmax, ``z_c - log sum_{j != c} exp(z_j)``; with more classes than
``top_classes`` the least probable ones are left out, as if the network had only the others. ``exp`` is
``exp(z_c)`` divided by its own value held constant (the Grad-CAM++ device; Chattopadhyay et al. 2018).
``mean_of_mask`` is for segmentation networks, see :func:`mean_of_masks`.

A contrast replaces ``z_c``: by ``z_c - z_other``, or against the rest by
``z_c - 1/2 sum_{j != c} q_j z_j`` with ``q`` the softmax over the other classes, held constant; against
similar classes (Finer-CAM; Zhang et al. 2025) by ``z_c - sum_j q_j z_j`` over the three classes whose
logits are nearest, with ``q`` their softmax, differentiated as in the authors' program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ssgcam.core.numerics import wide
from ssgcam.core.settings import TargetName, TargetSettings, check_choice
from ssgcam.errors import SsgcamError

TargetFunction = Callable[[Any], Tensor]
Classes = Tensor | Sequence[int] | int
Others = Literal["rest", "similar"]
Against = Classes | Others


@dataclass(frozen=True)
class Scalar:
    """What is differentiated for a batch.

    Attributes:
        classes: ``[N]`` class indices.
        settings: Which target.
        function: A user's own target, from the output to ``[N]``.
        against: ``[N]`` classes to compare with, ``"rest"``, ``"similar"`` or ``None``.
    """

    classes: Tensor
    settings: TargetSettings
    function: TargetFunction | None = None
    against: Tensor | Others | None = None

    @property
    def compares_classes(self) -> bool:
        """Whether ``f`` is the log odds of a softmax."""
        named = self.function is None
        return named and self.settings.name in ("probability", "log_probability", "odds")

    def number(self, output: Any) -> Tensor:
        """``f``, ``[N]``, with a graph.

        Args:
            output: The network's output: logits ``[N, K]``, or anything that the function takes.

        Raises:
            SsgcamError: If the output is not what the target takes.
        """
        if self.function is not None:
            value, images = self.function(output), len(self.classes)
            if not isinstance(value, Tensor) or value.shape != (images,):
                shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise SsgcamError(
                    f"the target function returned {shape}; it must return one number for each of "
                    f"the {images} images: [{images}]"
                )
            return value
        if self.compares_classes:
            z = class_and_rivals(output, self.classes, self.settings.top_classes)
            return z[:, 0] - z[:, 1:].logsumexp(1)
        logits = class_logits(output, self.settings)
        own = logits.gather(1, self.classes[:, None])[:, 0]
        if self.against is None:
            return own
        if isinstance(self.against, Tensor):
            return own - logits.gather(1, self.against[:, None])[:, 0]
        if self.against == "rest":
            others = logits.detach().scatter(1, self.classes[:, None], -torch.inf).softmax(1)
            return own - 0.5 * (others * logits).sum(1)
        distance = (logits - own[:, None]).detach().abs()
        distance = distance.scatter(1, self.classes[:, None], torch.inf)
        nearest = distance.topk(min(3, logits.shape[1] - 1), 1, largest=False).indices
        similar = logits.gather(1, nearest)
        return own - (similar.softmax(1) * similar).sum(1)

    def factor(self, number: Tensor) -> Tensor:
        """``k`` of the table, ``[N]``, where ``f`` is this number."""
        number, name = wide(number), self.settings.name
        if self.function is not None or name in ("exp", "odds", "logit", "mean_of_mask"):
            return torch.full_like(number, float(name != "logit"))
        p = number.sigmoid()
        return -p if name == "log_probability" else 1 - 2 * p

    def value(self, output: Any) -> Tensor:
        """``[N]`` with a graph: its derivatives are those of ``Y`` up to a positive factor."""
        number = self.number(output)
        shift = number - number.detach()
        return shift + 0.5 * self.factor(number) * shift**2

    def select(self, images: Tensor) -> Scalar:
        """The same for these images, ``[M]`` indices; it holds copies."""
        against = self.against[images] if isinstance(self.against, Tensor) else self.against
        return replace(self, classes=self.classes[images], against=against)


def settings_and_function(
    target: TargetSettings | TargetName | TargetFunction | None, default: TargetName
) -> tuple[TargetSettings, TargetFunction | None]:
    """The target that is meant by its settings, its name, a user's own function, or ``None``.

    Raises:
        SsgcamError: If it is something else.
    """
    if target is None or isinstance(target, str):
        return TargetSettings(target or default), None
    if isinstance(target, TargetSettings):
        return target, None
    if callable(target):
        return TargetSettings(default), target
    raise SsgcamError(f"target is {target!r}; give a target's name, a TargetSettings or a function")


def per_image(function: Callable[[Any], Tensor]) -> TargetFunction:
    """A target function of a batch from one of a single image's output.

    Args:
        function: From one image's output to a tensor with one number. It gets ``output[i]``; of a
            dictionary, or of a tuple of tensors, ``[i]`` of each entry.

    Returns:
        From the batch's output to ``[N]``, for ``CAM(target=...)``.

    Example:
        >>> target = per_image(lambda logits: logits[1] - logits[0])
        >>> target(torch.tensor([[1.0, 3.0], [2.0, 7.0]]))
        tensor([2., 5.])
    """

    def parts(output: Any) -> list[Any]:
        if isinstance(output, Mapping):
            columns = zip(*(parts(value) for value in output.values()), strict=True)
            return [dict(zip(output, column, strict=True)) for column in columns]
        if isinstance(output, tuple) and all(isinstance(value, Tensor) for value in output):
            return list(zip(*output, strict=True))
        return list(output)

    return lambda output: torch.stack([function(part).reshape(()) for part in parts(output)])


def logits_of(output: Any) -> Tensor:
    """The logits ``[N, K]`` in a network's output.

    Args:
        output: A tensor, or what frameworks wrap it in: an object or dictionary with ``logits`` or
            ``out``, or a tuple or list whose first item is the tensor.

    Returns:
        ``[N, K]``. One logit ``z``, of which the sigmoid is the probability, becomes two,
        ``(-z / 2, z / 2)``, with the same probabilities by the softmax; so the second class is the
        one that the network was trained to detect.

    Raises:
        SsgcamError: If the output holds no such tensor.
    """
    found = output_tensor(output)
    if not isinstance(found, Tensor):
        raise SsgcamError(
            f"the network returned a {type(output).__name__}, not a tensor of logits [N, K]; wrap "
            "it to return one, or give a target function from its output to one number per image"
        )
    if found.ndim != 2:
        raise SsgcamError(
            f"the network returned a tensor of shape {list(found.shape)}, not logits [N, K]; "
            "give target='mean_of_mask' for a segmentation network, or a target function from its "
            "output to one number per image"
        )
    return _at_least_two(found)


def class_logits(output: Any, settings: TargetSettings) -> Tensor:
    """Logits ``[N, K]``: of a segmentation network, if the target is ``mean_of_mask``, pooled."""
    return mean_of_masks(output) if settings.name == "mean_of_mask" else logits_of(output)


def mean_of_masks(output: Any) -> Tensor:
    """The mean logit of each class over the pixels where it is predicted.

    Args:
        output: Logits of each pixel, ``[N, K, H, W]``, or what :func:`logits_of` unwraps to that.
            One class is an object and its background.

    Returns:
        ``[N, K]``; of a class that is predicted nowhere, the mean over all pixels.

    Raises:
        SsgcamError: If the output is of another shape.
    """
    found = output_tensor(output)
    if not isinstance(found, Tensor) or found.ndim != 4:
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise SsgcamError(
            f"the network returned {shape}; target='mean_of_mask' takes the logits [N, K, H, W] of a "
            "segmentation network"
        )
    found = _at_least_two(found)
    masks = torch.zeros_like(found).scatter_(1, found.argmax(1, keepdim=True), 1.0)
    sizes = masks.sum((2, 3))
    means = (masks * found).sum((2, 3)) / sizes.clamp(min=1)
    return torch.where(sizes > 0, means, found.mean((2, 3)))


def largest_mask(output: Any) -> Tensor:
    """The class, ``[N]``, that is predicted for the most pixels, class 0 (background) aside."""
    found = _at_least_two(output_tensor(output))
    predicted = found.argmax(1).flatten(1)
    counts = torch.stack([(predicted == k).sum(1) for k in range(1, found.shape[1])], 1)
    return counts.argmax(1) + 1


def probabilities_of(logits: Tensor, output: Literal["softmax", "sigmoid"]) -> Tensor:
    """Class probabilities ``[N, K]`` of logits ``[N, K]``.

    Two logits that are each other's opposite are one logit (see :func:`logits_of`), whose
    probabilities are those of the softmax whatever ``output`` says.
    """
    one_logit = logits.shape[1] == 2 and bool((logits[:, 0] == -logits[:, 1]).all())
    return logits.softmax(1) if output == "softmax" or one_logit else logits.sigmoid()


def output_tensor(output: Any) -> Any:
    """The tensor inside a dictionary, an object or a tuple; the output itself if none is found."""
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "out"):
        if isinstance(output, Mapping) and name in output:
            return output_tensor(output[name])
        if hasattr(output, name):
            return output_tensor(getattr(output, name))
    if isinstance(output, (tuple, list)) and output:
        return output_tensor(output[0])
    return output


def logits_and_classes(
    output: Any,
    wanted: Classes | None,
    images: Tensor,
    function: TargetFunction | None,
    settings: TargetSettings = TargetSettings(),  # noqa: B008 (frozen)
) -> tuple[Tensor | None, Tensor]:
    """The logits of a batch and the classes to explain.

    Args:
        output: The network's output.
        wanted: As for :func:`class_indices`.
        images: The batch, ``[N, C, H, W]``.
        function: A user's own target, which alone says what is explained.
        settings: The target. Of a segmentation network the largest mask is explained by default.

    Returns:
        Logits ``[N, K]`` without a graph and class indices; ``None`` and zeros ``[N]`` for a function.

    Raises:
        SsgcamError: If the output is not logits or not finite, or the classes don't fit.
    """
    if function is not None:
        if wanted is not None:
            raise SsgcamError(
                "classes were given along with a target function, which alone says what is "
                "explained; leave them out"
            )
        return None, torch.zeros(len(images), dtype=torch.long, device=images.device)
    logits = class_logits(output, settings).detach()
    if settings.name == "mean_of_mask" and wanted is None:
        wanted = largest_mask(output)
    if not math.isfinite(logits.sum()):  # finite logits may sum to infinity
        for image in (~logits.isfinite().all(1)).nonzero().flatten().tolist():
            raise SsgcamError(
                f"the network returned NaN or infinity for image {image} of the batch; check its "
                "weights and the preprocessing, or use a wider number format"
            )
    return logits, class_indices(logits, wanted)


def class_indices(logits: Tensor, wanted: Classes | None) -> Tensor:
    """Class indices of a batch.

    Args:
        logits: ``[N, K]``.
        wanted: ``None`` for the top-1 class of each image, one index for all, ``[N]`` indices, or
            ``[N, classes]`` for several of each image.

    Returns:
        ``[N]`` or ``[N, classes]`` whole numbers on the device of the logits.

    Raises:
        SsgcamError: If they are no such numbers or out of range.
    """
    images, count = logits.shape
    if wanted is None:
        return logits.argmax(1)
    try:
        classes = torch.as_tensor(wanted, device=logits.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SsgcamError(
            f"classes is {wanted!r}; give one index, [N] or [N, K] whole numbers"
        ) from error
    if classes.ndim == 0:
        classes = classes.expand(images)
    whole = not (classes.is_floating_point() or classes.dtype == torch.bool)
    if not whole or classes.ndim > 2 or classes.shape[0] != images or not classes.numel():
        raise SsgcamError(
            f"classes has shape {list(classes.shape)} and type {classes.dtype} for {images} images; "
            "give [N] or [N, K] whole numbers"
        )
    outside = classes[(classes < 0) | (classes >= count)]
    if len(outside):
        raise SsgcamError(
            f"class {int(outside[0])} is out of range: the network has {count} classes, "
            f"0 to {count - 1}"
        )
    return classes.long()


def compared_classes(
    against: Against | None, logits: Tensor | None, classes: Tensor, settings: TargetSettings
) -> Tensor | Others | None:
    """The classes that a contrast subtracts.

    Args:
        against: ``None``, ``"rest"``, ``"similar"``, one class index for all images or ``[N]`` indices.
        logits: ``[N, K]``; ``None`` with a target function.
        classes: ``[N]`` or ``[N, K]``, the classes that are explained.
        settings: The target.

    Returns:
        ``[N]`` indices, ``"rest"``, ``"similar"`` or ``None``.

    Raises:
        SsgcamError: If the target can't be contrasted or a class is compared with itself.
    """
    if against is None:
        return None
    if logits is None or settings.name not in ("exp", "logit", "sigmoid"):
        raise SsgcamError(
            "against= subtracts logits, so it takes target='exp', 'logit' or 'sigmoid', and no function"
        )
    if isinstance(against, str):
        check_choice("against", against, Others)
        return against
    others = class_indices(logits, against)
    if others.ndim != 1:
        raise SsgcamError("against has several classes for an image; give one for each")
    if (others.view(-1, *[1] * (classes.ndim - 1)) == classes).any():
        raise SsgcamError("a class is compared with itself; give another one to against=")
    return others


def class_and_rivals(output: Any, classes: Tensor, top: int) -> Tensor:
    """Logits, float32 or wider, of the class, then of the likeliest others: ``[N, min(top, K)]``."""
    logits = logits_of(output)
    others = logits.detach().scatter(1, classes[:, None], -torch.inf)
    count = min(top, logits.shape[1]) - 1
    chosen = torch.cat([classes[:, None], others.topk(count, 1).indices], 1)
    return logits.gather(1, chosen).to(torch.promote_types(logits.dtype, torch.float32))


def _at_least_two(logits: Tensor) -> Tensor:
    """One logit ``z`` becomes two, ``(-z / 2, z / 2)``: ``[N, 1, ...]`` to ``[N, 2, ...]``."""
    return torch.cat([-logits / 2, logits / 2], 1) if logits.shape[1] == 1 else logits
