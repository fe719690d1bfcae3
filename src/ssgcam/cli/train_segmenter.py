"""``ssgcam train-segmenter``: from images and masks to a segmentation network."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import ClassVar

from ssgcam.cli import options as shared
from ssgcam.cli import output
from ssgcam.cli.options import argument, grouped, option

EXAMPLE = "ssgcam train-segmenter photos/ --masks masks/ --out seg.pth"


@dataclass(frozen=True, kw_only=True)
class SegmenterFiles:
    """The images, the masks and the network file."""

    images: Path = argument("The folder of the images.")
    masks: Path = option(MISSING, "A folder of masks with the photos' names.")
    out: Path = option(MISSING, "The network file to write (.pth).")
    class_names: Path | None = option(None, shared.CLASS_NAMES, shown="those of 'ssgcam segment'")
    resume: bool = option(False, shared.RESUME, "--resume")


@dataclass(frozen=True, kw_only=True)
class SegmenterTrainingOptions:
    """How the network is trained; the names are those of ``SegmenterSettings``."""

    panel: ClassVar[str] = "Training"
    encoder: str = option("resnet18", "The U-Net's encoder: resnet18, tu-NAME of timm, ...")
    weights: str = option("none", "The encoder's weights: none, imagenet, or a classifier.")
    input_size: int = option(160, shared.INPUT_SIZE, shown="160; a multiple of 32")
    epochs: int = option(20, "Number of epochs.")
    batch_size: int = option(8, shared.BATCH_SIZE, min=1)
    learning_rate: float = option(1e-3, "Maximum of the one-cycle schedule.")
    held_out: float = option(0.2, "Share of the images held out to choose the best epoch.")
    seed: int = option(0, shared.SEED, min=0)
    device: str = option("auto", shared.DEVICE)


@grouped()
def train_segmenter(
    files: SegmenterFiles, reading: shared.ReadingOptions, training: SegmenterTrainingOptions
) -> None:
    """Train a segmentation network (U-Net) on masks, such as those of 'ssgcam segment'.

    Masks are PNG files: 0 background, k class k, 255 undecided.

    Undecided pixels do not count: give OUT/undecided of a recipe with a guarantee. OUT is the network,
    which 'ssgcam segment --segmenter' takes; beside it are a report (ending .json) and, during the
    training, a checkpoint (ending .checkpoint.pth), from which --resume continues.
    """
    from ssgcam.files import write_json
    from ssgcam.images import Reading
    from ssgcam.segmentation_model import save_segmenter
    from ssgcam.training import SegmenterSettings, segmenter

    out = files.out
    shared.check_output(out, ".pth", "--out")
    checkpoint = out.with_suffix(".checkpoint.pth")
    result = segmenter.train_segmenter(
        segmenter.pair_images_and_masks(files.images, files.masks),
        SegmenterSettings(**vars(training)),
        shared.read_class_names(files.class_names) or segmenter.read_class_names(files.masks),
        reading=reading.changed(Reading()),
        checkpoint=checkpoint,
        resume=files.resume,
        progress=output.style.progress,
    )
    save_segmenter(result.model, out)
    write_json(out.with_suffix(".json"), result.to_json())
    checkpoint.unlink(missing_ok=True)
    iou = result.history[result.best_epoch - 1]["iou"]
    score = "" if iou is None else f"; IoU with {result.held_out} held-out masks {iou:.3f}"
    output.say(f"trained on {result.images} images, epoch {result.best_epoch} is kept{score}")
    output.say(f"wrote {out} and {out.with_suffix('.json')}")
    output.result(network=out, **result.to_json())
