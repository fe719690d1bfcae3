"""Labeled images for a search: any set with masks becomes checked tensors, one row per object class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ssgcam.core.capture import capture
from ssgcam.core.network import unwrap
from ssgcam.core.target import logits_of
from ssgcam.data import SampleSet
from ssgcam.data.sample import IGNORE
from ssgcam.errors import SsgcamError
from ssgcam.fingerprint import placed, tensor_bytes
from ssgcam.models import LoadedModel
from ssgcam.preprocessing import Preprocessing
from ssgcam.search.samples import Calibration, calibration_of, nearest

#: Fewer images, or groups, than this are searched with a warning.
FEW_IMAGES = 10


@dataclass(frozen=True, eq=False)
class Examples:
    """What the search works on: one row for each image and object class.

    Attributes:
        images: ``[N, 3, H, W]`` float32, the network's input, on the CPU.
        masks: ``[N, h, w]`` uint8: 0 background, 1 object, 255 ignore.
        classes: ``[N]``: the class that is explained.
        probabilities: ``[N]``: the network's probability of that class.
        targets: The classes that a recipe made from these explains; empty: whatever is top-1.
        groups: ``[N]``.
        names: ``[N]``.
    """

    images: Tensor
    masks: Tensor
    classes: Tensor
    probabilities: Tensor
    targets: tuple[int, ...]
    groups: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def negatives(self) -> Tensor:
        """``[N]`` bool: the mask shows no object."""
        return ~(self.masks == 1).flatten(1).any(1)

    @cached_property
    def digest(self) -> str:
        """``"sha256:..."`` of images, masks, classes and groups."""
        digest = sha256(repr((self.images.shape, self.masks.shape, self.groups)).encode())
        for tensor in (self.images, self.masks, self.classes):
            digest.update(tensor_bytes(tensor))
        return f"sha256:{digest.hexdigest()}"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return int(self.images.shape[-2]), int(self.images.shape[-1])

    def subset(self, rows: Sequence[int]) -> Examples:
        """Some of the rows, in the order given."""
        index = torch.as_tensor(rows, dtype=torch.long)
        return replace(
            self,
            images=self.images[index],
            masks=self.masks[index],
            classes=self.classes[index],
            probabilities=self.probabilities[index],
            groups=tuple(self.groups[row] for row in rows),
            names=tuple(self.names[row] for row in rows),
        )


def make_examples(
    data: Calibration | SampleSet,
    model: nn.Module | LoadedModel,
    *,
    target: int | None = None,
    boxes: Literal["filled", "ellipse"] = "filled",
    batch_size: int = 32,
    negatives_only: bool = False,
) -> Examples:
    """Check labeled images and look at them once with the network.

    A :class:`SampleSet` gives a row for each image and each of its classes, if its masks tell classes
    apart; their classes are found among the network's by name, or by index where the numbers of classes
    agree. Otherwise the whole foreground is the mask of ``target``, of the image's one label, or of the
    image's top-1 class. A set with boxes but no masks is given the masks of its boxes.

    Args:
        data: Labeled images.
        model: The network, on the device to work on.
        target: The network's class that the masks show; None: from the data, as above.
        boxes: What masks are made of boxes: the filled boxes or the ellipses in them.
        batch_size: Images for each pass of the network.
        negatives_only: Allow a set without any object (to score what a recipe does there).

    Returns:
        The rows; masks of a set of files are brought to the network's input size (nearest).

    Raises:
        SsgcamError: If there is no mask, a mask's size doesn't fit its image, all masks are empty,
            there are fewer than two images, or the classes can't be told.
    """
    loaded = model if isinstance(model, LoadedModel) else LoadedModel(unwrap(model), "network")
    if isinstance(data, SampleSet):
        data = calibration_of(data, loaded, target, boxes)
    elif target is not None:
        data = replace(data, classes=target)
    images, masks = _tensors(data, loaded.preprocessing)
    count = len(images)
    if count < 2 and not negatives_only:
        raise SsgcamError(
            f"the calibration set has {count} image{'s' * (count != 1)}; give ten to two hundred, at "
            "least two"
        )
    groups = [f"#{row}" for row in range(count)] if data.groups is None else data.groups
    names = [f"image {row}" for row in range(count)] if data.names is None else data.names
    for what, values in (("groups", groups), ("names", names)):
        if len(values) != count:
            raise SsgcamError(f"{len(values)} {what} for {count} images; give one for each")
    objects = (masks == 1).flatten(1).any(1)
    if not objects.any() and not negatives_only:
        raise SsgcamError(
            f"all {count} masks are empty, so there is no object to search for; add images that show it"
            + ("; 255 in a mask means ignore" if bool((masks == 255).any()) else "")
        )
    classes, probabilities, targets = _classes(data.classes, images, objects, loaded, batch_size)
    return Examples(
        images, masks, classes, probabilities, targets,
        tuple(map(str, groups)), tuple(map(str, names)),
    )  # fmt: skip


def warnings_for(examples: Examples) -> list[str]:
    """What makes a calibration set a weak one, a sentence each."""
    found = []
    positives = len(examples) - int(examples.negatives.sum())
    groups = len(set(examples.groups))
    if positives < FEW_IMAGES:
        found.append(
            f"The calibration set is small: {positives} images show the object; ten or more are needed "
            "for settings that hold elsewhere."
        )
    if groups < 5:
        found.append(f"The images come from only {groups} groups, so no interval can be trusted.")
    if positives == len(examples):
        found.append(
            "No image is without the object, so the class gate can't be calibrated and stays open."
        )
    return found


def _tensors(data: Calibration, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    masks = data.masks
    if not isinstance(data.images, Tensor):
        photos = list(data.images)
        if len(masks) != len(photos):
            raise SsgcamError(f"{len(photos)} images but {len(masks)} masks; give one for each")
        for row, (photo, mask) in enumerate(zip(photos, masks, strict=True)):
            _check_size(np.asarray(mask).shape, (photo.height, photo.width), row, exact=True)
        if not photos:
            raise SsgcamError("the calibration set has 0 images; give ten to two hundred")
        images = preprocessing(photos)
        size = preprocessing.input_size
        stacked = torch.stack([nearest(_binary(np.asarray(mask)), size) for mask in masks])
        return images, stacked
    images = data.images
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise SsgcamError(
            f"images is {list(images.shape)} {images.dtype}; give floating-point [N, 3, H, W] as the "
            "network takes it, or photos"
        )
    if len(masks) != len(images):
        raise SsgcamError(f"{len(images)} images but {len(masks)} masks; give one for each")
    sizes = {tuple(mask.shape) for mask in masks}
    for row, mask in enumerate(masks):
        _check_size(tuple(mask.shape), tuple(images.shape[-2:]), row, exact=len(sizes) > 1)
    binary = torch.stack([_binary(torch.as_tensor(mask).cpu().numpy()) for mask in masks])
    return images.detach().float().cpu(), binary


def _check_size(mask: tuple[int, ...], image: tuple[int, ...], row: int, *, exact: bool) -> None:
    fits = mask == image if exact else len(mask) == 2 and mask[0] * image[1] == mask[1] * image[0]
    if not fits:
        raise SsgcamError(
            f"the mask of image {row} is {'x'.join(map(str, mask))} but the image is "
            f"{'x'.join(map(str, image))} (height x width); give masks of their images' size"
        )


def _binary(mask: np.ndarray[Any, Any]) -> Tensor:
    values = torch.from_numpy(np.ascontiguousarray(mask).astype(np.int64))
    return torch.where(values == IGNORE, IGNORE, (values != 0).long()).to(torch.uint8)


def _classes(
    wanted: Tensor | Sequence[int] | int | None,
    images: Tensor,
    objects: Tensor,
    model: LoadedModel,
    batch_size: int,
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """The class of every row, its probability, and the target classes."""
    network = unwrap(model.network)
    logits = torch.cat(
        [
            logits_of(capture(network, placed(batch, network), []).output).detach().float().cpu()
            for batch in torch.split(images, batch_size)
        ]
    )
    probabilities = model.probabilities(logits)
    if wanted is None:
        classes = logits.argmax(1)
        targets: tuple[int, ...] = ()
    else:
        given = torch.as_tensor(wanted).cpu().long()
        if given.shape not in ((), (len(images),)) or int(given.max()) >= logits.shape[1]:
            raise SsgcamError(
                f"classes has shape {list(given.shape)} and goes up to {int(given.max())} for "
                f"{len(images)} images and a network of {logits.shape[1]} classes; give [N] indices"
            )
        classes = given.expand(len(images))
        shown = classes[objects & (classes >= 0)] if objects.any() else classes[classes >= 0]
        targets = tuple(sorted(set(shown.tolist())))
        if not targets or bool((objects & (classes < 0)).any()):
            raise SsgcamError("an image that shows the object has class -1; give its class")
        allowed = torch.tensor(targets)
        most_probable = allowed[logits[:, allowed].argmax(1)]
        other = ~torch.isin(classes, allowed)
        classes = torch.where(other, most_probable, classes)
    return classes, probabilities.gather(1, classes[:, None])[:, 0], targets
