"""Which labeled images does a search use? Checked tensors, one row for each image and object class."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Hashable, Iterator, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ssgcam.core.capture import capture
from ssgcam.core.network import placed, unwrap
from ssgcam.core.target import logits_of
from ssgcam.data import IGNORE, Sample, SampleSet, with_box_masks
from ssgcam.data.classes import match_classes
from ssgcam.data.masks import BoxShape
from ssgcam.errors import SsgcamError
from ssgcam.fingerprint import tensor_bytes
from ssgcam.models import LoadedModel, as_loaded
from ssgcam.preprocessing import Preprocessing

#: A calibration set with fewer positive images, or fewer groups, gets a warning.
FEW_IMAGES, FEW_GROUPS = 10, 5

Mask = Tensor | np.ndarray[Any, Any]


class CalibrationSet:
    """Labeled images, checked when the object is made.

    Args:
        images: ``[N, 3, H, W]`` float, the network's normalized input; or N photos, which
            ``preprocessing`` prepares.
        masks: ``[N, h, w]`` of any integer or bool type: 0 background, 255 ignore, anything else the
            object; or a list of N masks, each of its photo's size.
        classes: The network's class that each mask shows: ``[N]``, one index for all, or None for the
            most probable class of each image. -1 marks an image without the object (a negative): the
            most probable of the other images' classes is explained.
        groups: The field, patient or slide of each image; None: every image is its own group.
        names: Names of the images for the report.
        preprocessing: Needed for photos.
        any_count: Allow a set with a single image or without any object, to score a recipe on it.

    Attributes:
        images: ``[N, 3, H, W]`` float32 on the CPU.
        masks: ``[N, h, w]`` uint8: 0 background, 1 object, 255 ignore.
        image_size: Height and width of the images.
        mask_size: Height and width of the masks.
        classes: ``[N]`` int64: the class that is explained; -1 until :meth:`with_predictions` where the
            network has to choose it.
        class_choices: The classes that a recipe for these images may explain; empty: any.
        probabilities: ``[N]``: the network's probability of that class; NaN until
            :meth:`with_predictions`.
        groups: ``[N]`` names.
        names: ``[N]``.

    Raises:
        SsgcamError: If a mask's size doesn't fit its image, all masks are empty, there are fewer than
            two images, or classes, groups or names don't fit the images.

    Example:
        >>> masks = torch.zeros(4, 16, 16)
        >>> masks[:3, 4:8, 4:8] = 1
        >>> CalibrationSet(torch.rand(4, 3, 16, 16), masks, classes=1).negatives.tolist()
        [False, False, False, True]
    """

    def __init__(
        self,
        images: Tensor | Sequence[Image.Image],
        masks: Mask | Sequence[Mask],
        classes: Tensor | Sequence[int] | int | None = None,
        groups: Sequence[Hashable] | None = None,
        names: Sequence[str] | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        any_count: bool = False,
    ) -> None:
        count = len(images)
        for what, values in (("masks", masks), ("groups", groups), ("names", names)):
            if values is not None and len(values) != count:
                raise SsgcamError(f"{len(values)} {what} for {count} images; give one for each")
        if count < (1 if any_count else 2):
            raise SsgcamError(
                f"the calibration set has {count} image{'s' * (count != 1)}; give ten to two hundred, "
                "at least two"
            )
        self.images, self.masks = _tensors(images, masks, preprocessing)
        self.image_size = (int(self.images.shape[-2]), int(self.images.shape[-1]))
        self.mask_size = (int(self.masks.shape[-2]), int(self.masks.shape[-1]))
        self.groups = tuple(map(str, groups or [f"#{row}" for row in range(count)]))
        self.names = tuple(names or [f"image {row}" for row in range(count)])
        #: ``[N]`` bool: the mask shows no object.
        self.negatives = ~(self.masks == 1).flatten(1).any(1)
        if self.negatives.all() and not any_count:
            raise SsgcamError(
                f"all {count} masks are empty, so there is no object to search for; add images that "
                "show it" + "; 255 in a mask means ignore" * bool((self.masks == IGNORE).any())
            )
        self.class_choices: tuple[int, ...] = ()
        self.classes = torch.full((count,), -1)
        self.probabilities = torch.full((count,), torch.nan)
        if classes is not None:
            self._set_classes(torch.as_tensor(classes).cpu().long())

    @classmethod
    def from_samples(
        cls,
        samples: SampleSet,
        model: nn.Module | LoadedModel,
        *,
        classes: int | None = None,
        boxes: BoxShape = "filled",
        any_count: bool = False,
    ) -> CalibrationSet:
        """Read a data set of files; no pass of the network is needed.

        Masks that tell classes apart give a row for each image and each of its classes; the set's
        classes are matched with the network's (``data.classes.match_classes``). Otherwise the whole
        foreground is the mask of ``classes``, of the image's one label, or (with a warning) of the
        image's most probable class. A set with boxes but no masks gets the masks of its boxes.

        Args:
            samples: The data set.
            model: The network; its preprocessing decides the images' and masks' size (nearest).
            classes: The network's class that the masks show; None: from the data, as above.
            boxes: What masks are made of boxes: the filled boxes or the ellipses in them.
            any_count: As for the class.

        Raises:
            SsgcamError: As for the class, or if there is no mask or classes can't be matched.
        """
        loaded = as_loaded(model)
        if not any(sample.mask for sample in samples):
            if not any(sample.boxes for sample in samples):
                raise SsgcamError(
                    f"'{samples.root}' has no masks and no boxes; a search needs a few labeled images: "
                    "put masks with the same names in 'masks' beside 'images', or boxes in 'boxes.json'"
                )
            samples = with_box_masks(samples, boxes)
        mapping: dict[int, int] = {}  # stays empty where the set only knows objects
        if samples.class_names != ("object",):
            own = loaded.class_names
            try:
                mapping = match_classes(samples, own, len(own) or None, loaded.name)
            except SsgcamError:
                if classes is None:
                    raise
        rows = []
        for sample in samples:
            photo = loaded.preprocessing.read(sample.image)
            prepared = loaded.preprocessing.pixels(photo)
            for label, index in _rows_of(sample, samples.semantic, mapping, classes):
                inside, ignored = samples.object_mask(sample, photo.size, label)
                mask = torch.from_numpy(np.where(ignored, IGNORE, inside).astype(np.uint8))
                mask = nearest(mask, loaded.preprocessing.input_size)
                rows.append((prepared, mask, index, sample.group or sample.name, sample.name))
        pixels, masks, indices, groups, names = zip(*rows, strict=True)
        known = classes is not None or bool(mapping)
        if not known:
            warnings.warn(
                "the masks don't say which class they show, so each image's most probable class is "
                "explained; name the class to be sure",
                stacklevel=2,
            )
        images = loaded.preprocessing.normalize(torch.stack(pixels))
        return cls(images, masks, indices if known else None, groups, names, any_count=any_count)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def digest(self) -> str:
        """``"sha256:..."`` of images, masks, classes and groups."""
        about = self.images.shape, self.masks.shape, self.groups
        return _digest(about, self.images, self.masks, self.classes)

    @property
    def image_digest(self) -> str:
        """``"sha256:..."`` of images and classes: all that the layers' maps depend on."""
        return _digest(self.images.shape, self.images, self.classes)

    def subset(self, rows: Sequence[int]) -> CalibrationSet:
        """Some of the images, in the given order."""
        found = copy.copy(self)
        for name in ("images", "masks", "negatives", "classes", "probabilities"):
            setattr(found, name, getattr(self, name)[list(rows)])
        found.groups = tuple(self.groups[row] for row in rows)
        found.names = tuple(self.names[row] for row in rows)
        return found

    def batches(self, size: int) -> Iterator[slice]:
        """The rows of each batch of at most so many images."""
        return (slice(k, min(k + size, len(self))) for k in range(0, len(self), size))

    @property
    def counts(self) -> dict[str, int]:
        """How many images, negatives and groups there are."""
        negatives = int(self.negatives.sum())
        return {"images": len(self), "negatives": negatives, "groups": len(set(self.groups))}

    def weaknesses(self) -> list[str]:
        """Why a recipe from this set may not hold on other images, a sentence for each reason."""
        counts = self.counts
        images, negatives, groups = counts["images"], counts["negatives"], counts["groups"]
        found = []
        if images - negatives < FEW_IMAGES:
            found.append(
                f"The calibration set is small: {images - negatives} images show the object; ten or more "
                "are needed for settings that hold on other images."
            )
        if groups < FEW_GROUPS:
            found.append(f"The images come from only {groups} groups, so no interval is reliable.")
        if not negatives:
            found.append(
                "No image is without the object, so the class gate can't be calibrated and stays open."
            )
        return found

    def with_predictions(self, model: LoadedModel, batch_size: int = 32) -> CalibrationSet:
        """The same images with the network's probabilities, and classes where they were not given.

        Args:
            model: The network, on the device to work on.
            batch_size: Images for each pass of the network.

        Raises:
            SsgcamError: If a class is out of the network's range.
        """
        network = unwrap(model.network)
        outputs = [
            logits_of(capture(network, placed(self.images[part], network), []).output)
            for part in self.batches(batch_size)
        ]
        logits = torch.cat(outputs).detach().float().cpu()
        if int(self.classes.max()) >= logits.shape[1]:
            raise SsgcamError(
                f"classes goes up to {int(self.classes.max())} for a network of {logits.shape[1]} "
                "classes; give indices from 0"
            )
        allowed = torch.tensor(self.class_choices or range(logits.shape[1]))
        found = copy.copy(self)
        found.classes = torch.where(
            self.classes < 0, allowed[logits[:, allowed].argmax(1)], self.classes
        )
        found.probabilities = model.probabilities(logits).gather(1, found.classes[:, None])[:, 0]
        return found

    def _set_classes(self, given: Tensor) -> None:
        if given.shape not in ((), (len(self),)):
            raise SsgcamError(
                f"classes has shape {list(given.shape)} for {len(self)} images; give one index for "
                "each, or one for all"
            )
        classes, positives = given.expand(len(self)), ~self.negatives
        if bool((classes[positives] < 0).any()) or not bool((classes >= 0).any()):
            raise SsgcamError("an image that shows the object has class -1; give its class")
        shown = classes[positives] if positives.any() else classes[classes >= 0]
        self.class_choices = tuple(sorted(set(shown.tolist())))
        self.classes = torch.where(torch.isin(classes, shown), classes, -1)


def _digest(about: object, *tensors: Tensor) -> str:
    digest = sha256(repr(about).encode())
    for tensor in tensors:
        digest.update(tensor_bytes(tensor))
    return f"sha256:{digest.hexdigest()}"


def nearest(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """``[H, W]`` to ``size``: pixel i takes ``floor((i + 1/2) * side / size)``, in whole numbers."""
    rows = (2 * torch.arange(size[0]) + 1) * mask.shape[0] // (2 * size[0])
    columns = (2 * torch.arange(size[1]) + 1) * mask.shape[1] // (2 * size[1])
    return mask[rows][:, columns]


def _tensors(
    images: Tensor | Sequence[Image.Image],
    masks: Mask | Sequence[Mask],
    preprocessing: Preprocessing | None,
) -> tuple[Tensor, Tensor]:
    """Images and binary masks as tensors of one size each."""
    arrays = [np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask) for mask in masks]
    binary = [
        torch.from_numpy(np.where(mask == IGNORE, IGNORE, mask != 0).astype(np.uint8))
        for mask in arrays
    ]
    exact = True  # else a mask may have its image's proportions
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise SsgcamError(
                f"images is {list(images.shape)} {images.dtype}; give floating-point [N, 3, H, W] as "
                "the network takes it, or photos"
            )
        sides = [tuple(images.shape[-2:])] * len(images)
        exact = len({mask.shape for mask in arrays}) > 1
    else:
        sides = [(photo.height, photo.width) for photo in images]
    for row, (own, image) in enumerate(zip((mask.shape for mask in arrays), sides, strict=True)):
        same_proportions = len(own) == 2 and own[0] * image[1] == own[1] * image[0]
        if not (own == image if exact else same_proportions):
            raise SsgcamError(
                f"the mask of image {row} is {'x'.join(map(str, own))} but the image is "
                f"{'x'.join(map(str, image))} (height x width); give masks of their images' size"
            )
    if isinstance(images, Tensor):
        return images.detach().float().cpu(), torch.stack(binary)
    if preprocessing is None:
        raise SsgcamError("photos need the network's preprocessing; pass preprocessing as well")
    sized = [nearest(mask, preprocessing.input_size) for mask in binary]
    return preprocessing(list(images)), torch.stack(sized)


def _rows_of(
    sample: Sample, semantic: bool, mapping: dict[int, int], classes: int | None
) -> list[tuple[int | None, int]]:
    """For each row of a sample the set's class (None: all foreground) and the network's class.

    The network's class is -1 for an image without any class.
    """
    apart = semantic and bool(mapping)
    if classes is not None:
        label = next((own for own, index in mapping.items() if index == classes), None)
        return [(label if apart else None, classes)]
    if not mapping or not sample.labels:
        return [(None, -1)]
    if not apart:
        return [(None, mapping[sample.labels[0]])]
    return [(label, mapping[label]) for label in sample.labels]
