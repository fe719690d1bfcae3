"""Which layers a search chooses from: the outputs of a network's blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssgcam.core.capture import unwrap
from ssgcam.core.layers import _Place, _trace
from ssgcam.errors import SsgcamError

MOST = 12


def block_layers(network: nn.Module, image: Tensor, *, most: int | None = MOST) -> list[str]:
    """The outputs of a network's blocks, in the order of the forward pass.

    Of the places that ``core.layers.list_layers`` finds, those of at least 2x2 cells that influence the
    output and that are

    1. at most half the input's resolution (a quarter where ``most`` is given),
    2. not inside a block of the next stage, nor inside another block of the same resolution (plain
       sequences aside), and
    3. not one linear layer (a convolution or a normalisation), nor pooling.

    So ResNet gives each residual block, VGG each ReLU, EfficientNet each inverted bottleneck, a
    transformer each encoder block.

    Args:
        network: The network.
        image: ``[1, C, H, W]``; only its shape matters.
        most: Keep at most this many, evenly over the depth and always the last; None keeps all.

    Returns:
        Spellings of the layers.

    Raises:
        SsgcamError: If there is none.
    """
    network = unwrap(network)
    size = (int(image.shape[-2]), int(image.shape[-1]))
    coarser = 2 if most is None else 4
    places = [
        place
        for place in _trace(network, image, size)
        if place.influences
        and not place.resampling
        and min(place.layout.height, place.layout.width) >= 2
        and place.layout.height * coarser <= size[0]
        and place.layout.width * coarser <= size[1]
    ]
    modules = dict(network.named_modules())
    blocks = [place for place in places if _is_block(place, places, modules)]
    names = [place.name for place in blocks]
    if not names:
        raise SsgcamError(
            "no block of the network gives a map that influences its output; name the layers"
        )
    if most is not None and len(names) > most:
        chosen = torch.linspace(len(names) - 1, 0, most).round().long().unique().tolist()
        names = [names[index] for index in sorted(chosen)]
    return names


def _is_block(place: _Place, places: list[_Place], modules: dict[str, nn.Module]) -> bool:
    resolution = (place.layout.height, place.layout.width)
    same = [other for other in places if (other.layout.height, other.layout.width) == resolution]
    if place.leaves > min(other.leaves for other in same):
        return False
    if place.linear and not (place.activated or place.normalised):
        return False
    if place.linear and any(other.name != place.name and not other.linear for other in same):
        return False
    return not any(
        place.name.startswith(f"{other.name}.")
        and not isinstance(modules[other.name], nn.Sequential)
        for other in same
        if other.name in modules
    )
