"""Settings of a training, the same in Python, on the command line and in checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ssgcam.core.settings import check_choice, check_range
from ssgcam.errors import SsgcamError

Balance = Literal["sampling", "loss", "none"]


@dataclass(frozen=True)
class TrainingSettings:
    """How a classifier is trained.

    Attributes:
        model: A name that :func:`ssgcam.models.load_model` builds.
        weights: ``"none"`` (random), ``"DEFAULT"`` or a file; the last layer is replaced when the
            number of classes differs.
        input_size: Side of the network's square input, in pixels; the network's own if None.
        epochs: Passes of ``samples_per_epoch`` images.
        batch_size: Images for each step.
        samples_per_epoch: Images for each epoch; as many as there are if None.
        learning_rate: Peak of the one-cycle schedule (AdamW).
        weight_decay: Weight decay of AdamW.
        balance: ``"sampling"`` draws each class equally often, ``"loss"`` weights the loss by the
            inverse class size, ``"none"`` does neither.
        augmentation: Flip and turn images at random.
        color: Largest relative change of brightness, contrast and saturation, 0 to 0.99.
        train_from: Train this module and those defined after it and freeze all before it:
            ``"layer4"`` is the last stage of a ResNet, ``"features.34"`` of VGG16 (bn), ``"fc"``
            the last layer alone. All are trained if None.
        held_out: Share of the groups held out for early stopping and the report, up to
            0.99; 0 for none.
        patience: Stop after this many epochs without a better score on the held-out groups.
        amp: Automatic mixed precision: the forward pass in bfloat16. Fast on GPUs that support it,
            slow on most CPUs.
        seed: Seed of the split, the random weights, the order and the augmentation.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``; ``"auto"`` is the fastest there is.
        workers: Processes that read images; 0 reads them in this one.

    Raises:
        SsgcamError: If a value is out of range; it names the setting.
    """

    model: str = "resnet18"
    weights: str = "none"
    input_size: int | None = None
    epochs: int = 12
    batch_size: int = 32
    samples_per_epoch: int | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    balance: Balance = "sampling"
    augmentation: bool = True
    color: float = 0.2
    train_from: str | None = None
    held_out: float = 0.2
    patience: int = 6
    amp: bool = False
    seed: int = 0
    device: str = "auto"
    workers: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        positive = ("epochs", "batch_size", "learning_rate", "patience")
        _check_positive(self, *positive, "input_size", "samples_per_epoch")
        for name in ("weight_decay", "workers"):
            check_range(name, getattr(self, name), 0, math.inf)
        check_range("held_out", self.held_out, 0, 0.99)
        check_range("color", self.color, 0, 0.99)
        check_choice("balance", self.balance, Balance)


@dataclass(frozen=True)
class SegmenterSettings:
    """How a segmentation network is trained.

    Attributes:
        encoder: The U-Net's encoder, a name of segmentation-models-pytorch.
        weights: Of the encoder, see :func:`ssgcam.segmentation_model.build_segmenter`.
        input_size: Side of the square input in pixels, a multiple of 32.
        epochs: Passes of all images.
        batch_size: Images for each step.
        learning_rate: Peak of the one-cycle schedule (AdamW).
        held_out: Share of the images held out to choose the best epoch, up to 0.9; 0 for none.
        seed: Seed of the split, the random weights, the order and the augmentation.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``; ``"auto"`` is the fastest there is.
    """

    encoder: str = "resnet18"
    weights: str = "none"
    input_size: int = 160
    epochs: int = 20
    batch_size: int = 8
    learning_rate: float = 1e-3
    held_out: float = 0.2
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check every value."""
        _check_positive(self, "input_size", "epochs", "batch_size", "learning_rate")
        check_range("held_out", self.held_out, 0, 0.9)


def _check_positive(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise SsgcamError(f"{name} is {value}; give a number above zero")
