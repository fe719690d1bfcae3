"""Labelled images for a search: any set with masks becomes checked tensors, one row per object class."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ssgcam.core.capture import capture, unwrap
from ssgcam.core.scores import logits_of
from ssgcam.data import SampleSet, with_box_masks
from ssgcam.data.sample import IGNORE
from ssgcam.errors import SsgcamError
from ssgcam.images import read_image
from ssgcam.models import LoadedModel
from ssgcam.preprocessing import Preprocessing
from ssgcam.recipe import tensor_bytes

#: Fewer images, or groups, than this are searched with a warning.
FEW_IMAGES = 10


@dataclass(frozen=True, eq=False)
class Calibration:
    """Labelled images in memory.

    Attributes:
        images: ``[N, 3, H, W]``, the network's normalised input; or N photos, which are prepared by the
            model's own preprocessing.
        masks: ``[N, h, w]`` (any integer or bool type), 0 background, 255 ignore, anything else
            the object; or a list of N masks, each of its photo's size.
        classes: The network's class that each mask shows: ``[N]``, one index for all, or None for each
            image's top-1 class. -1 is a negative, an image without the object: it gets the most
            probable of the other images' classes.
        groups: What each image belongs to (field, patient, slide); None: every image is its own.
        names: For the report.
    """

    images: Tensor | Sequence[Image.Image]
    masks: Tensor | np.ndarray[Any, Any] | Sequence[np.ndarray[Any, Any]]
    classes: Tensor | Sequence[int] | int | None = None
    groups: Sequence[Hashable] | None = None
    names: Sequence[str] | None = None


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
    """Check labelled images and look at them once with the network.

    A :class:`SampleSet` gives a row for each image and each of its classes, if its masks tell classes
    apart; their classes are found among the network's by name, or by index where the numbers of classes
    agree. Otherwise the whole foreground is the mask of ``target``, of the image's one label, or of the
    image's top-1 class. A set with boxes but no masks is given the masks of its boxes.

    Args:
        data: Labelled images.
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
        data = _from_samples(data, loaded, target, boxes)
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
        size = preprocessing.size
        stacked = torch.stack([_nearest(_binary(np.asarray(mask)), size) for mask in masks])
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


def _nearest(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixel i takes ``floor((i + 1/2) * side / size)``, in whole numbers."""
    rows = (2 * torch.arange(size[0]) + 1) * mask.shape[0] // (2 * size[0])
    columns = (2 * torch.arange(size[1]) + 1) * mask.shape[1] // (2 * size[1])
    return mask[rows][:, columns]


def _classes(
    wanted: Tensor | Sequence[int] | int | None,
    images: Tensor,
    objects: Tensor,
    model: LoadedModel,
    batch_size: int,
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """The class of every row, its probability, and the target classes."""
    network = unwrap(model.network)
    device = next(iter(network.parameters()), torch.zeros(1)).device
    logits = torch.cat(
        [
            logits_of(capture(network, batch.to(device), []).output).detach().float().cpu()
            for batch in torch.split(images, batch_size)
        ]
    )
    probabilities = model.probabilities(logits)
    if wanted is None:
        classes = logits.argmax(1)
        targets: tuple[int, ...] = ()
    else:
        classes = torch.as_tensor(wanted).cpu().long().expand(len(images)).clone()
        if classes.shape != (len(images),) or int(classes.max()) >= logits.shape[1]:
            raise SsgcamError(
                f"classes has shape {list(classes.shape)} and goes up to {int(classes.max())} for "
                f"{len(images)} images and a network of {logits.shape[1]} classes; give [N] indices"
            )
        shown = classes[objects & (classes >= 0)] if objects.any() else classes[classes >= 0]
        targets = tuple(sorted(set(shown.tolist())))
        if not targets or bool((objects & (classes < 0)).any()):
            raise SsgcamError("an image that shows the object has class -1; give its class")
        allowed = torch.tensor(targets)
        most_probable = allowed[logits[:, allowed].argmax(1)]
        other = ~torch.isin(classes, allowed)
        classes = torch.where(other, most_probable, classes)
    return classes, probabilities.gather(1, classes[:, None])[:, 0], targets


def _from_samples(
    samples: SampleSet,
    model: LoadedModel,
    target: int | None,
    boxes: Literal["filled", "ellipse"],
) -> Calibration:
    if not any(sample.mask for sample in samples):
        if not any(sample.boxes for sample in samples):
            raise SsgcamError(
                f"'{samples.root}' has no masks and no boxes; a search needs a few labelled images: put "
                "masks with the same names in 'masks' beside 'images', or boxes in 'boxes.json'"
            )
        samples = with_box_masks(samples, boxes)
    mapping = _class_mapping(samples, model)
    height, width = model.preprocessing.size
    images, masks, classes, groups, names = [], [], [], [], []
    for sample in samples:
        photo = read_image(sample.image)
        pixels = model.preprocessing.pixels(photo)
        rows: list[tuple[int | None, int | None]] = [(None, target)]
        if target is None and samples.semantic:
            rows = [(label, mapping[label]) for label in sample.labels] or [(None, -1)]
        elif target is not None and samples.semantic and target in mapping.values():
            rows = [(next(d for d, n in mapping.items() if n == target), target)]
        elif target is None and mapping and sample.labels:
            rows = [(None, mapping[sample.labels[0]])]
        for label, index in rows:
            inside, ignored = samples.object_mask(sample, photo.size, label)
            mask = np.where(ignored, IGNORE, inside.astype(np.uint8)).astype(np.uint8)
            images.append(pixels)
            masks.append(_nearest(torch.from_numpy(mask), (height, width)))
            classes.append(index)
            groups.append(sample.group or sample.name)
            names.append(sample.name)
    if None in classes and any(index is not None for index in classes):
        classes = [-1 if index is None else index for index in classes]
    if classes and classes[0] is None:
        warnings.warn(
            "the masks don't say which class they show, so each image's most probable class is "
            "explained; name one to be sure",
            stacklevel=4,
        )
    return Calibration(
        model.preprocessing.normalise(torch.stack(images)),
        torch.stack(masks),
        None if classes[0] is None else [index for index in classes if index is not None],
        groups,
        names,
    )


def _class_mapping(samples: SampleSet, model: LoadedModel) -> dict[int, int]:
    """The network's class of each of the set's; empty where the set only knows objects."""
    used = sorted({label for sample in samples for label in sample.labels})
    if not used or samples.class_names == ("object",):
        return {}
    theirs = {name.casefold(): index for index, name in enumerate(model.class_names)}
    wanted = [samples.class_names[label].casefold() for label in used]
    if all(name in theirs for name in wanted):
        return {label: theirs[name] for label, name in zip(used, wanted, strict=True)}
    if not model.class_names or len(samples.class_names) == len(model.class_names):
        return {label: label for label in used}
    unknown = next(name for name in wanted if name not in theirs)
    raise SsgcamError(
        f"the set's class '{unknown}' is not a class of '{model.name}', and the numbers of classes "
        f"differ ({len(samples.class_names)} and {len(model.class_names)}); say which one the masks show"
    )
