"""``ssgcam train``: from class folders or a CSV to a network file that ``--model`` takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ssgcam.errors import SsgcamError

if TYPE_CHECKING:
    from ssgcam.training.settings import Balance


def train(
    data: Annotated[
        Path,
        typer.Argument(help="A folder of class folders, or a CSV with columns image,label,group."),
    ],
    out: Annotated[Path, typer.Option(help="The network file to write (.pth).")],
    model: Annotated[
        str, typer.Option(help="Any network that --model takes elsewhere, such as timm/NAME.")
    ] = "resnet18",
    weights: Annotated[
        str, typer.Option(help="Start from: none (random), DEFAULT, or a weights file.")
    ] = "none",
    epochs: Annotated[int, typer.Option(help="Epochs.")] = 12,
    input_size: Annotated[
        int | None,
        typer.Option(help="Side of the square input, in pixels; by default the network's own."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Photos a step.")] = 32,
    samples_per_epoch: Annotated[
        int | None, typer.Option(help="Photos an epoch; by default as many as there are.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Peak of the one-cycle schedule.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.02,
    balance: Annotated[
        str, typer.Option(help="Rare classes: sampling (drawn more often), loss or none.")
    ] = "sampling",
    augment: Annotated[bool, typer.Option(help="Flip and turn photos at random.")] = True,
    color: Annotated[float, typer.Option(help="Largest relative change of the colors.")] = 0.2,
    train_from: Annotated[
        str | None, typer.Option(help="Freeze all before this module, such as layer4 or fc.")
    ] = None,
    group_split: Annotated[
        float,
        typer.Option(help="Share of the groups held out for early stopping and the report; or 0."),
    ] = 0.2,
    group_pattern: Annotated[
        str | None,
        typer.Option(help="For class folders: a regular expression for the group in a file name."),
    ] = None,
    patience: Annotated[
        int, typer.Option(help="Stop after so many epochs without a better score.")
    ] = 6,
    amp: Annotated[
        bool, typer.Option(help="Mixed precision (bfloat16); slow on most processors.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that read photos.")] = 0,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    resume: Annotated[bool, typer.Option(help="Continue a training that was killed.")] = False,
) -> None:
    """Train or fine-tune an image classifier from image-level labels.

    Beside the network OUT it writes a report, OUT with the ending .json; while it trains, a
    checkpoint with the ending .checkpoint.pth, from which --resume continues.
    """
    from ssgcam.files import write_json
    from ssgcam.models import save_model
    from ssgcam.training import TrainingSettings, read_labeled_images, train_classifier

    if out.suffix != ".pth":
        raise SsgcamError(f"'{out}' does not end in .pth; give --out NAME.pth")
    settings = TrainingSettings(
        model=model,
        weights=weights,
        input_size=input_size,
        epochs=epochs,
        batch_size=batch_size,
        samples_per_epoch=samples_per_epoch,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        balance=cast("Balance", balance),
        augmentation=augment,
        color=color,
        train_from=train_from,
        held_out=group_split,
        patience=patience,
        amp=amp,
        seed=seed,
        device=device,
        workers=workers,
    )
    checkpoint = out.with_suffix(".checkpoint.pth")
    samples = read_labeled_images(data, group_pattern)
    result = train_classifier(samples, settings, checkpoint=checkpoint, resume=resume)
    save_model(result.model, out)
    write_json(out.with_suffix(".json"), result.to_json())
    checkpoint.unlink(missing_ok=True)
    if result.report is not None:
        typer.echo(f"epoch {result.best_epoch} was the best; {result.report}")
    typer.echo(f"wrote {out} and {out.with_suffix('.json')}")
