"""Training of an image classifier from image-level labels, which is all that SSG-CAM needs.

:func:`train_classifier` trains any network of :mod:`ssgcam.models`, from a random start or from
weights: class-balanced, augmented for microscopy, one-cycle schedule, early stopping on held-out
groups, mixed precision where the machine has it. With a checkpoint file a training that was killed
continues with the same numbers as if it had not been: all randomness is a function of the seed and
of the position in the training.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from ssgcam.device import choose_device
from ssgcam.errors import SsgcamError, require
from ssgcam.models import LoadedModel
from ssgcam.training.batches import epoch_size, fixed_batches, training_batches
from ssgcam.training.checkpoint import Checkpoint, fingerprint
from ssgcam.training.data import Samples, split_by_group
from ssgcam.training.network import freeze_before, start_model
from ssgcam.training.report import ClassificationReport, report
from ssgcam.training.settings import TrainingSettings

MAX_GRADIENT_NORM = 5.0


@dataclass(frozen=True)
class Epoch:
    """One epoch: training loss and, on held-out photos, mean recall and class-balanced loss."""

    number: int
    training_loss: float
    mean_recall: float | None = None
    loss: float | None = None

    @property
    def score(self) -> tuple[float, float]:
        """What is maximized: mean recall, then less loss; the last epoch if nothing is held out."""
        if self.mean_recall is None or self.loss is None:
            return float(self.number), 0.0
        return self.mean_recall, -self.loss

    def __str__(self) -> str:
        """One line."""
        held_out = (
            f", held out: mean recall {self.mean_recall:.4f}, loss {self.loss:.4f}"
            if self.mean_recall is not None
            else ""
        )
        return f"epoch {self.number}: training loss {self.training_loss:.4f}{held_out}"


@dataclass(frozen=True)
class TrainingResult:
    """A trained classifier.

    Attributes:
        model: With the best epoch's weights, on the CPU, in eval mode.
        settings: What it was trained with.
        history: One entry for each epoch.
        best_epoch: The epoch whose weights were kept, from 1.
        report: Scores of these weights on the held-out photos; None if none were held out.
    """

    model: LoadedModel
    settings: TrainingSettings
    history: tuple[Epoch, ...]
    best_epoch: int
    report: ClassificationReport | None

    def to_json(self) -> dict[str, Any]:
        """Everything but the network, for a JSON file."""
        return {
            "class_names": self.model.class_names,
            "settings": asdict(self.settings),
            "best_epoch": self.best_epoch,
            "history": [asdict(epoch) for epoch in self.history],
            "report": self.report.to_json() if self.report else None,
        }


def train_classifier(
    samples: Samples,
    settings: TrainingSettings,
    *,
    held_out: Samples | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> TrainingResult:
    """Train a classifier of photos.

    Args:
        samples: Labeled photos, see :func:`ssgcam.training.data.read_labeled_images`.
        settings: What is trained and how.
        held_out: Photos for early stopping and the report; without them ``settings.held_out`` of
            the groups of ``samples``.
        checkpoint: Written after every epoch, whole or not at all.
        resume: Continue from ``checkpoint`` if it exists.
        progress: Show a progress bar and a line for each epoch.

    Returns:
        The network with the best epoch's weights, and how good it is.

    Raises:
        SsgcamError: If torchmetrics is missing, the photos can't be split, the network can't be
            had, a photo can't be read, the checkpoint is of another training, or the loss diverges.
    """
    require("torchmetrics", "train")
    if held_out is None and settings.held_out:
        samples, held_out = split_by_group(samples, settings.held_out, settings.seed)
    device = choose_device(settings.device)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = start_model(settings, samples.class_names)
    network = model.network.to(device).to(memory_format=torch.channels_last)
    frozen = freeze_before(network, settings.train_from)
    count = epoch_size(samples, settings)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,  # VGG16 on a CPU: .08 s a step instead of .56
    )
    steps = -(-count // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.epochs * steps
    )
    saved = Checkpoint(checkpoint, fingerprint(settings, samples), network, optimizer, schedule)
    history = [Epoch(**entry) for entry in saved.restore()] if resume else []
    weight = _class_weight(samples).to(device) if settings.balance == "loss" else None

    while len(history) < settings.epochs and not _stalled(history, settings.patience):
        number = len(history) + 1
        network.train()
        for module in frozen:
            module.eval()
        batches = training_batches(samples, settings, model.preprocessing, number, count)
        label = f"epoch {number}/{settings.epochs}"
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed + number)  # dropout and the like
            loss = _train_epoch(
                network,
                tqdm(batches, label, disable=not progress, leave=False),
                optimizer,
                schedule,
                weight,
                _autocast(settings.precision, device),
            )
        if not np.isfinite(loss):
            raise SsgcamError(
                f"the loss is {loss} in epoch {number}; give a lower learning rate "
                f"than {settings.learning_rate:g}"
            )
        epoch = Epoch(number, loss)
        if held_out is not None:
            probabilities = predict(model, held_out, settings.batch_size, settings.workers)
            epoch = Epoch(number, loss, *_recall_and_loss(probabilities, held_out))
        history.append(epoch)
        if progress:
            tqdm.write(str(epoch))
        saved.save([asdict(entry) for entry in history], epoch is _best(history))

    saved.restore_best()
    network.cpu().eval().requires_grad_(True)
    final = None
    if held_out is not None:
        probabilities = predict(model, held_out, settings.batch_size, settings.workers)
        final = evaluate(probabilities, held_out, settings.seed)
    return TrainingResult(model, settings, tuple(history), _best(history).number, final)


def predict(model: LoadedModel, samples: Samples, batch_size: int = 32, workers: int = 0) -> Tensor:
    """Class probabilities of photos, in full precision and without augmentation.

    Args:
        model: Left in eval mode.
        samples: Their fixed views are used.
        batch_size: Photos for each forward pass.
        workers: Processes that read photos; 0 reads them in this one.

    Returns:
        ``[N, K]`` float32 on the CPU.
    """
    device = next(model.network.parameters()).device
    model.network.eval()
    batches = fixed_batches(samples, model.preprocessing, batch_size, workers)
    with torch.inference_mode():
        parts = [
            model.network(images.to(device, memory_format=torch.channels_last)).softmax(1).cpu()
            for images, _ in batches
        ]
    return torch.cat(parts)


def evaluate(probabilities: Tensor, samples: Samples, seed: int = 0) -> ClassificationReport:
    """The report on predictions ``[N, K]`` for N labeled photos; ``seed`` is of the bootstrap."""
    labels = torch.as_tensor(samples.labels)
    return report(probabilities, labels, samples.groups, samples.class_names, seed)


def _train_epoch(
    network: nn.Module,
    batches: tqdm,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    weight: Tensor | None,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> float:
    """Take one step for each batch; the mean loss, or the first that is not finite."""
    device = next(network.parameters()).device
    total, count = 0.0, 0
    for images, labels in batches:
        with autocast():
            logits = network(images.to(device, memory_format=torch.channels_last))
        loss = functional.cross_entropy(logits.float(), labels.to(device), weight)
        if not torch.isfinite(loss):
            return loss.item()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        total += loss.item() * len(labels)
        count += len(labels)
        batches.set_postfix(loss=f"{total / count:.4f}", refresh=False)
    return total / count


def _recall_and_loss(probabilities: Tensor, samples: Samples) -> tuple[float, float]:
    """Mean over the classes that occur of the recall and of the cross-entropy."""
    labels = torch.as_tensor(samples.labels)
    right = (probabilities.argmax(1) == labels).double()
    losses = functional.nll_loss(
        probabilities.double().clamp_min(1e-12).log(), labels, reduction="none"
    )
    members = [labels == index for index in sorted(set(labels.tolist()))]
    recall = torch.stack([right[member].mean() for member in members]).mean()
    return recall.item(), torch.stack([losses[member].mean() for member in members]).mean().item()


def _class_weight(samples: Samples) -> Tensor:
    """Inverse class sizes with mean weight 1 over the photos: [K]."""
    sizes = torch.bincount(
        torch.as_tensor(samples.labels), minlength=len(samples.class_names)
    ).clamp_min(1)
    return len(samples.labels) / (len(sizes) * sizes.float())


def _best(history: list[Epoch]) -> Epoch:
    return max(history, key=lambda epoch: epoch.score)


def _stalled(history: list[Epoch], patience: int) -> bool:
    return bool(history) and len(history) - _best(history).number >= patience


def _autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    if precision == "auto":
        if device.type == "cuda":
            made_for_it = torch.cuda.is_bf16_supported()
        else:
            has: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
            made_for_it = device.type == "cpu" and (
                has.get("avx512_bf16", False) or has.get("amx_bf16", False)
            )
        precision = "bfloat16" if made_for_it else "float32"
    if precision == "float32":
        return nullcontext
    return partial(torch.autocast, device.type, torch.bfloat16)
