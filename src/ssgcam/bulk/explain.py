"""How do many photos become heat maps?

OUT/NAME_overlay.png    the photo with its map over it, at the photo's size
OUT/NAME_heatmap.png    the map alone, at the photo's size
OUT/NAME_map.npy        the map, float32 in [0, 1], at the network's input size
OUT/NAME_against.png    with a class to compare with: each of the two classes over the other
OUT/legend.png          the color scale
OUT/manifest.jsonl      a line for each photo, see ``ssgcam.manifest``
OUT/explain.json        the settings and what is known of each photo

NAME is the photo's path without its suffix; with several classes for each photo ``_`` and the class's
index follow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssgcam.bulk.inputs import InputImage, list_inputs
from ssgcam.bulk.reports import explain_report
from ssgcam.bulk.settings import network_settings
from ssgcam.bulk.stream import Outcome, process, run
from ssgcam.cam import CAM
from ssgcam.core.capture import capture
from ssgcam.core.target import Others, compared_classes, logits_of
from ssgcam.errors import SsgcamError
from ssgcam.files import write_array, write_png, written_whole
from ssgcam.manifest import MANIFEST, Entry, Manifest
from ssgcam.models import LoadedModel
from ssgcam.report.heatmap import heat_map, legend, noted, overlay
from ssgcam.report.html import check_report
from ssgcam.report.panel import Cell, panel
from ssgcam.version import versions

REPORT = "explain.json"


@dataclass(frozen=True, eq=False)
class ClassMap:
    """The map of a class in a photo.

    Attributes:
        about: What the JSON report says of it.
        values: ``[H, W]`` in [0, 1].
        opposite: The map of the class it is compared with over this class, or None.
    """

    about: dict[str, Any]
    values: NDArray[np.float32]
    opposite: NDArray[np.float32] | None = None


def explain_images(
    images: Iterable[str | Path],
    model: LoadedModel,
    out: str | Path,
    *,
    cam: CAM | None = None,
    classes: Sequence[int | str] = (),
    against: int | str | None = None,
    top: int = 1,
    crop: bool = False,
    batch_size: int = 16,
    workers: int | None = None,
    report: str | Path | None = None,
    on_done: Callable[[InputImage, Entry], object] | None = None,
    progress: bool = False,
) -> Outcome:
    """Write heat maps of photos; what an earlier run with the same settings finished is kept.

    Args:
        images: Files, folders (searched) and globs.
        model: The network.
        out: The folder to write to, see the top of this module.
        cam: Makes the maps, of the same network; SSG-CAM of the ``auto`` layers by default.
        classes: To explain in every photo, by index or name; the most probable ones if empty.
        against: Explain why a class rather than this one, by index or name, or rather than all
            others, ``"rest"`` or ``"similar"``; see :meth:`ssgcam.CAM.__call__`.
        top: How many of the most probable classes, where ``classes`` is empty.
        crop: Use the weights' center crop instead of the whole photo.
        batch_size: Photos in each pass of the network.
        workers: Threads that read and write; one for each processor, at most 8, by default.
        report: Write an HTML report to this file as well.
        on_done: Called with each photo that is finished or has failed, and its line of the manifest.
        progress: Show a bar on a terminal.

    Returns:
        Counts and failures.

    Raises:
        SsgcamError: If a setting doesn't fit, or the outputs can't be written. A photo that can't be
            read does not stop the others.
    """
    check_report(report)
    out = Path(out)
    inputs = list_inputs(images, out)
    cam = cam or CAM(model)
    network, _ = network_settings(model, cam, out / MANIFEST)
    count = network["resolved"]["classes"]
    if classes and top != 1:
        raise SsgcamError("classes and top were both given; leave one of them out")
    indices = tuple(dict.fromkeys(model.class_index(each, count) for each in classes))
    other: int | Others | None = None
    if against is not None:
        is_word = against in get_args(Others)
        other = cast(Others, against) if is_word else model.class_index(against, count)
        explained = torch.tensor([indices or (-1,)])
        compared_classes(other, torch.zeros(1, count), explained, cam.target)  # checks them
    most = count - isinstance(other, int)
    if not 1 <= top <= most:
        raise SsgcamError(
            f"top is {top}; '{model.name}' has {most} classes for it, give 1 to {most}"
        )
    settings = network | {"crop": crop, "classes": indices, "top": top, "against": other}
    manifest = Manifest(out / MANIFEST, settings)
    if different := manifest.different_settings():
        raise SsgcamError(
            f"'{out}' holds heat maps of another run ({', '.join(different[:3])} differ); choose another "
            "output folder or remove this one"
        )
    write_png(out / "legend.png", legend())  # before any work: can the folder be written to?
    task = ExplainTask(model, cam, out, indices, other, top, crop, batch_size)
    engine = partial(process, workers=workers)
    try:
        outcome = run(inputs, task, manifest, engine=engine, on_done=on_done, progress=progress)
    finally:
        _write_report(out / REPORT, settings, manifest, inputs)
    if report is not None:
        names = {image.name for image in inputs}
        of_run = [entry for entry in manifest.entries() if entry.unit in names]
        facts = [entry.facts for entry in of_run if not entry.error]
        explain_report(report, out, facts, outcome.failures, settings)
    return outcome


@dataclass(frozen=True, eq=False)
class ExplainTask:
    """Explaining as a task of ``bulk.stream``; the attributes are those of :func:`explain_images`."""

    model: LoadedModel
    cam: CAM
    out: Path
    classes: Sequence[int] = ()
    against: int | Others | None = None
    top: int = 1
    crop: bool = False
    batch_size: int = 16

    def read(self, image: InputImage) -> Tensor:
        """A photo at the network's input size, RGB with 8 bits, ``[3, H, W]``."""
        return self.model.preprocessing.pixels(self.model.preprocessing.read(image.path), self.crop)

    def compute(self, pixels: Sequence[Tensor]) -> list[list[ClassMap]]:
        """The maps of each photo."""
        images = self.model.inputs(torch.stack(list(pixels)))
        wanted = self._wanted(images)
        result = self.cam(images, wanted, against=self.against)
        classes = result.classes.view(len(images), -1)
        probabilities = result.class_probabilities.view(classes.shape)
        evidence = result.evidence.view(classes.shape)
        maps = result.maps.view(*classes.shape, *result.maps.shape[-2:]).cpu().numpy()
        opposites = None
        if isinstance(self.against, int):
            every = classes.unbind(1)
            of_classes = [self.cam(images, self.against, against=one).maps for one in every]
            opposites = torch.stack(of_classes, 1).cpu().numpy()
        notes = iter(result.notes)
        found: list[list[ClassMap]] = []
        for n, row in enumerate(classes.tolist()):
            found.append([])
            for k, index in enumerate(row):
                about = {
                    "class": index,
                    "name": self.name_of(index),
                    "probability": float(probabilities[n, k]),
                    "evidence": bool(evidence[n, k]),
                    "note": next(notes),
                }
                opposite = None if opposites is None else opposites[n, k]
                found[-1].append(ClassMap(about, maps[n, k], opposite))
        return found

    def write(self, image: InputImage, made: list[ClassMap]) -> tuple[list[str], dict[str, Any]]:
        """Write the pictures and the maps; the photo is read again for that."""
        photo = self.model.preprocessing.read(image.path)
        box = self.model.preprocessing.crop_box(*photo.size) if self.crop else None
        outputs = []
        for each in made:
            about, values = each.about, each.values
            start = f"{image.output}_{about['class']}" if len(made) > 1 else image.output
            name = about["name"] or f"class {about['class']}"
            over = overlay(photo, values, box)
            pictures = {"overlay": over, "heatmap": heat_map(values, photo.size, box)}
            if not about["evidence"]:
                note = f"no evidence for '{name}'"
                pictures = {part: noted(picture, note) for part, picture in pictures.items()}
            if isinstance(self.against, int) and each.opposite is not None:
                other = self.name_of(self.against) or f"class {self.against}"
                cells = [
                    Cell(over, f"{name} rather than {other}"),
                    Cell(overlay(photo, each.opposite, box), f"{other} rather than {name}"),
                ]
                pictures["against"] = panel([cells], cell_width=3.6)
            for part, picture in pictures.items():
                about[part] = f"{start}_{part}.png"
                write_png(self.out / about[part], picture)
            about["map"] = f"{start}_map.npy"
            write_array(self.out / about["map"], values)
            outputs += [about[part] for part in (*pictures, "map")]
        return outputs, {
            "photo": str(image.path),
            "size": list(photo.size),
            "crop": box and list(box),
            "notes": photo.info["notes"],
            "maps": [each.about for each in made],
        }

    def name_of(self, index: int) -> str:
        """The name of a class, empty if the network has no names."""
        return self.model.class_names[index] if self.model.class_names else ""

    def _wanted(self, images: Tensor) -> Tensor | None:
        """The classes to explain, ``[N, K]``; None for the top one. Never the one to compare with."""
        if self.classes:
            return torch.tensor(self.classes).expand(len(images), -1)
        if self.top == 1 and not isinstance(self.against, int):
            return None
        logits = logits_of(capture(self.cam.network, images, []).output).clone()
        if isinstance(self.against, int):
            logits[:, self.against] = -torch.inf
        return logits.topk(self.top).indices


def _write_report(
    path: Path, settings: dict[str, Any], manifest: Manifest, inputs: Sequence[InputImage]
) -> None:
    """Write the settings, and one line for each photo in the folder, whole or not at all."""
    paths = {image.name: image.path for image in inputs}
    start = json.dumps({"versions": versions(), **settings}, indent=2)
    with (
        written_whole(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        stream.write(start.removesuffix("\n}") + ',\n  "photos": [')
        comma = ""
        for entry in manifest.entries():
            about = _about(paths.get(entry.unit, Path(entry.unit)), entry)
            stream.write(f"{comma}\n    {json.dumps(about, ensure_ascii=False)}")
            comma = ","
        stream.write("\n  ]\n}\n")


def _about(photo: Path, entry: Entry) -> dict[str, Any]:
    return {"photo": str(photo), "error": entry.error} if entry.error else dict(entry.facts)
