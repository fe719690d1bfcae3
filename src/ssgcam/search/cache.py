"""What are the layers' maps for every setting? They are computed once, so that a candidate needs no pass.

A row holds what ``core.fusion.prepare`` gives for one layer and one grid entry at the working size, as
uint8 in 1/255. Images x layers x entries x cells bytes: 193 MB for 40 images, 8 layers, 192 entries and
56x56 cells. The rows of one view of the images (plain, flipped, ...) are computed once; the maps of an
augmentation are the mean over its views.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssgcam.cam import CAM
from ssgcam.core.augment import View
from ssgcam.core.fusion import prepare
from ssgcam.core.methods import ssg_cams
from ssgcam.core.network import placed
from ssgcam.errors import SsgcamError
from ssgcam.files import read_array, write_array
from ssgcam.fingerprint import parameter_hash
from ssgcam.models import LoadedModel
from ssgcam.search.calibration_set import CalibrationSet
from ssgcam.search.settings import MapGrid, SearchSettings

_VERSION = 3


@dataclass(frozen=True, eq=False)
class MapCache:
    """Prepared maps of a set of images.

    Attributes:
        values: ``[N, layers * entries, cells]`` uint8, in 1/255.
        layers: Names.
        grid: The entries.
        size: Working height and width.
    """

    values: Tensor
    layers: tuple[str, ...]
    grid: MapGrid
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.values)


def build_cache(
    model: LoadedModel,
    data: CalibrationSet,
    layers: Sequence[str],
    settings: SearchSettings,
    view: View,
    folder: Path | None = None,
    progress: Callable[[int], object] = lambda images: None,
) -> MapCache:
    """Run the network once on one view of each image and keep the maps of all settings.

    Args:
        model: The network.
        data: The images, with predictions.
        layers: Names of the layers.
        settings: Grid, working size, target, memory and batch size.
        view: How each image is flipped and resized.
        folder: Where the cache is kept between runs, under a hash of all it depends on; None keeps none.
        progress: Called with the number of images after each batch.

    Raises:
        SsgcamError: If the folder can't be written.
    """
    grid, size = settings.grid, settings.working_size
    second_order = max(grid.settings, key=lambda each: each.second_exponent)
    cam = CAM(model, list(layers), ssg=second_order, target=settings.target)
    made_from = [_VERSION, layers, asdict(grid), size, asdict(settings.target), asdict(view)]
    content = json.dumps([*made_from, parameter_hash(cam.network), data.image_digest])
    name = f"maps-{sha256(content.encode()).hexdigest()[:24]}.npy"
    shape = (len(data), len(layers) * len(grid), size[0] * size[1])
    array = None
    if folder is not None:
        with suppress(SsgcamError):  # a file that is missing or damaged is made
            array = read_array(folder / name)
    if array is not None and (array.shape, array.dtype) == (shape, np.uint8):
        progress(len(data))
    else:
        array = _empty(shape, settings.memory)
        for part in data.batches(settings.batch_size):
            images = placed(view.apply(data.images[part]), cam.network)
            signals, _ = cam.signals(images, data.classes[part].to(images.device))
            row = 0
            with torch.no_grad():
                for signal in signals.values():
                    for layer_map in ssg_cams(signal, grid.settings):
                        scaled = prepare(view.undo(layer_map), size, 1.0).flatten(1)
                        for gamma in grid.gammas:
                            array[part, row] = (scaled**gamma * 255).round_().byte().cpu().numpy()
                            row += 1
            progress(len(images))
        if folder is not None:
            write_array(folder / name, array)
    return MapCache(torch.from_numpy(array), tuple(layers), grid, size)


def mean_of(caches: Sequence[MapCache], memory: int) -> MapCache:
    """The maps averaged over several views of the same images; of a single view its own."""
    first = caches[0]
    if len(caches) == 1:
        return first
    array = _empty(tuple(first.values.shape), memory)
    for image in range(len(first)):
        mean = torch.stack([cache.values[image] for cache in caches]).float().mean(0)
        array[image] = mean.round_().byte().numpy()
    return replace(first, values=torch.from_numpy(array))


def _empty(shape: tuple[int, ...], memory: int) -> Any:
    """An array of bytes in memory or, if it is larger than that, in a temporary file."""
    if np.prod(shape, dtype=np.int64) <= memory:
        return np.empty(shape, dtype=np.uint8)
    with tempfile.TemporaryFile() as stream:  # the mapping keeps the file, which has no name
        return np.memmap(stream, dtype=np.uint8, mode="w+", shape=shape)
