"""Reads checkpoints of other programs without running code, and fits them to a network.

Frameworks nest the state dict (``{"state_dict": ...}``, ``{"model": ..., "ema": ...}``) and put prefixes
before its names (``module.``, ``model.``, ``_orig_mod.``). Both are found by comparing with the
network's own names, not by a list of known spellings.
"""

from __future__ import annotations

import pickle
import warnings
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ssgcam.errors import SsgcamError, first_line, rephrased

#: How the names of auxiliary classifiers begin (Inception networks), which are left out.
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_WEB_PAGE = "is a web page; download the file itself (the page may ask to log in)"
#: How files begin that are no checkpoints, and what to say about them.
_OTHER_FILES = {
    b"version https://git-lfs": "is a git-lfs pointer, not the file itself; run 'git lfs pull'",
    b"<!doctype": _WEB_PAGE,
    b"<html": _WEB_PAGE,
    b"\x89hdf": "is an HDF5 file, as Keras writes; convert it to a PyTorch state dict",
}
#: Parts of what PyTorch says about files it can't read, and what to say instead.
_REASONS = {
    "Unsupported": "is a pickle that needs code to be read (such as a whole network), which is not "
    "run; save the tensors alone: torch.save(network.state_dict(), ...)",
    "TorchScript": "is TorchScript, whose layers can't be observed; save the state_dict() of the "
    "Python network that it was made from",
}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file of tensors without running code that may be in it.

    Returns:
        Its content: a state dict, or a dictionary with one in it at any depth.

    Raises:
        SsgcamError: If it is missing, of another kind, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise SsgcamError(f"no weights file at '{path}'; check the path")
    what, hint = f"'{path}' can't be read", "check its permissions or copy it again"
    with rephrased(what, hint, OSError), path.open("rb") as stream:
        start = stream.read(64)
    for signature, what in _OTHER_FILES.items():
        if start.lstrip().lower().startswith(signature):
            raise SsgcamError(f"'{path}' {what}")
    if path.suffix == ".onnx" or (start[:1] == b"\x08" and b"\x12" in start[:4]):
        raise SsgcamError(
            f"'{path}' is an ONNX file, which has no gradients; give the PyTorch network that it was "
            "exported from"
        )
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with warnings.catch_warnings():  # on old pickles and TorchScript
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format raises its own type
        reason = first_line(error)
        if isinstance(error, (pickle.UnpicklingError, KeyError, EOFError)):
            reason = "it is not a PyTorch file"
        other = f"can't be read as weights ({reason}); give a file of tensors, such as a state dict"
        what = next((what for part, what in _REASONS.items() if part in str(error)), other)
        raise SsgcamError(f"'{path}' {what}") from error
    if not isinstance(content, Mapping) or not content:
        raise SsgcamError(f"'{path}' holds no state dict; save network.state_dict() instead")
    return dict(content)


def match_names(content: Mapping[str, Any], network: nn.Module) -> dict[str, Tensor]:
    """Find the state dict in a checkpoint and give its entries the network's own names.

    Args:
        content: What :func:`read_checkpoint` returned.
        network: Only its names are used.

    Returns:
        Of all dictionaries in the content, the one that has most of the network's names after the
        prefix that fits best is removed or added; the first one of several that have as many.
    """
    own = network.state_dict().keys()
    renamed = [_renamed(state, set(own)) for state in _state_dicts(content)]
    return max(renamed, key=lambda state: len(own & state.keys()), default={})


def load_state(network: nn.Module, state: Mapping[str, Tensor], file: str, name: str) -> None:
    """Load a state dict or say in one sentence what doesn't fit.

    Raises:
        SsgcamError: If names or shapes differ.
    """
    own = network.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in own and not key.startswith(AUXILIARY)]
    if missing or extra:
        raise SsgcamError(
            f"'{file}' doesn't fit '{name}': it {_listed('lacks', missing)}"
            f"{' and ' if missing and extra else ''}{_listed('has the unknown', extra)}; "
            "is it a checkpoint of another architecture?"
        )
    for key, value in own.items():
        if key in state and state[key].shape != value.shape:
            raise SsgcamError(
                f"'{file}' doesn't fit '{name}': '{key}' has shape {list(state[key].shape)}, "
                f"the network has {list(value.shape)}"
            )
    what, hint = f"'{file}' can't be loaded into '{name}'", "save dense tensors, not quantized ones"
    with rephrased(what, hint, RuntimeError):
        network.load_state_dict(dict(state), strict=False)


def _state_dicts(content: Mapping[Any, Any]) -> Iterator[dict[str, Tensor]]:
    """Every dictionary in nested ones that holds tensors, without its other entries."""
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield tensors
    for value in content.values():
        if isinstance(value, Mapping):
            yield from _state_dicts(value)


def _renamed(state: Mapping[str, Tensor], own: set[str]) -> dict[str, Tensor]:
    """The entries under the network's names: the prefix that most of them share is changed."""
    state = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    removed, added = _prefix(state, own), _prefix(own, state)
    renamed = {}
    for key, value in state.items():
        if key not in own and removed:
            key = key.removeprefix(removed)
        elif key not in own and added + key in own:
            key = added + key
        renamed[key] = value
    return renamed


def _prefix(names: Iterable[str], known: Container[str]) -> str:
    """The most common beginning of names that are known without it; empty if none is."""
    prefixes: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for count in range(len(parts)):
            if ".".join(parts[count:]) in known:
                prefixes["".join(f"{part}." for part in parts[:count])] += 1
    return max(prefixes, key=lambda prefix: prefixes[prefix], default="")


def _listed(verb: str, keys: list[str]) -> str:
    if not keys:
        return ""
    some = ", ".join(f"'{key}'" for key in keys[:3])
    return f"{verb} {some}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
