"""``ssgcam segment``: from images to segmentation masks."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import typer

from ssgcam.cli import options as shared
from ssgcam.cli import output
from ssgcam.cli.options import argument, grouped, option
from ssgcam.errors import SsgcamError

if TYPE_CHECKING:
    from ssgcam.bulk.stream import Engine

EXAMPLE = "ssgcam segment photos/ --model network.pth --recipe recipe.json --out masks"


@dataclass(frozen=True, kw_only=True)
class SegmentFiles:
    """The images, the masks and the recipe."""

    images: list[str] = argument(shared.IMAGES)
    out: Path = option(MISSING, shared.OUT)
    recipe: Path | None = option(None, shared.RECIPE)
    segmenter: Path | None = option(
        None, "A network of 'ssgcam train-segmenter', in place of --model and --recipe."
    )


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """How maps become masks; the names are those of ``segment_images``."""

    panel: ClassVar[str] = "Masks"
    classes: list[str] | None = option(
        None,
        "A class, by index or name, can be repeated: the k-th gets value k; all; or top, the most "
        "probable class of each image.",
        "--class",
        shown="the recipe's, else all",
    )
    threshold: float | None = option(
        None,
        "Threshold of the map in [0, 1]; with several classes the background's score.",
        shown="the recipe's, else 0.15",
    )
    gate: float | None = option(None, shared.GATE, shown="the recipe's, else 0.5")
    window: int | None = option(None, shared.WINDOW)
    overlap: float = option(0.5, shared.OVERLAP)
    min_object: int | None = option(
        None,
        "Objects of fewer pixels become background.",
        min=1,
        shown="the recipe's in windows, else 1",
    )


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What is written beside the masks; the names are those of ``segment_images``."""

    panel: ClassVar[str] = "Further outputs"
    overlays: bool = option(False, "Also write images with their masks over them.", "--overlay")
    soft: bool = option(False, "Also write the maps, as 16-bit PNG.", "--soft")
    export: list[str] | None = option(
        None, "Also write the objects as coco, yolo, geojson or labelstudio; can be repeated."
    )
    report: Path | None = option(None, shared.REPORT)
    review: int = option(
        0, "Number of images with the least sure masks to copy to OUT/review.", min=0
    )
    mirror: bool = option(
        False,
        "Use masks of mirrored images for the predicted IoU too; twice the time.",
        "--mirror",
    )


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Where the work is done."""

    panel: ClassVar[str] = "Cluster"
    engine: str = option("local", "local, or ray for a cluster.")
    actors: int | None = option(None, "With ray: processes, each with a network.", shown="all")
    gpus: float = option(0.0, "With ray: GPUs of a process, such as 1 or 0.5.")
    cpus: float = option(1.0, "With ray: processors of a process.")

    def make(self, workers: int | None) -> Engine | None:
        """The engine, None for this process."""
        if self.engine == "local":
            if self.actors is not None or self.gpus:
                raise SsgcamError("--actors and --gpus need --engine ray; leave them out")
            return None
        if self.engine != "ray":
            raise SsgcamError(f"no engine named '{self.engine}'; give local or ray")
        from ssgcam.bulk.ray_engine import RayEngine

        return RayEngine(actors=self.actors, gpus=self.gpus, cpus=self.cpus, workers=workers)


@grouped(model=None)
def segment(
    files: SegmentFiles,
    masks: MaskOptions,
    outputs: OutputOptions,
    network: shared.DescribedNetworkOptions,
    method: shared.MethodOptions,
    run: shared.RunOptions,
    cluster: ClusterOptions,
) -> None:
    """Mark the objects in images, pixel by pixel, at the images' own size.

    OUT gets a mask for each image, NAME.png: an indexed picture, 0 for background and k for the k-th
    class, in PASCAL VOC's colors; OUT/segment.json has the names. The same command run again continues
    an interrupted run. An image that can't be read is reported; the others are segmented, and the
    exit code is 2.
    """
    from ssgcam.bulk.segment import segment_images
    from ssgcam.device import choose_device
    from ssgcam.recipe import Recipe

    settings = shared.given(method)
    if files.recipe is not None and settings:
        name = next(iter(settings)).replace("_", "-")
        raise SsgcamError(
            f"--{name} and --recipe were both given; a recipe has its own, leave one out"
        )
    if (network.model is None) == (files.segmenter is None):
        raise SsgcamError("give either --model, with or without --recipe, or --segmenter")
    if files.segmenter is not None and settings:
        raise SsgcamError("--segmenter uses no method and no layers; leave their options out")
    engine = cluster.make(run.workers)
    recipe = None if files.recipe is None else Recipe.load(files.recipe)
    model = None if files.segmenter else network.load()
    given = {
        **vars(masks),
        **vars(outputs),
        **vars(run),
        "export": outputs.export or [],
        "batch_size": network.batch_size,
        "device": choose_device(network.device),
    }
    if given["classes"] in (["all"], ["top"]):
        (given["classes"],) = given["classes"]

    with output.printed_warnings():
        cam = None if model is None or recipe else method.cam(model, fast=run.fast)
        result = segment_images(
            files.images, model, files.out, segmenter=files.segmenter, recipe=recipe, cam=cam,
            engine=engine,
            on_done=output.image_done, progress=output.style.progress, **given,
        )  # fmt: skip
    made = result.total - len(result.failures)
    known = f", {result.before} of them by an earlier run" if result.before else ""
    output.say(
        f"{made} of {result.total} images have masks{known}; {result.empty} masks are empty "
        f"(threshold {result.threshold:g}, gate {result.gate:g}); wrote {files.out}"
    )
    if result.guarantee:
        output.say(
            f"guarantee: {result.guarantee}; see inner/, outer/ and undecided/ in {files.out}"
        )
    if result.unusual:
        output.say(
            f"{result.unusual} of {made} images are unlike the calibration images of the recipe; "
            "'unusual' in manifest.jsonl says in what"
        )
    output.result(out=files.out, **{**asdict(result), "failures": len(result.failures)})
    if result.failures:
        raise typer.Exit(2)
