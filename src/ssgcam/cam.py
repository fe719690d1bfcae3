"""The object a user holds: a network, its target layers and a method; images in, heat maps out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ssgcam.core import fusion as pipeline
from ssgcam.core.capture import Captured, capture
from ssgcam.core.classes import logits_and_classes
from ssgcam.core.fast import FastCopy
from ssgcam.core.layers import auto_layers, resolve
from ssgcam.core.methods import METHODS, in_parts, ssg_cam
from ssgcam.core.network import explaining, outside_inference_mode, unwrap
from ssgcam.core.score_cam import score_cam
from ssgcam.core.settings import (
    Form,
    Fusion,
    Score,
    SSGSettings,
    TargetSettings,
    check_choice,
    check_range,
)
from ssgcam.core.signals import Needs, Signal, signals_of
from ssgcam.core.target import TargetFunction, class_score, settings_and_function
from ssgcam.errors import SsgcamError
from ssgcam.models import LoadedModel
from ssgcam.result import Result, in_shape_of, missing_evidence

T = TypeVar("T")
Layers = Literal["auto"] | Sequence[str | nn.Module]
DEFAULT_GAMMA = 1.0


class CAM:
    """Class activation maps of a network by any method of the library.

    Args:
        model: A network, or what :func:`ssgcam.load_model` returns.
        layers: Names or modules (see ``core.capture`` for the spellings), or ``"auto"``: the last of
            each resolution.
        method: A key of ``core.methods.METHODS``.
        ssg: Settings of the method ``"ssg_cam"``: one for all layers or one for each.
        gamma: Power of each layer's scaled map before the fusion: one number or one for each layer.
        weights: Weight of each layer in the fusion; equal by default.
        fusion: ``"mean"``, or LayerCAM's own rule ``"layer_cam"``.
        score: A :class:`TargetSettings`, the name of a score, or a function from the network's output
            to one number for each image (segmentation, detection, multi-label networks).
        output: ``"softmax"`` or ``"sigmoid"``; taken from a loaded model.
        size: Height and width of ``Result.maps``; the input's by default.
        batch_size: Images for each pass of Score-CAM.
        fast: Work on a copy of the network with batch norms folded and channels last, in bfloat16 on
            a CUDA device that has it. :attr:`computation` says which. See ``core.fast``.

    Raises:
        SsgcamError: If a setting, a method or a layer doesn't exist.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        ...                         nn.Flatten(), nn.Linear(4, 2))
        >>> cam = CAM(network, ["1"], method="layer_cam")
        >>> cam(torch.rand(2, 3, 16, 16)).maps.shape
        torch.Size([2, 16, 16])
    """

    def __init__(
        self,
        model: nn.Module | LoadedModel,
        layers: Layers = "auto",
        method: str = "ssg_cam",
        *,
        ssg: SSGSettings | Sequence[SSGSettings] | None = None,
        gamma: float | Sequence[float] | None = None,
        weights: Sequence[float] | None = None,
        fusion: Fusion = "mean",
        score: TargetSettings | Score | TargetFunction | None = None,
        output: Literal["softmax", "sigmoid"] | None = None,
        size: tuple[int, int] | None = None,
        batch_size: int = 32,
        fast: bool = False,
    ) -> None:
        if method not in METHODS:
            raise SsgcamError(f"no method named '{method}'; choose one of {', '.join(METHODS)}")
        loaded = model if isinstance(model, LoadedModel) else None
        self.network = unwrap(loaded.network if loaded else model)  # type: ignore[arg-type]
        self.method = METHODS[method]
        self.method_name = method
        self.ssg: SSGSettings | Sequence[SSGSettings] = ssg or SSGSettings()
        self.score, self.score_function = settings_and_function(score, self.method.score)
        self.output = output or (loaded.output if loaded else "softmax")
        check_choice("output", self.output, Literal["softmax", "sigmoid"])
        check_choice("fusion", fusion, Fusion)
        self.fusion: Fusion = fusion
        self.size = size
        self.batch_size = batch_size
        self.fast = fast
        self._fast_copy = FastCopy(self.network) if fast else None
        self.weights = weights
        self.gamma = DEFAULT_GAMMA if gamma is None else gamma
        self._layers: list[str] | None = None
        if isinstance(layers, str) and layers != "auto":
            layers = [layers]
        if layers != "auto":
            self._layers = resolve(self.network, layers)
            self._check_per_layer(self._layers)
        elif weights is not None or not (_is_one(self.gamma) and _is_one(self.ssg)):
            raise SsgcamError("settings for each layer need the layers to be named")
        for value in _for_each(self.gamma, 1):
            check_range("gamma", value, 0.01, 10)

    @property
    def computation(self) -> str:
        """How the network is run: ``"exact"``, or what ``fast=True`` chose, in words."""
        return self._fast_copy.description if self._fast_copy else "exact"

    def layers(self, images: Tensor) -> list[str]:
        """The target layers' spellings; ``"auto"`` is settled by the first images seen."""
        if self._layers is None:
            self._layers = auto_layers(self.network, images[:1])
        return self._layers

    def __call__(
        self, images: Tensor, classes: Tensor | Sequence[int] | int | None = None
    ) -> Result:
        """Explain a batch.

        Args:
            images: The network's input, ``[N, C, H, W]``, on the network's device.
            classes: ``None`` for the top-1 class of each image, one index for all, ``[N]`` indices,
                or ``[N, K]`` for several classes of each image.

        Returns:
            Maps, raw layer maps, classes and probabilities.

        Raises:
            SsgcamError: For images of another shape, a class out of range, an output that is not
                finite, or a layer that can't be explained.
        """
        _check_images(images)
        captured = self._capture(images)
        logits, classes = logits_and_classes(captured.output, classes, images, self.score_function)
        size = self.size or (int(images.shape[-2]), int(images.shape[-1]))
        raw, notes = [], []
        columns = [classes] if classes.ndim == 1 else classes.unbind(1)
        for k, column in enumerate(columns, 1):
            layer_maps, why = self._explained(captured, images, column, k < len(columns))
            raw.append(layer_maps)
            notes.append(why)
        maps = in_shape_of(classes, [self.fuse(layer_maps, size) for layer_maps in raw])
        return Result(
            maps=maps,
            layer_maps={
                name: in_shape_of(classes, [layer_maps[name].float() for layer_maps in raw])
                for name in captured.activations
            },
            classes=classes,
            logits=logits,
            probabilities=None if logits is None else self._probabilities(logits),
            evidence=maps.amax((-2, -1)) > 0,
            notes=tuple(note for of_image in zip(*notes, strict=True) for note in of_image),
        )

    def fuse(self, layer_maps: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        """Layer maps, each ``[N, h, w]``, through the pipeline of ``core.fusion`` to ``[N, *size]``."""
        gammas = _for_each(self.gamma, len(layer_maps))
        return pipeline.fuse(
            list(layer_maps.values()), size, gammas=gammas, weights=self.weights, fusion=self.fusion
        )

    def signals(self, images: Tensor, classes: Tensor) -> tuple[dict[str, Signal], Any]:
        """The signals ``[N, C, h, w]`` of every target layer for ``[N]`` classes, and the output."""
        captured = self._capture(images)
        return self._signals(captured, images, classes), captured.output

    @property
    def _needs(self) -> Needs:
        """The most costly signal that the method uses with these settings."""
        if self.method.needs == "second":
            ssg = _for_each(self.ssg, 1)
            return "second" if any(settings.second_exponent > 0 for settings in ssg) else "first"
        return self.method.needs

    def _capture(self, images: Tensor) -> Captured:
        names = self.layers(images)
        differentiated_twice = self._needs == "curvature" or (
            self._needs == "second" and self.score.second == "hutchinson"
        )
        if self._fast_copy is not None:
            return self._fast_copy.capture(images, names, double_backward=differentiated_twice)
        return capture(self.network, images, names, double_backward=differentiated_twice)

    def _signals(
        self, captured: Captured, images: Tensor, classes: Tensor, retain_graph: bool = False
    ) -> dict[str, Signal]:
        return signals_of(
            captured,
            classes,
            self._needs,
            self.score,
            (int(images.shape[-2]), int(images.shape[-1])),
            function=self.score_function,
            retain_graph=retain_graph,
        )

    def _explained(
        self, captured: Captured, images: Tensor, classes: Tensor, retain_graph: bool
    ) -> tuple[dict[str, Tensor], list[str]]:
        """For one class of each image: the raw map of each layer, and why one has no evidence."""
        signals = self._signals(captured, images, classes, retain_graph)
        settings = _for_each(self.ssg, len(signals))
        with torch.no_grad():
            layer_maps = {
                name: self._layer_map(signal, ssg, images, classes)
                for (name, signal), ssg in zip(signals.items(), settings, strict=True)
            }
        return layer_maps, missing_evidence(layer_maps, signals)

    def _layer_map(
        self, signal: Signal, ssg: SSGSettings, images: Tensor, classes: Tensor
    ) -> Tensor:
        if self.method.needs == "forward":
            return score_cam(signal.activation, images, classes, self._scores, self.batch_size)
        if self.method_name == "ssg_cam":
            return in_parts(partial(ssg_cam, settings=ssg), signal)
        assert self.method.function is not None
        return in_parts(self.method.function, signal)

    def _scores(self, images: Tensor, classes: Tensor) -> Tensor:
        with explaining(self.network), torch.no_grad():
            output = self.network(outside_inference_mode(images))
            return class_score(output, classes, self.score, self.score_function)

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(1) if self.output == "softmax" else logits.sigmoid()

    def _check_per_layer(self, names: Sequence[str]) -> None:
        per_layer = {"gamma": self.gamma, "weights": self.weights, "ssg": self.ssg}
        for what, values in per_layer.items():
            if isinstance(values, Sequence) and len(values) != len(names):
                raise SsgcamError(
                    f"{what} has {len(values)} values for {len(names)} layers; give one for each"
                )


class SSGCAM(CAM):
    """SSG-CAM: :class:`CAM` with the settings of ``core.methods.ssg_cam`` spelled out.

    Args:
        model: A network, or what :func:`ssgcam.load_model` returns.
        layers: As for :class:`CAM`.
        form: ``"taylor"`` or ``"gradient"``.
        sigma: Gaussian's standard deviation as a fraction of the map's shorter side.
        first_exponent: Power of the first-order signal.
        second_exponent: Power of the second-order signal.
        gamma: Power of each layer's scaled map before the fusion.
        **settings: As for :class:`CAM`.
    """

    def __init__(
        self,
        model: nn.Module | LoadedModel,
        layers: Layers = "auto",
        *,
        form: Form = SSGSettings.form,
        sigma: float = SSGSettings.sigma,
        first_exponent: float = SSGSettings.first_exponent,
        second_exponent: float = SSGSettings.second_exponent,
        gamma: float | Sequence[float] = DEFAULT_GAMMA,
        **settings: Any,
    ) -> None:
        ssg = SSGSettings(form, sigma, first_exponent, second_exponent)
        super().__init__(model, layers, "ssg_cam", ssg=ssg, gamma=gamma, **settings)


def _is_one(value: object) -> bool:
    """Whether it is a setting for all layers, and not one for each."""
    return isinstance(value, (int, float, SSGSettings))


def _for_each(value: T | Sequence[T], layers: int) -> list[T]:
    """A setting of each layer, where one for all or one for each may be given."""
    return [value] * layers if _is_one(value) else list(value)  # type: ignore[list-item, arg-type]


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        shape = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise SsgcamError(
            f"images is {shape}; give a floating-point tensor [N, C, H, W] (a volume: slice by slice)"
        )
    if len(images) == 0:
        raise SsgcamError("images is an empty batch; give at least one image")
