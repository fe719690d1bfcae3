"""``ssgcam segment``: photos in, masks out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssgcam.errors import SsgcamError

if TYPE_CHECKING:
    from ssgcam.bulk.inputs import Failure
    from ssgcam.bulk.stream import Engine
    from ssgcam.cam import CAM
    from ssgcam.models import LoadedModel
    from ssgcam.recipe import Recipe


def segment(
    photos: Annotated[list[str], typer.Argument(help="Files, folders (searched) and globs.")],
    model: Annotated[
        str, typer.Option(help="A torchvision name, timm/NAME, a file, or package.module:factory.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write to; made if need be.")],
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe of 'ssgcam search': layers, threshold, gate.")
    ] = None,
    weights: Annotated[str, typer.Option(help="DEFAULT, none, or a weights file.")] = "DEFAULT",
    method: Annotated[
        str | None, typer.Option(help="Without a recipe.", show_default="ssg_cam")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Without a recipe: names with commas between.", show_default="auto"),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Names or indices with commas between, the k-th becomes value k; 'all', or 'top' "
            "for the most probable one of each photo.",
            show_default="the recipe's, else all",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Of the map in [0, 1]; the background's score if there are several classes.",
            show_default="the recipe's, else 0.15",
        ),
    ] = None,
    gate: Annotated[
        float | None,
        typer.Option(
            help="Lowest probability of a class that is marked.",
            show_default="the recipe's, else 0.5",
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(help="Look through windows of this side, in pixels of the photo."),
    ] = None,
    overlap: Annotated[
        float, typer.Option(help="Share of a window's side that the next one shares.")
    ] = 0.5,
    coco: Annotated[
        Path | None, typer.Option(help="Write all masks to this file as well, as COCO JSON.")
    ] = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Write photos with their masks over them as well.")
    ] = False,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast", help="Use a copy with folded batch norms and channels last; bfloat16 on CUDA."
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Photos or windows for each pass.", min=1)] = 16,
    workers: Annotated[
        int | None,
        typer.Option(help="Threads for files.", min=1, show_default="one per processor, at most 8"),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    engine: Annotated[str, typer.Option(help="local, or ray for a cluster.")] = "local",
    actors: Annotated[
        int | None,
        typer.Option(help="With ray: processes with a network each.", show_default="all that fit"),
    ] = None,
    gpus: Annotated[
        float, typer.Option(help="With ray: GPUs of each process, such as 1, 0.5 or 0.")
    ] = 0.0,
    cpus: Annotated[float, typer.Option(help="With ray: processors of each process.")] = 1.0,
) -> None:
    """Mark the objects in photos, pixel by pixel, at the photos' own size.

    OUT gets a mask for each photo, NAME.png: an indexed picture with 0 for background and k for the
    k-th class, in PASCAL VOC's colors; OUT/segment.json says which is which. The same command run
    again goes on where it was cut off. A photo that can't be read is reported and the others go on;
    the exit code is then 2.
    """
    from tqdm import tqdm

    from ssgcam.bulk.segment import segment_images
    from ssgcam.device import choose_device
    from ssgcam.models import load_model

    work = _engine(engine, workers, actors, gpus, cpus)
    loaded = load_model(model, weights)
    found = _recipe(recipe, method, layers)
    cam = None if found else _cam(loaded, method, layers, fast)

    def say(failure: Failure) -> None:
        tqdm.write(f"ssgcam: {failure.reason}", file=typer.get_text_stream("stderr"))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        result = segment_images(
            photos, loaded, out, recipe=found, cam=cam, fast=fast, classes=classes,
            threshold=threshold, gate=gate, window=window, overlap=overlap, overlays=overlay, coco=coco,
            batch_size=batch_size, workers=workers, device=choose_device(device), engine=work,
            failed=say, progress=True,
        )  # fmt: skip
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        typer.echo(f"ssgcam: {message}", err=True)
    made = result.total - len(result.failures)
    known = f", {result.before} of them by an earlier run" if result.before else ""
    typer.echo(
        f"{made} of {result.total} photos have masks{known}; {result.empty} masks are empty "
        f"(threshold {result.threshold:g}, gate {result.gate:g}); wrote {out}"
    )
    if result.failures:
        raise typer.Exit(2)


def _recipe(path: Path | None, method: str | None, layers: str | None) -> Recipe | None:
    from ssgcam.recipe import Recipe

    if path is None:
        return None
    for option, value in (("method", method), ("layers", layers)):
        if value is not None:
            raise SsgcamError(
                f"--{option} and --recipe were both given; a recipe has its own, leave one out"
            )
    return Recipe.load(path)


def _cam(model: LoadedModel, method: str | None, layers: str | None, fast: bool) -> CAM:
    from ssgcam.cam import CAM

    wanted = (layers or "auto").split(",")
    names = "auto" if wanted == ["auto"] else [name.strip() for name in wanted]
    return CAM(model, names, method or "ssg_cam", fast=fast)


def _engine(
    name: str, workers: int | None, actors: int | None, gpus: float, cpus: float
) -> Engine | None:
    if name == "local":
        if actors is not None or gpus:
            raise SsgcamError("--actors and --gpus need --engine ray; leave them out")
        return None
    if name != "ray":
        raise SsgcamError(f"no engine named '{name}'; give local or ray")
    from ssgcam.bulk.ray_engine import RayEngine

    return RayEngine(actors=actors, gpus=gpus, cpus=cpus, workers=workers)
