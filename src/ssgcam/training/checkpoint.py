"""A training on disk: written whole after each epoch, and read back to continue exactly."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssgcam.errors import SsgcamError
from ssgcam.files import write_with
from ssgcam.training.data import Samples
from ssgcam.training.settings import TrainingSettings

#: Settings that don't change what is computed.
_FREE = ("device", "workers")


def fingerprint(settings: TrainingSettings, samples: Samples) -> dict[str, Any]:
    """What must be the same for a training to continue: settings, photos, labels and groups."""
    fixed = {key: value for key, value in asdict(settings).items() if key not in _FREE}
    content = json.dumps(
        [list(samples.class_names), list(map(int, samples.labels)), list(samples.groups)]
    )
    return {**fixed, "training photos": hashlib.sha256(content.encode()).hexdigest()[:16]}


@dataclass
class Checkpoint:
    """The state of a training, and the file it is kept in.

    Attributes:
        path: The file; nothing is written or read if None.
        identity: See :func:`fingerprint`.
        network: Being trained.
        optimizer: Of the network.
        schedule: Of the optimizer.
        best: The state dict of the best epoch so far, on the CPU.
    """

    path: Path | None
    identity: dict[str, Any]
    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    best: dict[str, Tensor] = field(default_factory=dict)

    def save(self, history: list[dict[str, Any]], is_best: bool) -> None:
        """Keep the weights if they are the best, and write everything to the file."""
        if is_best:
            self.best = {
                key: value.detach().to("cpu", copy=True)
                for key, value in self.network.state_dict().items()
            }
        if self.path is None:
            return
        content = {
            "identity": self.identity,
            "history": history,
            "best": None if is_best else self.best,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        write_with(self.path, lambda temporary: torch.save(content, temporary))

    def restore(self) -> list[dict[str, Any]]:
        """Read the file, if there is one, into the network, the optimizer and the schedule.

        Returns:
            The history that was saved; empty if there is no file.

        Raises:
            SsgcamError: If the file is not a checkpoint or is one of another training.
        """
        if self.path is None or not self.path.is_file():
            return []
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            identity: dict[str, Any] = content["identity"]
        except Exception as error:  # torch.load fails in many ways
            raise SsgcamError(
                f"'{self.path}' is not a checkpoint of a training; "
                "delete it or train without resuming"
            ) from error
        for key, value in self.identity.items():
            if identity.get(key) != value:
                raise SsgcamError(
                    f"'{self.path}' is a checkpoint of another training ({key}: "
                    f"{identity.get(key)} there, {value} here); "
                    "give the same settings, or train without resuming"
                )
        self.network.load_state_dict(content["network"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.schedule.load_state_dict(content["schedule"])
        self.best = content["network"] if content["best"] is None else content["best"]
        history: list[dict[str, Any]] = content["history"]
        return history

    def restore_best(self) -> None:
        """Put the best epoch's weights into the network."""
        self.network.load_state_dict(self.best)
