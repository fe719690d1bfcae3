"""Train a segmentation network on masks, such as those of ``ssgcam segment``: the second stage.

Pixels of the value 255 are undecided and count neither in the loss nor in the score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ssgcam.data.masks import FileMask
from ssgcam.data.sample import IGNORE
from ssgcam.device import choose_device
from ssgcam.errors import SsgcamError, rephrased
from ssgcam.files import read_json
from ssgcam.images import Reading, images_below
from ssgcam.metrics.masks import class_iou, confusion_matrix
from ssgcam.models import LoadedModel
from ssgcam.preprocessing import Preprocessing
from ssgcam.segmentation_model import build_segmenter
from ssgcam.training.loop import fit, identity
from ssgcam.training.settings import SegmenterSettings

Pair = tuple[Path, Path]


@dataclass(frozen=True)
class SegmenterResult:
    """A trained segmentation network.

    Attributes:
        model: With the best epoch's weights, on the CPU, in eval mode.
        settings: What it was trained with.
        history: For each epoch its number, the training loss, and ``iou``: the mean over the classes of
            the pooled IoU with the held-out masks, None if none were held out.
        best_epoch: The epoch whose weights were kept, from 1.
        images: How many images it was trained on.
        held_out: How many images were held out.
    """

    model: LoadedModel
    settings: SegmenterSettings
    history: tuple[dict[str, Any], ...]
    best_epoch: int
    images: int
    held_out: int

    def to_json(self) -> dict[str, Any]:
        """Everything but the network, for a JSON file."""
        rest = {name: value for name, value in vars(self).items() if name != "model"}
        names = self.model.class_names
        return {**rest, "settings": asdict(self.settings), "class_names": names}


def pair_images_and_masks(images: Path, masks: Path) -> list[Pair]:
    """Images below a folder with the masks of the same names, ``.png``, below another one.

    Raises:
        SsgcamError: If a folder is missing or no image has a mask.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise SsgcamError(f"there is no folder '{folder}'; check the path")
    named = ((p, masks / p.relative_to(images).with_suffix(".png")) for p in images_below(images))
    pairs = [(image, mask) for image, mask in named if mask.is_file()]
    if not pairs:
        raise SsgcamError(
            f"no image in '{images}' has a mask in '{masks}'; a mask has its image's name and ends in "
            ".png"
        )
    return pairs


def read_class_names(masks: Path) -> tuple[str, ...]:
    """The classes of masks that ``ssgcam segment`` wrote, from ``segment.json``; empty without it."""
    for folder in (masks, masks.parent):
        path = folder / "segment.json"
        if path.is_file():
            hint = "give the names with --class-names"
            with rephrased(f"'{path}' names no classes", hint, LookupError, TypeError):
                return tuple(str(one["name"]) for one in read_json(path)["masks"][1:])
    return ()


def train_segmenter(
    pairs: Sequence[Pair],
    settings: SegmenterSettings,
    class_names: Sequence[str] = (),
    *,
    reading: Reading | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> SegmenterResult:
    """Train a U-Net with the sum of cross-entropy and Dice loss.

    Args:
        pairs: Image files and mask files: 0 background, k the k-th class, 255 undecided.
        settings: What is trained and how.
        class_names: Of the classes; ``object`` or ``class k`` by default.
        reading: How image files are read.
        checkpoint: File that is written after every epoch, whole or not at all.
        resume: Continue from ``checkpoint`` if it exists.
        progress: Show a progress bar and a line for each epoch.

    Raises:
        SsgcamError: If the masks show no object, a file can't be read, the checkpoint is of another
            training, the loss diverges, or the library is missing.
    """
    size = (settings.input_size, settings.input_size)
    preprocessing = Preprocessing(size, resize_shorter=None, reading=reading or Reading())
    inputs, labels = read_pairs(pairs, preprocessing)
    highest = int(labels[labels != IGNORE].max(initial=0))
    if highest == 0:
        raise SsgcamError("the masks show no object: 0 is background, 255 undecided, 1 an object")
    default = ("object",) if highest == 1 else tuple(f"class {k + 1}" for k in range(highest))
    names = tuple(class_names) or default
    if len(names) < highest:
        raise SsgcamError(f"the masks have the value {highest} but {len(names)} class names")
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = build_segmenter(settings.encoder, names, preprocessing, settings.weights)
    device = choose_device(settings.device)
    network = model.network.to(device)
    order = np.random.default_rng(settings.seed).permutation(len(pairs))
    kept, held_out = np.split(order, [len(pairs) - round(settings.held_out * len(pairs))])
    if len(kept) < 2:
        raise SsgcamError(f"{len(kept)} images are too few to train on; give at least 2 masks")
    steps = -(-len(kept) // settings.batch_size)

    def batches(number: int) -> Iterator[Iterator[NDArray[Any]]]:
        generator = np.random.default_rng((settings.seed, number))
        for chosen in np.array_split(generator.permutation(kept), steps):
            yield augmented(inputs[chosen], labels[chosen], generator)

    def loss_of(batch: Iterator[NDArray[Any]]) -> tuple[Tensor, int]:
        images, masks = (torch.from_numpy(each).to(device) for each in batch)
        logits = network(model.preprocessing.normalize(images))
        return segmentation_loss(logits, masks.long()), len(masks)

    def scores() -> dict[str, float | None]:
        return {"iou": held_out_iou(model, inputs[held_out], labels[held_out], settings.batch_size)}

    def rank(epoch: dict[str, Any]) -> float:
        return float(epoch["number"] if epoch["iou"] is None else epoch["iou"])

    history, best = fit(
        network,
        settings,
        torch.optim.AdamW(network.parameters(), lr=settings.learning_rate),
        steps,
        batches,
        loss_of,
        scores,
        rank,
        identity=identity(
            settings,
            inputs.tobytes() + labels.tobytes(),
            class_names=list(names),
            preprocessing=asdict(model.preprocessing),
        ),
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )
    return SegmenterResult(model, settings, tuple(history), best, len(kept), len(held_out))


def read_pairs(
    pairs: Sequence[Pair], preprocessing: Preprocessing
) -> tuple[NDArray[Any], NDArray[Any]]:
    """All images ``[N, C, H, W]`` and masks ``[N, H, W]``, uint8, of the network's input size."""
    inputs, labels = [], []
    for image, mask in pairs:
        photo = preprocessing.read(image)
        values = np.asarray(FileMask(mask).read(photo.size)).astype(np.uint8)
        size = preprocessing.input_size[::-1]
        small = Image.fromarray(values).resize(size, Image.Resampling.NEAREST)
        inputs.append(preprocessing.pixels(photo).numpy())
        labels.append(np.asarray(small))
    return np.stack(inputs), np.stack(labels)


def augmented(
    inputs: NDArray[Any], labels: NDArray[Any], generator: np.random.Generator
) -> Iterator[NDArray[Any]]:
    """A batch in one of the eight right-angle turns and flips, masks as their images."""
    turns, flip = int(generator.integers(4)), bool(generator.integers(2))
    for each in (inputs, labels):
        turned = np.rot90(each, turns, (-2, -1))
        yield np.ascontiguousarray(turned[..., ::-1] if flip else turned)


def segmentation_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy plus ``1 - Dice``, the mean over the classes, without the ignored pixels.

    Args:
        logits: ``[N, 1 + K, H, W]``.
        masks: ``[N, H, W]``, with 255 where a pixel is ignored.

    Returns:
        A number; 0 for a batch of ignored pixels alone.
    """
    known = (masks != IGNORE)[:, None]
    targets = functional.one_hot(masks.where(known[:, 0], 0), logits.shape[1]).movedim(-1, 1)
    pixels = known.sum().clamp_min(1)
    cross_entropy = -(logits.log_softmax(1) * targets * known).sum() / pixels
    p, t = logits.softmax(1) * known, targets * known
    overlap = 2 * (p * t).sum((0, 2, 3))[1:]
    size = (p + t).sum((0, 2, 3))[1:]
    return cross_entropy + (1 - (overlap + 1) / (size + 1)).mean() * known.any()


def held_out_iou(
    model: LoadedModel, inputs: NDArray[Any], labels: NDArray[Any], batch_size: int
) -> float | None:
    """Mean over the classes that occur of the pooled IoU; None without images or objects."""
    device = next(model.network.parameters()).device
    count = 1 + len(model.class_names)
    confusion = torch.zeros(count, count, dtype=torch.int64)
    model.network.eval()
    for start in range(0, len(inputs), batch_size):
        images = torch.from_numpy(inputs[start : start + batch_size]).to(device)
        with torch.no_grad():
            found = model.network(model.preprocessing.normalize(images)).argmax(1).cpu()
        truth = torch.from_numpy(labels[start : start + batch_size])
        confusion += confusion_matrix(found, truth, count, IGNORE)
    ious = class_iou(confusion)[1:]
    return None if ious.isnan().all() else float(ious.nanmean())
