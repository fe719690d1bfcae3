"""A recipe with its network: images in, maps and masks out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ssgcam.cam import CAM
from ssgcam.core import fusion as pipeline
from ssgcam.core.augment import View
from ssgcam.core.capture import capture
from ssgcam.core.network import unwrap
from ssgcam.core.refine import Refinement, pamr
from ssgcam.core.settings import Precision
from ssgcam.core.target import logits_of
from ssgcam.fingerprint import check_fits
from ssgcam.models import LoadedModel
from ssgcam.result import Result

if TYPE_CHECKING:
    from ssgcam.recipe import Recipe


class BoundRecipe:
    """A recipe with its network: images in, maps and masks out.

    Args:
        recipe: The recipe.
        model: A network, or what :func:`ssgcam.load_model` returns.
        strict: See :meth:`Recipe.bind`.
        precision: As for :class:`ssgcam.CAM`.

    Raises:
        SsgcamError: If the network doesn't fit.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module | LoadedModel,
        *,
        strict: bool = False,
        precision: Precision = "exact",
    ) -> None:
        network = unwrap(model.network if isinstance(model, LoadedModel) else model)
        self.recipe = recipe
        shapes = {layer.name: layer.shape for layer in recipe.layers}
        check_fits(network, recipe.network, shapes, recipe.classes, strict=strict)
        self.cam = CAM(
            model,
            list(shapes),
            ssg=[layer.ssg for layer in recipe.layers],
            gamma=[layer.gamma for layer in recipe.layers],
            weights=[layer.weight for layer in recipe.layers],
            fusion=recipe.fusion,
            score=recipe.score,
            output=recipe.network.output,
            size=recipe.size,
            precision=precision,
        )

    def __call__(
        self, images: Tensor, classes: Tensor | Sequence[int] | int | None = None
    ) -> Result:
        """Maps of a batch.

        Args:
            images: The network's input, ``[N, C, H, W]``, any size the network takes.
            classes: As for :class:`ssgcam.CAM`; ``None`` is the most probable of the recipe's classes.

        Returns:
            As of :class:`ssgcam.CAM`: ``maps`` at input size. ``logits``, ``layer_maps`` and ``notes``
            are those of the first view, ``probabilities`` the mean over views.
        """
        augmentation = self.recipe.augmentation
        view, *others = augmentation
        if classes is None and self.recipe.classes:
            classes = self._most_probable(view.apply(images))
        first, fused, probabilities = self._seen(view, images, classes)
        for view in others:
            _, part, probability = self._seen(view, images, first.classes)
            fused = fused + part
            probabilities = probabilities + probability
        maps = self._finished(images, pipeline.scale(fused / augmentation.views))
        return replace(
            first,
            maps=maps.view(*first.classes.shape, *maps.shape[1:]),
            probabilities=probabilities / augmentation.views,
            evidence=(maps.amax((-2, -1)) > 0).view(first.classes.shape),
        )

    def masks(self, images: Tensor, classes: Tensor | Sequence[int] | int | None = None) -> Tensor:
        """Masks ``[N, H, W]`` (or ``[N, K, H, W]``), bool; all False where the gate is shut."""
        return self.cut(self(images, classes))

    def cut(self, result: Result) -> Tensor:
        """The masks of a result of this recipe, bool, of the shape of its maps."""
        inside = pipeline.threshold(result.maps, self.recipe.threshold)
        return inside & self.is_open(result)[..., None, None]

    def is_open(self, result: Result) -> Tensor:
        """Whether the class's probability reaches the gate: bool, of the shape of its classes."""
        assert result.probabilities is not None
        columns = result.classes.view(len(result.classes), -1)
        probability = result.probabilities.gather(1, columns).view(result.classes.shape)
        return probability >= self.recipe.gate

    def _seen(
        self, view: View, images: Tensor, classes: Tensor | Sequence[int] | int | None
    ) -> tuple[Result, Tensor, Tensor]:
        """One view's result, its maps ``[N * K, *size]`` up to the scaling, and its probabilities."""
        result = self.cam(view.apply(images), classes)
        assert result.probabilities is not None
        layers = self.recipe.layers
        maps = pipeline.combine(
            [view.undo(result.layer_maps[layer.name]).flatten(0, -3) for layer in layers],
            self.recipe.size,
            gammas=[layer.gamma for layer in layers],
            weights=[layer.weight for layer in layers],
            fusion=self.recipe.fusion,
        )
        return result, maps, result.probabilities

    def _finished(self, images: Tensor, maps: Tensor) -> Tensor:
        """From the working size to the input's, refined if the recipe says so: ``[N * K, H, W]``."""
        maps = pipeline.resize(maps, (int(images.shape[-2]), int(images.shape[-1])))
        refinement = self.recipe.refinement
        return maps if refinement is None else refined(images, maps, refinement)

    def _most_probable(self, images: Tensor) -> Tensor:
        allowed = torch.tensor(self.recipe.classes, device=images.device)
        if len(allowed) == 1:
            return allowed.expand(len(images))
        logits = logits_of(capture(self.cam.network, images, []).output)
        return allowed[logits[:, allowed].argmax(1)]


def refined(images: Tensor, maps: Tensor, refinement: Refinement) -> Tensor:
    """Maps ``[N * K, H, W]`` of ``[N, C, H, W]`` images after PAMR, divided by their maximum again."""
    by_image = maps.view(len(images), -1, *maps.shape[1:])
    return pipeline.scale(pamr(images, by_image, refinement).flatten(0, 1))
