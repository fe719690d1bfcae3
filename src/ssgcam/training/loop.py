"""The loop that trains every network: epochs, the best one's weights, checkpoint and resume.

All randomness is a function of the seed and of the position in the training, so that a training that
resumes from its checkpoint gives the same numbers as one that was not interrupted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ssgcam.errors import SsgcamError
from ssgcam.files import written_whole
from ssgcam.training.settings import SegmenterSettings, TrainingSettings

#: Settings that don't change what is computed.
_FREE = ("device", "workers")
#: Version of the checkpoint's content.
FORMAT = 3


def identity(
    settings: TrainingSettings | SegmenterSettings, images: bytes, **others: Any
) -> dict[str, Any]:
    """What must be the same for a training to resume: its settings, its images and the others."""
    fixed = {key: value for key, value in asdict(settings).items() if key not in _FREE}
    digest = hashlib.sha256(images).hexdigest()
    return {"checkpoint format": FORMAT, **fixed, **others, "training images": digest[:16]}


def fit(
    network: nn.Module,
    settings: TrainingSettings | SegmenterSettings,
    optimizer: torch.optim.Optimizer,
    steps: int,
    batches: Callable[[int], Iterable[Any]],
    loss_of: Callable[[Any], tuple[Tensor, int]],
    scores: Callable[[], Mapping[str, float | None]],
    rank: Callable[[dict[str, Any]], Any],
    *,
    identity: dict[str, Any],
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    frozen: Sequence[nn.Module] = (),
    patience: float = math.inf,
    max_gradient_norm: float = math.inf,
) -> tuple[list[dict[str, Any]], int]:
    """Train a network with a one-cycle schedule and give it the best epoch's weights.

    Args:
        network: It ends on the CPU, in eval mode, with gradients for all parameters.
        settings: Number of epochs, learning rate and seed.
        optimizer: Of the parameters to train.
        steps: Batches in an epoch.
        batches: From the epoch's number, from 1, to its batches.
        loss_of: From a batch to its mean loss and its number of images.
        scores: After each epoch: scores on held-out images by name; None where they are not known.
        rank: From an epoch, as it is returned, to what is maximized.
        identity: What must be the same to resume, see :func:`identity`.
        checkpoint: File that is written after every epoch, whole or not at all.
        resume: Continue from ``checkpoint`` if it exists.
        progress: Show a progress bar and a line for each epoch.
        frozen: Modules that stay in eval mode.
        patience: Stop after this many epochs without a better rank.
        max_gradient_norm: Longer gradients are shortened to it.

    Returns:
        Each epoch with its ``number``, its ``training_loss`` and its scores; the number of the best
        epoch, the first of equal ones.

    Raises:
        SsgcamError: If the checkpoint is of another training or the loss diverges.
    """
    total_steps = settings.epochs * steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps)
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "schedule": schedule}
    history: list[dict[str, Any]] = []
    weights: dict[str, Tensor] = {}
    best = 0
    if resume and checkpoint is not None and checkpoint.is_file():
        history, weights = load_checkpoint(checkpoint, identity, parts)
        best = max(history, key=rank)["number"]
    while len(history) < settings.epochs and len(history) - best < patience:
        number = len(history) + 1
        network.train()
        for module in frozen:
            module.eval()
        title = f"epoch {number}/{settings.epochs}"
        bar = tqdm(batches(number), title, steps, disable=None if progress else True, leave=False)
        total, count = 0.0, 0
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed + number)  # of dropout
            for batch in bar:
                loss, size = loss_of(batch)
                if not torch.isfinite(loss):
                    raise SsgcamError(
                        f"the loss is {loss.item()} in epoch {number}; give a lower learning rate "
                        f"than {settings.learning_rate:g}"
                    )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), max_gradient_norm)
                optimizer.step()
                schedule.step()
                total += loss.item() * size
                count += size
                bar.set_postfix(loss=f"{total / count:.4f}", refresh=False)
        found = scores()
        history.append({"number": number, "training_loss": total / count, **found})
        if progress:
            known = [f"{name} {value:.4f}" for name, value in found.items() if value is not None]
            about = f", held out: {', '.join(known)}" if known else ""
            tqdm.write(f"epoch {number}: training loss {total / count:.4f}{about}")
        if (best := max(history, key=rank)["number"]) == number:
            state = network.state_dict()
            weights = {key: value.detach().to("cpu", copy=True) for key, value in state.items()}
        if checkpoint is not None:
            states = {name: part.state_dict() for name, part in parts.items()}
            content = {"identity": identity, "history": history, "best": weights, **states}
            with written_whole(checkpoint) as temporary:
                torch.save(content, temporary)
    network.load_state_dict(weights)
    network.cpu().eval().requires_grad_(True)
    return history, best


def load_checkpoint(
    path: Path, identity: dict[str, Any], parts: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Read a checkpoint into network, optimizer and schedule.

    Args:
        path: The file.
        identity: Of the training that resumes.
        parts: Network, optimizer and schedule by name; their states are loaded.

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
