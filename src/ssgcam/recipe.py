"""A recipe: which layers, with which settings, become which mask; JSON in and out.

A recipe is what a search finds: everything that is needed to get the same masks from the same
network without any labeled data. It holds numbers and names only; no code is run from it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ssgcam.bound_recipe import BoundRecipe
from ssgcam.core.augment import Augmentation
from ssgcam.core.refine import Refinement
from ssgcam.core.settings import (
    Fusion,
    Precision,
    SSGSettings,
    TargetSettings,
    check_choice,
    check_range,
)
from ssgcam.errors import SsgcamError
from ssgcam.files import write_json
from ssgcam.fingerprint import Fingerprint, parameter_hash
from ssgcam.models import LoadedModel
from ssgcam.recipe_schema import decode

__all__ = ["BoundRecipe", "Fingerprint", "Origin", "Recipe", "RecipeLayer", "parameter_hash"]

FORMAT = "ssgcam-recipe"
VERSION = 1


@dataclass(frozen=True)
class RecipeLayer:
    """One layer of a recipe.

    Attributes:
        name: Its spelling, see ``core.capture``.
        weight: Of its map in the mean, above 0.
        ssg: How its map is made.
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
class Origin:
    """Where a recipe comes from; nothing in it changes what the recipe does.

    Attributes:
        data: Hash of the calibration images and masks, ``"sha256:..."``.
        images: How many calibration images there were.
        negatives: How many of them show no object.
        groups: How many groups (fields, patients, slides) they come from.
        seed: Of the search.
        settings: Of the search, by name, as text.
        versions: Of ssgcam, torch, scipy and numpy.
        scores: By name, such as ``"calibration"``; null where there is none.
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
    """From images to masks, for one network; see the top of this module.

    The maps of the layers go through the pipeline of ``core.fusion`` at the working size ``size``; the
    fused map is resized to the input's size (bilinear), refined if asked for and divided by its
    maximum again, and cut at ``threshold``. A mask is empty where the class's probability (its mean
    over the views of the augmentation) is below ``gate``.

    Attributes:
        layers: At least one; names are unique.
        threshold: A pixel is in the mask where its map reaches it, 0 to 1.
        gate: Lowest class probability that opens a mask, 0 to 1; 0 is no gate.
        network: What it was made for.
        size: Working height and width.
        classes: The classes it may explain where none is asked for: the most probable of these.
            Empty: any class of the network.
        fusion: See ``core.fusion.fuse``.
        score: What is differentiated.
        augmentation: Views that are averaged.
        refinement: Refinement by the image, or null.
        origin: Data, seed, versions and scores.

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
    size: tuple[int, int]
    classes: tuple[int, ...] = ()
    fusion: Fusion = "mean"
    score: TargetSettings = field(default_factory=TargetSettings)
    augmentation: Augmentation = field(default_factory=Augmentation)
    refinement: Refinement | None = None
    origin: Origin = field(default_factory=Origin)

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
        for what, sides in (("size", self.size), ("network.input_size", self.network.input_size)):
            if min(sides) < 1:
                raise SsgcamError(f"{what} is {list(sides)}; sides must be 1 pixel or more")
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
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise SsgcamError(
                f"{where} can't be read ({error.strerror}); check the path"
            ) from error
        except ValueError as error:
            raise SsgcamError(f"{where} is not JSON ({error}); save it again") from error
        return cls.from_json(content, where)

    @classmethod
    def from_json(cls, content: Any, where: str = "the recipe") -> Recipe:
        """A recipe from parsed JSON; see :meth:`load`."""
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise SsgcamError(f"{where} is not a recipe of ssgcam; write one with 'ssgcam search'")
        version = content.get("version")
        if version != VERSION or isinstance(version, bool):
            raise SsgcamError(
                f"{where} has version {version!r}, this ssgcam reads version {VERSION}; update ssgcam "
                "or search again"
            )
        return decode(
            cls, {k: v for k, v in content.items() if k not in ("format", "version")}, where
        )

    def bind(
        self,
        model: nn.Module | LoadedModel,
        *,
        strict: bool = False,
        precision: Precision = "exact",
    ) -> BoundRecipe:
        """Check that a network fits and get an object that makes maps and masks with it.

        Args:
            model: The network.
            strict: Refuse a network of the same architecture with other parameters; else such a
                network gets a warning, as its threshold and gate may be off.
            precision: As for :class:`ssgcam.CAM`.

        Raises:
            SsgcamError: If a layer is missing or its map has another shape, or the network gives
                fewer classes; if ``strict``, also if a parameter differs.
        """
        return BoundRecipe(self, model, strict=strict, precision=precision)
