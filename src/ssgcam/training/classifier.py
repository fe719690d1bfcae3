"""Training of an image classifier from image-level labels: :func:`train_classifier`.

Any network that :func:`ssgcam.models.load_model` builds, from random or trained weights:
class-balanced sampling, augmentation, one-cycle schedule, early stopping on held-out groups.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssgcam.core.target import logits_of
from ssgcam.device import choose_device
from ssgcam.errors import SsgcamError, require
from ssgcam.models import LoadedModel, Output, check_network, load_model
from ssgcam.training.data import (
    LabeledImages,
    split_by_group,
    training_batches,
    validation_batches,
)
from ssgcam.training.loop import fit, identity
from ssgcam.training.report import TrainingResult, evaluate, score_and_loss
from ssgcam.training.settings import TrainingSettings

MAX_GRADIENT_NORM = 5.0


def train_classifier(
    images: LabeledImages,
    settings: TrainingSettings,
    *,
    held_out: LabeledImages | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> TrainingResult:
    """Train a classifier.

    Args:
        images: Labeled images, such as :func:`ssgcam.training.labeled_images` returns, or other
            :class:`ssgcam.training.LabeledImages`.
        settings: What is trained and how.
        held_out: Images for early stopping and the report; without them ``settings.held_out`` of
            the groups of ``images``.
        checkpoint: File that is written after every epoch, whole or not at all.
        resume: Continue from ``checkpoint`` if it exists.
        progress: Show a progress bar and a line for each epoch.

    Returns:
        The network with the best epoch's weights, and its scores.

    Raises:
        SsgcamError: If torchmetrics is missing, the images can't be split, the network can't be
            had, an image can't be read, the checkpoint is of another training, or the loss diverges.
    """
    require("torchmetrics", "train")
    if held_out is None and settings.held_out:
        images, held_out = split_by_group(images, settings.held_out, settings.seed)
    device = choose_device(settings.device)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = start_model(settings, images)
    network = model.network.to(device).to(memory_format=torch.channels_last)
    frozen = freeze_before(network, settings.train_from)
    count = settings.samples_per_epoch or len(images)
    if count > 1 and count % settings.batch_size == 1:
        count -= 1  # batch norm fails on a last batch of one image
    optimizer = torch.optim.AdamW(
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    loss_function = _loss_function(images, settings).to(device)

    def loss_of(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        inputs, labels = batch
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.amp):
            logits = logits_of(network(inputs.to(device, memory_format=torch.channels_last)))
        return loss_function(logits.float(), labels.to(device)), len(labels)

    def predicted(chosen: LabeledImages) -> Tensor:
        return predict(model, chosen, settings.batch_size, settings.workers)

    def scores() -> Mapping[str, float | None]:
        if held_out is None:
            return {"score": None, "loss": None}
        return score_and_loss(predicted(held_out), held_out)

    epochs, best = fit(
        network,
        settings,
        optimizer,
        -(-count // settings.batch_size),
        lambda number: training_batches(images, settings, model.preprocessing, number, count),
        loss_of,
        scores,
        _rank,
        identity=identity(settings, images.identity()),
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
        frozen=frozen,
        patience=settings.patience,
        max_gradient_norm=MAX_GRADIENT_NORM,
    )
    report = None
    if held_out is not None:
        report = evaluate(predicted(held_out), held_out, settings.seed)
    return TrainingResult(model, settings, tuple(epochs), best, report)


def predict(
    model: LoadedModel, images: LabeledImages, batch_size: int = 32, workers: int = 0
) -> Tensor:
    """Class probabilities of images, in full precision and without augmentation.

    Args:
        model: Left in eval mode.
        images: Their fixed views are used.
        batch_size: Images for each forward pass.
        workers: Processes that read images; 0 reads them in this one.

    Returns:
        ``[N, K]`` float32 on the CPU.
    """
    device = next(model.network.parameters()).device
    model.network.eval()
    batches = validation_batches(images, model.preprocessing, batch_size, workers)
    with torch.inference_mode():
        logits = [model(inputs.to(device)).cpu() for inputs, _ in batches]
    return model.probabilities(torch.cat(logits))


def start_model(settings: TrainingSettings, images: LabeledImages) -> LoadedModel:
    """Build the network to train, with one output for each class of the images.

    Raises:
        SsgcamError: If the network or its weights can't be had, its last layer can't be replaced, or
            it fails on inputs of this size.
    """
    loaded = load_model(settings.model, settings.weights, num_classes=len(images.class_names))
    size = loaded.preprocessing.input_size
    if settings.input_size is not None:
        size = (settings.input_size, settings.input_size)
    preprocessing = replace(
        loaded.preprocessing, input_size=size, resize_shorter=None, reading=images.reading
    )
    output: Output = "sigmoid" if images.multi_label else "softmax"
    model = LoadedModel(loaded.network, loaded.name, preprocessing, images.class_names, output)
    check_network(model)
    return model


def freeze_before(network: nn.Module, name: str | None) -> list[nn.Module]:
    """Freeze the parameters of all modules that are defined before one.

    Args:
        network: Its parameters' ``requires_grad`` flags are set.
        name: The first module to train; nothing is frozen if None.

    Returns:
        The frozen modules, to be kept in eval mode (batch-norm statistics).

    Raises:
        SsgcamError: If there is no such module, or nothing from it on has parameters.
    """
    if name is None:
        return []
    modules = dict(network.named_modules())
    if name not in modules or not name:
        top = ", ".join(path for path, _ in network.named_children())
        raise SsgcamError(
            f"the network has no module '{name}' to train from; its top modules are {top}"
        )
    frozen = []
    for path, module in itertools.takewhile(lambda each: each[0] != name, modules.items()):
        contains_it = not path or name.startswith(f"{path}.")
        for parameter in module.parameters(recurse=not contains_it):
            parameter.requires_grad_(False)
        if not contains_it:
            frozen.append(module)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise SsgcamError(
            f"no module from '{name}' on has parameters to train; give an earlier one"
        )
    return frozen


def _rank(epoch: dict[str, Any]) -> tuple[float, float]:
    """What is maximized: the score, then less loss; the last epoch if nothing is held out."""
    if epoch["score"] is None:
        return epoch["number"], 0.0
    return epoch["score"], -epoch["loss"]


def _loss_function(images: LabeledImages, settings: TrainingSettings) -> nn.Module:
    """Cross-entropy, for several labels binary; ``balance="loss"`` weights classes by inverse size."""
    sizes = torch.zeros(len(images.class_names))
    for _, label in images.pairs():
        sizes[label] += 1
    weight = None
    if images.multi_label:
        if settings.balance == "loss":  # positive and negative images of a class count alike
            weight = (len(images) - sizes) / sizes.clamp_min(1)
        return nn.BCEWithLogitsLoss(pos_weight=weight)
    if settings.balance == "loss":  # the mean weight of the images is 1
        weight = len(images) / (len(sizes) * sizes.clamp_min(1))
    return nn.CrossEntropyLoss(weight)
