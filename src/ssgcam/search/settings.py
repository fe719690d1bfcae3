"""The settings of a search, shared by the API, the command and the recipe's origin."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from ssgcam.core.augment import Augmentation
from ssgcam.core.refine import Refinement
from ssgcam.core.settings import TargetSettings, check_choice, check_range
from ssgcam.errors import SsgcamError
from ssgcam.search.cache import MapGrid, Storage
from ssgcam.search.scoring import Fitness


@dataclass(frozen=True)
class SearchSettings:
    """How a recipe is searched.

    Attributes:
        generations: Of the evolution, after the first.
        population: Candidates in a generation; more if more are planted.
        seed: Of everything random.
        fitness: What is maximized; see ``search.scoring.fitness``.
        penalty: Taken off the fitness for each layer in use, 0 to 0.1.
        grid: The settings of a layer that are tried.
        size: Working height and width of the search and of the recipe.
        score: What is differentiated.
        views: The evolution is run on the maps averaged over each of these, the cheapest first.
        augmentations: Other views that are tried on what it found, such as input scales.
        refinement: PAMR, which is tried as well; None leaves it out.
        margin: What costs more is taken only for a fitness this much higher, 0 to 1.
        gate: A fixed class gate; None: from the calibration images that show no object, else 0.
        folds: Of the cross-validation; below 2: none.
        storage: Type of the cached maps.
        memory: Bytes of one cache of maps that may be held in memory; a larger one goes to a file. Two
            are held at a time, the best views' and the next.
        batch_size: Images for each pass of the network.
    """

    generations: int = 150
    population: int = 160
    seed: int = 0
    fitness: Fitness = "pooled"
    penalty: float = 0.001
    grid: MapGrid = field(default_factory=MapGrid)
    size: tuple[int, int] = (56, 56)
    score: TargetSettings = field(default_factory=TargetSettings)
    views: tuple[Augmentation, ...] = (
        Augmentation(),
        Augmentation("horizontal"),
        Augmentation("both"),
    )
    augmentations: tuple[Augmentation, ...] = (
        Augmentation(),
        Augmentation("horizontal"),
        Augmentation("both"),
        Augmentation("both", (1.0, 1.5)),
    )
    refinement: Refinement | None = field(default_factory=Refinement)
    margin: float = 0.003
    gate: float | None = None
    folds: int = 5
    storage: Storage = "uint8"
    memory: int = 2**30
    batch_size: int = 8

    def __post_init__(self) -> None:
        """Check every value."""
        check_choice("fitness", self.fitness, Fitness)
        check_choice("storage", self.storage, Storage)
        check_range("generations", self.generations, 1, 100000)
        check_range("population", self.population, 5, 100000)
        check_range("seed", self.seed, 0, 2**32 - 1)
        check_range("penalty", self.penalty, 0, 0.1)
        check_range("margin", self.margin, 0, 1)
        check_range("folds", self.folds, 0, 1000)
        check_range("batch_size", self.batch_size, 1, 100000)
        if self.gate is not None:
            check_range("gate", self.gate, 0, 1)
        if min(self.size) < 2:
            raise SsgcamError(f"size is {list(self.size)}; the working size is at least 2x2 cells")
        if not self.views:
            raise SsgcamError("views is empty; give at least Augmentation(), the plain view")

    def as_text(self) -> dict[str, str]:
        """Every setting that changes the result, as JSON text."""
        without = ("memory", "batch_size")
        values = asdict(self)
        return {key: json.dumps(values[key]) for key in values if key not in without}
