"""``ssgcam search``: from a few labeled images to a recipe and its report."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ssgcam.cli import options as shared
from ssgcam.cli import output
from ssgcam.cli.options import argument, grouped, option
from ssgcam.errors import SsgcamError

EXAMPLE = "ssgcam search labeled/ --model network.pth --class infected --recipe recipe.json"


@dataclass(frozen=True, kw_only=True)
class SearchFiles:
    """Labeled images, and what is written."""

    calibration: Path = argument("A data set with masks or boxes, such as images/ beside masks/.")
    recipe: Path = option(MISSING, "The recipe to write (.json).")
    report: Path | None = option(None, shared.REPORT)
    cache: Path | None = option(None, "Keep the maps here for the next search.")
    classes: list[str] | None = option(None, shared.CLASS, "--class", shown="the data set's")
    boxes: str = option("filled", "Masks made of boxes: filled, or the ellipse in each.")
    held_out: Path | None = option(None, "A data set of other images, to test the recipe on.")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What is searched and how; see ``SearchSettings``."""

    panel: ClassVar[str] = "Search"
    layers: str = option("auto", "auto (at most 12 blocks), all (every block), or names.")
    target: str = option("exp", shared.TARGET)
    generations: int = option(150, "Generations of the evolution.", min=1)
    population: int = option(160, "Candidates in a generation.", min=5)
    seed: int = option(0, shared.SEED, min=0)
    fitness: str = option(
        "pooled", "The IoU to maximize: pooled, per_image, with_background or box."
    )
    penalty: float = option(0.001, "Penalty on the fitness for each layer.")
    folds: int = option(5, "Folds of the cross-validation; 0: none.", min=0)
    working_size: int = option(56, "Side of the working maps, in cells.", min=2)
    flips: str = option("both", "Flips to try: none, horizontal, vertical or both.")
    scales: str = option("1,1.5", "Input scales to try, with commas.")
    refine: bool = option(True, "Try refinement by the image (PAMR).")
    gate: float | None = option(None, shared.GATE, shown="from the images without the object")
    guarantee: float | None = option(
        None,
        "Also inner and outer masks that keep this share of an object on average, such as 0.9.",
    )
    guarantee_from_folds: bool = option(
        False,
        "Guarantee from the folds' maps (approximate), not from held-out or set-aside images.",
        "--guarantee-from-folds",
    )
    quick: bool = option(False, "One view, no refinement and no folds.")
    memory: float = option(1.0, "GB of maps to keep in memory; more go to a file.", min=0)


@grouped(batch_size=8)
def search(
    files: SearchFiles,
    network: shared.DescribedNetworkOptions,
    data: shared.DataOptions,
    options: SearchOptions,
) -> None:
    """Search the layers, settings and weights whose map fits a few labeled images best (DE-SSG-CAM).

    Give ten to two hundred images; some without the object calibrate the class gate. 'ssgcam segment'
    applies the recipe to unlabeled images. The report compares the recipe with other methods on
    images that it was not searched on. Ctrl-C keeps the best recipe so far.
    """
    from ssgcam.core.augment import Augmentation
    from ssgcam.core.refine import Refinement
    from ssgcam.report.html import check_report
    from ssgcam.search import SearchSettings, search_recipe

    check_report(files.report)
    recipe, boxes = files.recipe, files.boxes
    if recipe.suffix != ".json":
        raise SsgcamError(f"'{recipe}' does not end in .json; give --recipe NAME.json")
    if boxes not in ("filled", "ellipse"):
        raise SsgcamError(f"--boxes {boxes} is unknown; use filled or ellipse")
    given: dict[str, Any] = dict(vars(options))
    layers, refine, scales = (given.pop(name) for name in ("layers", "refine", "scales"))
    flips, quick = given.pop("flips"), given.pop("quick")
    kinds: list[Any] = ["none", *(["horizontal"] if flips == "both" else []), flips]
    views = tuple(dict.fromkeys(Augmentation(kind) for kind in kinds))
    given |= {
        "target": shared.target(given.pop("target")),
        "working_size": (given.pop("working_size"),) * 2,
        "memory": int(options.memory * 1e9),
        "views": views,
        "augmentations": (*views, Augmentation(flips, shared.numbers(scales, "--scales"))),
        "refinement": Refinement() if refine else None,
        "batch_size": network.batch_size,
    }
    settings = SearchSettings(**given)
    if quick:
        one = (Augmentation(),)
        settings = replace(settings, views=one, augmentations=one, refinement=None, folds=0)
    model = network.load()
    with output.printed_warnings() as printed:
        found = search_recipe(
            model,
            data.read(files.calibration),
            shared.layer_names(layers),
            held_out=None if files.held_out is None else data.read(files.held_out),
            classes=shared.one_class(model, files.classes),
            boxes=boxes,  # type: ignore[arg-type]
            settings=settings,
            cache=files.cache,
            progress=output.style.progress,
        )
    folder = recipe.with_name(f"{recipe.stem}-report")
    found.recipe.save(recipe)
    found.report.save(folder)
    if files.report is not None:
        found.report.write_html(files.report)
    for sentence in found.report.warnings:
        if sentence not in printed:
            output.warn(sentence)
    chosen = ", ".join(f"{layer.name} {layer.weight:.2f}" for layer in found.recipe.layers)
    output.say(f"{found.report.summary()}; layers {chosen}")
    guarantee = found.recipe.guarantee
    if guarantee is not None:
        inner = guarantee.inner_threshold
        output.say(
            f"guarantee from {guarantee.units} {guarantee.unit}s ({guarantee.kind}): outer mask map >= "
            f"{guarantee.outer_threshold:.3f}, inner mask "
            + ("empty" if inner is None else f"map >= {inner:.3f}")
        )
    output.say(f"wrote {recipe} and {folder / 'report.md'}")
    output.result(
        recipe=recipe,
        report=folder / "report.md",
        layers={layer.name: layer.weight for layer in found.recipe.layers},
        scores=found.recipe.origin.scores if found.recipe.origin else {},
        guarantee=None if guarantee is None else asdict(guarantee),
        warnings=found.report.warnings,
    )
