"""Which maps a network makes on the way from an image to its output, and which of them matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from ssgcam.core.capture import capture, version_of
from ssgcam.core.layouts import Layout, proportional, spatial_layout
from ssgcam.core.network import explaining, outside_inference_mode
from ssgcam.core.target import output_tensor

#: Parts of ``torch.nn.modules`` whose modules learn nothing and only change the resolution, if that.
RESAMPLING = ("pooling", "padding", "upsampling", "dropout")
NORMALIZING = (nn.LayerNorm, nn.RMSNorm)
LINEAR = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.Identity)


@dataclass(frozen=True)
class LayerInfo:
    """One layer that can be targeted: a tensor that a network makes and that can be read as maps.

    Attributes:
        name: Its spelling, see ``core.capture``; of several names for one tensor, the shortest.
        module: Name of the module that gives it.
        kind: That module's class.
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
    module: str
    kind: str
    layout: Layout
    channels: int
    signed: bool
    resampling: bool
    normalized: bool
    activated: bool
    linear: bool
    leaves: int = 0
    influences: bool = True
    default: bool = False
    why: str = ""


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
    images = torch.cat([image, image])
    calls: Counter[str] = Counter()
    # the tensors are kept alive, or another one could get an id; they may be written to in between
    records: list[tuple[LayerInfo, Tensor, int]] = []

    def record(name: str, module: nn.Module, inputs: object, output: object) -> None:
        calls[name] += 1
        if isinstance(output, Tensor) and output.is_floating_point():
            layout = spatial_layout(output, size)
            if layout is not None:
                info = _describe(f"{name}@{calls[name]}", name, module, output, layout)
                records.append((info, output, version_of(output)))

    with ExitStack() as handles, explaining(network), torch.no_grad():
        for name, module in network.named_modules():
            if name:
                handles.enter_context(module.register_forward_hook(partial(record, name)))
        network(outside_inference_mode(images))
    modules = dict(network.named_modules())
    resolutions = {info.module: info.layout.resolution for info, _, _ in records}
    places: dict[tuple[int, int], LayerInfo] = {}
    grids: set[tuple[int, int]] = set()
    for info, tensor, version in records:
        resolution = info.layout.resolution
        if len(tensor) != len(images) or not proportional(resolution, size):
            continue  # windows, attention heads and the like
        if info.layout.shape == "tokens" and grids and not _made_before(resolution, grids):
            continue  # channels in the place of tokens, as inside the token mixing of an MLP-Mixer
        grids.add(resolution)
        name = info.module if calls[info.module] == 1 else info.name
        leaves = _leaving_blocks(info.module, resolution, modules, resolutions)
        info = replace(info, name=name, leaves=leaves)
        key = id(tensor), version
        same = places.pop(key, None)  # a container gives its last child's very tensor
        places[key] = info if same is None else _joined(same, info)
    influences = _influences(network, images, list(places.values()))
    return [
        replace(place, influences=influence)
        for place, influence in zip(places.values(), influences, strict=True)
    ]


def _made_before(resolution: tuple[int, int], grids: set[tuple[int, int]]) -> bool:
    """Whether a grid of tokens is one that the patch embedding made, or half of one."""
    return any(
        resolution
        in ((rows, columns), (-(-rows // 2), -(-columns // 2)), (rows // 2, columns // 2))
        for rows, columns in grids
    )


def resamples(module: nn.Module) -> bool:
    """Whether a module of PyTorch pools, pads or the like."""
    return _from_torch(type(module), RESAMPLING)


def _describe(
    name: str, module_name: str, module: nn.Module, tensor: Tensor, layout: Layout
) -> LayerInfo:
    kind, signed = type(module), bool((tensor < 0).any())
    return LayerInfo(
        name=name,
        module=module_name,
        kind=kind.__name__,
        layout=layout,
        channels=int(tensor.shape[1 if layout.shape == "channels_first" else -1]),
        signed=signed,
        resampling=resamples(module),
        normalized=issubclass(kind, NORMALIZING),
        activated=not signed or _from_torch(kind, ("activation",)),
        linear=issubclass(kind, LINEAR),
    )


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
