"""Which maps are compared, and how are those of all methods computed from one pass of the network?

All methods that use gradients share their signals: a batch costs one forward pass and one backward
pass for each class of an image, whatever the number of methods and layers. ShapleyCAM (a second
backward pass for each layer), Finer-CAM (other classes), Score-CAM and ReciproCAM (forward passes for
each layer) run on their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssgcam.cam import CAM, Layers
from ssgcam.core import fusion
from ssgcam.core.layers import resolve
from ssgcam.core.methods import METHODS, Method, method_of
from ssgcam.core.settings import SSGSettings, TargetSettings, check_choice
from ssgcam.core.signals import Signal, signals_of
from ssgcam.core.target import Others, Scalar, compared_classes, logits_and_classes
from ssgcam.errors import SsgcamError
from ssgcam.metrics.checks import check
from ssgcam.models import LoadedModel
from ssgcam.recipe import BoundRecipe, Recipe

#: In place of layer names: all layers fused, and the mean of the scores of single layers.
ALL_FUSED = "all fused"
MEAN = "mean of layers"
#: In place of a method's title.
RECIPE = "recipe"


@dataclass(frozen=True)
class MapSource:
    """Where a map comes from: a line of a table."""

    method: str
    layers: str

    def __str__(self) -> str:
        return f"{self.method} ({self.layers})"


def parse_method(text: str) -> Method:
    """A method from ``METHOD`` or ``ssg_cam:FORM``, such as ``ssg_cam:gradient``."""
    name, _, form = text.strip().partition(":")
    if not form:
        return method_of(name)
    if name != "ssg_cam":
        raise SsgcamError(f"'{text}' has a form, which only ssg_cam has; leave ':{form}' out")
    return method_of(name, SSGSettings(form=form))  # type: ignore[arg-type]


def settings_text(method: Method, target: TargetSettings | None, shared: str) -> str:
    """The settings in words, and the method's own target where it isn't the shared one."""
    text, ssg = f"gamma {method.gamma:g}", method.ssg
    if method.name == "ssg_cam":
        exponents = f"exponents {ssg.first_exponent:g} and {ssg.second_exponent:g}"
        text = f"{ssg.form} form, sigma {ssg.sigma:g}, {exponents}, {text}"
        if method.fused is not method:
            text += f", unsmoothed share {method.fused.ssg.unsmoothed:.2f} where layers are fused"
    return text + f", target {method.target}" * (target is None and method.target != shared)


#: All methods that use gradients and not the Hessian: SSG-CAM with its presets, first-order methods.
DEFAULT_METHODS = tuple(
    method
    for name, method in METHODS.items()
    if method.needs in ("first", "second") and name != "discriminate"  # the default of ssg_cam
)
#: Forms of SSG-CAM, which are compared with the best of the other methods.
SSG_METHODS = ("ssg_cam", "discriminate", "localize")


@dataclass(frozen=True)
class MethodsCompared:
    """Which maps are compared.

    Attributes:
        methods: See :func:`ssgcam.core.methods.method_of`; their titles must differ.
        layers: Names or modules, as for :class:`ssgcam.CAM`, or ``"auto"``: the last of each
            resolution.
        each: Whether each layer is scored on its own.
        fused: Whether all layers fused are scored, if there are several.
        target: What is differentiated, the same for all; None takes each method's default, as
            :class:`ssgcam.CAM` does.
        against: Which classes are subtracted, the same for all methods, as for :class:`ssgcam.CAM`;
            None takes each method's default. It does not change the recipe.
        recipe: Compared as one more method.

    Raises:
        SsgcamError: If a method is named twice or there is nothing to compare.
    """

    methods: tuple[Method, ...] = DEFAULT_METHODS
    layers: Layers = "auto"
    each: bool = True
    fused: bool = True
    target: TargetSettings | None = None
    against: Others | None = None
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        """Check that there is something to compare."""
        titles = [method.title for method in self.methods]
        check(len(set(titles)) == len(titles), "a method is named twice; name each once")
        check(titles or self.recipe, "no method was given; name at least one, or a recipe")
        scored = self.each or self.fused or self.recipe
        check(scored, "neither single layers nor all fused are scored; score one of them")
        if self.against is not None:
            check_choice("against", self.against, Others)


@dataclass(frozen=True, eq=False)
class BatchMaps:
    """The maps of a batch.

    Attributes:
        maps: For each source ``[N, K, h, w]``, not negative, divided by its maximum and raised to its
            gamma: a single layer at the layer's own resolution, the others at the input's.
        classes: ``[N, K]``.
        logits: ``[N, outputs]``.
        gate: ``[N, K]`` bool: whether the recipe's gate is open; None without a recipe.
    """

    maps: dict[MapSource, Tensor]
    classes: Tensor
    logits: Tensor
    gate: Tensor | None


class Explainer:
    """Computes the maps of all methods and layers for a batch of images.

    Args:
        model: The network.
        compared: Methods, layers by name (not ``"auto"``) and recipe.
        fast: As for :class:`ssgcam.CAM`.

    Attributes:
        layers: Names of the layers.
        sources: Where the maps come from, the recipe last.
        recipe: The bound recipe, or None.
        target: What is differentiated in the backward pass that methods share.
        cam: The method that needs the most derivatives; its passes of the network serve the others.

    Raises:
        SsgcamError: If a layer doesn't exist or the recipe doesn't fit.
    """

    def __init__(self, model: LoadedModel, compared: MethodsCompared, fast: bool = False) -> None:
        self.methods = compared.methods
        self.target, self.against = compared.target or TargetSettings(), compared.against
        layers = compared.layers
        self.layers = resolve(model.network, [layers] if isinstance(layers, str) else layers)
        self.recipe: BoundRecipe | None = None
        if compared.recipe is not None:
            self.recipe = compared.recipe.bind(model, fast=fast)
        self._separate = {
            method: CAM(model, self.layers, method.name, target=compared.target, fast=fast)
            for method in self.methods
            if method.needs in ("curvature", "forward") or method.against
        }
        cheapest = METHODS["activation_sum"]  # if all methods run on their own
        shared = [cheapest, *(method for method in self.methods if method not in self._separate)]
        order = ("activation", "first", "second")
        most = max(shared, key=lambda method: order.index(method.needs))
        self.cam = CAM(
            model, self.layers, most.name, ssg=most.ssg, target=compared.target, fast=fast
        )
        places = [*self.layers] if compared.each else []
        if len(self.layers) > 1 and (compared.fused or not places):
            places.append(ALL_FUSED)
        self._places = places or self.layers
        titles = [method.title for method in self.methods]
        sources = [MapSource(title, place) for title in titles for place in self._places]
        if compared.recipe is not None:
            names = ", ".join(layer.name for layer in compared.recipe.layers)
            sources.append(MapSource(RECIPE, names))
        self.sources = tuple(sources)

    def __call__(self, images: Tensor, classes: Tensor | None = None) -> BatchMaps:
        """Explain a batch.

        Args:
            images: The network's input, ``[N, C, H, W]``.
            classes: ``[N, K]``; -1 is the network's top class, as is None (K = 1).

        Returns:
            Maps of all sources.

        Raises:
            SsgcamError: If a class is out of range or the network's output isn't finite.
        """
        captured = self.cam.capture(images)
        _, top = logits_and_classes(captured.output, None, images, None)
        top = top[:, None]
        given = top if classes is None else torch.where(classes < 0, top, classes)
        logits, classes = logits_and_classes(captured.output, given, images, None)
        assert logits is not None
        others = compared_classes(self.against, logits, classes, self.target)
        size = (int(images.shape[-2]), int(images.shape[-1]))
        found: dict[MapSource, list[Tensor]] = {}
        for k, column in enumerate(classes.unbind(1), 1):
            scalar, more = Scalar(column, self.target, None, others), k < classes.shape[1]
            signals = signals_of(captured, scalar, self.cam.method.needs, size, retain_graph=more)
            for method in self.methods:
                if method in self._separate:
                    cam = self._separate[method]
                    raw = fused = cam(images, column, against=self.against).layer_maps
                else:
                    raw = fused = _layer_maps(method, signals)
                    if method.fused is not method and ALL_FUSED in self._places:
                        fused = _layer_maps(method.fused, signals)
                for place in self._places:
                    maps = _prepared(method, fused if place == ALL_FUSED else raw, place, size)
                    found.setdefault(MapSource(method.title, place), []).append(maps)
        stacked = {source: torch.stack(maps, 1) for source, maps in found.items()}
        gate = None
        if self.recipe is not None:
            result = self.recipe(images, classes)
            stacked[self.sources[-1]] = result.maps
            gate = self.recipe.is_open(result)
        return BatchMaps(stacked, classes, logits, gate)


def _layer_maps(method: Method, signals: dict[str, Signal]) -> dict[str, Tensor]:
    assert method.function is not None
    return {name: method.function(signal) for name, signal in signals.items()}


def _prepared(method: Method, raw: dict[str, Tensor], place: str, size: tuple[int, int]) -> Tensor:
    """The scaled map of one layer at its own resolution, or of all layers fused at ``size``."""
    if place == ALL_FUSED:
        gammas = [method.gamma] * len(raw)
        return fusion.fuse([*raw.values()], size, gammas=gammas, fusion=method.fusion)
    own = (int(raw[place].shape[-2]), int(raw[place].shape[-1]))
    return fusion.prepare(raw[place], own, method.gamma)
