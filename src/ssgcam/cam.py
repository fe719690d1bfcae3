"""The object a user holds: a network, its target layers and a method; images in, heat maps out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssgcam.core import layers as layer_names
from ssgcam.core import maps as pipeline
from ssgcam.core.capture import Captured, capture
from ssgcam.core.derivatives import derivatives, hessian_activation_product
from ssgcam.core.fast import FastCopy
from ssgcam.core.layouts import Layout, layout_of
from ssgcam.core.methods import METHODS, in_parts, ssg_cam
from ssgcam.core.network import explaining, outside_inference_mode, unwrap
from ssgcam.core.score_cam import score_cam
from ssgcam.core.scores import ScoreFunction, class_score, logits_of
from ssgcam.core.settings import (
    Form,
    Fusion,
    Precision,
    Score,
    ScoreSettings,
    SSGSettings,
    check_choice,
    check_range,
)
from ssgcam.core.signals import Signal
from ssgcam.errors import SsgcamError
from ssgcam.models import LoadedModel

Layers = Literal["auto"] | Sequence[str | nn.Module]


@dataclass(frozen=True)
class Result:
    """Heat maps of a batch.

    Attributes:
        maps: ``[N, H, W]`` (or ``[N, K, H, W]`` for K classes of each image) in [0, 1], at input
            size, the layers fused; all zeros where there is no evidence.
        layer_maps: Layer -> ``[N, h, w]`` (or ``[N, K, h, w]``), raw, float32, not scaled.
        classes: The explained classes, ``[N]`` or ``[N, K]``.
        logits: ``[N, classes]``, or ``None`` for a network explained by a user's score function.
        probabilities: Softmax or sigmoid of the logits, or ``None``.
        evidence: Whether a map has any, ``[N]`` or ``[N, K]``, bool.
        notes: For each map, flattened, why it has no evidence in some layer; empty if it has.
    """

    maps: Tensor
    layer_maps: dict[str, Tensor]
    classes: Tensor
    logits: Tensor | None
    probabilities: Tensor | None
    evidence: Tensor
    notes: tuple[str, ...]


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
        score: A :class:`ScoreSettings`, the name of a score, or a function from the network's output
            to one number for each image (segmentation, detection, multi-label networks).
        output: ``"softmax"`` or ``"sigmoid"``; taken from a loaded model.
        size: Height and width of ``Result.maps``; the input's by default.
        batch_size: Images for each pass of Score-CAM.
        precision: ``"fast"`` works on a copy of the network with batch norms folded and channels last,
            and rounds the backward pass to bfloat16 where the processor has it; ``"bfloat16"`` rounds
            the forward pass, too. See ``core.fast``.

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
        score: ScoreSettings | Score | ScoreFunction | None = None,
        output: Literal["softmax", "sigmoid"] | None = None,
        size: tuple[int, int] | None = None,
        batch_size: int = 32,
        precision: Precision = "exact",
    ) -> None:
        if method not in METHODS:
            raise SsgcamError(f"no method named '{method}'; choose one of {', '.join(METHODS)}")
        loaded = model if isinstance(model, LoadedModel) else None
        self.network = unwrap(loaded.network if loaded else model)  # type: ignore[arg-type]
        self.method = METHODS[method]
        self.method_name = method
        self.ssg: SSGSettings | Sequence[SSGSettings] = ssg or SSGSettings()
        self.score_function: ScoreFunction | None = None
        self.score = ScoreSettings(score=self.method.score)
        if isinstance(score, ScoreSettings):
            self.score = score
        elif isinstance(score, str):
            self.score = ScoreSettings(score=score)
        elif callable(score):
            self.score_function = score
        elif score is not None:
            raise SsgcamError(
                f"score is {score!r}; give a score's name, a ScoreSettings or a function"
            )
        self.output = output or (loaded.output if loaded else "softmax")
        check_choice("output", self.output, Literal["softmax", "sigmoid"])
        check_choice("fusion", fusion, Fusion)
        self.fusion: Fusion = fusion
        self.size = size
        self.batch_size = batch_size
        check_choice("precision", precision, Precision)
        self.precision: Precision = precision
        self._fast = None if precision == "exact" else FastCopy(self.network, precision)
        self.weights = weights
        self.gamma = gamma if gamma is not None else (DEFAULT_GAMMA if method == "ssg_cam" else 1.0)
        self._layers: list[str] | None = None
        if isinstance(layers, str) and layers != "auto":
            layers = [layers]
        if layers != "auto":
            self._layers = layer_names.resolve(self.network, layers)
            self._check_per_layer(self._layers)
        elif weights is not None or not all(
            isinstance(value, (int, float, SSGSettings)) for value in (self.gamma, self.ssg)
        ):
            raise SsgcamError("settings for each layer need the layers to be named")
        for value in [self.gamma] if isinstance(self.gamma, (int, float)) else self.gamma:
            check_range("gamma", value, 0.01, 10)

    def layers(self, images: Tensor) -> list[str]:
        """The target layers' spellings; ``"auto"`` is settled by the first images seen."""
        if self._layers is None:
            self._layers = layer_names.auto_layers(self.network, images[:1])
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
        names = self.layers(images)
        captured = self._capture(images, names)
        logits, classes = self._classes(captured.output, classes, len(images))
        columns = classes[:, None] if classes.ndim == 1 else classes
        size = self.size or (int(images.shape[-2]), int(images.shape[-1]))
        layouts = {
            name: layout_of(tensor, (int(images.shape[-2]), int(images.shape[-1])), name)
            for name, tensor in captured.activations.items()
        }
        fused, raw, notes = [], [], []
        for k in range(columns.shape[1]):
            last = k == columns.shape[1] - 1
            signals = self._signals(captured, columns[:, k], retain_graph=not last)
            maps: dict[str, Tensor] = {}
            reasons = [""] * len(images)
            for index, name in enumerate(names):
                signal = _as_maps(signals.pop(name), layouts[name])
                maps[name] = self._layer_map(index, signal, images, columns[:, k])
                _note_missing(reasons, name, maps[name], signal)
            fused.append(self.fuse(maps, size))
            raw.append(maps)
            notes.append(reasons)
        several = classes.ndim == 2
        stacked = torch.stack(fused, 1) if several else fused[0]
        return Result(
            maps=stacked,
            layer_maps={
                n: torch.stack([r[n].float() for r in raw], 1) if several else raw[0][n].float()
                for n in names
            },
            classes=classes,
            logits=logits,
            probabilities=None if logits is None else self._probabilities(logits),
            evidence=stacked.amax((-2, -1)) > 0,
            notes=tuple(notes[k][i] for i in range(len(images)) for k in range(columns.shape[1])),
        )

    def fuse(self, layer_maps: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        """Raw layer maps, each ``[N, h, w]``, through the pipeline of ``core.maps`` to ``[N, *size]``."""
        gamma = self.gamma
        gammas = [float(gamma)] * len(layer_maps) if isinstance(gamma, (int, float)) else gamma
        return pipeline.fuse(
            list(layer_maps.values()), size, gammas=gammas, weights=self.weights, fusion=self.fusion
        )

    def signals(self, images: Tensor, classes: Tensor) -> tuple[dict[str, Signal], Any]:
        """The signals ``[N, C, h, w]`` of every target layer for ``[N]`` classes, and the output."""
        captured = self._capture(images, self.layers(images))
        side = (int(images.shape[-2]), int(images.shape[-1]))
        found = self._signals(captured, classes, retain_graph=False)
        return {
            name: _as_maps(signal, layout_of(signal.activation, side, name))
            for name, signal in found.items()
        }, captured.output

    def _capture(self, images: Tensor, names: Sequence[str]) -> Captured:
        needs_graph_of_gradient = self.method.needs == "curvature" or (
            self._needs_second and self.score.second == "hutchinson"
        )
        if self._fast is not None:
            return self._fast.capture(images, names, exact=needs_graph_of_gradient)
        return capture(self.network, images, names, double_backward=needs_graph_of_gradient)

    @property
    def _needs_second(self) -> bool:
        ssg = [self.ssg] if isinstance(self.ssg, SSGSettings) else self.ssg
        return self.method.needs == "second" and any(s.second_exponent > 0 for s in ssg)

    def _signals(
        self, captured: Captured, classes: Tensor, *, retain_graph: bool
    ) -> dict[str, Signal]:
        activations = captured.activations
        if self.method.needs in ("activation", "forward"):
            return {name: Signal(tensor.detach()) for name, tensor in activations.items()}
        if self.method.needs == "curvature":
            products = hessian_activation_product(
                captured, classes, self.score, self.score_function
            )
            return {
                name: Signal(activations[name].detach(), first, None, curvature)
                for name, (first, curvature) in products.items()
            }
        found = derivatives(
            captured,
            classes,
            self.score,
            need_second=self._needs_second,
            function=self.score_function,
            retain_graph=retain_graph,
        )
        absolute = self.score.sign == "absolute"
        return {
            name: Signal(
                activations[name].detach(),
                first,
                second.abs() if absolute and second is not None else second,
            )
            for name, (first, second) in found.items()
        }

    def _layer_map(self, index: int, signal: Signal, images: Tensor, classes: Tensor) -> Tensor:
        with torch.no_grad():
            if self.method.needs == "forward":
                return score_cam(signal.activation, images, classes, self._scores, self.batch_size)
            if self.method_name == "ssg_cam":
                ssg = self.ssg if isinstance(self.ssg, SSGSettings) else self.ssg[index]
                return in_parts(partial(ssg_cam, settings=ssg), signal)
            assert self.method.function is not None
            return in_parts(self.method.function, signal)

    def _scores(self, images: Tensor, classes: Tensor) -> Tensor:
        with explaining(self.network), torch.no_grad():
            output = self.network(outside_inference_mode(images))
            return class_score(output, classes, self.score, self.score_function)

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(1) if self.output == "softmax" else logits.sigmoid()

    def _classes(
        self, output: Any, classes: Tensor | Sequence[int] | int | None, images: int
    ) -> tuple[Tensor | None, Tensor]:
        if self.score_function is not None:
            if classes is not None:
                raise SsgcamError(
                    "classes were given along with a score function, which alone says what is "
                    "explained; leave them out"
                )
            device = next(iter(self.network.parameters()), torch.zeros(1)).device
            return None, torch.zeros(images, dtype=torch.long, device=device)
        logits = logits_of(output).detach()
        bad = (~logits.isfinite().all(1)).nonzero()[:, 0].tolist()
        if bad:
            raise SsgcamError(
                f"the network returned NaN or infinity for image {bad[0]} of the batch; check its "
                "weights and the preprocessing, or use a wider number format"
            )
        if classes is None:
            return logits, logits.argmax(1)
        try:
            wanted = torch.as_tensor(classes, device=logits.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise SsgcamError(
                f"classes is {classes!r}; give one index, [N] or [N, K] whole numbers"
            ) from error
        if wanted.ndim == 0:
            wanted = wanted.expand(images)
        whole = not (wanted.is_floating_point() or wanted.dtype == torch.bool)
        if not whole or wanted.ndim > 2 or wanted.shape[0] != images or not wanted.numel():
            raise SsgcamError(
                f"classes has shape {list(wanted.shape)} and type {wanted.dtype} for {images} images; "
                "give [N] or [N, K] whole numbers"
            )
        count = logits.shape[1]
        outside = wanted[(wanted < 0) | (wanted >= count)]
        if len(outside):
            raise SsgcamError(
                f"class {int(outside[0])} is out of range: the network has {count} classes, "
                f"0 to {count - 1}"
            )
        return logits, wanted.long()

    def _check_per_layer(self, names: Sequence[str]) -> None:
        per_layer = {"gamma": self.gamma, "weights": self.weights, "ssg": self.ssg}
        for what, values in per_layer.items():
            if isinstance(values, Sequence) and len(values) != len(names):
                raise SsgcamError(
                    f"{what} has {len(values)} values for {len(names)} layers; give one for each"
                )


DEFAULT_GAMMA = 1.0


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


def _as_maps(signal: Signal, layout: Layout) -> Signal:
    if layout.shape == "channels_first":
        return signal
    return replace(
        signal,
        **{
            part: layout.maps(tensor)
            for part in ("activation", "first", "second", "curvature")
            if (tensor := getattr(signal, part)) is not None
        },
    )


def _note_missing(reasons: list[str], name: str, layer_map: Tensor, signal: Signal) -> None:
    """Say for each image why a layer gave nothing; refuse what is not a number."""
    peaks = layer_map.flatten(1).amax(1)
    if not bool(peaks.isfinite().all()):
        raise SsgcamError(
            f"layer '{name}' gave values that are not finite (an overflow of its number format, or a "
            "broken network); use float32 or another layer"
        )
    for index in (peaks <= 0).nonzero()[:, 0].tolist():
        if signal.first is not None and not signal.first[index].any():
            why = "the class score does not change with it"
        elif signal.second is not None and not (signal.second[index] > 0).any():
            why = "every second derivative is negative (sign='absolute' takes their magnitude)"
        else:
            why = "nothing in it speaks for the class"
        reasons[index] += f"{'; ' if reasons[index] else ''}no evidence in layer '{name}': {why}"


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        shape = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise SsgcamError(
            f"images is {shape}; give a floating-point tensor [N, C, H, W] (a volume: slice by slice)"
        )
    if len(images) == 0:
        raise SsgcamError("images is an empty batch; give at least one image")


__all__ = ["CAM", "SSGCAM", "Result"]
