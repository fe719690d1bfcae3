"""A network's answers to perturbed images: composed in place, packed, and none asked for twice.

A pass of the network takes as many composed images, of any image and area, as :func:`images_at_once`
allows. More is slower on a CPU, where what a layer writes must still be in the cache when the next one
reads it (docs/benchmarks/perturbation_speed.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from ssgcam.errors import SsgcamError
from ssgcam.metrics.regions import control_places, fit_maps, pixel_ranks, placed

Probabilities = Callable[[Tensor], Tensor]
"""From images ``[B, C, H, W]`` to class probabilities ``[B, K]``."""

#: Pixels of one pass: 5 images of 224 x 224, 64 of 64 x 64. Measured: the best of the powers of two.
CPU_PIXELS = 2**18
#: The same on a GPU, which wants many images: 83 of 224 x 224. Not measured.
GPU_PIXELS = 2**22


def images_at_once(height: int, width: int, device: torch.device, pixels: int | None = None) -> int:
    """How many images make one pass of the network, at least 1.

    Args:
        height: Of the images.
        width: Of the images.
        device: Where the network runs.
        pixels: Of all images of a pass; None takes what suits the device.

    Raises:
        SsgcamError: If there are fewer than 1.
    """
    if pixels is None:
        pixels = CPU_PIXELS if device.type == "cpu" else GPU_PIXELS
    if pixels < 1:
        raise SsgcamError(f"{pixels} pixels for each pass are too few; pass at least 1")
    return max(1, pixels // (height * width))


class State:
    """A batch of images in one state, such as blurred, and the network's answer, asked for once."""

    def __init__(self, images: Tensor, ask: Callable[[Tensor], Tensor]) -> None:
        self.images = images
        self._ask = ask

    @cached_property
    def answer(self) -> Tensor:
        """Class probabilities, a row for each image."""
        return self._ask(self.images)


class Perturber:
    """A batch of images that any number of maps perturb.

    What no map changes is made once for all of them: the answers to the intact, the blurred and the
    empty images, the order among ties, and where the control's highlight is moved to.

    Args:
        probabilities: The network, softmax included. It must not keep the images it is given: their
            memory is used again.
        images: ``[N, C, H, W]``, as the network takes them.
        blurred: The same images blurred.
        seed: Fixes the order among ties and the control's places.
        first: Index of the first image in the whole set (:func:`ssgcam.metrics.moved_ranks`).
        batch_size: Images for each pass of the network; None takes :func:`images_at_once`.

    Attributes:
        intact: The images.
        blurred: All of their pixels blurred.
        empty: All of their pixels zero; its answer is one row for all images.

    Raises:
        SsgcamError: If the batch size is below 1.
    """

    def __init__(
        self,
        probabilities: Probabilities,
        images: Tensor,
        blurred: Tensor,
        *,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise SsgcamError(f"the batch size is {batch_size}; pass at least 1")
        self.height, self.width = int(images.shape[-2]), int(images.shape[-1])
        self.probabilities, self.seed, self.first = probabilities, seed, first
        self.batch_size = batch_size or images_at_once(self.height, self.width, images.device)
        self.intact = State(images, self.ask)
        self.blurred = State(blurred, self.ask)
        self.empty = State(
            torch.zeros_like(images[:1]).expand_as(images),
            lambda zeros: self.ask(zeros[:1]).expand(len(zeros), -1),
        )

    def ask(self, images: Tensor) -> Tensor:
        """Class probabilities ``[B, K]`` of any number of images, in passes of the batch size.

        Raises:
            SsgcamError: If the network's answer isn't ``[B, K]`` in [0, 1].
        """
        return torch.cat([self._answer(some) for some in torch.split(images, self.batch_size)])

    def ranks(self, maps: Tensor) -> Tensor:
        """The rank of every pixel ``[N, H, W]`` by maps of any size (:func:`pixel_ranks`)."""
        return pixel_ranks(fit_maps(maps, self.height, self.width), self.seed)

    def moved(self, ranks: Tensor) -> Tensor:
        """The control's ranks (:func:`ssgcam.metrics.moved_ranks`)."""
        return placed(ranks, *self._places)

    def sweep(
        self, inside: State, outside: State, ranks: Tensor, counts: Tensor, classes: Tensor
    ) -> Tensor:
        """The answers with the top k pixels from ``inside`` and the others from ``outside``.

        Args:
            inside: Of this batch.
            outside: Of this batch.
            ranks: ``[N, H, W]``, 0 for the pixel that is replaced first.
            counts: ``[V]`` numbers of pixels k. Of 0 and of all pixels the answers are known.
            classes: ``[N]``, the class that is looked at.

        Returns:
            ``[N, 2, V]`` float32: 1 where the class is the first of the highest, and its probability.

        Raises:
            SsgcamError: As :meth:`ask`, or if a class is past K.
        """
        device = self.intact.images.device
        classes, counts = classes.to(device), counts.to(device, torch.int32)
        found = torch.zeros(len(classes), 2, len(counts), dtype=torch.float32, device=device)
        none, full = counts <= 0, counts >= self.height * self.width
        for where, state in ((none, outside), (full, inside)):
            if where.any():
                found[..., where] = _read(state.answer, classes)[..., None]
        between = ~(none | full)
        if between.any():
            rows = [
                _read(self._answer(images), classes[owners])
                for images, owners in _composed(
                    inside.images, outside.images, ranks.to(device, torch.int32),
                    counts[between], self.batch_size,
                )
            ]  # fmt: skip
            found[..., between] = torch.cat(rows).view(len(classes), -1, 2).mT
        return found

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        images = self.intact.images
        return control_places(images.shape, self.seed, self.first, images.device)

    def _answer(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            answer = self.probabilities(images).float()
        if answer.ndim != 2 or len(answer) != len(images):
            raise SsgcamError(
                f"probabilities made {list(answer.shape)} of {len(images)} images; "
                "return [B, classes]"
            )
        if not bool(((answer >= 0) & (answer <= 1.001)).all()):
            raise SsgcamError(
                "probabilities left [0, 1] or aren't finite; apply softmax to the logits"
            )
        return answer


def class_values(answer: Tensor, classes: Tensor) -> Tensor:
    """Each row's entry of its class.

    Raises:
        SsgcamError: If a class is outside the answer's columns.
    """
    if not bool(((classes >= 0) & (classes < answer.shape[1])).all()):
        raise SsgcamError(
            f"classes {classes.tolist()} don't fit the {answer.shape[1]} classes of the network"
        )
    return answer.gather(1, classes.long()[:, None]).squeeze(1)


def _read(answer: Tensor, classes: Tensor) -> Tensor:
    """``[B, 2]``: whether each row's class is the first of the highest, and its probability."""
    return torch.stack([(answer.argmax(1) == classes).float(), class_values(answer, classes)], 1)


def _composed(
    inside: Tensor, outside: Tensor, ranks: Tensor, counts: Tensor, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of composed images, every count of the first image, then of the next.

    Yields:
        At most ``size`` images, in memory that the next batch writes over, and the index of the image
        that each was made of.
    """
    steps, total = len(counts), len(ranks) * len(counts)
    buffer = outside.new_empty(min(size, total), *outside.shape[1:])
    for start in range(0, total, size):
        stop = min(start + size, total)
        row = start
        while row < stop:
            image, step = divmod(row, steps)
            end = min(stop, (image + 1) * steps)
            chosen = ranks[image] < counts[step : step + end - row, None, None]
            torch.where(
                chosen[:, None],
                inside[image],
                outside[image],
                out=buffer[row - start : end - start],
            )
            row = end
        owners = torch.arange(start, stop, device=ranks.device) // steps
        yield buffer[: stop - start], owners
