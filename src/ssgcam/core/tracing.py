"""Which maps a network makes on the way from an image to its output, and which of them matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ssgcam.core.capture import capture
from ssgcam.core.layouts import Layout, proportional, spatial_layout
from ssgcam.core.network import explaining, outside_inference_mode
from ssgcam.core.target import output_tensor

#: Parts of ``torch.nn.modules`` whose modules learn nothing and only change the resolution, if that.
RESAMPLING = ("pooling", "padding", "upsampling", "dropout")
NORMALISING = (nn.LayerNorm, nn.RMSNorm)
LINEAR = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.Identity)


@dataclass(frozen=True)
class LayerInfo:
    """One layer that can be targeted: a tensor that a network makes and that can be read as maps.

    Attributes:
        name: Its spelling, see ``core.capture``; of several names for one tensor, the shortest.
        kind: The class of the module that gives it.
        layout: How it is read.
        channels: Number of channels.
        signed: Whether it has negative values.
        resampling: Whether pooling, padding or the like gives it.
        normalized: Whether a LayerNorm gives it.
        activated: Whether an activation function gives it, or it has no negative values.
        linear: Whether one linear layer gives it.
        leaves: How many blocks around it (plain sequences aside) put out another resolution.
        influences: Whether its map can change the network's output.
        default: Whether ``layers="auto"`` takes it.
        why: Why it is a default, or why not.
    """

    name: str
    kind: str
    layout: Layout
    channels: int
    signed: bool
    resampling: bool
    normalized: bool
    activated: bool
    linear: bool
    leaves: int
    influences: bool = True
    default: bool = False
    why: str = ""

    @property
    def height(self) -> int:
        """Rows of its map."""
        return self.layout.height

    @property
    def width(self) -> int:
        """Columns of its map."""
        return self.layout.width

    @property
    def depth(self) -> int:
        """In the tree of modules."""
        return self.name.count(".")


def trace(network: nn.Module, image: Tensor) -> list[LayerInfo]:
    """One forward pass that lists the tensors, then one backward that asks which of them matter.

    The image goes in twice: what has another number of rows than two (windows, tables of position
    biases) is no map of an image.

    Args:
        network: Without wrappers.
        image: ``[1, C, H, W]``, any picture or noise.

    Returns:
        One entry for each distinct tensor, in the order of the forward pass.
    """
    size = (int(image.shape[-2]), int(image.shape[-1]))
    image = torch.cat([image, image])
    records, calls = _recorded(network, image, size)
    modules = dict(network.named_modules())
    resolutions = {record.name: record.layout.resolution for record in records}
    places: dict[tuple[int, int], LayerInfo] = {}
    for record in records:
        resolution = record.layout.resolution
        if len(record.tensor) != len(image) or not proportional(resolution, size):
            continue  # windows, attention heads and the like
        kind = type(record.module)
        place = LayerInfo(
            name=record.name if calls[record.name] == 1 else f"{record.name}@{record.call}",
            kind=kind.__name__,
            layout=record.layout,
            channels=int(record.tensor.shape[1 if record.layout.shape == "channels_first" else -1]),
            signed=record.signed,
            resampling=resamples(record.module),
            normalized=issubclass(kind, NORMALISING),
            activated=not record.signed or _from_torch(kind, ("activation",)),
            linear=issubclass(kind, LINEAR),
            leaves=_leaving_blocks(record.name, resolution, modules, resolutions),
        )
        same = places.pop(record.key, None)  # a container gives its last child's very tensor
        places[record.key] = place if same is None else _joined(same, place)
    influences = _influences(network, image, list(places.values()))
    return [
        replace(place, influences=influence)
        for place, influence in zip(places.values(), influences, strict=True)
    ]


def resamples(module: nn.Module) -> bool:
    """Whether a module of PyTorch pools, pads or the like."""
    return _from_torch(type(module), RESAMPLING)


@dataclass(frozen=True)
class _Record:
    name: str
    call: int
    module: nn.Module
    tensor: Tensor  # kept alive, or another one could get its id
    key: tuple[int, int]  # the tensor and how often it had been written to
    layout: Layout
    signed: bool


def _recorded(
    network: nn.Module, image: Tensor, size: tuple[int, int]
) -> tuple[list[_Record], dict[str, int]]:
    """What every module gave that can be read as maps, and how often each was called."""
    records: list[_Record] = []
    calls: dict[str, int] = {}

    def recording(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(output, Tensor) and output.is_floating_point():
                layout = spatial_layout(output, size)
                if layout is not None:
                    key = (id(output), output._version)
                    signed = bool((output < 0).any())
                    records.append(_Record(name, calls[name], module, output, key, layout, signed))

        return hook

    handles = [
        module.register_forward_hook(recording(name))
        for name, module in network.named_modules()
        if name
    ]
    try:
        with explaining(network), torch.no_grad():
            network(outside_inference_mode(image))
    finally:
        for handle in handles:
            handle.remove()
    return records, calls


def _joined(inner: LayerInfo, outer: LayerInfo) -> LayerInfo:
    """One entry for two names of the same tensor: the shorter name, and what either knows of it."""
    named = outer if len(outer.name) < len(inner.name) else inner
    return replace(
        named,
        resampling=inner.resampling or outer.resampling,
        normalized=inner.normalized or outer.normalized,
        activated=inner.activated or outer.activated,
        linear=inner.linear,
    )


def _from_torch(kind: type, parts: Sequence[str]) -> bool:
    """Whether a module's class is defined in one of these parts of ``torch.nn.modules``."""
    return any(base.__module__ in {f"torch.nn.modules.{p}" for p in parts} for base in kind.__mro__)


def _leaving_blocks(
    name: str,
    resolution: tuple[int, int],
    modules: dict[str, nn.Module],
    resolutions: dict[str, tuple[int, int]],
) -> int:
    """How many blocks around a layer (plain sequences aside) put out another resolution."""
    parts = name.split(".")
    around = [".".join(parts[:end]) for end in range(1, len(parts))]
    return sum(
        1
        for block in around
        if resolutions.get(block, resolution) != resolution
        and not isinstance(modules[block], nn.Sequential)
    )


def _influences(network: nn.Module, image: Tensor, places: Sequence[LayerInfo]) -> list[bool]:
    """Whether each place's map can change the output, which ViT's last patch tokens can't.

    Not-a-number is sent backwards: unlike a gradient it also comes through weights that are zero.
    """
    if not places:
        return []
    captured = capture(network, image, [place.name for place in places])
    output = output_tensor(captured.output)
    if not isinstance(output, Tensor) or not output.requires_grad:
        return [True] * len(places)  # a user's own score function decides what matters
    with torch.inference_mode(False), torch.enable_grad():
        gradients = torch.autograd.grad(
            output,
            list(captured.activations.values()),
            grad_outputs=torch.full_like(output, torch.nan),
            allow_unused=True,
        )
    return [
        gradient is not None and bool((place.layout.maps(gradient) != 0).any())
        for place, gradient in zip(places, gradients, strict=True)
    ]
