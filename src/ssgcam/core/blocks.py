"""Which layers a search chooses from: the outputs of a network's blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssgcam.core.capture import Target
from ssgcam.core.network import unwrap
from ssgcam.core.tracing import Place, resamples, trace
from ssgcam.errors import SsgcamError

MOST = 12


def block_layers(network: nn.Module, image: Tensor, *, most: int | None = MOST) -> list[str]:
    """The outputs of a network's blocks, in the order of the forward pass.

    Of the places that ``core.tracing`` finds, those of at least 2x2 cells that influence the
    output and that are

    1. at most half the input's resolution (a quarter where ``most`` is given),
    2. not inside a block of the next stage, nor inside another block of the same resolution (plain
       sequences aside), and
    3. not one linear layer (a convolution or a normalization), nor pooling.

    So ResNet gives each residual block, VGG each ReLU, EfficientNet each inverted bottleneck, a
    transformer each encoder block.

    Args:
        network: The network.
        image: ``[1, C, H, W]``; only its shape matters.
        most: Keep at most this many: the last of each resolution and others evenly over the depth;
            None keeps all.

    Returns:
        Spellings of the layers.

    Raises:
        SsgcamError: If there is none.
    """
    network = unwrap(network)
    coarser = 2 if most is None else 4
    modules = dict(network.named_modules())
    places = [
        place
        for place in trace(network, image)
        if place.influences
        and not resamples(modules[_last_block(_module(place), modules)])
        and min(place.layout.resolution) >= 2
        and place.layout.height * coarser <= image.shape[-2]
        and place.layout.width * coarser <= image.shape[-1]
    ]
    blocks = [place for place in places if _is_block(place, places, modules)]
    if not blocks:
        raise SsgcamError(
            "no block of the network gives a map that influences its output; name the layers"
        )
    names = [place.name for place in blocks]
    if most is None or len(names) <= most:
        return names
    last = {place.layout.resolution: place.name for place in blocks}.values()
    others = [name for name in names if name not in last]
    spread = torch.linspace(len(others) - 1, 0, max(0, most - len(last))).round().long().tolist()
    kept = {*last, *(others[index] for index in spread)}
    return [name for name in names if name in kept]


def _is_block(place: Place, places: list[Place], modules: dict[str, nn.Module]) -> bool:
    same = [other for other in places if other.layout.resolution == place.layout.resolution]
    if place.leaves > min(other.leaves for other in same):
        return False
    if place.linear and not (place.activated or place.normalized):
        return False
    blocks = {_last_block(_module(other), modules) for other in same}
    return not any(_module(place).startswith(f"{block}.") for block in blocks)


def _module(place: Place) -> str:
    return Target.parse(place.name).module


def _last_block(name: str, modules: dict[str, nn.Module]) -> str:
    """The module itself, or the last in it if it is a plain sequence: both give the same tensor."""
    while isinstance(modules[name], nn.Sequential) and len(modules[name]._modules):
        name = f"{name}.{list(modules[name]._modules)[-1]}"
    return name
