"""A recipe: which layers, with which settings, become which mask; JSON in and out.

A search finds a recipe. It holds everything that is needed to get the same masks from the same
network without labeled data: numbers and names only, no code. :class:`BoundRecipe` is a recipe
together with its network.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ssgcam.cam import CAM
from ssgcam.core import fusion as pipeline
from ssgcam.core.augment import Augmentation, View
from ssgcam.core.capture import capture
from ssgcam.core.layers import resolve
from ssgcam.core.refine import Refinement, pamr
from ssgcam.core.settings import Fusion, SSGSettings, TargetSettings, check_choice, check_range
from ssgcam.core.target import Classes, logits_of
from ssgcam.errors import SsgcamError, rephrased
from ssgcam.files import write_json
from ssgcam.fingerprint import Fingerprint, layer_shapes, parameter_hash, shape_text
from ssgcam.models import LoadedModel, as_loaded
from ssgcam.preprocessing import Photo
from ssgcam.recipe_schema import decode
from ssgcam.report.notebook import html_table
from ssgcam.result import Result
from ssgcam.shift import Statistic, image_statistics, unusual

__all__ = ["BoundRecipe", "Fingerprint", "Origin", "Recipe", "RecipeLayer", "parameter_hash"]

Images = Tensor | Photo | Sequence[Photo]
ClassesOrNames = Classes | str | Sequence[str] | None
FORMAT = "ssgcam-recipe"
VERSION = 1


@dataclass(frozen=True)
class RecipeLayer:
    """One layer of a recipe.

    Attributes:
        name: Its spelling, see ``core.capture``.
        weight: Weight of its map in the fusion, above 0.
        ssg: Settings of SSG-CAM for this layer.
        gamma: Power of its scaled map, 0.01 to 10.
        shape: Channels, rows and columns of its map at the network's input size.
    """

    name: str
    weight: float
    ssg: SSGSettings
    gamma: float
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        """Check every value."""
        if not self.weight > 0:
            raise SsgcamError(
                f"the weight of layer '{self.name}' is {self.weight}; it must be above 0"
            )
        check_range("gamma", self.gamma, 0.01, 10)


@dataclass(frozen=True)
class Guarantee:
    """Thresholds whose masks keep a limit on their mean error (conformal risk control).

    The outer mask misses on average at most a share ``alpha`` of an object, the inner mask spills over by
    at most ``alpha`` of the object's area, for images like those it was calibrated on. An object that the
    class gate drops counts as missed. See ``metrics.guarantee``.

    Attributes:
        alpha: The limit on both mean losses, between 0 and 1.
        outer_threshold: The outer mask is where the map reaches it.
        inner_threshold: The inner mask is where the map reaches it; None: it is always empty.
        units: How many images or groups it was calibrated on.
        unit: What they are.
        kind: ``"held-out"``: other images; ``"split"``: images that the search set aside; ``"folds"``:
            the search's own images, each by the recipe of a fold without it, so it is approximate.
    """

    alpha: float
    outer_threshold: float
    inner_threshold: float | None
    units: int
    unit: Literal["image", "group"]
    kind: Literal["held-out", "split", "folds"]

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("alpha", "outer_threshold", "inner_threshold"):
            check_range(name, getattr(self, name) or 0, 0, 1)


@dataclass(frozen=True)
class WindowRule:
    """How a mask is made of windows over a photo, chosen on photos without the object.

    Attributes:
        side: Of a window, in pixels of the photo.
        overlap: Share of a window that the next one covers.
        gate: Lowest class probability of a window that counts, 0 to 1.
        threshold: Of the windows' mean of probability times map, 0 to 1.
        smallest_object: Objects of fewer pixels of the photo become background.
        photos: How many photos without the object it was chosen on.
        allowed: False objects for each photo that were allowed.
        false_objects: False objects for each photo that it leaves there.
    """

    side: int
    overlap: float
    gate: float
    threshold: float
    smallest_object: int
    photos: int
    allowed: float
    false_objects: float

    def __post_init__(self) -> None:
        """Check every value."""
        check_range("overlap", self.overlap, 0, 0.9)
        check_range("gate", self.gate, 0, 1)
        check_range("threshold", self.threshold, 0, 1)
        check_range("smallest_object", self.smallest_object, 1, math.inf)


@dataclass(frozen=True)
class Origin:
    """Where a recipe comes from; for the record only.

    Attributes:
        data: Hash of the calibration images and masks, ``"sha256:..."``.
        images: How many calibration images there were.
        negatives: How many of them show no object.
        groups: How many groups (fields, patients, slides) they come from.
        seed: Seed of the search.
        settings: Settings of the search, by name, as text.
        versions: Versions of ssgcam, torch, scipy and numpy.
        scores: Scores by name, such as ``"calibration"``; null where there is none.
    """

    data: str = ""
    images: int = 0
    negatives: int = 0
    groups: int = 0
    seed: int = 0
    settings: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    scores: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """From images to masks, for one network.

    The maps of the layers go through the pipeline of ``core.fusion`` at the working size; the fused
    map is resized to the input's size (bilinear), refined if ``refinement`` is set and divided by its
    maximum again, and compared with ``threshold``. A mask is empty where the class's probability (its
    mean over the views of the augmentation) is below ``gate``.

    Attributes:
        layers: At least one; names are unique.
        threshold: A pixel is in the mask where its map reaches it, 0 to 1.
        gate: Lowest class probability for which a mask is not empty, 0 to 1; 0 is no gate.
        network: The network that it was made for.
        working_size: Height and width at which the layers' maps are fused.
        classes: Where no class is given, the most probable of these is explained. Empty: the most
            probable of all classes of the network.
        fusion: See ``core.fusion.fuse``.
        target: What is differentiated.
        augmentation: Views whose maps are averaged.
        refinement: Refinement by the image, or null.
        origin: Data, seed, versions and scores.
        guarantee: Thresholds of an inner and an outer mask, or null.
        calibration_statistics: What is usual among the calibration images, see ``shift``.
        window_rule: Gate, threshold and smallest object for windows over whole photos, or null.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        ...                         nn.Flatten(), nn.Linear(4, 2))
        >>> layer = RecipeLayer("1", 1.0, SSGSettings(sigma=0.1), 0.5, (4, 14, 14))
        >>> made_for = Fingerprint("tiny", (16, 16), parameter_hash(network))
        >>> bound = Recipe((layer,), 0.4, 0.0, made_for, (16, 16)).bind(network)
        >>> bound.masks(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 16, 16])
    """

    layers: tuple[RecipeLayer, ...]
    threshold: float
    gate: float
    network: Fingerprint
    working_size: tuple[int, int]
    classes: tuple[int, ...] = ()
    fusion: Fusion = "mean"
    target: TargetSettings = field(default_factory=TargetSettings)
    augmentation: Augmentation = field(default_factory=Augmentation)
    refinement: Refinement | None = None
    origin: Origin = field(default_factory=Origin)
    guarantee: Guarantee | None = None
    calibration_statistics: tuple[Statistic, ...] = ()
    window_rule: WindowRule | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        names = [layer.name for layer in self.layers]
        if not names:
            raise SsgcamError("a recipe needs at least one layer")
        if len(set(names)) < len(names):
            raise SsgcamError(f"a recipe names each layer once; it has {', '.join(names)}")
        check_range("threshold", self.threshold, 0, 1)
        check_range("gate", self.gate, 0, 1)
        check_choice("fusion", self.fusion, Fusion)
        if min(self.working_size) < 1:
            raise SsgcamError(
                f"working_size is {list(self.working_size)}; sides must be 1 pixel or more"
            )
        if any(index < 0 for index in self.classes):
            raise SsgcamError(f"classes are {list(self.classes)}; indices count from 0")

    def save(self, path: str | Path) -> None:
        """Write the recipe as JSON, whole or not at all."""
        write_json(Path(path), {"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe and check all of it.

        Raises:
            SsgcamError: If the file can't be read, is no recipe, is of a version that is not
                known, or has a missing, unknown or wrong entry.
        """
        where = f"recipe '{path}'"
        with (
            rephrased(f"{where} can't be read", "check the path", OSError),
            rephrased(f"{where} is not JSON", "save it again", ValueError, RecursionError),
        ):
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise SsgcamError(f"{where} is not a recipe of ssgcam; write one with 'ssgcam search'")
        version = content.get("version")
        if version != VERSION or isinstance(version, bool):
            raise SsgcamError(
                f"{where} has version {version!r}, this ssgcam reads version {VERSION}; update ssgcam "
                "or search again"
            )
        fields = {key: content[key] for key in content if key not in ("format", "version")}
        return decode(cls, fields, where)

    def _repr_html_(self) -> str:
        rows = [
            (layer.name, layer.weight, *vars(layer.ssg).values(), layer.gamma)
            for layer in self.layers
        ]
        columns = ("layer", "weight", *vars(SSGSettings()), "gamma")
        caption = f"Recipe for {self.network.name}: threshold {self.threshold:.3f}"
        return html_table(columns, rows, f"{caption}, class gate {self.gate:.3f}")

    def bind(
        self,
        model: nn.Module | LoadedModel,
        *,
        strict: bool = False,
        fast: bool = False,
        run: bool = True,
    ) -> BoundRecipe:
        """Check that a network fits and get an object that makes maps and masks with it.

        Args:
            model: The network.
            strict: Refuse a network of the same architecture with other parameters; else such a
                network gets a warning, as its threshold and gate may be off.
            fast: As for :class:`ssgcam.CAM`.
            run: Run the network once to check its maps' shapes and its classes; False if they have
                been checked before.

        Raises:
            SsgcamError: If a layer is missing or its map has another shape, or the network gives
                fewer classes; if ``strict``, also if a parameter differs.
        """
        self._check_fits(as_loaded(model).network, strict, run)
        cam = CAM(
            model,
            [layer.name for layer in self.layers],
            ssg=[layer.ssg for layer in self.layers],
            gamma=[layer.gamma for layer in self.layers],
            layer_weights=[layer.weight for layer in self.layers],
            fusion=self.fusion,
            target=self.target,
            output=self.network.output,
            output_size=self.working_size,
            fast=fast,
        )
        return BoundRecipe(self, cam)

    def _check_fits(self, network: nn.Module, strict: bool, run: bool) -> None:
        """Refuse a network that this can't be applied to; warn of one that it wasn't made for."""
        made_for, names = self.network, [layer.name for layer in self.layers]
        for name in names:
            try:
                resolve(network, [name])
            except SsgcamError as error:
                raise SsgcamError(
                    f"the recipe was made for '{made_for.name}' and needs its layer '{name}', which this "
                    "network doesn't have; bind it to that network or search again"
                ) from error
        if run:
            shapes, outputs = layer_shapes(network, names, made_for.input_size)
            for layer in self.layers:
                if shapes[layer.name] != layer.shape:
                    raise SsgcamError(
                        f"layer '{layer.name}' gives maps of {shape_text(shapes[layer.name])} for an "
                        f"input of {shape_text(made_for.input_size)}, but the recipe was made for "
                        f"{shape_text(layer.shape)} (of '{made_for.name}'); bind it to that network or "
                        "search again"
                    )
            if max(self.classes, default=0) >= outputs:
                raise SsgcamError(
                    f"the recipe explains class {max(self.classes)}, but this network has {outputs} "
                    f"classes, 0 to {outputs - 1}; bind it to '{made_for.name}'"
                )
        if parameter_hash(network) != made_for.parameters:
            message = (
                "the parameters of this network are not those that the recipe was made for "
                f"('{made_for.name}'), so its threshold and gate may be off"
            )
            if strict:
                raise SsgcamError(message + "; load those weights, or bind without strict")
            warnings.warn(message, stacklevel=3)


@dataclass(frozen=True, eq=False)
class BoundRecipe:
    """A recipe with its network, see :meth:`Recipe.bind`: images in, maps and masks out.

    Attributes:
        recipe: The recipe.
        cam: Its layers and settings with the network; a map of it is that of one view.
    """

    recipe: Recipe
    cam: CAM

    def __call__(self, images: Images, classes: ClassesOrNames = None) -> Result:
        """Maps of a batch.

        Args:
            images: The network's input, ``[N, C, H, W]``, any size the network takes, or photos.
            classes: As for :class:`ssgcam.CAM`; ``None`` is the most probable of the recipe's classes.

        Returns:
            As of :class:`ssgcam.CAM`: ``maps`` at input size. ``logits``, ``layer_maps`` and ``notes``
            are those of the first view, ``probabilities`` the mean over views.
        """
        recipe, images = self.recipe, self.cam.inputs(images)
        if classes is None and recipe.classes:
            classes = self._most_probable(images)
        results: list[Result] = []
        fused: list[Tensor] = []
        for view in recipe.augmentation:
            result = self.cam(view.apply(images), results[0].classes if results else classes)
            results.append(result)
            layer_maps = {name: maps.flatten(0, -3) for name, maps in result.layer_maps.items()}
            fused.append(fused_view(recipe, view, layer_maps))
        maps = finished_maps(recipe, images, fused)
        first = results[0]
        probabilities = [result.probabilities for result in results]
        return replace(
            first,
            maps=maps.view(*first.classes.shape, *maps.shape[1:]),
            probabilities=torch.stack(probabilities).mean(0),  # type: ignore[arg-type]
            evidence=(maps.amax((-2, -1)) > 0).view(first.classes.shape),
            images=images,
        )

    def masks(self, images: Images, classes: ClassesOrNames = None) -> Tensor:
        """Masks ``[N, H, W]`` (or ``[N, K, H, W]``), bool; all False below the gate."""
        return self.masks_of(self(images, classes))

    def masks_of(self, result: Result) -> Tensor:
        """The masks of what this object returned, as of :meth:`masks`."""
        inside = pipeline.threshold(result.maps, self.recipe.threshold)
        return inside & self.is_open(result)[..., None, None]

    def is_open(self, result: Result) -> Tensor:
        """Whether the class's probability reaches the gate: bool, of the shape of its classes."""
        return result.class_probabilities >= self.recipe.gate

    def statistics(self, result: Result) -> dict[str, Tensor]:
        """What ``calibration_statistics`` are about.

        Args:
            result: What this object returned, for one class of each image.

        Returns:
            As of ``shift.image_statistics``.
        """
        return image_statistics(result, self.masks_of(result))

    def unusual(self, result: Result) -> list[list[str]]:
        """For each image in what it is unlike the calibration images, the most unusual first.

        Args:
            result: What this object returned, for one class of each image.
        """
        return unusual(self.recipe.calibration_statistics, self.statistics(result))

    def _most_probable(self, images: Tensor) -> Tensor:
        """The most probable of the recipe's classes for each image, ``[N]``."""
        allowed = torch.tensor(self.recipe.classes, device=images.device)
        if len(allowed) == 1:
            return allowed.expand(len(images))
        first_view = next(iter(self.recipe.augmentation))
        output = capture(self.cam.network, first_view.apply(images), []).output
        return allowed[logits_of(output)[:, allowed].argmax(1)]


def fused_view(recipe: Recipe, view: View, layer_maps: Mapping[str, Tensor]) -> Tensor:
    """The fused map of one view before the last scaling, ``[N, *working_size]``, flipped back."""
    return pipeline.fuse(
        [view.undo(layer_maps[layer.name]) for layer in recipe.layers],
        recipe.working_size,
        gammas=[layer.gamma for layer in recipe.layers],
        weights=[layer.weight for layer in recipe.layers],
        fusion=recipe.fusion,
        scaled=False,
    )


def finished_maps(recipe: Recipe, images: Tensor, fused: Sequence[Tensor]) -> Tensor:
    """Maps ``[N * K, H, W]`` of ``[N, C, H, W]`` images from the fused maps of all views."""
    size = (int(images.shape[-2]), int(images.shape[-1]))
    maps = pipeline.resize(pipeline.scale(torch.stack(list(fused)).mean(0)), size)
    if recipe.refinement is None:
        return maps
    by_image = maps.view(len(images), -1, *size)
    return pipeline.scale(pamr(images, by_image, recipe.refinement).flatten(0, 1))
