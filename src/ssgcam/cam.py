"""The object a user holds: a network, its target layers and a method; images in, heat maps out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from ssgcam.core import fusion as pipeline
from ssgcam.core.capture import Captured, run_with_replacement
from ssgcam.core.fast import Computation
from ssgcam.core.forward_methods import recipro_cam, score_cam
from ssgcam.core.layers import auto_layers, resolve
from ssgcam.core.layouts import layout_of
from ssgcam.core.methods import Method, method_of
from ssgcam.core.network import explaining, outside_inference_mode, placed, unwrap
from ssgcam.core.settings import (
    Form,
    Fusion,
    SSGSettings,
    TargetName,
    TargetSettings,
    check_choice,
    check_range,
)
from ssgcam.core.signals import Signal, signals_of
from ssgcam.core.target import (
    Against,
    Classes,
    Others,
    Scalar,
    TargetFunction,
    class_logits,
    compared_classes,
    logits_and_classes,
    probabilities_of,
    settings_and_function,
)
from ssgcam.errors import SsgcamError
from ssgcam.models import LoadedModel, Output, as_loaded
from ssgcam.preprocessing import Photo
from ssgcam.result import Result, in_shape_of, missing_evidence

T = TypeVar("T")
Layers = Literal["auto"] | Sequence[str | nn.Module]


class CAM:
    """Class activation maps of a network by any method of the library.

    A method turns the activation ``A`` of a layer and the gradient ``g`` of the target into a map.
    LayerCAM, for example, is (Jiang et al. 2021, "LayerCAM: Exploring Hierarchical Class Activation Maps
    for Localization", IEEE TIP) ``map = relu( sum_c relu(g) A )``.

    The maps of the layers are resized, divided by their maximum, raised to ``gamma`` and fused.

    Not thread-safe: use one explainer for each network at a time.

    Args:
        model: A network, or what :func:`ssgcam.load_model` returns.
        layers: Names or modules (see ``core.capture`` for the spellings), or ``"auto"``: the last of
            each resolution.
        method: A key of ``core.methods.METHODS``.
        ssg: Settings of the method ``"ssg_cam"``: one for all layers or one for each.
        gamma: Power of each layer's scaled map before the fusion: one number or one for each layer; the
            method's own by default (``METHODS[method].gamma``).
        layer_weights: Weight of each layer in the fusion; equal by default.
        fusion: See :func:`ssgcam.core.fusion.fuse`; the method's own by default.
        target: What is differentiated: a :class:`TargetSettings`, the name of a target
            (``"mean_of_mask"`` for a segmentation network), or a function from the network's output to
            one number for each image (detection and others; see
            :func:`ssgcam.core.target.per_image` for a function of one image).
        output: ``"softmax"`` or ``"sigmoid"``; taken from a loaded model.
        output_size: Height and width of ``Result.maps``; the input's by default.
        batch_size: Images for each forward pass of Score-CAM and ReciproCAM.
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
        layer_weights: Sequence[float] | None = None,
        fusion: Fusion | None = None,
        target: TargetSettings | TargetName | TargetFunction | None = None,
        output: Output | None = None,
        output_size: tuple[int, int] | None = None,
        batch_size: int = 32,
        fast: bool = False,
    ) -> None:
        loaded = as_loaded(model)
        self._model = model if isinstance(model, LoadedModel) else None
        self.network = unwrap(loaded.network)
        self.class_names = loaded.class_names
        self.given_layers: Literal["auto"] | list[str] = "auto"
        if layers != "auto":
            wanted = [layers] if isinstance(layers, str) else layers
            self.given_layers = resolve(self.network, wanted)
        self._layers = None if self.given_layers == "auto" else self.given_layers
        self.method_name = method
        self.ssg: SSGSettings | Sequence[SSGSettings] = ssg or SSGSettings()
        self.target, self.target_function = settings_and_function(target, self.method.target)
        self.output = output or loaded.output
        check_choice("output", self.output, Output)
        self.fusion: Fusion = fusion or self.method.fusion
        check_choice("fusion", self.fusion, Fusion)
        self.output_size = output_size
        self.batch_size = batch_size
        self.fast = fast
        self._computation = Computation(self.network, fast)
        self.layer_weights = layer_weights
        self.gamma = self.method.gamma if gamma is None else gamma
        per_layer = {"gamma": self.gamma, "layer_weights": layer_weights, "ssg": self.ssg}
        for name, values in per_layer.items():
            if not isinstance(values, Sequence):
                continue
            if self._layers is None:
                raise SsgcamError("settings for each layer need the layers to be named")
            if len(values) != len(self._layers):
                raise SsgcamError(
                    f"{name} has {len(values)} values for {len(self._layers)} layers; give one for each"
                )
        for value in _for_each(self.gamma, 1):
            check_range("gamma", value, 0.01, 10)

    @property
    def methods(self) -> list[Method]:
        """The method with its settings: one for all layers, or one for each."""
        methods = [method_of(self.method_name, each) for each in _for_each(self.ssg, 1)]
        several = len(self._layers or ()) > 1
        return [methods[0].fused] if several and len(methods) == 1 else methods

    @property
    def method(self) -> Method:
        """The method, or of those of the layers one that needs the most derivatives."""
        return max(self.methods, key=lambda each: each.needs == "second")

    @property
    def computation(self) -> str:
        """How the network is run: ``"exact"``, or what ``fast=True`` chose, in words."""
        return self._computation.description

    def layers(self, images: Tensor | Photo | Sequence[Photo]) -> list[str]:
        """The target layers' names; ``"auto"`` is resolved with the first images given."""
        if self._layers is None:
            self._layers = auto_layers(self.network, self.inputs(images)[:1])
        return self._layers

    def inputs(self, images: Tensor | Photo | Sequence[Photo]) -> Tensor:
        """The network's input ``[N, C, H, W]``, made of photos where they are given.

        Args:
            images: The network's input, a floating-point tensor ``[N, C, H, W]`` or ``[C, H, W]``; or
                photos, see :func:`ssgcam.preprocessing.as_photos`, for what ``load_model`` returned.

        Raises:
            SsgcamError: If it is neither, or there is no preprocessing for photos.
        """
        if isinstance(images, Tensor) and (images.is_floating_point() or self._model is None):
            inputs = images[None] if images.ndim == 3 else images
            if inputs.ndim != 4 or not inputs.is_floating_point():
                raise SsgcamError(
                    f"images is {list(inputs.shape)}; give a floating-point tensor [N, C, H, W] (a "
                    "volume: slice by slice)"
                )
            if len(inputs) == 0:
                raise SsgcamError("images is an empty batch; give at least one image")
            return inputs
        if self._model is None:
            raise SsgcamError(
                f"images is {type(images).__name__}; give a floating-point tensor [N, C, H, W], or give "
                "CAM what load_model returned, whose preprocessing takes photos"
            )
        return placed(self._model.preprocessing(images), self.network)

    def class_indices(self, wanted: Classes | str | Sequence[str] | None) -> Classes | None:
        """Classes by index, made of names where they are given and the network has some.

        Raises:
            SsgcamError: If a name fits no class of the network, or several.
        """
        if self._model is None or not self._model.class_names:
            return wanted  # type: ignore[return-value]
        if isinstance(wanted, str):
            return self._model.class_index(wanted)
        if isinstance(wanted, list | tuple):
            return [self._model.class_index(k) if isinstance(k, str) else k for k in wanted]
        return wanted  # type: ignore[return-value]

    def __call__(
        self,
        images: Tensor | Photo | Sequence[Photo],
        classes: Classes | str | Sequence[str] | None = None,
        *,
        against: Against | str | Sequence[str] | None = None,
    ) -> Result:
        """Explain a batch.

        Args:
            images: The network's input, ``[N, C, H, W]``, on the network's device, or photos; see
                :meth:`inputs`.
            classes: ``None`` for the top-1 class of each image, one index or name for all, one for each
                image, or ``[N, K]`` indices for several classes of each image.
            against: Explain why a class rather than another: one for all or one for each (the logits'
                difference), ``"rest"`` (less half the mean of all other logits under their softmax)
                or ``"similar"`` (less the mean of the three nearest logits).

        Returns:
            Maps, raw layer maps, classes and probabilities.

        Raises:
            SsgcamError: For images of another shape, a class out of range, an output that is not
                finite, or a layer that can't be explained.
        """
        images = self.inputs(images)
        captured = self.capture(images)
        logits, classes = logits_and_classes(
            captured.output, self.class_indices(classes), images, self.target_function, self.target
        )
        contrast: Any = self.method.against if against is None else against
        if not (isinstance(contrast, str) and contrast in get_args(Others)):
            contrast = self.class_indices(contrast)
        others = compared_classes(contrast, logits, classes, self.target)
        input_size = (int(images.shape[-2]), int(images.shape[-1]))
        size = self.output_size or input_size
        raw, notes = [], []
        columns = [classes] if classes.ndim == 1 else classes.unbind(1)
        for k, column in enumerate(columns, 1):
            scalar = Scalar(column, self.target, self.target_function, others)
            signals = signals_of(
                captured, scalar, self.method.needs, input_size, retain_graph=k < len(columns)
            )
            methods = self.methods * (len(signals) // len(self.methods))
            with torch.no_grad():
                raw.append(
                    {
                        name: self._forward_map(name, signal, images, captured, scalar)
                        if method.function is None
                        else method.function(signal)
                        for (name, signal), method in zip(signals.items(), methods, strict=True)
                    }
                )
            notes.append(missing_evidence(raw[-1], signals))
        maps = in_shape_of(classes, [self.fuse(layer_maps, size) for layer_maps in raw])
        return Result(
            maps=maps,
            layer_maps={
                name: in_shape_of(classes, [layer_maps[name].float() for layer_maps in raw])
                for name in captured.activations
            },
            classes=classes,
            logits=logits,
            probabilities=None if logits is None else self.probabilities(logits),
            evidence=maps.amax((-2, -1)) > 0,
            notes=tuple(note for of_image in zip(*notes, strict=True) for note in of_image),
            images=images,
            class_names=self.class_names,
            pooled={n: s.activation.detach().float().mean((2, 3)) for n, s in signals.items()},
        )

    def fuse(self, layer_maps: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        """Layer maps, each ``[N, h, w]``, through the pipeline of ``core.fusion`` to ``[N, *size]``."""
        return pipeline.fuse(
            list(layer_maps.values()),
            size,
            gammas=_for_each(self.gamma, len(layer_maps)),
            weights=self.layer_weights,
            fusion=self.fusion,
        )

    def signals(
        self, images: Tensor, classes: Tensor, against: Tensor | None = None
    ) -> tuple[dict[str, Signal], Any]:
        """The signals ``[N, C, h, w]`` of every target layer for ``[N]`` classes, and the output.

        ``against``: ``[N]`` classes whose logits are subtracted.
        """
        captured = self.capture(images)
        scalar = Scalar(classes, self.target, self.target_function, against)
        size = (int(images.shape[-2]), int(images.shape[-1]))
        return signals_of(captured, scalar, self.method.needs, size), captured.output

    def capture(self, images: Tensor) -> Captured:
        """The forward pass of ``[N, C, H, W]`` images, with the activations of every target layer."""
        names = self.layers(images)
        needs, second = self.method.needs, self.target.second
        twice = needs == "curvature" or (needs == "second" and second == "hutchinson")
        return self._computation.capture(images, names, double_backward=twice)

    def _forward_map(
        self, name: str, signal: Signal, images: Tensor, captured: Captured, scalar: Scalar
    ) -> Tensor:
        """The layer's map by a method of ``core.forward_methods``."""

        def logit(masked: Tensor, owners: Tensor) -> Tensor:
            return scalar.select(owners).number(self.network(masked))

        def probability(replaced: Tensor, owner: Tensor) -> Tensor:
            output = run_with_replacement(self.network, images[owner], name, replaced)
            chosen = scalar.select(owner.expand(len(replaced)))
            if chosen.function is not None or chosen.against is not None:
                return chosen.number(output)
            logits = class_logits(output, self.target)
            return self.probabilities(logits).gather(1, chosen.classes[:, None])[:, 0]

        with explaining(self.network), torch.no_grad():
            images = outside_inference_mode(images)
            if self.method_name == "score_cam":
                return score_cam(signal.activation, images, logit, self.batch_size)
            tensor = outside_inference_mode(captured.activations[name])
            layout = layout_of(tensor, (int(images.shape[-2]), int(images.shape[-1])), name)
            return recipro_cam(tensor, layout, probability, self.batch_size)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax or sigmoid of ``[N, K]`` logits."""
        return probabilities_of(logits, self.output)


class SSGCAM(CAM):
    """SSG-CAM: smoothed first- and second-order gradients, fused over layers.

    With the activation ``A``, the gradient ``g``, a Gaussian ``S`` of ``sigma`` and the exponents ``a``
    and ``b``, a layer's map in the sum form is ``[S relu(sum_c g A)]^a [S sum_c (g A)^2]^b``; where
    several layers are fused, a third of ``a`` goes to ``relu(sum_c g A)`` without ``S``.
    :func:`ssgcam.core.methods.ssg_cam` has the other forms. Our reading of Chen et al. 2026, "SSG-CAM:
    enhancing visual interpretability through refined second-order gradients and evolutionary multi-layer
    fusion", Sci Rep 16, 6848.

    Args:
        model: A network, or what :func:`ssgcam.load_model` returns.
        layers: As for :class:`CAM`.
        form: ``"taylor"``, ``"gradient"`` or ``"sum"``.
        sigma: Gaussian's standard deviation as a fraction of the map's shorter side.
        first_exponent: Power of the first-order signal.
        second_exponent: Power of the second-order signal.
        cancellation: ``lambda`` of the sum form.
        unsmoothed: Share of the first order that is not smoothed, see :class:`SSGSettings`.
        gamma: As for :class:`CAM`, as are all that follow.
        layer_weights: As for :class:`CAM`.
        fusion: As for :class:`CAM`.
        target: As for :class:`CAM`.
        output: As for :class:`CAM`.
        output_size: As for :class:`CAM`.
        fast: As for :class:`CAM`.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        ...                         nn.Flatten(), nn.Linear(4, 2))
        >>> SSGCAM(network, ["1"], sigma=0.1)(torch.rand(2, 3, 16, 16), classes=[0, 1]).maps.shape
        torch.Size([2, 16, 16])
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
        cancellation: float = SSGSettings.cancellation,
        unsmoothed: float | None = None,
        gamma: float | Sequence[float] | None = None,
        layer_weights: Sequence[float] | None = None,
        fusion: Fusion | None = None,
        target: TargetSettings | TargetName | TargetFunction | None = None,
        output: Output | None = None,
        output_size: tuple[int, int] | None = None,
        fast: bool = False,
    ) -> None:
        super().__init__(
            model,
            layers,
            ssg=SSGSettings(form, sigma, first_exponent, second_exponent, cancellation, unsmoothed),
            gamma=gamma,
            layer_weights=layer_weights,
            fusion=fusion,
            target=target,
            output=output,
            output_size=output_size,
            fast=fast,
        )


def _for_each(value: T | Sequence[T], layers: int) -> list[T]:
    """A setting of each layer, where one for all or one for each may be given."""
    return list(value) if isinstance(value, Sequence) else [value] * layers
