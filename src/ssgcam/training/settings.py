"""What is trained and how: one set of settings for Python, the command line and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ssgcam.errors import SsgcamError

Balance = Literal["sampling", "loss", "none"]
Precision = Literal["auto", "bfloat16", "float32"]


@dataclass(frozen=True)
class TrainingSettings:
    """What is trained and how.

    Attributes:
        model: A name that :func:`ssgcam.models.load_model` builds.
        weights: ``"none"`` (random start), ``"DEFAULT"`` or a file; the head is replaced when the
            number of classes differs.
        size: Side of the network's square input, in pixels.
        epochs: Passes of ``samples_per_epoch`` photos.
        batch_size: Photos for each step.
        samples_per_epoch: Photos for each epoch; as many as there are if None.
        learning_rate: Peak of the one-cycle schedule (AdamW).
        weight_decay: Of AdamW.
        balance: ``"sampling"`` draws each class equally often, ``"loss"`` weights the loss by the
            inverse class size, ``"none"`` does neither.
        augmentation: Flip and turn photos at random.
        color: Largest relative change of brightness, contrast and saturation, in [0, 1).
        train_from: Train this module and those defined after it and freeze all before it:
            ``"layer4"`` is the last stage of a ResNet, ``"features.34"`` of VGG16 (bn), ``"fc"``
            the head alone. All are trained if None.
        held_out: Share of the groups held out for early stopping and the report; 0 for none.
        patience: Stop after this many epochs without a better score on the held-out groups.
        precision: ``"auto"`` is ``"bfloat16"`` on hardware made for it, otherwise ``"float32"``.
        seed: Of the split, the start, the order and the augmentation.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``; ``"auto"`` is the fastest there is.
        workers: Processes that read photos; 0 reads them in this one.
    """

    model: str = "resnet18"
    weights: str = "none"
    size: int = 224
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
    precision: Precision = "auto"
    seed: int = 0
    device: str = "auto"
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that can't work.

        Raises:
            SsgcamError: Naming the setting.
        """
        positive = (
            "size",
            "epochs",
            "batch_size",
            "samples_per_epoch",
            "learning_rate",
            "patience",
        )
        for name in positive:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise SsgcamError(f"{name} is {value}; give a number above zero")
        if not 0 <= self.held_out < 1:
            raise SsgcamError(
                f"the held-out share is {self.held_out:g}; give one between 0 and 1, or 0 for none"
            )
        if not 0 <= self.color < 1:
            raise SsgcamError(f"color is {self.color:g}; give a number from 0 to below 1")
        choices = {"balance": get_args(Balance), "precision": get_args(Precision)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise SsgcamError(
                    f"{name} is '{getattr(self, name)}'; give one of {', '.join(known)}"
                )
