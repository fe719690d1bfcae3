"""The maps of all contenders from one look at a batch.

All gradient methods read the same signals: a batch costs ONE forward pass and one backward pass for
each class of an image (so one, where an image has one), however many methods and layers compete.
ShapleyCAM (a second backward for each layer) and Score-CAM (a forward for each channel) run on their
own, and only when they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssgcam.cam import CAM, Layers
from ssgcam.core import fusion as pipeline
from ssgcam.core import layers as layer_names
from ssgcam.core.capture import Captured, capture
from ssgcam.core.fast import FastCopy
from ssgcam.core.methods import METHODS
from ssgcam.core.network import unwrap
from ssgcam.core.settings import TargetSettings
from ssgcam.core.signals import Needs, signals_of
from ssgcam.core.target import logits_and_classes
from ssgcam.evaluation.contenders import Contender, Entrants
from ssgcam.evaluation.figures import Entry
from ssgcam.evaluation.result import ALL_FUSED, RECIPE
from ssgcam.models import LoadedModel
from ssgcam.recipe import BoundRecipe


@dataclass(frozen=True, eq=False)
class Explained:
    """A batch after all methods.

    Attributes:
        maps: For each entry ``[N, K, h, w]``, not negative, divided by its maximum and raised to its
            gamma: a single layer at the layer's own resolution, the others at the input's.
        classes: ``[N, K]``.
        logits: ``[N, outputs]``.
        gate: ``[N, K]`` bool: where the recipe's gate is open; None without a recipe.
    """

    maps: dict[Entry, Tensor]
    classes: Tensor
    logits: Tensor
    gate: Tensor | None


class Competition:
    """A network, contenders and layers; images and classes in, maps of all entries out.

    Args:
        model: The network.
        who: Methods, layers and recipe.
        batch_size: Images for each pass of Score-CAM.
        fast: As for :class:`ssgcam.CAM`.

    Raises:
        SsgcamError: If a layer doesn't exist or the recipe doesn't fit.
    """

    def __init__(
        self,
        model: LoadedModel,
        who: Entrants,
        batch_size: int = 32,
        fast: bool = False,
    ) -> None:
        self.network = unwrap(model.network)
        self._fast = FastCopy(self.network) if fast else None
        self.contenders = who.contenders
        self.score = who.score or TargetSettings()  # of all that share a backward pass
        self.layers = _names(model, who.layers)
        self.each = who.each
        self.fused = who.fused and len(self.layers) > 1
        self.recipe: BoundRecipe | None = who.recipe.bind(model, fast=fast) if who.recipe else None
        self._own = {
            contender: CAM(
                model,
                self.layers,
                contender.method,
                target=who.score,
                batch_size=batch_size,
                fast=fast,
            )
            for contender in self.contenders
            if METHODS[contender.method].needs in ("curvature", "forward")
            or METHODS[contender.method].against is not None
        }
        shared = [contender for contender in self.contenders if contender not in self._own]
        second = any(
            METHODS[c.method].needs == "second"
            and (c.method != "ssg_cam" or c.ssg.second_exponent > 0)
            for c in shared
        )
        first = any(METHODS[c.method].needs != "activation" for c in shared)
        self._needs: Needs = "second" if second else "first" if first else "activation"
        self.entries = self._entries()

    def __call__(self, images: Tensor, classes: Tensor | None = None) -> Explained:
        """Explain a batch.

        Args:
            images: The network's input, ``[N, C, H, W]``.
            classes: ``[N, K]``; None is the network's top class (K = 1).

        Returns:
            Maps of all entries.

        Raises:
            SsgcamError: If a class is out of range or the network's output isn't finite.
        """
        second_pass = self._needs == "second" and self.score.second == "hutchinson"
        captured = self._capture(images, double_backward=second_pass)
        logits, classes = logits_and_classes(captured.output, classes, images, None)
        assert logits is not None
        classes = classes.view(len(images), -1)
        size = (int(images.shape[-2]), int(images.shape[-1]))
        columns = range(classes.shape[1])
        found: dict[Entry, list[Tensor]] = {entry: [] for entry in self.entries}
        for k in columns:
            signals = signals_of(
                captured,
                classes[:, k],
                self._needs,
                self.score,
                size,
                retain_graph=k < columns[-1],
            )
            for contender in self.contenders:
                if contender in self._own:
                    raw = self._own[contender](images, classes[:, k]).layer_maps
                else:
                    raw = {name: contender.layer_map(signal) for name, signal in signals.items()}
                for entry, values in self._finished(contender, raw, size).items():
                    found[entry].append(values)
        maps = {entry: torch.stack(values, 1) for entry, values in found.items() if values}
        gate = None
        if self.recipe is not None:
            result = self.recipe(images, classes)
            maps[self.entries[-1]] = result.maps
            gate = self.recipe.is_open(result)
        return Explained(maps, classes, logits, gate)

    def entry_of(self, contender: Contender) -> Entry | None:
        """The entry that stands for a method in a picture: all layers fused, or the last layer."""
        found = [entry for entry in self.entries if entry.method == contender.title]
        return found[-1] if found else None

    def _capture(self, images: Tensor, *, double_backward: bool) -> Captured:
        if self._fast is not None:
            return self._fast.capture(images, self.layers, double_backward=double_backward)
        return capture(self.network, images, self.layers, double_backward=double_backward)

    def _entries(self) -> tuple[Entry, ...]:
        places = [*(self.layers if self.each else ()), *([ALL_FUSED] if self.fused else ())]
        if not places:
            places = [*self.layers] if len(self.layers) == 1 else [ALL_FUSED]
        entries = [Entry(c.title, place) for c in self.contenders for place in places]
        if self.recipe is not None:
            names = ", ".join(layer.name for layer in self.recipe.recipe.layers)
            entries.append(Entry(RECIPE, names))
        return tuple(entries)

    def _finished(
        self, contender: Contender, raw: dict[str, Tensor], size: tuple[int, int]
    ) -> dict[Entry, Tensor]:
        maps = {}
        for name in raw:
            entry = Entry(contender.title, name)
            if entry in self.entries:
                own = (int(raw[name].shape[-2]), int(raw[name].shape[-1]))
                maps[entry] = pipeline.prepare(raw[name], own, contender.power)
        entry = Entry(contender.title, ALL_FUSED)
        if entry in self.entries:
            gammas = [contender.power] * len(raw)
            fusion = METHODS[contender.method].fusion
            maps[entry] = pipeline.fuse(list(raw.values()), size, gammas=gammas, fusion=fusion)
        return maps


def _names(model: LoadedModel, layers: Layers) -> list[str]:
    if isinstance(layers, str) and layers == "auto":
        device = next((p.device for p in model.network.parameters()), None)
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(1, 3, *model.preprocessing.input_size, generator=generator)
        return layer_names.auto_layers(model.network, noise.to(device))
    return layer_names.resolve(model.network, [layers] if isinstance(layers, str) else layers)
