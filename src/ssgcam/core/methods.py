"""The methods: each a pure function from one layer's :class:`Signal` to a map [N, h, w].

Adding one is one function and one line in ``METHODS``. Signals are ``[N, C, h, w]``: the activation
``A`` and the gradient ``g`` of the class score. Maps are not negative and not yet scaled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from ssgcam.core.scaling import unit, unit_, wide
from ssgcam.core.settings import Form, Score, SSGSettings
from ssgcam.core.signals import Needs, Signal
from ssgcam.core.smoothing import full_precision, smooth
from ssgcam.errors import SsgcamError

#: Numbers in a layer's activation for each thread that a method works on at once, whole images at least.
PART = 2**18


def ssg_cam(signal: Signal, settings: SSGSettings | None = None) -> Tensor:
    r"""SSG-CAM: smoothed first- and second-order gradients weight the activations.

    With ``S`` a Gaussian of ``sigma``, ``a`` and ``b`` the exponents (our reading of Chen et al.
    2026, whose equations were not at hand; the Taylor form is ours):

    - gradient form: ``map = relu( sum_c relu(S first)^a relu(S second)^b A )``
    - Taylor form: ``map = sum_c relu(S (first A))^a relu(S (second A^2))^b``

    With ``a=1, b=0, sigma=0`` both are LayerCAM where ``A >= 0``. Signals are scaled by their largest
    magnitude per image before any product or power, which cancels when the map is scaled by its
    maximum.

    Args:
        signal: With ``first``; ``second`` where it is not the square of ``first``.
        settings: Form, sigma and exponents.

    Returns:
        ``[N, h, w]``, not negative, up to a positive factor per image.
    """
    return next(ssg_cams(signal, [settings or SSGSettings()]))


def ssg_cams(signal: Signal, settings: Iterable[SSGSettings]) -> Iterator[Tensor]:
    """:func:`ssg_cam` for many settings; neighbors of the same form and sigma share the smoothing.

    Args:
        signal: As there.
        settings: The settings.

    Yields:
        For each of them its map ``[N, h, w]``.
    """
    activation, first, second = signal.activation, _first(signal), signal.second
    for (form, sigma), neighbors in groupby(settings, lambda each: (each.form, each.sigma)):
        group = list(neighbors)
        one = _unit_product(first, activation) if form == "taylor" else unit(first)
        two = None if second is None else unit(second)
        if form == "taylor" and two is not None:
            two = two * unit(activation) ** 2
        if any(each.second_exponent for each in group):
            two = smooth(one * one, sigma) if two is None else smooth(two, sigma).clamp_min_(0)
        else:
            two = None
        if any(each.first_exponent for each in group):
            one = smooth(one, sigma)
        shared = None if two is None or len(group) > 1 else _shared_power(one, two, group[0])
        if shared is not None:
            yield _map(shared, form, activation)
            continue
        ones = _logarithm(one) if any(each.first_exponent for each in group) else None
        twos = None if two is None else _logarithm(two)
        for each in group:
            powers = each.first_exponent, each.second_exponent
            yield _map(_weight(zip((ones, twos), powers, strict=True)), form, activation)


def grad_cam(signal: Signal) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017): ``relu(sum_c mean(g) A)``."""
    return _weighted(wide(_first(signal)).mean((2, 3)), signal)


def grad_cam_plus_plus(signal: Signal) -> Tensor:
    """Grad-CAM++ (Chattopadhyay et al. 2018), with its authors' per-channel normalization of alpha.

    ``alpha = g^2 / (2 g^2 + (sum A) g^3)``, zero where ``g`` is; alpha is divided by its sum over the
    positions with ``g > 0``; ``w = sum alpha relu(g)``; ``map = relu(sum_c w A)``. No epsilon: alpha
    is written as ``1 / (2 + (sum A) g)``, so that nothing under- or overflows.
    """
    g, activation = wide(_first(signal)), wide(signal.activation)
    denominator = 2 + activation.sum((2, 3), keepdim=True) * g
    alpha = torch.where(denominator == 0, g * g, 1 / denominator)
    alpha = torch.where(g > 0, alpha, torch.zeros_like(alpha))  # weighted by relu(g) anyway
    total = alpha.sum((2, 3), keepdim=True)
    alpha = alpha / torch.where(total == 0, torch.ones_like(total), total)
    return _weighted((alpha * g.clamp_min(0)).sum((2, 3)), signal)


def xgrad_cam(signal: Signal) -> Tensor:
    """XGrad-CAM (Fu et al. 2020): ``w = sum(g A) / sum(A)``, zero for a channel whose sum is zero."""
    g, activation = wide(_first(signal)), wide(signal.activation)
    total = activation.sum((2, 3))
    weights = (g * activation).sum((2, 3)) / torch.where(total == 0, torch.ones_like(total), total)
    return _weighted(torch.where(total == 0, torch.zeros_like(weights), weights), signal)


def hires_cam(signal: Signal) -> Tensor:
    """HiResCAM (Draelos and Carin 2020): ``relu(sum_c g A)``."""
    return (wide(_first(signal)) * wide(signal.activation)).sum(1).clamp_min(0)


def layer_cam(signal: Signal) -> Tensor:
    """LayerCAM (Jiang et al. 2021): ``relu(sum_c relu(g) A)``."""
    positive = wide(_first(signal)).clamp_min(0)
    return positive.mul_(wide(signal.activation)).sum(1).clamp_min_(0)


def grad_cam_elementwise(signal: Signal) -> Tensor:
    """Element-wise Grad-CAM (as in grad-cam's ``GradCAMElementWise``): ``sum_c relu(g A)``."""
    return (wide(_first(signal)) * wide(signal.activation)).clamp_min_(0).sum(1)


def shapley_cam(signal: Signal) -> Tensor:
    """ShapleyCAM (Cai 2025): ``w = mean(g - H A / 2)``; Grad-CAM where the Hessian is zero."""
    if signal.curvature is None:
        raise SsgcamError("shapley_cam needs the Hessian-vector product of its layer")
    return _weighted((wide(_first(signal)) - 0.5 * wide(signal.curvature)).mean((2, 3)), signal)


def eigen_cam(signal: Signal, centered: bool = False) -> Tensor:
    """Eigen-CAM (Muhammad and Yeasin 2020): the activations along their first principal direction.

    ``A`` as a matrix of positions by channels is projected on its first right singular vector. The
    paper does not center; ``centered=True`` subtracts each channel's mean first, as grad-cam does.
    A singular vector has no sign of its own: it is turned so that the projection agrees with
    the sum of the activations over channels (their inner product, centered alike, is not negative),
    and the map is its positive part. The class plays no part.
    """
    activation = wide(signal.activation)
    count, channels, height, width = activation.shape
    matrix = activation.reshape(count, channels, height * width).transpose(1, 2)
    if centered:
        matrix = matrix - matrix.mean(1, keepdim=True)
    direction = torch.linalg.svd(matrix, full_matrices=False).Vh[:, 0]
    with full_precision(matrix):
        projection = (matrix @ direction[:, :, None])[:, :, 0]
    agreement = (projection * matrix.sum(2)).sum(1, keepdim=True)
    projection = torch.where(agreement < 0, -projection, projection)
    return projection.reshape(count, height, width).clamp_min(0)


def activation_sum(signal: Signal) -> Tensor:
    """``relu(sum_c A)``: no gradient and no class. The control of the sanity check."""
    return wide(signal.activation).sum(1).clamp_min(0)


def in_parts(function: Callable[[Signal], Tensor], signal: Signal) -> Tensor:
    """A method's map, a few images at a time: what it makes on the way stays small and in the cache.

    Args:
        function: The method; images don't mix in any.
        signal: Of all images.

    Returns:
        ``[N, h, w]``, as of all images at once.
    """
    images = len(signal.activation)
    step = max(1, images * PART * torch.get_num_threads() // signal.activation.numel())
    if step >= images:
        return function(signal)
    tensors = (signal.activation, signal.first, signal.second, signal.curvature)
    return torch.cat(
        [
            function(Signal(*(None if t is None else t[k : k + step] for t in tensors)))  # type: ignore[arg-type]
            for k in range(0, images, step)
        ]
    )


@dataclass(frozen=True)
class Method:
    """One line of the registry.

    Attributes:
        function: Signal to map; ``None`` for Score-CAM, which is built from forward passes.
        needs: The most costly signal that it uses.
        title: As the literature writes it.
        score: What is differentiated unless the user says otherwise.
    """

    function: Callable[[Signal], Tensor] | None
    needs: Needs
    title: str
    score: Score = "exp"


METHODS: dict[str, Method] = {
    "ssg_cam": Method(ssg_cam, "second", "SSG-CAM"),
    "grad_cam": Method(grad_cam, "first", "Grad-CAM"),
    "grad_cam_plus_plus": Method(grad_cam_plus_plus, "first", "Grad-CAM++"),
    "xgrad_cam": Method(xgrad_cam, "first", "XGrad-CAM"),
    "hires_cam": Method(hires_cam, "first", "HiResCAM"),
    "layer_cam": Method(layer_cam, "first", "LayerCAM"),
    "grad_cam_elementwise": Method(grad_cam_elementwise, "first", "Element-wise Grad-CAM"),
    "shapley_cam": Method(shapley_cam, "curvature", "ShapleyCAM", "logit"),
    "eigen_cam": Method(eigen_cam, "activation", "Eigen-CAM"),
    "score_cam": Method(None, "forward", "Score-CAM"),
    "activation_sum": Method(activation_sum, "activation", "Sum of activations"),
}


def _first(signal: Signal) -> Tensor:
    if signal.first is None:
        raise SsgcamError("this method needs the gradient of its layer")
    return signal.first


def _unit_product(one: Tensor, other: Tensor) -> Tensor:
    """``unit(one * other)``, also where that product leaves the number format."""
    product = wide(one) * wide(other)
    axes, room = (1, 2, 3), torch.finfo(product.dtype).tiny ** 0.5
    largest = torch.maximum(product.amax(axes, True), -product.amin(axes, True))
    if torch.equal(largest, largest.clamp(room, 1 / room)):
        return product.div_(largest)
    return unit_(unit(one) * unit(other))


def _shared_power(one: Tensor, two: Tensor, settings: SSGSettings) -> Tensor | None:
    """``(one two)^exponent`` by its largest value per image, where both orders have one exponent.

    A logarithm is the slowest step but for the smoothing, and this takes one in place of two. ``two``
    must not be negative, so that the product is positive where both are. ``None`` for other exponents,
    and where what counts has left the number format.
    """
    exponent = settings.first_exponent
    if exponent != settings.second_exponent:
        return None
    product = one * two
    largest = product.amax((1, 2, 3), keepdim=True)
    numbers = torch.finfo(product.dtype)
    if not largest.amin() > numbers.tiny**0.5:
        return None
    logarithm = product.div_(largest).clamp_min_(numbers.tiny).log2_().mul_(exponent)
    lowest = math.log2(2 * numbers.tiny)
    return F.threshold(logarithm, min(exponent, 1) * lowest, lowest, inplace=True).exp2_()


def _logarithm(numbers: Tensor) -> Tensor:
    """Of the positive part, to base 2, in place; minus infinity for none (``log2(0)`` is slow)."""
    tiny = torch.finfo(numbers.dtype).tiny
    logarithm = numbers.clamp_min_(tiny).log2_()
    return F.threshold(logarithm, math.log2(2 * tiny), -math.inf, inplace=True)


def _weight(terms: Iterable[tuple[Tensor | None, float]]) -> Tensor:
    """The product of ``2^logarithm^exponent``, by its largest value per image.

    So nothing is lost but what is nothing beside the largest, and ``exp2`` costs a tenth of a power.
    Zeros are left as twice the smallest normal number: ``exp2(-inf)`` is slow, too.

    Args:
        terms: Logarithms and their exponents, not all zero; a term with exponent 0 is left out.

    Returns:
        Of the logarithms' shape.
    """
    (first, power), *rest = [(each, power) for each, power in terms if each is not None and power]
    total = first * power
    for each, power in rest:
        total.add_(each, alpha=power)
    numbers = torch.finfo(total.dtype)
    largest = total.amax((1, 2, 3), keepdim=True).clamp_min_(numbers.min)
    return total.sub_(largest).clamp_min_(math.log2(2 * numbers.tiny)).exp2_()


def _map(weight: Tensor, form: Form, activation: Tensor) -> Tensor:
    """The sum over channels of the weights, or of the weighted activations."""
    if form == "gradient":
        weight.mul_(unit(activation))
    zeros = weight.shape[1] * 3 * torch.finfo(weight.dtype).tiny  # if all channels are zero
    return F.threshold(_channel_sum(weight), zeros, 0, inplace=True)


def _channel_sum(weight: Tensor) -> Tensor:
    """``weight.sum(1)``, much faster where columns are the faster axis in memory, from ``smooth``."""
    return weight.mT.sum(1).mT if weight.stride(-1) > weight.stride(-2) else weight.sum(1)


def _weighted(weights: Tensor, signal: Signal) -> Tensor:
    """``relu(sum_c w A)`` for one weight per channel, ``[N, C]``, without a [N, C, h, w] product."""
    activation = wide(signal.activation)
    with full_precision(activation):
        product = weights.to(activation.dtype)[:, None] @ activation.flatten(2)
    return product.view(activation.shape[0], *activation.shape[2:]).clamp_min(0)
