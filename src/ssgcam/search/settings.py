"""Which settings does a search have? The API, the command and the recipe's origin share them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import product
from typing import Literal

from ssgcam.core.augment import Augmentation
from ssgcam.core.refine import Refinement
from ssgcam.core.settings import Form, SSGSettings, TargetSettings, check_choice, check_range
from ssgcam.errors import SsgcamError

Fitness = Literal["pooled", "per_image", "with_background", "box"]
PLAIN, HORIZONTAL, BOTH = Augmentation(), Augmentation("horizontal"), Augmentation("both")


@dataclass(frozen=True)
class MapGrid:
    """The settings that a search chooses from for each layer: every combination that applies.

    Attributes:
        forms: See ``SSGSettings``.
        sigmas: See ``SSGSettings``.
        exponents: Pairs of first and second exponent, for all forms but the sum form.
        gammas: Powers of the scaled map.
        sum_members: First exponent, second exponent and cancellation of the sum form.
    """

    forms: tuple[Form, ...] = ("taylor", "gradient", "sum")
    sigmas: tuple[float, ...] = (0.0, 0.03, 0.06, 0.1, 0.15, 0.2)
    exponents: tuple[tuple[float, float], ...] = ((1.0, 0.0), (0.3, 0.3), (0.5, 0.5), (1.0, 1.0))
    gammas: tuple[float, ...] = (0.3, 0.5, 0.7, 1.0)
    sum_members: tuple[tuple[float, float, float], ...] = ((1.0, 0.5, 1.0), (1.0, 0.0, 0.0))

    @cached_property
    def settings(self) -> tuple[SSGSettings, ...]:
        """Everything but gamma."""
        of_channels = [(*powers, 1.0) for powers in self.exponents]
        return tuple(
            SSGSettings(form, sigma, *member)
            for form, sigma in product(self.forms, self.sigmas)
            for member in (self.sum_members if form == "sum" else of_channels)
        )

    @cached_property
    def entries(self) -> tuple[tuple[SSGSettings, float], ...]:
        """Settings and gamma of every row of a layer."""
        return tuple(product(self.settings, self.gammas))

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True)
class SearchSettings:
    """How a recipe is searched.

    Attributes:
        generations: Generations of the evolution after the initial population.
        population: Candidates in a generation; more if the initial population needs more.
        seed: Seed of everything random.
        fitness: What is maximized; see ``search.fitness``.
        penalty: Subtracted from the fitness for each layer in use, 0 to 0.1.
        grid: The settings of a layer that are tried.
        working_size: Height and width at which maps are fused, in the search and in the recipe.
        target: What is differentiated.
        views: The evolution runs on the maps averaged over each of these, the cheapest first.
        augmentations: Views that are tried with the recipe afterwards, such as input scales.
        refinement: PAMR, which is tried as well; None leaves it out.
        margin: Views and refinement are used only for a fitness this much higher, 0 to 1.
        gate: A fixed class gate; None: chosen on images without the object, 0 if there are none.
        folds: Folds of the cross-validation; below 2: none.
        guarantee: After the search, choose an inner and an outer mask that keep this share of an object
            on average, such as 0.9; see ``search.guarantee``. Calibrated on the held-out images or,
            without any, on images that are set aside before the search. None: no such masks.
        guarantee_from_folds: Use the folds' maps of the search's own images instead, so that the
            guarantee is approximate.
        memory: Bytes of one view's maps that may be held in memory; more go to a temporary file. One
            set of maps for each view, and two averages, are held at a time.
        batch_size: Images for each pass of the network.
    """

    generations: int = 150
    population: int = 160
    seed: int = 0
    fitness: Fitness = "pooled"
    penalty: float = 0.001
    grid: MapGrid = field(default_factory=MapGrid)
    working_size: tuple[int, int] = (56, 56)
    target: TargetSettings = field(default_factory=TargetSettings)
    views: tuple[Augmentation, ...] = (PLAIN, HORIZONTAL, BOTH)
    augmentations: tuple[Augmentation, ...] = (
        PLAIN,
        HORIZONTAL,
        BOTH,
        Augmentation("both", (1.0, 1.5)),
    )
    refinement: Refinement | None = field(default_factory=Refinement)
    margin: float = 0.003
    gate: float | None = None
    folds: int = 5
    guarantee: float | None = None
    guarantee_from_folds: bool = False
    memory: int = 2**30
    batch_size: int = 8

    def __post_init__(self) -> None:
        """Check every value."""
        check_choice("fitness", self.fitness, Fitness)
        check_range("generations", self.generations, 1, 100000)
        check_range("population", self.population, 5, 100000)
        check_range("seed", self.seed, 0, 2**32 - 1)
        check_range("penalty", self.penalty, 0, 0.1)
        check_range("margin", self.margin, 0, 1)
        check_range("folds", self.folds, 0, 1000)
        check_range("batch_size", self.batch_size, 1, 100000)
        check_range("gate", self.gate or 0, 0, 1)
        check_range("the smaller side of working_size", min(self.working_size), 2, 10000)
        if self.guarantee is not None:
            check_range("guarantee", self.guarantee, 0.01, 0.999)
        if self.guarantee_from_folds and (self.guarantee is None or self.folds < 2):
            raise SsgcamError(
                "guarantee_from_folds needs guarantee=, such as 0.9, and at least 2 folds; give both"
            )
        if not self.views:
            raise SsgcamError("views is empty; give at least Augmentation(), the plain view")

    @property
    def alpha(self) -> float:
        """The mean loss that the guarantee allows; 1 without one."""
        return round(1 - (self.guarantee or 0), 9)

    def as_text(self) -> dict[str, str]:
        """Every setting that changes the result, as JSON text."""
        values = asdict(self)
        return {
            key: json.dumps(values[key]) for key in values if key not in ("memory", "batch_size")
        }
