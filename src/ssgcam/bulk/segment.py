"""Masks of many photos, at the photos' own size, from a recipe or from a method's maps.

OUT/a/1.png             the mask of a/1.jpg, indexed: 0 background, k the k-th class
OUT/overlays/a/1.jpg    the photo with its mask over it, if asked for
OUT/manifest.jsonl      a line for each photo, see ``bulk.manifest``
OUT/segment.json        the settings, and which value stands for which class
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from ssgcam.bulk.inputs import Failure, InputImage, nested_inputs
from ssgcam.bulk.mask_files import voc_colors, write_coco
from ssgcam.bulk.segment_task import SegmentTask, mask_name
from ssgcam.bulk.segmenter import DEFAULT_GATE, DEFAULT_THRESHOLD, MaskRule, Segmenter
from ssgcam.bulk.stream import Engine, process, run
from ssgcam.bulk.windows import Windows
from ssgcam.cam import CAM
from ssgcam.core.network import unwrap
from ssgcam.errors import SsgcamError
from ssgcam.files import write_json
from ssgcam.manifest import Entry, Manifest
from ssgcam.models import LoadedModel, check_network
from ssgcam.recipe import BoundRecipe, Recipe, parameter_hash

MANIFEST = "manifest.jsonl"
SETTINGS = "segment.json"


@dataclass(frozen=True)
class Segmented:
    """What became of a run.

    Attributes:
        total: Photos that were asked for.
        before: How many of them an earlier run had finished.
        empty: How many masks have no object in them.
        failures: Photos that got no mask, each with one sentence.
        class_names: ``class_names[k]`` is value k + 1 of the masks.
        threshold: That was used.
        gate: That was used.
    """

    total: int
    before: int
    empty: int
    failures: tuple[Failure, ...]
    class_names: tuple[str, ...]
    threshold: float
    gate: float


def segment_images(
    images: str | Path | Iterable[str | Path],
    model: LoadedModel | nn.Module,
    out: str | Path,
    *,
    recipe: Recipe | str | Path | None = None,
    cam: CAM | None = None,
    fast: bool = False,
    classes: Sequence[int | str] | str | None = None,
    threshold: float | None = None,
    gate: float | None = None,
    window: int | None = None,
    overlap: float = 0.5,
    overlays: bool = False,
    coco: str | Path | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    device: torch.device | None = None,
    engine: Engine | None = None,
    failed: Callable[[Failure], object] | None = None,
    progress: bool = False,
) -> Segmented:
    """Write a mask for each photo; what an earlier run with the same settings finished is kept.

    Args:
        images: Files, folders (searched) and globs.
        model: The network; a bare module gets ImageNet's preprocessing at 224 pixels.
        out: The folder to write to, see the top of this module.
        recipe: From a search: maps, classes, threshold and gate.
        cam: The maps where there is no recipe; SSG-CAM of the ``auto`` layers by default.
        fast: As for :class:`ssgcam.CAM`, of the recipe or the default maps; a ``cam`` has its own.
        classes: To mark, by index or name; the k-th becomes value k. ``"all"`` those of the network,
            ``"top"`` the most probable one of each photo. By default the recipe's, else all.
        threshold: Of the maps in [0, 1], the background's score where there are several classes; by
            default the recipe's, else 0.15.
        gate: Lowest probability of a class that is present; by default the recipe's, else 0.5.
        window: Look through overlapping windows of this side, in pixels of the photo.
        overlap: Share of a window's side that the next one has in common with it, 0 to 0.9.
        overlays: Write overlays as well.
        coco: Write all masks to this file as well, as COCO annotations.
        batch_size: Photos, or windows, in each pass of the network.
        workers: Threads that read and write; one for each processor, at most 8, by default.
        device: Where the network is to run; where it is if None.
        engine: Who works; this process by default, or a ``bulk.ray_engine.RayEngine``.
        failed: Called with each photo that gets no mask, as it occurs.
        progress: Show a bar on a terminal.

    Returns:
        Counts, failures and what the values stand for.

    Raises:
        SsgcamError: If a setting doesn't fit, or the outputs can't be written. A photo that can't be
            read does not stop the others.
    """
    loaded = model if isinstance(model, LoadedModel) else LoadedModel(model, type(model).__name__)
    out = Path(out).absolute()
    patterns = [images] if isinstance(images, (str, Path)) else list(images)
    if batch_size < 1:
        raise SsgcamError(f"batch_size is {batch_size}; give at least 1")
    inputs, left_out = nested_inputs(patterns, out)
    noise, count = check_network(loaded, device)
    explainer = _explainer(loaded, recipe, cam, fast)
    found = explainer.recipe if isinstance(explainer, BoundRecipe) else None
    rule = MaskRule(
        classes=_classes(loaded, classes, found, count),
        threshold=_first(threshold, found.threshold if found else DEFAULT_THRESHOLD),
        gate=_first(gate, found.gate if found else DEFAULT_GATE),
        windows=None if window is None else Windows(window, overlap),
    )
    segmenter = Segmenter(explainer, loaded.preprocessing, rule, batch_size)
    task = SegmentTask(segmenter, loaded.class_names, out, overlays)
    settings = _settings(loaded, explainer, rule, overlays, noise)
    names = tuple(_name(loaded, index) for index in rule.classes) or ("most probable class",)
    manifest = Manifest(out / MANIFEST, settings)

    def report(image: InputImage, entry: Entry) -> None:
        if entry.error and failed is not None:
            failed(Failure(image.path, entry.error))

    for failure in left_out:
        if failed is not None:
            failed(failure)
    try:
        outcome = run(
            inputs,
            task,
            manifest,
            engine=engine or partial(process, workers=workers),
            on_done=report,
            progress=progress,
        )
    finally:  # not before: another run may be writing there
        about = {**settings, "masks": _legend(rule, names), "versions": versions()}
        write_json(out / SETTINGS, about)
    failures = (*left_out, *outcome.failures)
    if coco is not None:
        missing = {failure.path for failure in failures}
        masks = ((i.name, out / mask_name(i)) for i in inputs if i.path not in missing)
        write_coco(Path(coco), masks, names, workers)
    return Segmented(
        total=outcome.total + len(left_out),
        before=outcome.before,
        empty=_empty(manifest, inputs),
        failures=failures,
        class_names=names,
        threshold=rule.threshold,
        gate=rule.gate,
    )


def _explainer(
    model: LoadedModel, recipe: Recipe | str | Path | None, cam: CAM | None, fast: bool
) -> CAM | BoundRecipe:
    if recipe is None:
        return cam or CAM(model, fast=fast)
    if cam is not None:
        raise SsgcamError("recipe and cam were both given; a recipe has its own layers and method")
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    return recipe.bind(model, fast=fast)


def _classes(
    model: LoadedModel,
    wanted: Sequence[int | str] | str | None,
    recipe: Recipe | None,
    count: int,
) -> tuple[int, ...]:
    if wanted is None and recipe is not None and recipe.classes:
        return recipe.classes
    if wanted == "top":
        return ()
    if wanted is None or wanted == "all":
        return tuple(range(count))
    names = wanted.split(",") if isinstance(wanted, str) else wanted
    indices = tuple(
        model.class_index(name.strip() if isinstance(name, str) else name) for name in names
    )
    for index in indices:
        if not 0 <= index < count:
            raise SsgcamError(
                f"class {index} is out of range: '{model.name}' has {count} classes, "
                f"0 to {count - 1}"
            )
    if not indices:
        raise SsgcamError("classes is empty; name at least one, or 'all' or 'top'")
    return indices


def _first(given: float | None, otherwise: float) -> float:
    return otherwise if given is None else given


def _name(model: LoadedModel, index: int) -> str:
    return model.class_names[index] if model.class_names else f"class {index}"


def _settings(
    model: LoadedModel,
    explainer: CAM | BoundRecipe,
    rule: MaskRule,
    overlays: bool,
    noise: Tensor,
) -> dict[str, Any]:
    """All that the masks depend on beside the photos."""
    return {
        "network": {
            "name": model.name,
            "parameters": parameter_hash(unwrap(model.network)),
            "preprocessing": asdict(model.preprocessing),
        },
        "maps": (
            {"recipe": asdict(explainer.recipe)}
            if isinstance(explainer, BoundRecipe)
            else _method(explainer, noise)
        ),
        "fast": (explainer.cam if isinstance(explainer, BoundRecipe) else explainer).fast,
        "rule": asdict(rule),
        "overlays": overlays,
    }


def _method(cam: CAM, noise: Tensor) -> dict[str, Any]:
    if cam.target_function is not None:
        raise SsgcamError("masks need class probabilities; use a named target, not a function")
    ssg = cam.ssg if isinstance(cam.ssg, Sequence) else [cam.ssg]
    return {
        "method": cam.method_name,
        "layers": list(cam.layers(noise)),
        "ssg": [asdict(settings) for settings in ssg] if cam.method_name == "ssg_cam" else None,
        "gamma": cam.gamma,
        "layer_weights": cam.layer_weights,
        "fusion": cam.fusion,
        "target": asdict(cam.target),
        "output": cam.output,
    }


def _legend(rule: MaskRule, names: Sequence[str]) -> list[dict[str, Any]]:
    """Which value stands for what, in which color."""
    indices = [None, *(rule.classes or [None])]
    return [
        {"value": value, "class": index, "name": name, "color": list(voc_colors()[value])}
        for value, (index, name) in enumerate(zip(indices, ["background", *names], strict=True))
    ]


def versions() -> dict[str, str]:
    """Of what the outputs were made with."""
    from ssgcam.version import __version__

    return {
        "ssgcam": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
    }


def _empty(manifest: Manifest, images: Sequence[InputImage]) -> int:
    """How many of the images' masks have no object in them."""
    names = {image.name for image in images}
    return sum(
        not any(found["pixels"] for found in entry.facts["classes"])
        for entry in manifest.entries()
        if entry.unit in names and not entry.error
    )
