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
from ssgcam.core.layouts import TensorLayout, proportional, spatial_layout
from ssgcam.core.network import explaining, outside_inference_mode
from ssgcam.core.target import output_tensor

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
    layout: TensorLayout
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


@dataclass(frozen=True, eq=False)
class _Output:
    """A tensor that a module gave in its ``call``-th call, kept alive so that no other gets its id."""

    module: str
    call: int
    tensor: Tensor
    version: int
    layout: TensorLayout
    signed: bool


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
    modules = dict(network.named_modules())
    calls: Counter[str] = Counter()
    outputs: list[_Output] = []

    def record(name: str, module: nn.Module, inputs: object, output: object) -> None:
        calls[name] += 1
        if isinstance(output, Tensor) and output.is_floating_point():
            layout = spatial_layout(output, size)
            if layout is not None:
                signed = bool((output < 0).any())  # now, as the network may write to it
                outputs.append(
                    _Output(name, calls[name], output, version_of(output), layout, signed)
                )

    with ExitStack() as handles, explaining(network), torch.no_grad():
        for name, module in modules.items():
            if name:
                handles.enter_context(module.register_forward_hook(partial(record, name)))
        network(outside_inference_mode(images))
    resolutions = {output.module: output.layout.resolution for output in outputs}
    grids: set[tuple[int, int]] = set()  # that tokens can have: those seen, and half of them
    same_tensor: dict[tuple[int, int], list[_Output]] = {}
    for output in outputs:
        height, width = resolution = output.layout.resolution
        if len(output.tensor) != len(images) or not proportional(resolution, size):
            continue  # windows, attention heads and the like
        if output.layout.shape == "tokens" and grids and resolution not in grids:
            continue  # channels in the place of tokens, as inside the token mixing of an MLP-Mixer
        grids |= {resolution, (height // 2, width // 2), (-(-height // 2), -(-width // 2))}
        key = id(output.tensor), output.version
        # a container gives its last child's very tensor
        same_tensor[key] = [*same_tensor.pop(key, []), output]

    def leaves(output: _Output) -> int:
        parts = output.module.split(".")
        around = [".".join(parts[:end]) for end in range(1, len(parts))]
        own = output.layout.resolution
        return sum(
            resolutions.get(block, own) != own and not isinstance(modules[block], nn.Sequential)
            for block in around
        )

    def described(same: list[_Output]) -> LayerInfo:
        """From the innermost module that gives the tensor to the outermost one."""
        givers = [modules[output.module] for output in same]
        names = [o.module if calls[o.module] == 1 else f"{o.module}@{o.call}" for o in same]
        name, output = min(zip(names, same, strict=True), key=lambda pair: len(pair[0]))
        return LayerInfo(
            name=name,
            module=output.module,
            kind=type(modules[output.module]).__name__,
            layout=output.layout,
            channels=output.layout.maps(output.tensor).shape[1],
            signed=output.signed,
            resampling=any(map(resamples, givers)),
            normalized=any(isinstance(giver, NORMALIZING) for giver in givers),
            activated=not output.signed or any(_from_torch(g, "activation") for g in givers),
            linear=isinstance(givers[0], LINEAR),
            leaves=leaves(output),
        )

    places = [described(same) for same in same_tensor.values()]
    influences = _influences(network, images, places)
    return [replace(place, influences=i) for place, i in zip(places, influences, strict=True)]


def resamples(module: nn.Module) -> bool:
    """Whether a module of PyTorch learns nothing and only changes the resolution, if that."""
    return _from_torch(module, "pooling", "padding", "upsampling", "dropout")


def _from_torch(module: nn.Module, *parts: str) -> bool:
    """Whether a module's class is defined in one of these parts of ``torch.nn.modules``."""
    defined_in = {base.__module__ for base in type(module).__mro__}
    return not defined_in.isdisjoint(f"torch.nn.modules.{part}" for part in parts)


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
