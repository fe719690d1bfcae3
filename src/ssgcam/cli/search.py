"""``ssgcam search``: from a few labeled images to a recipe and its report."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ssgcam.cli import options as shared
from ssgcam.cli import output
from ssgcam.cli.options import argument, grouped, option
from ssgcam.errors import SsgcamError

if TYPE_CHECKING:
    from ssgcam.bulk.windows import Windows
    from ssgcam.models import LoadedModel
    from ssgcam.recipe import Recipe, WindowRule
    from ssgcam.search import CalibrationSet, SearchSettings

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
class NegativesOptions:
    """Photos without the object, for masks of whole photos in windows."""

    panel: ClassVar[str] = "Whole photos"
    negatives: Path | None = option(None, "A folder of whole photos without the object.")
    window: int | None = option(None, shared.WINDOW)
    overlap: float = option(0.5, shared.OVERLAP)
    false_objects: float = option(0.1, "False objects allowed in each of these photos.", min=0)


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
    memory: float = option(1.0, "GB of maps to keep in memory; more go to a file.", min=0, max=1e6)


@grouped(batch_size=8)
def search(
    files: SearchFiles,
    network: shared.DescribedNetworkOptions,
    data: shared.DataOptions,
    options: SearchOptions,
    whole: NegativesOptions,
) -> None:
    """Search the layers, settings and weights whose map fits a few labeled images best (DE-SSG-CAM).

    Give ten to two hundred images; some without the object calibrate the class gate. 'ssgcam segment'
    applies the recipe to unlabeled images. The report compares the recipe with other methods on
    images that it was not searched on. Ctrl-C keeps the best recipe so far.
    """
    from ssgcam.core.augment import Augmentation
    from ssgcam.core.refine import Refinement
    from ssgcam.report.html import check_report
    from ssgcam.search import CalibrationSet, SearchSettings, search_recipe

    check_report(files.report)
    recipe, boxes = files.recipe, files.boxes
    shared.check_output(recipe, ".json", "--recipe")
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
    photos, windows = _photos(whole)
    model = network.load()
    classes = shared.one_class(model, files.classes)
    with output.printed_warnings() as printed:
        calibration = CalibrationSet.from_samples(
            data.read(files.calibration),
            model,
            classes=classes,
            boxes=boxes,  # type: ignore[arg-type]
        )
        if photos and len(calibration.class_choices) != 1:
            raise SsgcamError("--negatives needs one class; name it with --class")
        found = search_recipe(
            model,
            calibration,
            shared.layer_names(layers),
            held_out=None if files.held_out is None else data.read(files.held_out),
            classes=classes,
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
    if windows is not None:
        rule = _window_rule(
            model, found.recipe, calibration, settings, photos, windows, whole.false_objects
        )
        replace(found.recipe, window_rule=rule).save(recipe)
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


def _photos(whole: NegativesOptions) -> tuple[list[Path], Windows | None]:
    """The photos without the object, and the windows over them."""
    from ssgcam.bulk.windows import Windows
    from ssgcam.images import images_below

    if (whole.negatives is None) != (whole.window is None):
        raise SsgcamError("--negatives and --window belong together; give both, or none")
    if whole.negatives is None or whole.window is None:
        return [], None
    photos = images_below(whole.negatives)
    if not photos:
        raise SsgcamError(f"'{whole.negatives}' holds no images; give a folder of whole photos")
    return photos, Windows(whole.window, whole.overlap)


def _window_rule(
    model: LoadedModel,
    recipe: Recipe,
    calibration: CalibrationSet,
    settings: SearchSettings,
    photos: list[Path],
    windows: Windows,
    allowed: float,
) -> WindowRule:
    """Choose gate, threshold and smallest object for windows, and say what was found."""
    from tqdm import tqdm

    from ssgcam.bulk.false_objects import choose_window_rule
    from ssgcam.search.window_scores import window_scores

    labeled = calibration.with_predictions(model, settings.batch_size)
    scores, smallest_object = window_scores(model, recipe, labeled, settings)
    title, hidden = "photos without the object", None if output.style.progress else True
    with tqdm(total=len(photos), desc=title, disable=hidden) as bar:
        rule = choose_window_rule(
            model,
            recipe,
            photos,
            windows,
            scores,
            smallest_object,
            allowed=allowed,
            batch_size=settings.batch_size,
            progress=bar.update,
        )
    sentence = (
        f"windows of {rule.side} pixels: gate {rule.gate:.3f}, threshold {rule.threshold:.2f}, objects "
        f"of at least {rule.smallest_object} pixels; {rule.false_objects:.2f} false objects in each of "
        f"{rule.photos} photos without the object"
    )
    if rule.false_objects > rule.allowed:
        output.warn(
            f"No rule keeps {rule.allowed:g} false objects for each photo; the best has {sentence}."
        )
    else:
        output.say(sentence)
    return rule
