"""What a method gets to know of one layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from ssgcam.core.capture import Captured
from ssgcam.core.derivatives import derivatives, hessian_activation_product
from ssgcam.core.layouts import Layout, layout_of
from ssgcam.core.settings import TargetSettings
from ssgcam.core.target import TargetFunction

Needs = Literal["activation", "first", "second", "curvature", "forward"]


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


def signals_of(
    captured: Captured,
    classes: Tensor,
    needs: Needs,
    settings: TargetSettings,
    image_size: tuple[int, int],
    *,
    function: TargetFunction | None = None,
    retain_graph: bool = False,
) -> dict[str, Signal]:
    """The signals of all captured layers for one class of each image.

    Args:
        captured: A forward pass.
        classes: ``[N]`` class indices.
        needs: The most costly part that is wanted; ``"activation"`` and ``"forward"`` differentiate
            nothing.
        settings: Score and kind of second order. ``sign="absolute"`` takes the second order's magnitude.
        image_size: Height and width of the network's input.
        function: A user's own score, from the output to ``[N]``.
        retain_graph: Keep the graph for another call.

    Returns:
        Target spelling -> signal, whatever the layer's layout ``[N, C, h, w]``.

    Raises:
        SsgcamError: If a layer has no spatial extent, the score does not depend on it, or its second
            derivative is asked for and identically zero.
    """
    activations = {name: tensor.detach() for name, tensor in captured.activations.items()}
    layouts = {name: layout_of(tensor, image_size, name) for name, tensor in activations.items()}
    signals: dict[str, Signal] = {}
    if needs in ("activation", "forward"):
        signals = {name: Signal(activation) for name, activation in activations.items()}
    elif needs == "curvature":
        products = hessian_activation_product(captured, classes, settings, function)
        for name, (first, product) in products.items():
            signals[name] = Signal(activations[name], first, curvature=product)
    else:
        orders = derivatives(
            captured,
            classes,
            settings,
            need_second=needs == "second",
            function=function,
            retain_graph=retain_graph,
        )
        for name, (first, second) in orders.items():
            if second is not None and settings.sign == "absolute":
                second = second.abs()
            signals[name] = Signal(activations[name], first, second)
    return {name: _as_maps(signal, layouts[name]) for name, signal in signals.items()}


def _as_maps(signal: Signal, layout: Layout) -> Signal:
    if layout.shape == "channels_first":
        return signal
    parts = {name: part for name, part in vars(signal).items() if part is not None}
    return replace(signal, **{name: layout.maps(part) for name, part in parts.items()})
