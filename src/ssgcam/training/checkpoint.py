"""The checkpoint of a training: written whole after each epoch, read back to resume exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ssgcam.errors import SsgcamError
from ssgcam.files import written_whole
from ssgcam.training.settings import SegmenterSettings, TrainingSettings

#: Settings that don't change what is computed.
_FREE = ("device", "workers")
#: Version of the checkpoint's content.
FORMAT = 2


def identity(
    settings: TrainingSettings | SegmenterSettings, images: bytes, **others: Any
) -> dict[str, Any]:
    """What must be the same for a training to resume: its settings, its images and the others."""
    fixed = {key: value for key, value in asdict(settings).items() if key not in _FREE}
    digest = hashlib.sha256(images).hexdigest()
    return {"checkpoint format": FORMAT, **fixed, **others, "training images": digest[:16]}


def save_checkpoint(
    path: Path,
    identity: dict[str, Any],
    parts: Mapping[str, Any],
    history: list[dict[str, Any]],
    best: dict[str, Any],
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: The file.
        identity: See :func:`identity`.
        parts: Network, optimizer and schedule by name; their ``state_dict()`` is saved.
        history: The epochs so far.
        best: The network's state dict of the best epoch so far.
    """
    content = {"identity": identity, "history": history, "best": best}
    states = {name: part.state_dict() for name, part in parts.items()}
    with written_whole(path) as temporary:
        torch.save({**content, **states}, temporary)


def load_checkpoint(
    path: Path, identity: dict[str, Any], parts: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Read a checkpoint into network, optimizer and schedule.

    Args:
        path: The file.
        identity: Of the training that resumes.
        parts: As in :func:`save_checkpoint`; their states are loaded.

    Returns:
        The epochs so far, and the network's state dict of the best one.

    Raises:
        SsgcamError: If the file is not a checkpoint, or one of another training.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found: dict[str, Any] = content["identity"]
    except Exception as error:  # torch.load raises many types
        raise SsgcamError(
            f"'{path}' is not a checkpoint of a training; delete it or train without resuming"
        ) from error
    for key, value in identity.items():
        if found.get(key) != value:
            raise SsgcamError(
                f"'{path}' is a checkpoint of another training ({key}: {found.get(key)} there, "
                f"{value} here); give the same settings, or train without resuming"
            )
    for name, part in parts.items():
        part.load_state_dict(content[name])
    return content["history"], content["best"]
