r"""The methods: each a pure function from one layer's :class:`Signal` to a map [N, h, w].

Adding one is one function and one line in ``METHODS``. Signals are ``[N, C, h, w]``: the activation
``A`` and the gradient ``g`` of the target. Maps are not negative and not yet scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from ssgcam.core.numerics import full_precision, unit, wide
from ssgcam.core.settings import Fusion, SSGSettings, TargetName
from ssgcam.core.signals import Needs, Signal
from ssgcam.core.smoothing import smooth
from ssgcam.core.target import Others
from ssgcam.errors import SsgcamError


def ssg_cam(signal: Signal, settings: SSGSettings | None = None) -> Tensor:
    r"""SSG-CAM: smoothed first- and second-order gradients weight the activations.

    With ``S`` a Gaussian of ``sigma``, ``a`` and ``b`` the exponents and ``lambda`` the cancellation
    (our reading of Chen et al. 2026, whose equations were not at hand; the Taylor and sum forms are
    ours), ``E = first A`` and ``F = second A^2``, the terms of the target's Taylor series:

    - gradient form: ``map = relu( sum_c relu(S first)^a relu(S second)^b A )``
    - Taylor form: ``map = sum_c relu(S E)^a relu(S F)^b``
    - sum form: ``map = e^(a u) [S e]^(a (1 - u)) [S sum_c relu(F)]^b`` with
      ``e = relu(sum_c relu(E) - lambda sum_c relu(-E))`` and ``u`` the unsmoothed share

    With ``a=1, b=0, sigma=0`` the first two are LayerCAM where ``A >= 0``; the sum form is HiResCAM
    with ``lambda=1`` and element-wise Grad-CAM with ``lambda=0``. Signals are scaled by their largest
    magnitude per image before any power, which cancels when the map is scaled by its maximum.

    Args:
        signal: With ``first``; ``second`` where it is not the square of ``first``.
        settings: Form, sigma, exponents and cancellation.

    Returns:
        ``[N, h, w]``, not negative, up to a positive factor per image.
    """
    return next(ssg_cams(signal, [settings or SSGSettings()]))


def ssg_cams(signal: Signal, settings: Iterable[SSGSettings]) -> Iterator[Tensor]:
    """:func:`ssg_cam` for many settings; neighbors that differ in exponents alone share the smoothing.

    Args:
        signal: As there.
        settings: The settings.

    Yields:
        For each of them its map ``[N, h, w]``.
    """
    alike = groupby(settings, lambda each: (each.form, each.sigma, each.cancellation))
    for (form, sigma, cancellation), neighbors in alike:
        group = list(neighbors)
        activation = unit(signal.activation)
        factor = 1 if form == "gradient" else activation
        first = unit(unit(_first(signal)) * factor)
        second = first**2 if signal.second is None else unit(signal.second) * factor**2
        if form == "sum":
            first = F.leaky_relu(first, cancellation).sum(1, keepdim=True).clamp_min(0)
            second = second.clamp_min(0).sum(1, keepdim=True)
        evidence = first
        if any(each.first_exponent for each in group):
            first = unit(smooth(first, sigma).clamp_min(0))
        if any(each.second_exponent for each in group):
            second = unit(smooth(second, sigma).clamp_min(0))
        for each in group:
            a, unsmoothed = each.first_exponent, each.unsmoothed or 0
            weight = _product_of_powers(first, a * (1 - unsmoothed), second, each.second_exponent)
            if form == "gradient":
                weight = weight * activation
            if a * unsmoothed:
                weight = weight * unit(evidence) ** (a * unsmoothed)
            yield weight.sum(1).clamp_min(0)


def smoothed_hires_cam(signal: Signal) -> Tensor:
    """HiResCAM smoothed after the sum (Rao, Boehle and Schiele 2022): ``relu(S sum_c g A)``.

    The Gaussian ``S`` has the default ``sigma`` of :class:`SSGSettings`.
    """
    total = (wide(_first(signal)) * wide(signal.activation)).sum(1)
    return smooth(total, SSGSettings.sigma).clamp_min(0)


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
    alpha = torch.where(g > 0, alpha, 0)  # weighted by relu(g) anyway
    total = alpha.sum((2, 3), keepdim=True)
    alpha = alpha / torch.where(total == 0, 1, total)
    return _weighted((alpha * g.clamp_min(0)).sum((2, 3)), signal)


def xgrad_cam(signal: Signal) -> Tensor:
    """XGrad-CAM (Fu et al. 2020): ``w = sum(g A) / sum(A)``, zero for a channel whose sum is zero."""
    g, activation = wide(_first(signal)), wide(signal.activation)
    total = activation.sum((2, 3))
    weights = (g * activation).sum((2, 3)) / total
    return _weighted(torch.where(total == 0, 0, weights), signal)


def hires_cam(signal: Signal) -> Tensor:
    """HiResCAM (Draelos and Carin 2020): ``relu(sum_c g A)``."""
    return (wide(_first(signal)) * wide(signal.activation)).sum(1).clamp_min(0)


def layer_cam(signal: Signal) -> Tensor:
    """LayerCAM (Jiang et al. 2021): ``relu(sum_c relu(g) A)``."""
    return (wide(_first(signal)).clamp_min(0) * wide(signal.activation)).sum(1).clamp_min(0)


def grad_cam_elementwise(signal: Signal) -> Tensor:
    """Element-wise Grad-CAM (as in grad-cam's ``GradCAMElementWise``): ``sum_c relu(g A)``."""
    return (wide(_first(signal)) * wide(signal.activation)).clamp_min(0).sum(1)


def shapley_cam(signal: Signal) -> Tensor:
    """ShapleyCAM (Cai 2025): ``w = mean(g - H A / 2)``; Grad-CAM where the Hessian is zero."""
    if signal.curvature is None:
        raise SsgcamError("shapley_cam needs the Hessian-vector product of its layer")
    return _weighted((wide(_first(signal)) - 0.5 * wide(signal.curvature)).mean((2, 3)), signal)


def eigen_cam(signal: Signal) -> Tensor:
    """Eigen-CAM (Muhammad and Yeasin 2020): the activations along their first principal direction.

    ``A`` as a matrix of positions by channels is projected on its first right singular vector. The
    paper does not center, unlike grad-cam, which subtracts each channel's mean first.
    A singular vector has no sign of its own: it is turned so that the projection agrees with
    the sum of the activations over channels (their inner product is not negative), and the map is its
    positive part. The class plays no part.
    """
    activation = wide(signal.activation)
    count, channels, height, width = activation.shape
    matrix = activation.reshape(count, channels, height * width).transpose(1, 2)
    direction = torch.linalg.svd(matrix, full_matrices=False).Vh[:, 0]
    with full_precision(matrix):
        projection = (matrix @ direction[:, :, None])[:, :, 0]
    agreement = (projection * matrix.sum(2)).sum(1, keepdim=True)
    projection = torch.where(agreement < 0, -projection, projection)
    return projection.reshape(count, height, width).clamp_min(0)


def activation_sum(signal: Signal) -> Tensor:
    """``relu(sum_c A)``: no gradient and no class. The control of the sanity check."""
    return wide(signal.activation).sum(1).clamp_min(0)


@dataclass(frozen=True)
class Method:
    """One line of the registry.

    Attributes:
        function: Signal to map; ``None`` for the methods of ``core.forward_methods``.
        needs: The most costly signal that it uses.
        title: As the literature writes it.
        target: What is differentiated unless the user says otherwise.
        gamma: Power of each layer's scaled map before the fusion, unless the user says otherwise.
        fusion: How layers are fused, unless the user says otherwise.
        against: Which classes are subtracted, see ``core.target``.
        name: Its key in ``METHODS``.
        ssg: Settings of the methods ``"ssg_cam"`` and ``"discriminate"``.
    """

    # not in the repr, which names the kept batches of an evaluation: it would show an address
    function: Callable[[Signal], Tensor] | None = field(repr=False)
    needs: Needs
    title: str
    target: TargetName = "exp"
    gamma: float = 1.0
    fusion: Fusion = "mean"
    against: Others | None = None
    name: str = ""
    ssg: SSGSettings = field(default_factory=SSGSettings)

    @property
    def fused(self) -> Method:
        """The method with the settings for several fused layers.

        Only SSG-CAM's sum form without a given unsmoothed share differs: it gets ``UNSMOOTHED_FUSED``.
        """
        ssg = self.ssg
        if self.name not in ("ssg_cam", "discriminate") or ssg.form != "sum":
            return self
        if ssg.unsmoothed is not None:
            return self
        ssg = replace(ssg, unsmoothed=UNSMOOTHED_FUSED)
        return replace(self, function=partial(ssg_cam, settings=ssg), ssg=ssg)


#: Tells classes apart: channels that speak against the class cancel those that speak for it.
DISCRIMINATE = SSGSettings()
#: Finds the whole object: nothing cancels.
LOCALIZE = SSGSettings("sum", 0.06, 1, 0, cancellation=0, unsmoothed=0)
#: The unsmoothed share where layers are fused, see :class:`SSGSettings`.
UNSMOOTHED_FUSED = 1 / 3

METHODS: dict[str, Method] = {
    "ssg_cam": Method(ssg_cam, "second", "SSG-CAM"),
    "discriminate": Method(
        partial(ssg_cam, settings=DISCRIMINATE), "second", "SSG-CAM (discriminate)"
    ),
    "localize": Method(partial(ssg_cam, settings=LOCALIZE), "first", "SSG-CAM (localize)"),
    "grad_cam": Method(grad_cam, "first", "Grad-CAM"),
    "grad_cam_plus_plus": Method(grad_cam_plus_plus, "first", "Grad-CAM++"),
    "xgrad_cam": Method(xgrad_cam, "first", "XGrad-CAM"),
    "hires_cam": Method(hires_cam, "first", "HiResCAM"),
    "layer_cam": Method(layer_cam, "first", "LayerCAM"),
    "grad_cam_elementwise": Method(grad_cam_elementwise, "first", "Element-wise Grad-CAM"),
    "shapley_cam": Method(shapley_cam, "curvature", "ShapleyCAM", "logit"),
    "eigen_cam": Method(eigen_cam, "activation", "Eigen-CAM"),
    "smoothed_hires_cam": Method(smoothed_hires_cam, "first", "Smoothed HiResCAM"),
    "finer_cam": Method(grad_cam, "first", "Finer-CAM", against="similar"),
    "refine_cam": Method(grad_cam_plus_plus, "first", "RefineCAM", fusion="product"),
    "score_cam": Method(None, "forward", "Score-CAM"),
    "recipro_cam": Method(None, "forward", "ReciproCAM"),
    "activation_sum": Method(activation_sum, "activation", "Sum of activations"),
}
METHODS = {name: replace(method, name=name) for name, method in METHODS.items()}


def method_of(name: str, ssg: SSGSettings | None = None) -> Method:
    """A method of the registry; ``"ssg_cam"`` with these settings, and their form in the title.

    Raises:
        SsgcamError: If there is no such method.
    """
    if name not in METHODS:
        raise SsgcamError(f"no method named '{name}'; choose one of {', '.join(METHODS)}")
    method = METHODS[name]
    if name != "ssg_cam" or ssg is None:
        return method
    function = partial(ssg_cam, settings=ssg)
    needs: Needs = "second" if ssg.second_exponent else "first"
    title = method.title + f" ({ssg.form} form)" * (ssg.form != SSGSettings.form)
    return replace(method, function=function, needs=needs, title=title, ssg=ssg)


def _first(signal: Signal) -> Tensor:
    if signal.first is None:
        raise SsgcamError("this method needs the gradient of its layer")
    return signal.first


def _product_of_powers(first: Tensor, a: float, second: Tensor, b: float) -> Tensor:
    """``first^a second^b``; a factor with exponent 0 is omitted."""
    if a == 0:
        return second**b
    return first**a if b == 0 else first**a * second**b


def _weighted(weights: Tensor, signal: Signal) -> Tensor:
    """``relu(sum_c w A)`` for one weight per channel, ``[N, C]``."""
    activation = wide(signal.activation)
    with full_precision(activation):
        product = torch.einsum("nc,nchw->nhw", weights.to(activation.dtype), activation)
    return product.clamp_min(0)
