"""Find, name and resolve target layers, and turn what a layer gives into maps.

Three shapes of activation become ``[N, C, h, w]``: channels first ``[N, C, h, w]``, channels last
``[N, h, w, C]`` (Swin) and tokens ``[N, T, C]`` (ViT, whose class and register tokens come first and
are left out).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ssgcam.core.capture import Target, capture
from ssgcam.core.network import explaining, outside_inference_mode, unwrap
from ssgcam.errors import SsgcamError

Shape = Literal["channels_first", "channels_last", "tokens"]
MAX_PREFIX_TOKENS = 16
RESAMPLING = (
    "pooling",
    "padding",
    "upsampling",
    "dropout",
)  # modules of torch.nn that learn nothing
NORMALISING = (nn.LayerNorm, nn.RMSNorm)
LINEAR = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.Identity)


@dataclass(frozen=True)
class Layout:
    """How a layer's tensor is read as maps.

    Attributes:
        shape: Which axes are which.
        height: Rows of the map.
        width: Columns of the map.
        prefix: Class and register tokens before the patch tokens.
    """

    shape: Shape
    height: int
    width: int
    prefix: int = 0

    def maps(self, tensor: Tensor) -> Tensor:
        """The tensor as ``[N, C, h, w]`` (a view where possible)."""
        if self.shape == "channels_first":
            return tensor
        if self.shape == "channels_last":
            return tensor.permute(0, 3, 1, 2)
        patches = tensor[:, self.prefix :].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], self.height, self.width)


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


def layout_of(tensor: Tensor, image_size: tuple[int, int], name: str) -> Layout:
    """Read an activation's shape, given the height and width of the network's input.

    A 4-D tensor is channels first if its last two axes keep the image's proportions (or no two do),
    channels last if only its middle two do.

    Raises:
        SsgcamError: If it has no spatial extent or is a volume, with what to use instead.
    """
    if tensor.ndim == 5:
        raise SsgcamError(
            f"layer '{name}' gives a volume {list(tensor.shape)}; ssgcam explains 2-D images: "
            "apply it slice by slice to a 2-D network"
        )
    layout: Layout | None = None
    if tensor.ndim == 4:
        first, last = tuple(tensor.shape[2:]), tuple(tensor.shape[1:3])
        if _proportional(first, image_size) or not _proportional(last, image_size):
            layout = Layout("channels_first", *first)
        else:
            layout = Layout("channels_last", *last)
    elif tensor.ndim == 3:
        layout = _tokens(tensor.shape[1], image_size)
    if layout is None or layout.height * layout.width == 1:
        raise SsgcamError(
            f"layer '{name}' gives {list(tensor.shape)} for an image of {image_size[0]}x"
            f"{image_size[1]}, which has no spatial extent; choose an earlier layer, or its input "
            f"'{name}:in' if that is a map"
        )
    return layout


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
            close = difflib.get_close_matches(name, [n for n in modules if n], 3, 0.4)
            hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
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
    network = unwrap(network)
    size = (int(image.shape[-2]), int(image.shape[-1]))
    places = _trace(network, image, size)
    usable: dict[tuple[int, int], list[_Place]] = {}
    for place in places:
        if place.influences:
            usable.setdefault((place.layout.height, place.layout.width), []).append(place)
    usable = {cells: same for cells, same in usable.items() if not all(p.resampling for p in same)}
    coarse = [(h, w) for h, w in usable if h * 4 <= size[0] and w * 4 <= size[1]]
    chosen: dict[str, str] = {}
    for height, width in coarse or sorted(usable)[:1]:
        best = _last_of(usable[height, width])
        why = "after a LayerNorm" if best.normalised else "signed values"
        if best.activated:
            why = "after an activation function"
        chosen[best.name] = f"last of {height}x{width}, {why}"
    return [
        LayerInfo(
            p.name, p.kind, p.channels, p.layout.height, p.layout.width, p.signed,
            p.name in chosen, chosen.get(p.name) or ("" if p.influences else "no path to the output"),
        )
        for p in places
    ]  # fmt: skip


@dataclass
class _Place:
    """One tensor met in the tracing pass."""

    name: str
    kind: str
    layout: Layout
    channels: int
    signed: bool
    resampling: bool
    normalised: bool
    activated: bool
    linear: bool
    leaves: int
    influences: bool = True

    @property
    def depth(self) -> int:
        return self.name.count(".")


def _last_of(places: Sequence[_Place]) -> _Place:
    fewest = min(place.leaves for place in places)
    candidates = [place for place in places if place.leaves == fewest]
    candidates = [place for place in candidates if not place.resampling] or candidates
    last = candidates[-1]
    for place in reversed(candidates):
        telling = place.activated or place.normalised or not place.linear
        if telling and place.depth <= last.depth:
            return place
    return last


def _trace(network: nn.Module, image: Tensor, size: tuple[int, int]) -> list[_Place]:
    """One forward pass that lists the tensors, then one backward that asks which of them matter.

    The image goes in twice: what has another number of rows than two (windows, tables of position
    biases) is no map of an image.
    """
    image = torch.cat([image, image])
    records: list[_Record] = []
    calls: dict[str, int] = {}
    handles = [
        module.register_forward_hook(_recording(name, calls, records))
        for name, module in network.named_modules()
        if name
    ]
    try:
        with explaining(network), torch.no_grad():
            network(outside_inference_mode(image))
    finally:
        for handle in handles:
            handle.remove()
    modules = dict(network.named_modules())
    resolutions = _module_resolutions(records, size)
    places: dict[tuple[int, int], _Place] = {}
    for record in records:
        if len(record.tensor) != len(image):
            continue
        spelling = record.name if calls[record.name] == 1 else f"{record.name}@{record.call}"
        try:
            layout = layout_of(record.tensor, size, spelling)
        except SsgcamError:
            continue
        if not _proportional((layout.height, layout.width), size):
            continue  # attention heads and the like
        kind = type(record.module)
        place = _Place(
            name=spelling,
            kind=kind.__name__,
            layout=layout,
            channels=int(record.tensor.shape[1 if layout.shape == "channels_first" else -1]),
            signed=record.signed,
            resampling=_from_torch(kind, RESAMPLING),
            normalised=issubclass(kind, NORMALISING),
            activated=not record.signed or _from_torch(kind, ("activation",)),
            linear=issubclass(kind, LINEAR),
            leaves=_leaving_blocks(
                record.name, (layout.height, layout.width), modules, resolutions
            ),
        )
        same = places.pop(record.key, None)  # a container gives its last child's very tensor
        places[record.key] = place if same is None else _joined(same, place)
    found = list(places.values())
    _mark_influence(network, image, found)
    return found


def _joined(inner: _Place, outer: _Place) -> _Place:
    """One entry for two names of the same tensor: the shorter name, and what either knows of it."""
    named = outer if len(outer.name) < len(inner.name) else inner
    return replace(
        named,
        resampling=inner.resampling or outer.resampling,
        normalised=inner.normalised or outer.normalised,
        activated=inner.activated or outer.activated,
        linear=inner.linear,
    )


@dataclass(frozen=True)
class _Record:
    name: str
    call: int
    module: nn.Module
    tensor: Tensor
    key: tuple[int, int]  # the tensor and how often it had been written to
    signed: bool


def _recording(
    name: str, calls: dict[str, int], records: list[_Record]
) -> Callable[[nn.Module, object, object], None]:
    def hook(module: nn.Module, inputs: object, output: object) -> None:
        calls[name] = calls.get(name, 0) + 1
        if isinstance(output, Tensor) and output.is_floating_point() and output.ndim in (3, 4):
            key = (id(output), output._version)
            signed = bool((output < 0).any())
            records.append(_Record(name, calls[name], module, output, key, signed))

    return hook


def _from_torch(kind: type, parts: Sequence[str]) -> bool:
    """Whether a module's class is defined in one of these parts of ``torch.nn.modules``."""
    return any(base.__module__ in {f"torch.nn.modules.{p}" for p in parts} for base in kind.__mro__)


def _module_resolutions(
    records: Sequence[_Record], size: tuple[int, int]
) -> dict[str, tuple[int, int]]:
    found = {}
    for record in records:
        try:
            layout = layout_of(record.tensor, size, record.name)
        except SsgcamError:
            continue
        found[record.name] = (layout.height, layout.width)
    return found


def _leaving_blocks(
    name: str,
    resolution: tuple[int, int],
    modules: dict[str, nn.Module],
    resolutions: dict[str, tuple[int, int]],
) -> int:
    """How many blocks around a place (plain sequences aside) put out another resolution."""
    parts = name.split(".")
    around = [".".join(parts[:end]) for end in range(1, len(parts))]
    return sum(
        1
        for block in around
        if resolutions.get(block, resolution) != resolution
        and not isinstance(modules[block], nn.Sequential)
    )


def _mark_influence(network: nn.Module, image: Tensor, places: Sequence[_Place]) -> None:
    """A place whose map can't change the output (ViT's last patch tokens) is no target.

    Not-a-number is sent backwards: unlike a gradient it also comes through weights that are zero.
    """
    if not places:
        return
    captured = capture(network, image, [place.name for place in places])
    output = captured.output
    if not isinstance(output, Tensor) or not output.requires_grad:
        return  # a user's own score function decides what matters
    with torch.inference_mode(False), torch.enable_grad():
        gradients = torch.autograd.grad(
            output,
            list(captured.activations.values()),
            grad_outputs=torch.full_like(output, torch.nan),
            allow_unused=True,
        )
    for place, gradient in zip(places, gradients, strict=True):
        place.influences = gradient is not None and bool((place.layout.maps(gradient) != 0).any())


def _proportional(cells: tuple[int, ...], image_size: tuple[int, int]) -> bool:
    """Whether h/H and w/W agree to within one cell of rounding."""
    rows, columns = cells[0] / image_size[0], cells[1] / image_size[1]
    return abs(rows - columns) <= 1 / image_size[0] + 1 / image_size[1]


def _tokens(count: int, image_size: tuple[int, int]) -> Layout | None:
    """The fewest prefix tokens that leave a grid of patches.

    First a grid of patches that divide the image, then one that leaves a rest or is padded, then
    any of the image's proportions (patches that overlap).
    """
    prefixes = range(min(MAX_PREFIX_TOKENS, count - 1) + 1)
    divided = _patch_grids(image_size, rounded=False)
    rounded = _patch_grids(image_size, rounded=True)
    for grids in (divided, rounded):
        for prefix in prefixes:
            if count - prefix in grids:
                return Layout("tokens", *grids[count - prefix], prefix)
    for prefix in prefixes:
        patches = count - prefix
        rows = round((patches * image_size[0] / image_size[1]) ** 0.5)
        if rows and patches % rows == 0 and _proportional((rows, patches // rows), image_size):
            return Layout("tokens", rows, patches // rows, prefix)
    return None


def _patch_grids(image_size: tuple[int, int], rounded: bool) -> dict[int, tuple[int, int]]:
    """Number of square patches -> rows and columns, for every side that a patch can have."""
    height, width = image_size
    grids: dict[int, tuple[int, int]] = {}
    for side in range(min(height, width), 0, -1):
        if rounded:
            grids[-(-height // side) * -(-width // side)] = (-(-height // side), -(-width // side))
            grids[(height // side) * (width // side)] = (height // side, width // side)
        elif height % side == 0 and width % side == 0:
            grids[(height // side) * (width // side)] = (height // side, width // side)
    return grids
