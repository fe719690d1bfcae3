"""What a recipe is measured against: every method on every layer, and naive means of all layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssgcam.cam import CAM
from ssgcam.core import fusion as pipeline
from ssgcam.core.methods import METHODS
from ssgcam.core.refine import Refinement
from ssgcam.core.signals import Signal
from ssgcam.fingerprint import placed
from ssgcam.models import LoadedModel
from ssgcam.recipe import BoundRecipe, refined
from ssgcam.search.calibration import Examples
from ssgcam.search.scoring import Fitness, Sweep, sweep

SINGLE = ("ssg_cam", "grad_cam", "grad_cam_plus_plus", "layer_cam", "grad_cam_elementwise")
AVERAGED = ("ssg_cam", "layer_cam")


@dataclass(frozen=True)
class Rival:
    """A map that a recipe is compared with.

    Attributes:
        method: A key of ``core.methods.METHODS``.
        layer: The layer, or None for the mean of all candidate layers.
    """

    method: str
    layer: str | None

    @property
    def name(self) -> str:
        """For people."""
        title = METHODS[self.method].title
        return f"{title}, mean of all layers" if self.layer is None else f"{title}, {self.layer}"


def rival_sweeps(
    model: nn.Module | LoadedModel,
    examples: Examples,
    layers: Sequence[str],
    kind: Fitness,
    batch_size: int,
) -> dict[Rival, Sweep]:
    """Score every method on every layer, and the means of all layers, at every threshold.

    The maps are those of :class:`ssgcam.CAM` with its default settings and each method's gamma
    at the masks' size.

    Args:
        model: The network.
        examples: Labeled images.
        layers: The candidate layers.
        kind: The score.
        batch_size: Images for each pass.

    Returns:
        For each rival its counts.
    """
    cam = CAM(model, list(layers))
    size = (int(examples.masks.shape[-2]), int(examples.masks.shape[-1]))
    parts: dict[Rival, list[Sweep]] = {}
    for start in range(0, len(examples), batch_size):
        part = slice(start, start + batch_size)
        images = placed(examples.images[part], cam.network)
        signals, _ = cam.signals(images, examples.classes[part].to(images.device))
        for rival, maps in rival_maps(signals, size):
            found = sweep(maps, examples.masks[part], examples.probabilities[part], kind)
            parts.setdefault(rival, []).append(found)
    return {rival: Sweep.joined(found) for rival, found in parts.items()}


def rival_maps(signals: dict[str, Signal], size: tuple[int, int]) -> Iterator[tuple[Rival, Tensor]]:
    """Every rival's maps of one batch.

    Args:
        signals: Of every candidate layer.
        size: Height and width of the maps.

    Yields:
        A rival and its maps ``[N, *size]``.
    """
    with torch.no_grad():
        for method in SINGLE:
            function = METHODS[method].function
            assert function is not None
            ready = {
                layer: pipeline.prepare(function(signal), size, METHODS[method].gamma).float().cpu()
                for layer, signal in signals.items()
            }
            for layer, maps in ready.items():
                yield Rival(method, layer), maps
            if method in AVERAGED:
                yield Rival(method, None), pipeline.scale(torch.stack(list(ready.values())).mean(0))


@dataclass(frozen=True, eq=False)
class Mapped:
    """A bound recipe's maps of a set of examples.

    Attributes:
        maps: ``[N, H, W]`` at input size.
        probabilities: ``[N]`` of the explained class, the mean over views.
    """

    maps: Tensor
    probabilities: Tensor

    @classmethod
    def of(cls, bound: BoundRecipe, examples: Examples, batch_size: int) -> Mapped:
        """Run the recipe over all examples, each explained for its own class."""
        maps, probabilities = [], []
        for start in range(0, len(examples), batch_size):
            part = slice(start, start + batch_size)
            images = placed(examples.images[part], bound.cam.network)
            classes = examples.classes[part].to(images.device)
            result = bound(images, classes)
            assert result.probabilities is not None
            maps.append(result.maps.float().cpu())
            probabilities.append(
                result.probabilities.gather(1, classes[:, None])[:, 0].float().cpu()
            )
        return cls(torch.cat(maps), torch.cat(probabilities))

    def refined(self, examples: Examples, refinement: Refinement) -> Mapped:
        """The same maps after refinement, as a recipe with it gives them."""
        return Mapped(refined(examples.images, self.maps, refinement), self.probabilities)

    def sweep(self, examples: Examples, kind: Fitness) -> Sweep:
        """Counts at every threshold, at the masks' size."""
        size = (int(examples.masks.shape[-2]), int(examples.masks.shape[-1]))
        maps = pipeline.resize(self.maps, size)
        return sweep(maps, examples.masks, self.probabilities, kind)
