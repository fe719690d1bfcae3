"""Which layers are targeted: those a user names, those of ``auto``, a network's blocks, or all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ssgcam.core.capture import Target
from ssgcam.core.network import unwrap
from ssgcam.core.tracing import LayerInfo, resamples, trace
from ssgcam.errors import SsgcamError, did_you_mean

#: How many blocks a search chooses from unless the user asks for all.
MOST = 12


def resolve(network: nn.Module, wanted: Sequence[str | nn.Module]) -> list[str]:
    """Names of target layers from names or modules.

    Args:
        network: The network, possibly wrapped.
        wanted: Names (see ``core.capture``) or modules of the network.

    Returns:
        Spellings, in the order given, without repetitions.

    Raises:
        SsgcamError: If a name doesn't exist (with the nearest ones) or a module is not in it.
    """
    network = unwrap(network)
    modules = dict(network.named_modules())
    names = []
    for item in wanted:
        if isinstance(item, nn.Module):
            found = [name for name, module in modules.items() if module is unwrap(item)]
            if not found:
                raise SsgcamError(
                    f"the target layer {type(item).__name__} is not a module of this network"
                )
            item = found[0]
        name = Target.parse(item).module
        if name not in modules or (name == "" and item != ""):
            hint = did_you_mean(name, [n for n in modules if n], 0.4)
            raise SsgcamError(
                f"the network has no layer '{item}'{hint} ('ssgcam layers' lists them)"
            )
        names.append(item)
    if not names:
        raise SsgcamError("no target layer given; name at least one, or use layers='auto'")
    return list(dict.fromkeys(names))


def auto_layers(network: nn.Module, image: Tensor) -> list[str]:
    """The default target layers: the last of each resolution; see :func:`list_layers`."""
    names = [info.name for info in list_layers(network, image) if info.default]
    if not names:
        raise SsgcamError(
            "no layer with a spatial extent influences the output, so layers='auto' finds none; "
            "name the target layers"
        )
    return names


def list_layers(network: nn.Module, image: Tensor) -> list[LayerInfo]:
    """Every place that can be targeted, in the order of the forward pass, with the defaults marked.

    The rule of ``auto``, for each resolution of at least 2 cells that is at most a quarter of the
    input's side (finer maps cost most and show edges, not objects; if all are finer, the coarsest):

    1. only places on which the output depends, and not where pooling or padding alone gives the
       resolution;
    2. the one inside the fewest blocks that leave this resolution (not a branch of the next stage),
       and if possible not the output of pooling or padding;
    3. of these the last; but if that is one linear layer, or lies deeper in the tree of modules, the
       last before it that comes right after an activation function (or a LayerNorm, for tokens).

    Args:
        network: The network.
        image: ``[1, C, H, W]``, any picture or noise; only its shape matters.

    Returns:
        One entry for each distinct tensor; of several names for one, the shortest.
    """
    places = trace(unwrap(network), image)
    usable: dict[tuple[int, int], list[LayerInfo]] = {}
    for place in places:
        if place.influences:
            usable.setdefault(place.layout.resolution, []).append(place)
    usable = {cells: same for cells, same in usable.items() if not all(p.resampling for p in same)}
    coarse = [(h, w) for h, w in usable if h * 4 <= image.shape[-2] and w * 4 <= image.shape[-1]]
    chosen: dict[str, str] = {}
    for height, width in coarse or sorted(usable)[:1]:
        best = _last_of(usable[height, width])
        why = "after a LayerNorm" if best.normalized else "signed values"
        why = "after an activation function" if best.activated else why
        chosen[best.name] = f"last of {height}x{width}, {why}"
    return [
        replace(
            place,
            default=place.name in chosen,
            why=chosen.get(place.name) or ("" if place.influences else "no path to the output"),
        )
        for place in places
    ]


def _last_of(places: Sequence[LayerInfo]) -> LayerInfo:
    fewest = min(place.leaves for place in places)
    candidates = [place for place in places if place.leaves == fewest]
    candidates = [place for place in candidates if not place.resampling] or candidates
    last = candidates[-1]
    for place in reversed(candidates):
        telling = place.activated or place.normalized or not place.linear
        if telling and place.name.count(".") <= last.name.count("."):
            return place
    return last


def block_layers(network: nn.Module, image: Tensor, *, most: int | None = MOST) -> list[str]:
    """The outputs of a network's blocks, in the order of the forward pass.

    These are what a search chooses from: of the layers that ``core.tracing`` finds, those of at least
    2x2 cells that influence the output and that are

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
        and not resamples(modules[_last_block(place.module, modules)])
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


def _is_block(place: LayerInfo, places: list[LayerInfo], modules: dict[str, nn.Module]) -> bool:
    same = [other for other in places if other.layout.resolution == place.layout.resolution]
    if place.leaves > min(other.leaves for other in same):
        return False
    if place.linear and not (place.activated or place.normalized):
        return False
    blocks = {_last_block(other.module, modules) for other in same}
    return not any(place.module.startswith(f"{block}.") for block in blocks)


def _last_block(name: str, modules: dict[str, nn.Module]) -> str:
    """The module itself, or the last in it if it is a plain sequence: both give the same tensor."""
    while isinstance(modules[name], nn.Sequential) and len(modules[name]._modules):
        name = f"{name}.{list(modules[name]._modules)[-1]}"
    return name
