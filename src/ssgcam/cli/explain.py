"""``ssgcam explain``: from images to heat maps in files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ssgcam.cli import options as shared
from ssgcam.cli import output
from ssgcam.cli.options import argument, grouped, option

if TYPE_CHECKING:
    from ssgcam.bulk.inputs import InputImage
    from ssgcam.manifest import Entry

EXAMPLE = "ssgcam explain photo.jpg --model resnet34 --class tabby --out heatmaps"


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """The images and classes; the names are those of ``explain_images``."""

    images: list[str] = argument(shared.IMAGES)
    out: Path = option(Path("heatmaps"), shared.OUT)
    classes: list[str] | None = option(
        None, "A class, by index or name; can be repeated.", "--class", shown="the most probable"
    )
    against: str | None = option(
        None,
        "Explain why the class and not this one: an index, a name, rest or similar.",
        shown="none",
    )
    top: int = option(1, "Number of most probable classes to explain.")
    crop: bool = option(
        False, "Explain the center crop of the network's preprocessing only.", "--crop"
    )
    report: Path | None = option(None, shared.REPORT)


@grouped(model=None)
def explain(
    files: ExplainOptions,
    network: shared.DescribedNetworkOptions,
    method: shared.MethodOptions,
    run: shared.RunOptions,
) -> None:
    """Explain images: which parts of them speak for a class?

    Without --model the network is EfficientNet-Lite0 if the extra 'demo' is installed, else ResNet34.
    For each image and class OUT gets NAME_overlay.png and NAME_heatmap.png at the image's own size and
    NAME_map.npy, the map in [0, 1] at the network's input size; OUT/explain.json describes all. With
    --against CLASS also NAME_against.png, each of the two classes over the other. The same command run
    again continues an interrupted run. An image that can't be explained is reported; the
    others are explained, and the exit code is 2.
    """
    from ssgcam.bulk.explain import REPORT, explain_images

    model = network.load()
    given: dict[str, Any] = {**vars(files), "classes": files.classes or []}
    with output.printed_warnings():
        result = explain_images(
            model=model,
            cam=method.cam(model, batch_size=network.batch_size, fast=run.fast),
            batch_size=network.batch_size,
            workers=run.workers,
            on_done=_print_entry,
            progress=output.style.progress,
            **given,
        )
    made = result.total - len(result.failures)
    known = f", {result.before} of them by an earlier run" if result.before else ""
    output.say(f"explained {made} of {result.total} images{known}; wrote {files.out / REPORT}")
    if output.style.json:
        output.result(**json.loads((files.out / REPORT).read_text("utf-8")))
    if result.failures:
        raise typer.Exit(2)


def _print_entry(image: InputImage, entry: Entry) -> None:
    output.image_done(image, entry)
    if output.style.quiet or output.style.json:
        return
    for found in entry.facts.get("maps", ()):
        name = found["name"] or f"class {found['class']}"
        line = f"{image.path}: {name} {found['probability']:.1%} -> {found['overlay']}"
        line = line if found["evidence"] else f"{line} ({found['note']})"
        output.above_bars(line, error=False)
