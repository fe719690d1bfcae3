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
    Edges,
    Examples,
    FirstLabel,
    Fused,
    Kind,
    LayerNames,
    Limit,
    MaskValues,
    Methods,
    Model,
    Out,
    RecipeFile,
    Score,
    Seed,
    Split,
    Weights,
    command_line,
    number,
    prepare,
    read_data,
)

app = typer.Typer(
    name="evaluate",
    help="Measure maps against boxes or masks, by perturbation, and by randomised weights.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.command()
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
    score: Score = "exp",
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
    batch_size: BatchSize = 16,
    device: Device = "auto",
    examples: Examples = 4,
) -> None:
    """MaxBoxAcc, PxAP, GT-known, Top-1 and Top-5 Loc, pointing game, against boxes or masks."""
    from ssgcam.evaluation import evaluate_localization

    prepare(context).run(evaluate_localization, command_line(context), tau=tau)


@app.command()
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
    score: Score = "exp",
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
    batch_size: BatchSize = 16,
    device: Device = "auto",
    examples: Examples = 4,
) -> None:
    """IoU of pseudo-masks and boundary F-score, against masks."""
    from ssgcam.evaluation import evaluate_segmentation

    prepare(context).run(
        evaluate_segmentation,
        command_line(context),
        background=background,
        calibration=None if calibration is None else read_data(context, calibration),
    )


@app.command()
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
    score: Score = "exp",
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
    kind: Kind = "auto",
    edges: Edges = None,
    split: Split = None,
    first_label: FirstLabel = None,
    mask_values: MaskValues = None,
    class_name: ClassName = None,
    limit: Limit = None,
    seed: Seed = 0,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    examples: Examples = 4,
) -> None:
    """Accuracy after blurring the highlight, insertion, deletion, Average Drop, Increase."""
    from ssgcam.evaluation import evaluate_perturbation

    prepare(context).run(
        evaluate_perturbation,
        command_line(context),
        measures=tuple(name.strip() for name in measures.split(",")),
        shares=tuple(number(text, "--areas") for text in areas.split(",")),
        sigma=blur,
        steps=steps,
    )


@app.command()
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
    score: Score = "exp",
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
    batch_size: BatchSize = 16,
    device: Device = "auto",
) -> None:
    """Rank correlation of maps before and after the weights are randomised from the top down."""
    from ssgcam.evaluation import evaluate_sanity

    prepare(context).run(
        evaluate_sanity, command_line(context), images=limit, stages=stages, threshold=threshold
    )
