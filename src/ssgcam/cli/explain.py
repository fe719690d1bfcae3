"""``ssgcam explain``: photos in; overlays, heat maps, maps and one JSON report out."""

from __future__ import annotations

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
    from ssgcam.cam import CAM
    from ssgcam.explain import Explanation
    from ssgcam.models import LoadedModel
    from ssgcam.streaming import Failure

REPORT = "explain.json"


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
        bool, typer.Option("--crop", help="The weights' centre crop, not the whole photo.")
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
    A photo that can't be explained is reported and the others go on; the exit code is then 2.
    """
    from tqdm import tqdm

    from ssgcam.cam import CAM
    from ssgcam.devices import choose_device
    from ssgcam.explain import check_network, explain_photos
    from ssgcam.files import write_json, write_png
    from ssgcam.images import find_images
    from ssgcam.models import load_model
    from ssgcam.render.heatmap import legend
    from ssgcam.streaming import ahead, output_names

    paths = find_images(photos)
    ssg = _ssg_settings(
        method,
        form=form,
        sigma=sigma,
        first_exponent=first_exponent,
        second_exponent=second_exponent,
    )
    loaded = load_model(model, weights)
    names = "auto" if layers == "auto" else [name.strip() for name in layers.split(",")]
    cam = CAM(loaded, names, method, ssg=ssg, gamma=gamma, batch_size=batch_size)
    noise, count = check_network(loaded, choose_device(device))
    wanted = _classes(loaded, classes or [], top, count)
    report = _settings(loaded, model, weights, cam, cam.layers(noise), crop)
    write_png(out / "legend.png", legend())  # before any work: can the folder be written to?

    written = dict(zip(paths, output_names(paths), strict=True))
    outcomes = explain_photos(
        loaded, cam, paths, classes=wanted, top=top, crop=crop, batch_size=batch_size,
        workers=workers,
    )  # fmt: skip
    write = partial(_write, out=out, names=written)
    entries = report["photos"] = []
    failed = 0
    try:
        entries_in_order = ahead(write, outcomes, window=2 * batch_size, workers=workers)
        for entry in tqdm(entries_in_order, total=len(paths), unit="photo", disable=None):
            entries.append(entry)
            failed += "error" in entry
            for line in _lines(entry):
                tqdm.write(line, file=sys.stderr if "error" in entry else sys.stdout)
    finally:
        write_json(out / REPORT, report)
    typer.echo(f"explained {len(paths) - failed} of {len(paths)} photos; wrote {out / REPORT}")
    if failed:
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
    import platform

    import torch
    import torchvision

    from ssgcam import __version__

    return {
        "versions": {
            "ssgcam": __version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "python": platform.python_version(),
        },
        "model": {
            "name": asked,
            "architecture": model.name,
            "weights": weights,
            "output": model.output,
            "preprocessing": asdict(model.preprocessing),
            "crop": crop,
        },
        "method": {
            "name": cam.method_name,
            "layers": list(layers),
            "gamma": cam.gamma,
            "fusion": cam.fusion,
            "score": asdict(cam.score),
            **({"ssg": asdict(cam.ssg)} if isinstance(cam.ssg, SSGSettings) else {}),
        },
    }


def _write(outcome: Explanation | Failure, out: Path, names: dict[Path, str]) -> dict[str, Any]:
    from ssgcam.explain import Explanation, write_explanation

    if isinstance(outcome, Explanation):
        return write_explanation(outcome, out, names[outcome.path])
    return {"photo": str(outcome.path), "error": outcome.reason}


def _lines(entry: dict[str, Any]) -> list[str]:
    if "error" in entry:
        return [f"ssgcam: {entry['error']}"]
    lines = []
    for found in entry["maps"]:
        name = found["name"] or f"class {found['class']}"
        line = f"{entry['photo']}: {name} {found['probability']:.1%} -> {found['overlay']}"
        lines.append(line if found["evidence"] else f"{line} ({found['note']})")
    return lines
