"""``ssgcam search``: a few labeled images in, a recipe and its report out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ssgcam.cli.reading import Edges, FirstLabel, Kind, MaskValues, Split, read_data
from ssgcam.errors import SsgcamError


def search(
    context: typer.Context,
    calibration: Annotated[
        Path, typer.Argument(help="A data set with masks or boxes, such as images/ beside masks/.")
    ],
    model: Annotated[
        str, typer.Option(help="A torchvision name, timm/NAME, a file, or package.module:factory.")
    ],
    recipe: Annotated[Path, typer.Option(help="The recipe to write (.json).")],
    weights: Annotated[str, typer.Option(help="DEFAULT, none, or a weights file.")] = "DEFAULT",
    target: Annotated[
        str | None,
        typer.Option(
            "--class",
            help="Name or index of the network's class that the masks show.",
            show_default="told by the data, else each image's most probable one",
        ),
    ] = None,
    kind: Kind = "auto",
    edges: Edges = None,
    split: Split = None,
    first_label: FirstLabel = None,
    mask_values: MaskValues = None,
    void: Annotated[
        int | None,
        typer.Option(help="For images/ beside masks/: the stored value to ignore."),
    ] = None,
    boxes: Annotated[
        str, typer.Option(help="Masks made of boxes: filled, or the ellipse in each.")
    ] = "filled",
    held_out: Annotated[
        Path | None, typer.Option(help="A data set of other images, to score the result on.")
    ] = None,
    folds: Annotated[int, typer.Option(help="Of the cross-validation; 0: none.", min=0)] = 5,
    layers: Annotated[
        str,
        typer.Option(help="auto (at most 12 blocks), all (every block), or names with commas."),
    ] = "auto",
    generations: Annotated[int, typer.Option(help="Of the evolution.", min=1)] = 150,
    population: Annotated[int, typer.Option(help="Candidates in each.", min=5)] = 160,
    seed: Annotated[int, typer.Option(help="Of everything random.", min=0)] = 0,
    fitness: Annotated[
        str, typer.Option(help="IoU to maximize: pooled, per_image, with_background or box.")
    ] = "pooled",
    penalty: Annotated[float, typer.Option(help="Taken off for each layer in use.")] = 0.001,
    size: Annotated[int, typer.Option(help="Side of the working maps, in cells.", min=2)] = 56,
    score: Annotated[str, typer.Option(help="What is differentiated, such as exp.")] = "exp",
    flips: Annotated[
        str,
        typer.Option(help="Flips to average: none, horizontal or both, if they pay; vertical."),
    ] = "both",
    scales: Annotated[
        str, typer.Option(help="Input scales to average, if they pay; with commas.")
    ] = "1,1.5",
    refine: Annotated[bool, typer.Option(help="Try refinement by the image (PAMR).")] = True,
    gate: Annotated[
        float | None,
        typer.Option(
            help="Lowest probability that opens a mask.",
            show_default="from the images without an object",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Folder of the report.", show_default="the recipe's name + -report"),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Keep maps and journal here, for the next run.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a search that was killed (with --cache).")
    ] = False,
    memory: Annotated[
        float, typer.Option(help="GB of maps to hold in memory; more go to a file.", min=0)
    ] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Images for each pass.", min=1)] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Find the layers, settings and weights whose map fits a few labeled images best (DE-SSG-CAM).

    Ten to two hundred images; some without the object calibrate the class gate. RECIPE goes to
    'ssgcam segment' and needs no labels there. The report says how the recipe does on images that
    it was not searched on. Ctrl-C keeps the best so far.
    """
    from ssgcam.core.refine import Refinement
    from ssgcam.device import choose_device
    from ssgcam.models import load_model
    from ssgcam.search import SearchSettings, search_recipe

    if recipe.suffix != ".json":
        raise SsgcamError(f"'{recipe}' does not end in .json; give --recipe NAME.json")
    if boxes not in ("filled", "ellipse"):
        raise SsgcamError(f"--boxes {boxes} is unknown; use filled or ellipse")
    loaded = load_model(model, weights)
    loaded.network.to(choose_device(device))
    settings = SearchSettings(
        generations=generations,
        population=population,
        seed=seed,
        fitness=cast(Any, fitness),
        penalty=penalty,
        size=(size, size),
        score=_score(score),
        views=_views(flips),
        augmentations=_augmentations(flips, scales),
        gate=gate,
        folds=folds,
        memory=int(memory * 1e9),
        batch_size=batch_size,
        refinement=Refinement() if refine else None,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        found = search_recipe(
            loaded,
            read_data(context.params, calibration),
            layers if layers in ("auto", "all") else layers.split(","),
            held_out=None if held_out is None else read_data(context.params, held_out),
            target=None if target is None else loaded.class_index(target),
            boxes=cast(Any, boxes),
            settings=settings,
            cache=cache,
            resume=resume,
            progress=True,
        )
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        typer.echo(f"ssgcam: {message}", err=True)
    folder = report or recipe.with_name(f"{recipe.stem}-report")
    found.recipe.save(recipe)
    found.report.save(folder)
    for sentence in found.report.warnings:
        typer.echo(f"ssgcam: {sentence}", err=True)
    chosen = ", ".join(f"{layer.name} {layer.weight:.2f}" for layer in found.recipe.layers)
    typer.echo(f"{found.report.summary()}; layers {chosen}")
    typer.echo(f"wrote {recipe} and {folder / 'report.md'}")


def _views(flips: str) -> Any:
    """The plain view, then flips (of two, one first)."""
    from ssgcam.core.augment import Augmentation

    kinds = ["none", *(["horizontal"] if flips == "both" else []), flips]
    return tuple(dict.fromkeys(Augmentation(cast(Any, kind)) for kind in kinds))


def _augmentations(flips: str, scales: str) -> Any:
    """The same, and the last of them with the input scales."""
    from ssgcam.core.augment import Augmentation

    try:
        factors = tuple(float(text) for text in scales.split(","))
    except ValueError as error:
        raise SsgcamError(f"--scales {scales} is not numbers with commas, such as 1,1.5") from error
    return (*_views(flips), Augmentation(cast(Any, flips), factors))


def _score(name: str) -> Any:
    from ssgcam.core.settings import TargetSettings

    sign = "absolute" if name == "log_probability" else "positive"
    return TargetSettings(name=cast(Any, name), sign=cast(Any, sign))
