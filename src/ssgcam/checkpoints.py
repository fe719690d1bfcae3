"""Reads state dicts from files without running code, and loads them or says what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssgcam.errors import SsgcamError, first_line

#: How the names of auxiliary classifiers begin (Inception networks), which are left out.
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


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
        raise SsgcamError(
            f"'{path}' can't be read as weights ({first_line(error)}); a file of tensors is needed: "
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
    extra = [key for key in state if key not in own and not key.startswith(AUXILIARY)]
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
