"""Identifies a network by its layers' shapes and a hash of its parameters, for recipes and caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ssgcam.core.capture import capture
from ssgcam.core.layouts import layout_of
from ssgcam.core.network import placed, unwrap
from ssgcam.core.target import logits_of
from ssgcam.errors import SsgcamError, first_line
from ssgcam.images import Reading
from ssgcam.models import LoadedModel, input_channels


@dataclass(frozen=True)
class Fingerprint:
    """The network a recipe was made for.

    Attributes:
        name: The name it was loaded by, or its class.
        input_size: Height and width of the inputs it was calibrated on.
        parameters: Hash of its parameters and buffers, ``"sha256:..."``.
        output: How its logits become probabilities.
        reading: How its image files were read; None if its images were tensors.
    """

    name: str
    input_size: tuple[int, int]
    parameters: str
    output: Literal["softmax", "sigmoid"] = "softmax"
    reading: Reading | None = None

    @classmethod
    def of(cls, model: LoadedModel, input_size: tuple[int, int]) -> Fingerprint:
        """The fingerprint of a network, for inputs of this height and width."""
        name, digest = Path(model.name).name, parameter_hash(model.network)
        return cls(name, input_size, digest, model.output, model.preprocessing.reading)


def parameter_hash(network: nn.Module) -> str:
    """``"sha256:..."`` of a network's parameters and buffers, names, types and shapes included."""
    digest = sha256()
    for name, tensor in sorted(unwrap(network).state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
            digest.update(tensor_bytes(tensor))
    return f"sha256:{digest.hexdigest()}"


def tensor_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor's values, whatever its type and device."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def layer_shapes(
    network: nn.Module, names: Sequence[str], input_size: tuple[int, int]
) -> tuple[dict[str, tuple[int, int, int]], int]:
    """Channels, rows and columns of layers at an input size, and the number of outputs.

    Raises:
        SsgcamError: If a layer can't be explained, or the network takes no such input.
    """
    images = placed(torch.zeros(1, input_channels(network), *input_size), network)
    try:
        captured = capture(network, images, names)
    except (RuntimeError, AssertionError) as error:
        raise SsgcamError(
            f"the network takes no input of {shape_text(input_size)} pixels ({first_line(error)}); use "
            "one that does"
        ) from error
    shapes = {}
    for name, tensor in captured.activations.items():
        maps = layout_of(tensor, input_size, name).maps(tensor)
        shapes[name] = (int(maps.shape[1]), int(maps.shape[2]), int(maps.shape[3]))
    return shapes, int(logits_of(captured.output).shape[1])


def shape_text(sides: Sequence[int]) -> str:
    """Sides with an x between them, such as ``"3x24x24"``."""
    return "x".join(map(str, sides))
