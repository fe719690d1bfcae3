"""How do many images become heat maps in files?

OUT/NAME_overlay.png    the map over the image, at the image's own size
OUT/NAME_heatmap.png    the map alone, at the same size; OUT/legend.png explains the colors
OUT/NAME_map.npy        the map in [0, 1], at the network's input size
OUT/explain.json        the settings, and for each image its classes, probabilities and files
OUT/manifest.jsonl      one line for each image, see ``ssgcam.manifest``
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssgcam.bulk.inputs import InputImage, flat_inputs
from ssgcam.bulk.segment import versions
from ssgcam.bulk.stream import SCRATCH, Outcome, process, run
from ssgcam.cam import CAM
from ssgcam.core.settings import SSGSettings
from ssgcam.core.target import logits_of
from ssgcam.errors import SsgcamError
from ssgcam.files import write_array, write_png, written_whole
from ssgcam.images import read_image
from ssgcam.manifest import Entry, Manifest
from ssgcam.models import LoadedModel, check_network
from ssgcam.recipe import parameter_hash
from ssgcam.report.heatmap import Box, heat_map, legend, noted, overlay

MANIFEST = "manifest.jsonl"
REPORT = "explain.json"


def explain_images(
    images: Iterable[str | Path],
    model: LoadedModel,
    out: str | Path,
    *,
    cam: CAM | None = None,
    classes: Sequence[int | str] = (),
    top: int = 1,
    crop: bool = False,
    batch_size: int = 16,
    workers: int | None = None,
    source: Mapping[str, str] | None = None,
    on_done: Callable[[dict[str, Any]], object] | None = None,
    progress: bool = False,
) -> Outcome:
    """Write heat maps of images; what an earlier run with the same settings finished is kept.

    Args:
        images: Files, folders (searched) and globs.
        model: The network.
        out: The folder to write to, see the top of this module.
        cam: The explainer of the same network; SSG-CAM of the ``auto`` layers by default.
        classes: To explain in every image, by index or name; the ``top`` most probable ones if empty.
        top: Number of most probable classes.
        crop: Explain the weights' center crop instead of the whole image.
        batch_size: Images in each pass of the network.
        workers: Threads that read and write; one for each processor, at most 8, by default.
        source: Where the network came from; reported with its other settings.
        on_done: Called with the report's entry of each image.
        progress: Show a bar on a terminal.

    Returns:
        Counts and failures.

    Raises:
        SsgcamError: If a class or a setting doesn't fit, or the outputs can't be written. An image
            that can't be read does not stop the others.
    """
    out = Path(out)
    inputs = flat_inputs(images, out)
    cam = cam or CAM(model)
    noise, count = check_network(model)
    indices = _classes(model, classes, top, count)
    settings = {
        "model": {
            "name": model.name,
            **(source or {}),
            "architecture": model.name,
            "parameters": parameter_hash(cam.network),
            "output": model.output,
            "preprocessing": asdict(model.preprocessing),
            "crop": crop,
        },
        "method": {
            "name": cam.method_name,
            "layers": cam.layers(noise),
            "gamma": cam.gamma,
            "fusion": cam.fusion,
            "target": asdict(cam.target),
            "computation": cam.computation,
            **({"ssg": asdict(cam.ssg)} if isinstance(cam.ssg, SSGSettings) else {}),
        },
    }
    write_png(out / "legend.png", legend())  # fails before any work if the folder can't be written
    task = ExplainTask(model, cam, out, indices, top, crop, batch_size)
    manifest = Manifest(out / MANIFEST, {**settings, "classes": indices, "top": top})

    def report(image: InputImage, entry: Entry) -> None:
        if on_done is not None:
            on_done(_about(image.path, entry))

    try:
        engine = partial(process, workers=workers)
        return run(inputs, task, manifest, engine=engine, on_done=report, progress=progress)
    finally:
        _write_report(out / REPORT, settings, manifest, inputs)


@dataclass(frozen=True)
class Photo:
    """A photo as the network gets it.

    Attributes:
        path: Its file.
        size: Width and height of the photo, in pixels, upright.
        box: Left, top, right and bottom of the part that the network sees; None for all of it.
        pixels: RGB with 8 bits at the network's input size, ``[3, H, W]`` uint8.
    """

    path: Path
    size: tuple[int, int]
    box: Box | None
    pixels: Tensor


@dataclass(frozen=True)
class ClassMap:
    """One class's map of one photo.

    Attributes:
        index: The class.
        name: Its name, empty if unknown.
        probability: Of the class, in [0, 1].
        values: ``[H, W]`` float32 in [0, 1], of the network's input size, layers fused.
        evidence: Whether anything speaks for the class; all values are zero otherwise.
        note: Why there is no evidence in some layer; empty if there is in all.
    """

    index: int
    name: str
    probability: float
    values: NDArray[np.float32]
    evidence: bool
    note: str


@dataclass(frozen=True)
class Explanation:
    """What the network saw in one photo.

    Attributes:
        path: Its file.
        size: Width and height, in pixels.
        box: Left, top, right and bottom of the part that the maps cover; None for all of it.
        maps: One for each class that was asked for, the most probable first if none was.
    """

    path: Path
    size: tuple[int, int]
    box: Box | None
    maps: tuple[ClassMap, ...]


@dataclass(frozen=True, eq=False)
class ExplainTask:
    """Explaining as a task of the streaming engine, see :mod:`ssgcam.bulk.stream`.

    Attributes:
        model: Says how a photo becomes its network's input, and what the classes are called.
        cam: Of the same network.
        out: The folder of the outputs.
        classes: Indices to explain in every photo; the ``top`` most probable ones if empty.
        top: How many.
        crop: The weights' center crop instead of the whole photo.
        batch_size: Photos for each pass.
    """

    model: LoadedModel
    cam: CAM
    out: Path
    classes: Sequence[int] = ()
    top: int = 1
    crop: bool = False
    batch_size: int = 16

    def to_device(self, device: torch.device | None) -> None:
        """Move the network."""
        if device is not None:
            self.cam.network.to(device)

    def read(self, image: InputImage) -> Photo:
        """A photo at the network's input size."""
        photo = read_image(image.path)
        preprocessing = self.model.preprocessing
        box = preprocessing.crop_box(*photo.size) if self.crop else None
        return Photo(image.path, photo.size, box, preprocessing.pixels(photo, self.crop))

    def compute(self, photos: Sequence[Photo]) -> list[Explanation]:
        """The maps of each photo."""
        device = next(iter(self.cam.network.parameters()), torch.empty(0)).device
        pixels = torch.stack([photo.pixels for photo in photos]).to(device)
        images = self.model.preprocessing.normalize(pixels)
        return list(_explanations(self.model, self.cam, photos, images, self.classes, self.top))

    def write(self, image: InputImage, made: Explanation) -> tuple[list[str], dict[str, Any]]:
        """Write the pictures and the maps; what the JSON report says about the photo."""
        entry = write_explanation(made, self.out, image.name, self.out / SCRATCH)
        files = [found[part] for found in entry["maps"] for part in ("overlay", "heatmap", "map")]
        return files, entry


def write_explanation(
    explanation: Explanation, out: Path, name: str, scratch: Path | None = None
) -> dict[str, Any]:
    """Write an overlay and a heat map at the photo's own size, and the map itself, for each class.

    Args:
        explanation: Its photo is read again, so that only one photo is in memory for each thread.
        out: The folder.
        name: What the names of the files begin with.
        scratch: See :func:`ssgcam.files.written_whole`.

    Returns:
        What the JSON report says about the photo.

    Raises:
        SsgcamError: If the photo can't be read any more, or the folder not written to.
    """
    photo = read_image(explanation.path)
    several = len(explanation.maps) > 1
    entries = []
    for found in explanation.maps:
        start = f"{name}_{found.index}" if several else name
        title = found.name or f"class {found.index}"
        files = {part: f"{start}_{part}.png" for part in ("overlay", "heatmap")}
        files["map"] = f"{start}_map.npy"
        pictures = {
            "overlay": overlay(photo, found.values, explanation.box),
            "heatmap": heat_map(found.values, photo.size, explanation.box),
        }
        for part, picture in pictures.items():
            if not found.evidence:
                picture = noted(picture, f"no evidence for '{title}'")
            write_png(out / files[part], picture, scratch)
        write_array(out / files["map"], found.values, scratch)
        entries.append(
            {
                "class": found.index,
                "name": found.name,
                "probability": found.probability,
                "evidence": found.evidence,
                "note": found.note,
                **files,
            }
        )
    return {
        "photo": str(explanation.path),
        "size": list(explanation.size),
        "crop": None if explanation.box is None else list(explanation.box),
        "maps": entries,
    }


def _explanations(
    model: LoadedModel,
    cam: CAM,
    photos: Sequence[Photo],
    images: Tensor,
    classes: Sequence[int],
    top: int,
) -> Iterator[Explanation]:
    wanted: Tensor | None = None
    if classes:
        wanted = torch.tensor(classes).expand(len(photos), -1)
    elif top > 1:
        with torch.no_grad():
            wanted = logits_of(model.network(images)).topk(top).indices
    result = cam(images, wanted)
    assert result.probabilities is not None  # logits were checked, so there is no score function
    columns = result.classes if result.classes.ndim == 2 else result.classes[:, None]
    count = columns.shape[1]
    maps = result.maps.reshape(len(photos), count, *result.maps.shape[-2:]).cpu().numpy()
    probabilities = result.probabilities.gather(1, columns).tolist()
    evidence = result.evidence.reshape(len(photos), count).tolist()
    for i, photo in enumerate(photos):
        found = [
            ClassMap(
                index=index,
                name=model.class_names[index] if index < len(model.class_names) else "",
                probability=probabilities[i][k],
                values=maps[i, k],
                evidence=evidence[i][k],
                note=result.notes[i * count + k],
            )
            for k, index in enumerate(columns[i].tolist())
        ]
        yield Explanation(photo.path, photo.size, photo.box, tuple(found))


def _classes(model: LoadedModel, wanted: Sequence[int | str], top: int, count: int) -> list[int]:
    if wanted and top != 1:
        raise SsgcamError("classes and top were both given; leave one of them out")
    if not 1 <= top <= count:
        raise SsgcamError(f"top is {top}; '{model.name}' has {count} classes, give 1 to {count}")
    indices = [model.class_index(name) for name in wanted]
    for index in indices:
        if not 0 <= index < count:
            raise SsgcamError(
                f"class {index} is out of range: '{model.name}' has {count} classes, "
                f"0 to {count - 1}"
            )
    return list(dict.fromkeys(indices))


def _write_report(
    path: Path, settings: dict[str, Any], manifest: Manifest, images: Sequence[InputImage]
) -> None:
    """Write the settings, and one line for each image, whole or not at all."""
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
