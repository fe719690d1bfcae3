"""Heat maps of many photos: a task of the streaming engine, from a photo to its maps and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssgcam.bulk.inputs import InputImage
from ssgcam.bulk.stream import SCRATCH
from ssgcam.cam import CAM
from ssgcam.core.target import logits_of
from ssgcam.files import write_array, write_png
from ssgcam.images import read_image
from ssgcam.models import LoadedModel
from ssgcam.report.heatmap import Box, heat_map, noted, overlay


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
