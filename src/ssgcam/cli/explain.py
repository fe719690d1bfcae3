"""``ssgcam explain``: photos in; overlays, heat maps, maps and one JSON report out."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssgcam.core.settings import SSGSettings
from ssgcam.errors import SsgcamError

if TYPE_CHECKING:
    from ssgcam.bulk.inputs import InputImage
    from ssgcam.cam import CAM
    from ssgcam.manifest import Entry, Manifest
    from ssgcam.models import LoadedModel

REPORT = "explain.json"
MANIFEST = "manifest.jsonl"


def explain(
    photos: Annotated[list[str], typer.Argument(help="Files, folders (searched) and globs.")],
    model: Annotated[
        str, typer.Option(help="A torchvision name, timm/NAME, a file, or package.module:factory.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write to; made if need be.")],
    weights: Annotated[str, typer.Option(help="DEFAULT, none, or a weights file.")] = "DEFAULT",
    method: Annotated[str, typer.Option(help="ssg_cam, grad_cam, layer_cam, ...")] = "ssg_cam",
    layers: Annotated[
        str, typer.Option(help="Names with commas between, or auto: the last of each resolution.")
    ] = "auto",
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="Explain this class, by index or name; can be repeated."),
    ] = None,
    top: Annotated[int, typer.Option(help="Explain so many of the most probable classes.")] = 1,
    form: Annotated[
        str | None, typer.Option(help="SSG-CAM: taylor or gradient.", show_default=SSGSettings.form)
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(
            help="SSG-CAM: width of the smoothing, as a share of the map's shorter side.",
            show_default=str(SSGSettings.sigma),
        ),
    ] = None,
    first_exponent: Annotated[
        float | None,
        typer.Option(
            help="SSG-CAM: power of the first order.", show_default=str(SSGSettings.first_exponent)
        ),
    ] = None,
    second_exponent: Annotated[
        float | None,
        typer.Option(
            help="SSG-CAM: power of the second order.",
            show_default=str(SSGSettings.second_exponent),
        ),
    ] = None,
    gamma: Annotated[
        float | None,
        typer.Option(help="Power of each layer's map.", show_default="the method's own"),
    ] = None,
    crop: Annotated[
        bool, typer.Option("--crop", help="The weights' center crop, not the whole photo.")
    ] = False,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast", help="Use a copy with folded batch norms and channels last; bfloat16 on CUDA."
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Photos for each pass.", min=1)] = 16,
    workers: Annotated[
        int | None,
        typer.Option(help="Threads for files.", min=1, show_default="one per processor, at most 8"),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Explain photos: what in them speaks for a class.

    For each photo and class OUT gets NAME_overlay.png and NAME_heatmap.png at the photo's own size
    and NAME_map.npy, the map in [0, 1] at the network's input size; and OUT/explain.json for all.
    The same command run again goes on where it was cut off. A photo that can't be explained is
    reported and the others go on; the exit code is then 2.
    """
    from tqdm import tqdm

    from ssgcam.bulk.explain import ExplainTask
    from ssgcam.bulk.inputs import flat_inputs
    from ssgcam.bulk.stream import process, run
    from ssgcam.cam import CAM
    from ssgcam.device import choose_device
    from ssgcam.files import write_png
    from ssgcam.manifest import Manifest
    from ssgcam.models import check_network, load_model
    from ssgcam.report.heatmap import legend

    images = flat_inputs(photos, out)
    ssg = _ssg_settings(
        method,
        form=form,
        sigma=sigma,
        first_exponent=first_exponent,
        second_exponent=second_exponent,
    )
    loaded = load_model(model, weights)
    names = "auto" if layers == "auto" else [name.strip() for name in layers.split(",")]
    cam = CAM(
        loaded, names, method, ssg=ssg, gamma=gamma, batch_size=batch_size,
        fast=fast,
    )  # fmt: skip
    noise, count = check_network(loaded, choose_device(device))
    wanted = _classes(loaded, classes or [], top, count)
    settings = _settings(loaded, model, weights, cam, cam.layers(noise), crop)
    write_png(out / "legend.png", legend())  # before any work: can the folder be written to?

    task = ExplainTask(loaded, cam, out, wanted, top, crop, batch_size)
    manifest = Manifest(out / MANIFEST, {**settings, "classes": wanted, "top": top})

    def say(image: InputImage, entry: Entry) -> None:
        for line in _lines(_about(image.path, entry)):
            tqdm.write(line, file=sys.stderr if entry.error else sys.stdout)

    try:
        engine = partial(process, workers=workers)
        outcome = run(images, task, manifest, engine=engine, on_done=say, progress=True)
    finally:
        _write_report(out / REPORT, settings, manifest, images)
    made = outcome.total - len(outcome.failures)
    known = f", {outcome.before} of them by an earlier run" if outcome.before else ""
    typer.echo(f"explained {made} of {outcome.total} photos{known}; wrote {out / REPORT}")
    if outcome.failures:
        raise typer.Exit(2)


def _ssg_settings(method: str, **options: Any) -> SSGSettings | None:
    given = {name: value for name, value in options.items() if value is not None}
    if given and method != "ssg_cam":
        option = next(iter(given)).replace("_", "-")
        raise SsgcamError(
            f"--{option} belongs to the method ssg_cam, not to {method}; leave one of them out"
        )
    return SSGSettings(**given)


def _classes(model: LoadedModel, wanted: Sequence[str], top: int, count: int) -> list[int]:
    if wanted and top != 1:
        raise SsgcamError("--class and --top were both given; leave one of them out")
    if not 1 <= top <= count:
        raise SsgcamError(f"--top is {top}; '{model.name}' has {count} classes, give 1 to {count}")
    indices = [model.class_index(name) for name in wanted]
    for index in indices:
        if not 0 <= index < count:
            raise SsgcamError(
                f"class {index} is out of range: '{model.name}' has {count} classes, "
                f"0 to {count - 1}"
            )
    return list(dict.fromkeys(indices))


def _settings(
    model: LoadedModel, asked: str, weights: str, cam: CAM, layers: Sequence[str], crop: bool
) -> dict[str, Any]:
    from ssgcam.recipe import parameter_hash

    return {
        "model": {
            "name": asked,
            "architecture": model.name,
            "weights": weights,
            "parameters": parameter_hash(cam.network),
            "output": model.output,
            "preprocessing": asdict(model.preprocessing),
            "crop": crop,
        },
        "method": {
            "name": cam.method_name,
            "layers": list(layers),
            "gamma": cam.gamma,
            "fusion": cam.fusion,
            "target": asdict(cam.target),
            "computation": cam.computation,
            **({"ssg": asdict(cam.ssg)} if isinstance(cam.ssg, SSGSettings) else {}),
        },
    }


def _write_report(
    path: Path, settings: dict[str, Any], manifest: Manifest, images: Sequence[InputImage]
) -> None:
    """Write the settings, and one line for each photo, whole or not at all."""
    from ssgcam.bulk.segment import versions
    from ssgcam.files import written_whole

    paths = {image.name: image.path for image in images}
    start = json.dumps({"versions": versions(), **settings}, indent=2)
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write(start.removesuffix("\n}") + ',\n  "photos": [')
        comma = ""
        for entry in manifest.entries():
            if entry.unit in paths:
                about = _about(paths[entry.unit], entry)
                stream.write(f"{comma}\n    {json.dumps(about, ensure_ascii=False)}")
                comma = ","
        stream.write("\n  ]\n}\n")


def _about(photo: Path, entry: Entry) -> dict[str, Any]:
    if entry.error:
        return {"photo": str(photo), "error": entry.error}
    return {key: entry.facts[key] for key in ("photo", "size", "crop", "maps")}


def _lines(entry: dict[str, Any]) -> list[str]:
    if "error" in entry:
        return [f"ssgcam: {entry['error']}"]
    lines = []
    for found in entry["maps"]:
        name = found["name"] or f"class {found['class']}"
        line = f"{entry['photo']}: {name} {found['probability']:.1%} -> {found['overlay']}"
        lines.append(line if found["evidence"] else f"{line} ({found['note']})")
    return lines
