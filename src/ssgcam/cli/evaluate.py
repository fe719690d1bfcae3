"""``ssgcam evaluate``: the paper's experiments on any network and data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssgcam.cli.evaluate_options import (
    DEFAULT_METHODS,
    BatchSize,
    ClassName,
    Data,
    Device,
    Each,
    Examples,
    Fast,
    Fused,
    LayerNames,
    Limit,
    Methods,
    Model,
    Out,
    RecipeFile,
    Resume,
    Score,
    Seed,
    Weights,
    Workers,
    command_line,
    number,
    prepare,
)
from ssgcam.cli.reading import Edges, FirstLabel, Kind, MaskValues, Split, read_data

app = typer.Typer(
    name="evaluate",
    help="Measure maps against boxes or masks, by perturbation, and by randomized weights.",
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _overview(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(short_help="Do maps find objects that are known by boxes or masks?")
def localization(
    context: typer.Context,
    data: Data,
    model: Model,
    out: Out,
    weights: Weights = "DEFAULT",
    methods: Methods = DEFAULT_METHODS,
    layers: LayerNames = "auto",
    each: Each = True,
    fused: Fused = True,
    recipe: RecipeFile = None,
    score: Score = None,
    tau: Annotated[
        float, typer.Option(help="Fixed threshold of GT-known, Top-1 and Top-5 Loc.")
    ] = 0.15,
    kind: Kind = "auto",
    edges: Edges = None,
    split: Split = None,
    first_label: FirstLabel = None,
    mask_values: MaskValues = None,
    class_name: ClassName = None,
    limit: Limit = None,
    seed: Seed = 0,
    fast: Fast = False,
    batch_size: BatchSize = 16,
    workers: Workers = None,
    device: Device = "auto",
    examples: Examples = 4,
    resume: Resume = True,
) -> None:
    """MaxBoxAcc, PxAP, GT-known, Top-1 and Top-5 Loc, pointing game, against boxes or masks.

    Prints a table of methods and layers by metrics, each number with its 95 % interval. OUT gets it
    as localization.md, .csv and .json, the curves, and a panel of examples. The same command run
    again goes on where it was cut off.
    """
    from ssgcam.evaluation import evaluate_localization

    prepare(context).run(evaluate_localization, command_line(context), tau=tau)


@app.command(short_help="Do masks made of maps cover objects that are known by masks?")
def segmentation(
    context: typer.Context,
    data: Data,
    model: Model,
    out: Out,
    weights: Weights = "DEFAULT",
    methods: Methods = DEFAULT_METHODS,
    layers: LayerNames = "auto",
    each: Each = True,
    fused: Fused = True,
    recipe: RecipeFile = None,
    score: Score = None,
    background: Annotated[
        float, typer.Option(help="Score of the background, a share of each map's maximum.")
    ] = 0.15,
    calibration: Annotated[
        Path | None,
        typer.Option(help="A folder like DATA, to choose each method's background score on."),
    ] = None,
    kind: Kind = "auto",
    edges: Edges = None,
    split: Split = None,
    first_label: FirstLabel = None,
    mask_values: MaskValues = None,
    class_name: ClassName = None,
    limit: Limit = None,
    seed: Seed = 0,
    fast: Fast = False,
    batch_size: BatchSize = 16,
    workers: Workers = None,
    device: Device = "auto",
    examples: Examples = 4,
    resume: Resume = True,
) -> None:
    """IoU of pseudo-masks and boundary F-score, against masks.

    Prints a table of methods and layers by metrics, each number with its 95 % interval. OUT gets it
    as segmentation.md, .csv and .json, the curve of the IoU, and a panel of examples. The same
    command run again goes on where it was cut off.
    """
    from ssgcam.evaluation import evaluate_segmentation

    prepare(context).run(
        evaluate_segmentation,
        command_line(context),
        background=background,
        calibration=None if calibration is None else read_data(context.params, calibration),
    )


@app.command(short_help="Does the network lose its answer with the pixels of the highlight?")
def perturbation(
    context: typer.Context,
    data: Data,
    model: Model,
    out: Out,
    weights: Weights = "DEFAULT",
    methods: Methods = DEFAULT_METHODS,
    layers: LayerNames = "auto",
    each: Each = True,
    fused: Fused = True,
    recipe: RecipeFile = None,
    score: Score = None,
    measures: Annotated[
        str, typer.Option(help="Of blur, insertion_deletion and drop_increase, commas between.")
    ] = "blur,insertion_deletion,drop_increase",
    areas: Annotated[
        str, typer.Option(help="Shares of the image to blur.")
    ] = "0.05,0.1,0.2,0.3,0.5",
    blur: Annotated[
        float, typer.Option(help="Sigma of the blur, a share of the input's shorter side.")
    ] = 0.05,
    steps: Annotated[int, typer.Option(help="Steps of the insertion and deletion curves.")] = 28,
    pixels: Annotated[
        int | None,
        typer.Option(
            help="Perturbed images for each pass: as many as have no more pixels than this.",
            show_default="2^18 on a CPU, 2^22 on a GPU",
        ),
    ] = None,
    fast: Fast = False,
    kind: Kind = "auto",
    edges: Edges = None,
    split: Split = None,
    first_label: FirstLabel = None,
    mask_values: MaskValues = None,
    class_name: ClassName = None,
    limit: Limit = None,
    seed: Seed = 0,
    batch_size: BatchSize = 16,
    workers: Workers = None,
    device: Device = "auto",
    examples: Examples = 4,
    resume: Resume = True,
) -> None:
    """Accuracy after blurring the highlight, insertion, deletion, Average Drop, Increase.

    DATA may be any images; without labels the network's own top class is explained. Prints a table of
    methods and layers by metrics, each number with its 95 % interval. OUT gets it as perturbation.md,
    .csv and .json, the curves, and a panel of examples. The same command run again goes on where it was
    cut off. --fast is for the predictions of perturbed images; the maps are exact.
    """
    from ssgcam.evaluation import evaluate_perturbation

    prepare(context).run(
        evaluate_perturbation,
        command_line(context),
        measures=tuple(name.strip() for name in measures.split(",")),
        shares=tuple(number(text, "--areas") for text in areas.split(",")),
        sigma=blur,
        steps=steps,
    )


@app.command(short_help="Do maps change when the network's weights are randomized?")
def sanity(
    context: typer.Context,
    data: Data,
    model: Model,
    out: Out,
    weights: Weights = "DEFAULT",
    methods: Methods = "all",
    layers: LayerNames = "auto",
    each: Each = True,
    fused: Fused = True,
    score: Score = None,
    threshold: Annotated[
        float, typer.Option(help="A method passes where the rank correlation is below it.")
    ] = 0.5,
    stages: Annotated[
        int | None,
        typer.Option(help="Stages to look at, about.", show_default="one for each module"),
    ] = None,
    kind: Kind = "auto",
    edges: Edges = None,
    split: Split = None,
    first_label: FirstLabel = None,
    mask_values: MaskValues = None,
    class_name: ClassName = None,
    limit: Limit = 16,
    seed: Seed = 0,
    fast: Fast = False,
    batch_size: BatchSize = 16,
    workers: Workers = None,
    device: Device = "auto",
    resume: Resume = True,
) -> None:
    """Rank correlation of maps before and after the weights are randomized from the top down.

    DATA may be any images; a few are enough. Prints a verdict for each method and layer. OUT gets it as
    sanity.md, .csv and .json, and the course of the correlation. The same command run again goes on
    where it was cut off, after the last stage.
    """
    from ssgcam.evaluation import evaluate_sanity

    prepare(context).run(
        evaluate_sanity, command_line(context), images=limit, stages=stages, threshold=threshold
    )
