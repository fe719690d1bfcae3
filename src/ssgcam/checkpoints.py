"""Weights, from a file or a library: read without running code, or one sentence on what doesn't fit."""

from __future__ import annotations

import urllib.error
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssgcam.errors import SsgcamError


def with_weights(
    name: str,
    weights: str | Path,
    num_classes: int | None,
    *,
    build: Callable[..., nn.Module],
    pretrained: Callable[[], nn.Module],
    left_out: tuple[str, ...] = (),
) -> tuple[nn.Module, int]:
    """A network and its number of classes.

    Args:
        name: How it was asked for.
        weights: A file, ``"DEFAULT"`` or ``"none"``.
        num_classes: For a random start; 1000 if None.
        build: Makes it with random weights, for 1000 classes or for ``num_classes``.
        pretrained: Makes it with its default weights, for 1000 classes.
        left_out: How entries of a file begin that the network has no use for.

    Raises:
        SsgcamError: If the weights can't be had or don't fit.
    """
    if is_file(weights):
        state = read_state(Path(weights))
        state = {key: value for key, value in state.items() if not key.startswith(left_out)}
        count = classes_in(state, build(), str(weights), name)
        network = build(num_classes=count)
        load_state(network, state, str(weights), name)
        return network, count
    if str(weights) == "DEFAULT":
        return pretrained(), 1000
    network = build(num_classes=num_classes) if num_classes else build()
    return network, num_classes or 1000


def is_file(weights: str | Path) -> bool:
    """Whether weights are named by a file, and not ``"DEFAULT"`` or ``"none"``."""
    return str(weights) not in {"DEFAULT", "none"}


def read_state(path: Path) -> dict[str, Any]:
    """Read a file of tensors without running any code that may be in it.

    Raises:
        SsgcamError: If it is missing, not such a file, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise SsgcamError(f"no weights file at '{path}'")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format fails with its own kind
        first = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise SsgcamError(
            f"'{path}' can't be read as weights ({first}); a file of tensors is needed: "
            "torch.save(network.state_dict(), ...) or safetensors"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise SsgcamError(f"'{path}' holds no state dict; save network.state_dict() instead")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def load_state(network: nn.Module, state: Mapping[str, Any], file: str, name: str) -> None:
    """Load a state dict or say in one sentence what doesn't fit.

    Raises:
        SsgcamError: If keys or shapes differ.
    """
    own = network.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in own]
    if missing or extra:
        what = f"lacks '{missing[0]}'" if missing else f"has '{extra[0]}', which the network lacks"
        raise SsgcamError(
            f"'{file}' doesn't fit '{name}': it {what} ({len(missing)} missing, {len(extra)} extra); "
            "is it a checkpoint of another architecture?"
        )
    for key, value in own.items():
        if key in state and tuple(state[key].shape) != tuple(value.shape):
            raise SsgcamError(
                f"'{file}' doesn't fit '{name}': '{key}' has shape {list(state[key].shape)}, "
                f"the network has {list(value.shape)}"
            )
    network.load_state_dict(dict(state), strict=False)


def classes_in(state: Mapping[str, Any], network: nn.Module, file: str, name: str) -> int:
    """The number of classes of a state dict: the rows of the network's last classifier layer."""
    heads = [
        key
        for key, module in network.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.weight.shape[0] == 1000
    ]
    key = f"{heads[-1]}.weight" if heads else ""
    if key not in state:
        raise SsgcamError(
            f"'{file}' doesn't fit '{name}': it has no '{key}'; "
            "is it a checkpoint of another architecture?"
        )
    return int(state[key].shape[0])


def downloaded(build: Callable[[], Any], name: str) -> nn.Module:
    """A network with the weights that its library fetches.

    Raises:
        SsgcamError: If they can't be fetched.
    """
    try:
        network: nn.Module = build()
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise SsgcamError(
            f"the weights of '{name}' could not be downloaded ({first}); check the connection, "
            "give --weights FILE with a downloaded state dict, or --weights none for a random start"
        ) from error
    return network
