"""A small network, and the dense derivatives of every target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, hvp, jacobian
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ssgcam import TargetSettings
from ssgcam.core.capture import capture
from ssgcam.core.signals import derivatives
from ssgcam.core.target import Scalar

CLASSES = 5


class Head(nn.Module):
    """A layer, then a piecewise linear head: convolution, ReLU, max pooling, linear, ReLU, linear."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.conv = nn.Conv2d(3, 4, 2)
        self.wide = nn.Linear(4, 8)
        self.fc = nn.Linear(8, classes)

    def head(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv(x).relu(), 2).flatten(2).mean(2)
        logits: Tensor = self.fc(self.wide(x).relu())
        return logits

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layer(images))


def head(classes: int = CLASSES, gain: float = 6) -> Head:
    """With gain large enough that the classes' probabilities are far from equal."""
    network = Head(classes).double().eval()
    network.fc.weight.data *= gain
    return network


def signals_of(
    network: nn.Module,
    images: Tensor,
    classes: Tensor,
    settings: TargetSettings,
    function: Callable[[Any], Tensor] | None = None,
    layer: str = "layer",
) -> tuple[Tensor, Tensor | None]:
    captured = capture(network, images, [layer], double_backward=settings.second == "hutchinson")
    return derivatives(captured, Scalar(classes, settings, function), need_second=True)[layer]


DEFINITIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "exp": lambda z, c: torch.exp(z[c] - z[c].detach()),
    "probability": lambda z, c: z.softmax(0)[c],
    "log_probability": lambda z, c: z.log_softmax(0)[c],
    "sigmoid": lambda z, c: z[c].sigmoid(),
    "odds": lambda z, c: z.softmax(0)[c] / (1 - z.softmax(0)[c]),
}


def dense(score: Callable[[Tensor], Tensor], activation: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and diagonal of the dense Hessian of a score of one image's activation."""
    size = activation.numel()
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention has no second derivative
        gradient = jacobian(score, activation)
        matrix = hessian(score, activation).reshape(size, size)
    return gradient, matrix.diagonal().reshape(activation.shape)


def dense_product(score: Callable[[Tensor], Tensor], activation: Tensor) -> Tensor:
    """The dense Hessian times the activation itself."""
    with sdpa_kernel(SDPBackend.MATH):
        product: Tensor = hvp(score, activation, activation)[1]
    return product


def turned_by(found: Tensor, wanted: Tensor) -> float:
    """One minus the cosine of the angle between two signals."""
    return float(1 - F.cosine_similarity(found.flatten(), wanted.flatten(), dim=0))


def assert_proportional(found: Tensor, wanted: Tensor, tolerance: float = 1e-9) -> None:
    """Equal up to one positive factor."""
    assert wanted.abs().max() > 0
    place = int(wanted.abs().argmax())
    factor = float(wanted.flatten()[place] / found.flatten()[place])
    assert factor > 0
    torch.testing.assert_close(
        found * factor, wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max())
    )
