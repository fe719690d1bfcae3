"""Which layers are targeted: those a user names, or those that ``auto`` takes, and the list of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ssgcam.core.capture import Target
from ssgcam.core.network import unwrap
from ssgcam.core.tracing import Place, trace
from ssgcam.errors import SsgcamError, did_you_mean


@dataclass(frozen=True)
class LayerInfo:
    """One place that can be targeted.

    Attributes:
        name: Its spelling.
        kind: The module's class.
        channels: Number of channels.
        height: Rows of its map.
        width: Columns of its map.
        signed: Whether it had negative values on the probe image.
        default: Whether ``auto`` takes it.
        why: Why it is a default, or why not.
    """

    name: str
    kind: str
    channels: int
    height: int
    width: int
    signed: bool
    default: bool = False
    why: str = ""


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
            inner = unwrap(item)
            found = [name for name, module in modules.items() if module is inner]
            if not found:
                raise SsgcamError(
                    f"the target layer {type(item).__name__} is not a module of this network"
                )
            names.append(found[0])
            continue
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
    usable: dict[tuple[int, int], list[Place]] = {}
    for place in places:
        if place.influences:
            usable.setdefault(place.layout.resolution, []).append(place)
    usable = {cells: same for cells, same in usable.items() if not all(p.resampling for p in same)}
    coarse = [(h, w) for h, w in usable if h * 4 <= image.shape[-2] and w * 4 <= image.shape[-1]]
    chosen: dict[str, str] = {}
    for height, width in coarse or sorted(usable)[:1]:
        best = _last_of(usable[height, width])
        why = "after a LayerNorm" if best.normalized else "signed values"
        if best.activated:
            why = "after an activation function"
        chosen[best.name] = f"last of {height}x{width}, {why}"
    return [
        LayerInfo(
            p.name, p.kind, p.channels, *p.layout.resolution, p.signed,
            p.name in chosen, chosen.get(p.name) or ("" if p.influences else "no path to the output"),
        )
        for p in places
    ]  # fmt: skip


def _last_of(places: Sequence[Place]) -> Place:
    fewest = min(place.leaves for place in places)
    candidates = [place for place in places if place.leaves == fewest]
    candidates = [place for place in candidates if not place.resampling] or candidates
    last = candidates[-1]
    for place in reversed(candidates):
        telling = place.activated or place.normalized or not place.linear
        if telling and place.depth <= last.depth:
            return place
    return last
