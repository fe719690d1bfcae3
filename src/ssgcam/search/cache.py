"""Every layer's prepared maps over a grid of settings, computed once: no network pass in the search.

A row is what ``core.fusion.prepare`` gives for one layer and one grid entry at the working size. There
are images x layers x entries x cells of them: 40 images, 8 layers, 192 entries and 56x56 cells take
193 MB in uint8 and 385 MB in float16. They are kept in memory up to a limit and in a memory-mapped
file above it (or always, in a folder that is kept between runs, by a hash of what they come from).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssgcam.cam import CAM
from ssgcam.core.augment import Augmentation
from ssgcam.core.fusion import power, prepare
from ssgcam.core.methods import ssg_cams
from ssgcam.core.settings import Form, SSGSettings, TargetSettings
from ssgcam.files import write_json, written_whole
from ssgcam.fingerprint import parameter_hash, placed
from ssgcam.models import LoadedModel
from ssgcam.search.calibration import Examples

Storage = Literal["uint8", "float16", "float32"]
_NUMPY: dict[Storage, Any] = {"uint8": np.uint8, "float16": np.float16, "float32": np.float32}
#: Bytes of maps that are worked on at a time while a cache is built.
_BLOCK = 2**26
_VERSION = 2
#: Bytes behind a row of uint8 values: its scale and offset.
_PACKING = torch.tensor([1 / 255, 0]).view(torch.uint8)
_PACKED_SUMS = getattr(torch.ops.quantized, "embedding_bag_byte_rowwise_offsets", None)


@dataclass(frozen=True)
class MapGrid:
    """The settings that a search chooses from for each layer: every combination.

    Attributes:
        forms: See ``SSGSettings``.
        sigmas: As well.
        exponents: Pairs of first and second exponent.
        gammas: Powers of the scaled map.
    """

    forms: tuple[Form, ...] = ("taylor", "gradient")
    sigmas: tuple[float, ...] = (0.0, 0.03, 0.06, 0.1, 0.15, 0.2)
    exponents: tuple[tuple[float, float], ...] = ((1.0, 0.0), (0.3, 0.3), (0.5, 0.5), (1.0, 1.0))
    gammas: tuple[float, ...] = (0.3, 0.5, 0.7, 1.0)

    @cached_property
    def settings(self) -> tuple[SSGSettings, ...]:
        """Everything but gamma."""
        return tuple(
            SSGSettings(form, sigma, first, second)
            for form, sigma, (first, second) in product(self.forms, self.sigmas, self.exponents)
        )

    @cached_property
    def entries(self) -> tuple[tuple[SSGSettings, float], ...]:
        """Settings and gamma of every row of a layer."""
        return tuple(product(self.settings, self.gammas))

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True, eq=False)
class MapCache:
    """Prepared maps of a set of images.

    Attributes:
        values: ``[N, layers * entries, cells]``, in [0, 1] or, as uint8, in 1/255.
        layers: Names.
        grid: The entries.
        size: Working height and width.
        shapes: Channels, rows and columns of each layer.
        packed: uint8 values with 1/255 and 0 as float32 behind each row, ``[N, rows, cells + 8]``, as
            PyTorch's quantized embedding bags are: ten times faster to sum than single rows.
    """

    values: Tensor
    layers: tuple[str, ...]
    grid: MapGrid
    size: tuple[int, int]
    shapes: tuple[tuple[int, int, int], ...] = field(default=())
    packed: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    def sums(self, image: int, rows: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums of rows of one image.

        Args:
            image: Its number.
            rows: ``[R]``: the rows of all sums, one sum after another.
            starts: ``[P]``: where each sum starts.
            weights: ``[R]`` of the floating-point type to sum in.

        Returns:
            ``[P, cells]``.
        """
        if self.packed is not None and weights.dtype == torch.float32 and _PACKED_SUMS is not None:
            found: Tensor = _PACKED_SUMS(
                self.packed[image], rows, starts, per_sample_weights=weights
            )
            return found
        used, place = torch.unique(rows, return_inverse=True)
        maps = self.values[image].index_select(0, used).to(weights.dtype)
        if self.values.dtype == torch.uint8:
            maps.div_(255)
        return F.embedding_bag(place, maps, starts, mode="sum", per_sample_weights=weights)


def packed(values: Tensor) -> Tensor:
    """uint8 rows ``[..., cells]`` with their scale and offset behind each: ``[..., cells + 8]``."""
    return torch.cat([values, _PACKING.expand(*values.shape[:-1], -1)], -1)


def cache_bytes(
    images: int, layers: int, grid: MapGrid, size: tuple[int, int], storage: Storage
) -> int:
    """What a cache takes."""
    row = _row_length(size, storage) * int(np.dtype(_NUMPY[storage]).itemsize)
    return images * layers * len(grid) * row


def build_cache(
    model: nn.Module | LoadedModel,
    examples: Examples,
    layers: Sequence[str],
    *,
    grid: MapGrid | None = None,
    size: tuple[int, int] = (56, 56),
    score: TargetSettings | None = None,
    augmentation: Augmentation | None = None,
    storage: Storage = "uint8",
    limit: int = 2**30,
    folder: Path | None = None,
    batch_size: int = 8,
    progress: Callable[[int], object] | None = None,
) -> MapCache:
    """Run the network once for each image (and view) and keep the maps of all settings.

    Args:
        model: The network.
        examples: The images.
        layers: Names of the layers.
        grid: The settings.
        size: Working height and width.
        score: What is differentiated.
        augmentation: Views whose prepared maps are averaged, as ``ssgcam.core.augment`` says.
        storage: Type of the kept values. uint8 rounds to 1/255.
        limit: Bytes that may be held in memory; a larger cache goes to a file.
        folder: Where to keep the cache between runs; None keeps none.
        batch_size: Most images for each pass of the network.
        progress: Called with the number of images done.

    Returns:
        The cache.

    Raises:
        SsgcamError: If a layer can't be explained, or the folder can't be written.
    """
    grid = grid or MapGrid()
    score = score or TargetSettings()
    augmentation = augmentation or Augmentation()
    shape = (len(examples), len(layers) * len(grid), _row_length(size, storage))
    cam = CAM(model, list(layers), ssg=_demanding(grid), target=score)
    settings = {
        "version": _VERSION,
        "layers": list(layers),
        "grid": asdict(grid),
        "size": size,
        "score": asdict(score),
        "augmentation": asdict(augmentation),
        "storage": storage,
        "parameters": parameter_hash(cam.network),
        "data": examples.digest,
    }
    shapes: list[tuple[int, int, int]] = []

    def fill(values: Any) -> None:
        per_image = 4 * shape[1] * shape[2]
        step = max(1, min(batch_size, _BLOCK // per_image))
        for start in range(0, len(examples), step):
            rows = _prepared(
                cam, examples, slice(start, start + step), grid, size, augmentation, shapes
            )
            values[start : start + step] = _stored(rows, storage)
            if progress is not None:
                progress(min(start + step, len(examples)))

    if folder is not None:
        key = sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:24]
        path = Path(folder) / f"maps-{key}.npy"
        note = path.with_suffix(".json")
        if not (path.is_file() and note.is_file()):
            with written_whole(path) as temporary:
                values = np.lib.format.open_memmap(  # type: ignore[no-untyped-call,unused-ignore]
                    temporary, mode="w+", dtype=_NUMPY[storage], shape=shape
                )
                fill(values)
                values.flush()
                del values
            write_json(note, {**settings, "shapes": shapes})
        else:
            shapes = [tuple(entry) for entry in json.loads(note.read_text("utf-8"))["shapes"]]
            if progress is not None:
                progress(len(examples))
        # copy on write: a tensor of a read-only array would warn
        kept = torch.from_numpy(np.load(path, mmap_mode="c"))
    elif cache_bytes(len(examples), len(layers), grid, size, storage) > limit:
        with tempfile.TemporaryFile() as stream:  # the mapping keeps the file, which has no name
            mapped = np.memmap(stream, dtype=_NUMPY[storage], mode="w+", shape=shape)
        fill(mapped)
        kept = torch.from_numpy(mapped)
    else:
        held = np.empty(shape, dtype=_NUMPY[storage])
        fill(held)
        kept = torch.from_numpy(held)
    cells = size[0] * size[1]
    behind = kept if storage == "uint8" else None
    return MapCache(kept[..., :cells], tuple(layers), grid, size, tuple(shapes), behind)


def _row_length(size: tuple[int, int], storage: Storage) -> int:
    return size[0] * size[1] + (len(_PACKING) if storage == "uint8" else 0)


def _demanding(grid: MapGrid) -> SSGSettings:
    """An entry that needs the second order if any does: it decides what is differentiated."""
    return max(grid.settings, key=lambda settings: settings.second_exponent)


def _prepared(
    cam: CAM,
    examples: Examples,
    part: slice,
    grid: MapGrid,
    size: tuple[int, int],
    augmentation: Augmentation,
    shapes: list[tuple[int, int, int]],
) -> Tensor:
    """``[n, layers * entries, cells]``: the mean over views of the prepared maps."""
    images = placed(examples.images[part], cam.network)
    classes = examples.classes[part].to(images.device)
    total: Tensor | None = None
    for view in augmentation:
        signals, _ = cam.signals(view.apply(images), classes)
        if not shapes:
            found = [signal.activation.shape for signal in signals.values()]
            shapes += [(int(shape[1]), int(shape[2]), int(shape[3])) for shape in found]
        rows = []
        with torch.no_grad():
            for signal in signals.values():
                for layer_map in ssg_cams(signal, grid.settings):
                    scaled = prepare(view.undo(layer_map), size, 1.0)
                    rows += [power(scaled, gamma) for gamma in grid.gammas]
        stacked = torch.stack(rows, 1)
        total = stacked if total is None else total.add_(stacked)
    assert total is not None
    return (total / augmentation.views).flatten(2).cpu()


def _stored(rows: Tensor, storage: Storage) -> np.ndarray[Any, Any]:
    if storage == "uint8":
        return packed(rows.mul_(255).round_().to(torch.uint8)).numpy()
    return rows.numpy().astype(_NUMPY[storage])
