"""``ssgcam train``: from class folders or a CSV to a network file that ``--model`` takes."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar

from ssgcam.cli import options as shared
from ssgcam.cli import output
from ssgcam.cli.options import argument, grouped, option

EXAMPLE = "ssgcam train classes/ --model resnet34 --weights DEFAULT --out network.pth"


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """The images and the network file."""

    data: Path = argument(
        "A data set with labels: class folders, a CSV with image,label,group, VOC, COCO, ..."
    )
    out: Path = option(MISSING, "The network file to write (.pth).")
    resume: bool = option(False, shared.RESUME, "--resume")
    report: Path | None = option(None, shared.REPORT)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How the network is trained; the names are those of ``TrainingSettings``."""

    panel: ClassVar[str] = "Training"
    input_size: int | None = option(None, shared.INPUT_SIZE, shown="its own")
    epochs: int = option(12, "Number of epochs.")
    samples_per_epoch: int | None = option(None, "Images in an epoch.", shown="all")
    learning_rate: float = option(1e-3, "Maximum of the one-cycle schedule.")
    weight_decay: float = option(0.02, "Weight decay of AdamW.")
    balance: str = option(
        "sampling", "Rare classes: sampling (drawn more often), loss (weighted) or none."
    )
    augmentation: bool = option(True, "Flip and rotate images.", "--augment/--no-augment")
    color: float = option(0.2, "Largest relative change of the colors.")
    train_from: str | None = option(None, "Freeze the modules before this one, such as layer4.")
    held_out: float = option(0.2, "Share of the groups held out; 0: none.", "--group-split")
    patience: int = option(6, "Epochs without a better score before training stops.")
    amp: bool = option(False, "Mixed precision (bfloat16); slow on most CPUs.", "--amp")
    workers: int = option(0, "Processes that read images.")
    seed: int = option(0, shared.SEED, min=0)


@grouped(model="resnet18", weights="none", batch_size=32)
def train(
    files: FileOptions,
    images: shared.ReadingOptions,
    data: shared.DataOptions,
    network: shared.NetworkOptions,
    training: TrainingOptions,
) -> None:
    """Train or fine-tune an image classifier from image-level labels.

    Where images have several labels (a CSV with a line for each, or a;b; VOC; COCO), each class gets a
    probability of its own. OUT is the network, beside it are a report (ending .json) and, during the
    training, a checkpoint (ending .checkpoint.pth), from which --resume continues.
    """
    from ssgcam.files import write_json
    from ssgcam.images import Reading
    from ssgcam.models import save_model
    from ssgcam.report.html import check_report
    from ssgcam.training import TrainingSettings, labeled_images, train_classifier

    check_report(files.report)
    out = files.out
    shared.check_output(out, ".pth", "--out")
    options: dict[str, Any] = {**vars(network), **vars(training)}
    checkpoint = out.with_suffix(".checkpoint.pth")
    with output.printed_warnings():
        labeled = labeled_images(data.read(files.data), images.changed(Reading()))
    result = train_classifier(
        labeled,
        TrainingSettings(**options),
        checkpoint=checkpoint,
        resume=files.resume,
        progress=output.style.progress,
    )
    save_model(result.model, out)
    write_json(out.with_suffix(".json"), result.to_json())
    if files.report is not None:
        result.write_html(files.report)
    checkpoint.unlink(missing_ok=True)
    if result.report is not None:
        output.say(f"epoch {result.best_epoch} was the best; {result.report}")
    output.result(network=out, **result.to_json())
    output.say(f"wrote {out} and {out.with_suffix('.json')}")
