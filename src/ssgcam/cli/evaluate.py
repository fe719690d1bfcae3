"""``ssgcam evaluate``: how good are the maps of any network on any data set?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import typer

from ssgcam.cli import options as shared
from ssgcam.cli import output
from ssgcam.cli.options import argument, grouped, option
from ssgcam.errors import SsgcamError

if TYPE_CHECKING:
    from ssgcam.evaluation import Evaluation

DEFAULT_METHODS = (
    "ssg_cam,localize,grad_cam,grad_cam_plus_plus,xgrad_cam,hires_cam,layer_cam,"
    "grad_cam_elementwise,smoothed_hires_cam,finer_cam,refine_cam"
)

app = typer.Typer(
    name="evaluate",
    help="Measure maps against boxes or masks, by perturbation, and by randomized weights.",
)


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What is compared, and on which images."""

    panel: ClassVar[str] = "Comparison"
    folder: Path = argument("The data set's folder.")
    out: Path = option(MISSING, shared.OUT)
    methods: str = option(DEFAULT_METHODS, shared.METHODS)
    layers: str = option("auto", shared.LAYERS)
    each: bool = option(True, "Score each layer.")
    fused: bool = option(True, "Score all layers fused.")
    target: str | None = option(None, shared.TARGET, shown="exp; logit for ShapleyCAM")
    against: str | None = option(None, "Classes to subtract: rest or similar.", shown="none")
    classes: list[str] | None = option(None, shared.CLASS, "--class", shown="the data set's")
    limit: int | None = option(None, "Number of images, spread evenly over the set.")
    seed: int = option(0, shared.SEED, min=0)
    resume: bool = option(True, shared.RESUME)
    report: Path | None = option(None, shared.REPORT)


@dataclass(frozen=True, kw_only=True)
class Common:
    """The options that all tasks share, in groups."""

    compare: CompareOptions
    network: shared.DescribedNetworkOptions
    data: shared.DataOptions
    run: shared.RunOptions


@dataclass(frozen=True, kw_only=True)
class ExampleOptions:
    """Options of all tasks except the sanity check."""

    examples: int = option(4, "Images in the panel of examples; 0: no panel.", min=0)


@dataclass(frozen=True, kw_only=True)
class ExtraOptions(ExampleOptions):
    """Options of all tasks except the sanity check and the grid."""

    recipe: Path | None = option(None, shared.RECIPE)


@dataclass(frozen=True, kw_only=True)
class LocalizationOptions(ExtraOptions):
    """Options of ``evaluate localization``."""

    tau: float = option(0.15, "Fixed threshold of GT-known, Top-1 and Top-5 Loc, rounded to 0.001.")


@dataclass(frozen=True, kw_only=True)
class SegmentationOptions(ExtraOptions):
    """Options of ``evaluate segmentation``."""

    background: float = option(0.15, "Score of the background, a share of each map's maximum.")
    calibration: Path | None = option(None, "A data set to choose the background score on.")


@dataclass(frozen=True, kw_only=True)
class PerturbationOptions(ExtraOptions):
    """Options of ``evaluate perturbation``."""

    measures: str = option(
        "blur,insertion_deletion,drop_increase", "Names with commas; also road (slow)."
    )
    areas: str = option("0.05,0.1,0.2,0.3,0.5", "Shares of the image to blur.")
    sigma: float = option(
        0.05, "Sigma of the blur as a share of the input's shorter side.", "--blur"
    )
    steps: int = option(28, "Steps of the insertion and deletion curves.")
    pixels: int | None = option(
        None, "Most pixels of perturbed images in one pass.", shown="2^18 on a CPU, 2^22 on a GPU"
    )


@dataclass(frozen=True, kw_only=True)
class SanityOptions:
    """Options of ``evaluate sanity``."""

    threshold: float = option(
        0.5, "A method passes if the rank correlation is below it.", "--max-correlation"
    )
    stages: int | None = option(None, "Randomization stages.", shown="one for each module")


@dataclass(frozen=True, kw_only=True)
class GridOptions(ExampleOptions):
    """Options of ``evaluate grid``."""

    rows: int = option(2, "Photos along each side of a mosaic, 2 or 3.")
    mosaics: int | None = option(
        None, shared.MOSAICS, min=1, shown="one for each photo, at most 100"
    )
    confidence: float = option(0.9, "Least probability of a photo's class.")


@app.callback(invoke_without_command=True)
def _overview(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _command(name: str, options: str = "") -> Callable[..., Any]:
    example = f"ssgcam evaluate {name} data/ --model resnet34 --out report{options}"
    return app.command(name, epilog=f"Example: {example}")


@_command("localization")
@grouped()
def localization(common: Common, options: LocalizationOptions) -> None:
    """Do maps find objects that are known by boxes or masks?

    MaxBoxAcc, PxAP, GT-known, Top-1 and Top-5 localization and the pointing game, each with its 95 %
    interval. OUT gets the tables (.md, .csv, .json), the curves and a panel of examples. The same
    command run again continues an interrupted run.
    """
    from ssgcam.evaluation import evaluate_localization

    _evaluate(common, options, evaluate_localization)


@_command("segmentation", " --calibration other/")
@grouped()
def segmentation(common: Common, options: SegmentationOptions) -> None:
    """Do masks made of maps cover objects that are known by masks?

    IoU of pseudo-masks and boundary F-score, each with its 95 % interval. OUT gets the tables (.md,
    .csv, .json), the curve of the IoU and a panel of examples. The same command run again continues an
    interrupted run.
    """
    from ssgcam.evaluation import evaluate_segmentation

    other = None if options.calibration is None else common.data.read(options.calibration)
    _evaluate(common, options, evaluate_segmentation, calibration=other)


@_command("perturbation", " --areas 0.1,0.3")
@grouped()
def perturbation(common: Common, options: PerturbationOptions) -> None:
    """Does the network change its prediction when highlighted pixels change?

    Accuracy after blurring the highlighted pixels, insertion, deletion, Average Drop and Increase, each
    with its 95 % interval; ROAD if --measures names it. Without labels the network's top class is
    explained. OUT gets the tables (.md, .csv, .json), the curves and a panel of examples. The same
    command run again continues an interrupted run.
    """
    from ssgcam.evaluation import evaluate_perturbation

    areas = shared.numbers(options.areas, "--areas")
    measures = tuple(shared.names(options.measures))
    _evaluate(common, options, evaluate_perturbation, areas=areas, measures=measures)


@_command("sanity")
@grouped(methods="all", limit=16)
def sanity(common: Common, options: SanityOptions) -> None:
    """Do maps change with the network's weights and with the class?

    Rank correlation of maps before and after the weights are randomized from the top down, and of the
    maps of two classes. A few images are enough. OUT gets the tables (.md, .csv, .json) and the curves.
    The same command run again continues an interrupted run.
    """
    from ssgcam.evaluation import evaluate_sanity

    _evaluate(common, options, evaluate_sanity, images=common.compare.limit)


@_command("grid")
@grouped()
def grid(common: Common, options: GridOptions) -> None:
    """Do maps tell the classes of a mosaic of photos apart?

    Grid pointing game: the share of each class's map that lies on its own photo, with its 95 %
    interval. It needs labels but neither boxes nor masks. OUT gets the tables (.md, .csv, .json) and a
    panel of examples. The same command run again continues an interrupted run.
    """
    from ssgcam.evaluation import evaluate_grid

    if common.compare.classes:
        raise SsgcamError("the classes of the photos are explained; leave --class out")
    _evaluate(common, options, evaluate_grid)


def _evaluate(
    common: Common, own: object, evaluate: Callable[..., Evaluation], **converted: Any
) -> None:
    """Read the data set, load the network, evaluate, print the tables and write the files.

    Args:
        common: The options of all tasks.
        own: The options of this task; the names are those of ``evaluate``.
        evaluate: The function of :mod:`ssgcam.evaluation`.
        converted: Values of ``own`` in the form that ``evaluate`` takes.
    """
    from ssgcam import evaluation
    from ssgcam.core.methods import METHODS
    from ssgcam.evaluation.maps import parse_method
    from ssgcam.files import write_text
    from ssgcam.recipe import Recipe
    from ssgcam.report.html import check_report

    check_report(common.compare.report)
    compare, out, command = common.compare, common.compare.out, output.style.command
    task = evaluate.__name__.removeprefix("evaluate_")
    settings = vars(own) | converted
    recipe = settings.pop("recipe", None)
    methods = list(METHODS) if compare.methods == "all" else shared.names(compare.methods)
    compared = evaluation.MethodsCompared(
        methods=tuple(parse_method(method) for method in methods),
        layers=shared.layer_names(compare.layers),
        each=compare.each,
        fused=compare.fused,
        target=shared.target(compare.target),
        against=compare.against,  # type: ignore[arg-type]  # checked there
        recipe=Recipe.load(recipe) if recipe else None,
    )
    how = evaluation.EvaluationSettings(
        batch_size=common.network.batch_size,
        pixels=settings.pop("pixels", None),
        fast=common.run.fast,
        device=common.network.device,
        workers=common.run.workers,
        seed=compare.seed,
        examples=settings.pop("examples", 0),
        progress=output.style.progress,
        out=out,
        resume=compare.resume,
    )
    model = common.network.load()
    samples = evaluation.limited(common.data.read(compare.folder), compare.limit)
    write_text(out / f"{task}.md", f"# {task.capitalize()}\n\nNot finished: `{command}`\n")
    index = shared.one_class(model, compare.classes)
    if index is not None:
        settings["classes"] = index
    found = evaluate(model, samples, compared, settings=how, **settings)
    found = replace(found, facts={**found.facts, "command": command})
    for fact in ("network", "data", "images", "intervals"):
        output.say(f"{fact}: {found.facts[fact]}")
    output.say(f"\n{found.text(brief=True)}")
    names = [path.name for path in evaluation.write_evaluation(found, out)]
    if compare.report is not None:
        evaluation.write_report(found, compare.report)
    output.say(f"\nwrote {', '.join(names)} in {out}")
    output.result(out=out, files=names, report=compare.report, facts=found.facts)
