"""How do many photos become masks of their own size, from a recipe or from a method's maps?

OUT/a/1.png             the mask of a/1.jpg, indexed: 0 background, k the k-th class
OUT/overlays/a/1.jpg    the photo with its mask over it, if asked for
OUT/maps/a/1.png        the map, 16 bits, if asked for; with several classes a/1_VALUE.png
OUT/inner/, outer/, undecided/   the masks of the recipe's guarantee; in undecided/ 255 is between both
OUT/review/             the photos and masks that are least sure, if asked for
OUT/manifest.jsonl      a line for each photo, see ``ssgcam.manifest``
OUT/segment.json        the settings, and which value stands for which class
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssgcam.bulk.export import ExportFormat, Mask, export_masks
from ssgcam.bulk.inputs import InputImage, list_inputs
from ssgcam.bulk.mask_files import voc_colors
from ssgcam.bulk.reports import segment_report
from ssgcam.bulk.segmenter import MaskRule, Segmenter
from ssgcam.bulk.settings import network_settings
from ssgcam.bulk.stream import Engine, Outcome, process, run
from ssgcam.bulk.windows import Windows
from ssgcam.cam import CAM
from ssgcam.core.settings import check_choice
from ssgcam.errors import SsgcamError
from ssgcam.files import write_json, written_whole
from ssgcam.manifest import MANIFEST, Entry, Manifest
from ssgcam.models import LoadedModel, as_loaded, with_settings
from ssgcam.recipe import Guarantee, Recipe
from ssgcam.report.html import check_report
from ssgcam.segmentation_model import load_segmenter
from ssgcam.version import versions

SETTINGS = "segment.json"


@dataclass(frozen=True)
class Segmented(Outcome):
    """The outcome of a run.

    Attributes:
        empty: How many masks have no object in them.
        class_names: ``class_names[k]`` is value k + 1 of the masks.
        threshold: The threshold that was used.
        gate: The gate that was used.
        guarantee: What the inner and outer masks guarantee; empty if there are none.
        unusual: How many photos are unlike the calibration images of the recipe.
    """

    empty: int
    class_names: tuple[str, ...]
    threshold: float
    gate: float
    guarantee: str
    unusual: int


def segment_images(
    images: str | Path | Iterable[str | Path],
    model: LoadedModel | nn.Module | None,
    out: str | Path,
    *,
    segmenter: str | Path | None = None,
    recipe: Recipe | str | Path | None = None,
    cam: CAM | None = None,
    fast: bool = False,
    classes: Sequence[int | str] | int | str | None = None,
    threshold: float | None = None,
    gate: float | None = None,
    window: int | None = None,
    overlap: float = 0.5,
    overlays: bool = False,
    soft: bool = False,
    min_object: int | None = None,
    export: Sequence[ExportFormat] = (),
    review: int = 0,
    mirror: bool = False,
    report: str | Path | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    device: torch.device | None = None,
    engine: Engine | None = None,
    on_done: Callable[[InputImage, Entry], object] | None = None,
    progress: bool = False,
) -> Segmented:
    """Write a mask for each photo; what an earlier run with the same settings finished is kept.

    Args:
        images: Files, folders (searched) and globs.
        model: The network; a bare module gets ImageNet's preprocessing at 224 pixels. None with a
            segmentation network.
        out: The folder to write to, see the top of this module.
        segmenter: The file of a segmentation network, see :mod:`ssgcam.training.segmenter`, in place of
            a classifier's maps. Its classes are segmented at the threshold 0.5 and the gate 0 by
            default.
        recipe: From a search: maps, classes, threshold and gate.
        cam: The maps where there is no recipe; SSG-CAM of the ``auto`` layers by default.
        fast: As for :class:`ssgcam.CAM`, of the recipe or the default maps; a ``cam`` has its own.
        classes: The classes to segment, by index or name; the k-th becomes value k. ``"all"`` those of
            the network, ``"top"`` the most probable one of each photo. By default the recipe's, else
            all.
        threshold: Of the maps in [0, 1], the background's score where there are several classes; by
            default the recipe's, else 0.15.
        gate: Lowest probability of a class that is present; by default the recipe's, else 0.5.
        window: Explain overlapping windows of this side, in pixels of the photo. Threshold, gate and
            smallest object are then by default those of the recipe's ``window_rule``, if it is for
            these windows; else a warning says that nothing limits false objects.
        overlap: Fraction of a window's side that the next one overlaps, 0 to 0.9.
        overlays: Write overlays as well.
        soft: Write the maps as well, as 16-bit PNG: 65535 is the value 1, compared with the threshold.
        min_object: Objects of fewer pixels become background; by default those of the recipe's
            ``window_rule`` in windows, else none.
        export: Write all objects for other tools as well, see :mod:`ssgcam.bulk.export`.
        review: Copy so many photos with the lowest predicted IoU, and their masks, to ``out/review``,
            where they can be corrected and used for a search.
        mirror: Compare each mask with that of the mirrored photo, for a better predicted IoU in twice
            the time.
        report: Write an HTML report to this file as well.
        batch_size: Photos, or windows, in each pass of the network.
        workers: Threads that read and write; one for each processor, at most 8, by default.
        device: Where the network runs; where it is if None.
        engine: Who processes the photos; this process by default, or a ``bulk.ray_engine.RayEngine``.
        on_done: Called with each photo that is finished or has failed, and its line of the manifest.
        progress: Show a bar on a terminal.

    Returns:
        Counts, failures and what the values stand for.

    Raises:
        SsgcamError: If a setting doesn't fit, or the outputs can't be written. A photo that can't be
            read does not stop the others.
    """
    check_report(report)
    if segmenter is not None:
        if not all(given is None for given in (model, recipe, cam, classes)):
            raise SsgcamError(
                "a segmentation network has its own classes; leave model, recipe, method and classes out"
            )
        model = load_segmenter(segmenter)
    elif model is None:
        raise SsgcamError("there is no network; give a model, or a segmentation network")
    loaded = as_loaded(model)
    out = Path(out).absolute()
    if batch_size < 1:
        raise SsgcamError(f"batch_size is {batch_size}; give at least 1")
    for name in export:
        check_choice("export", name, ExportFormat)
    inputs = list_inputs([images] if isinstance(images, (str, Path)) else images, out)
    if recipe is not None and cam is not None:
        raise SsgcamError("recipe and cam were both given; a recipe has its own layers and method")
    found = Recipe.load(recipe) if isinstance(recipe, (str, Path)) else recipe
    if found is not None and found.network.reading is not None:
        loaded = with_settings(loaded, reading=found.network.reading)
    if segmenter is None and found is None:
        cam = cam or CAM(loaded, fast=fast)
    if device is not None:
        loaded.network.to(device)
    network, checked = network_settings(loaded, found or cam, out / MANIFEST, fast=fast)
    count = network["resolved"]["classes"]
    given = {"threshold": threshold, "gate": gate, "min_object": min_object}
    windows = None if window is None else Windows(window, overlap)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        explainer = cam if found is None else found.bind(loaded, fast=fast, run=not checked)
        rule = MaskRule(_classes(loaded, classes, found, count), windows=windows)
        if segmenter is not None:
            rule = replace(rule, threshold=0.5, gate=0.0)
        rule = _mask_rule(found, rule, {k: v for k, v in given.items() if v is not None})
    for warning in caught:
        warnings.warn(warning.message, stacklevel=2)
    promise = _promise(rule.guarantee) if rule.guarantee else ""
    names = loaded.class_names or tuple(f"class {index}" for index in range(count))
    value_names = tuple(names[index] for index in rule.classes) or ("most probable class",)
    outputs = {"overlays": overlays, "soft": soft, "mirror": mirror}
    settings = network | {"rule": asdict(rule)} | outputs
    manifest = Manifest(out / MANIFEST, settings)
    task = Segmenter(loaded, rule, explainer, out=out, images_at_once=batch_size, **outputs)
    engine = engine or partial(process, workers=workers)
    try:
        outcome = run(inputs, task, manifest, engine=engine, on_done=on_done, progress=progress)
    finally:  # not before: another run may be writing there
        legend = _legend(rule, value_names)
        about = {"masks": legend, "versions": versions(), "guarantee": promise}
        write_json(out / SETTINGS, settings | about)
    entries = {entry.unit: entry for entry in manifest.entries() if not entry.error}
    masks = [
        Mask(image, out / entry.outputs[0], entry.facts)
        for image in inputs
        if (entry := entries.get(image.name))
    ]
    export_masks(export, masks, value_names, out)
    if review:
        _copy_for_review(masks, review, out)
    if report is not None:
        known = [str(warning.message) for warning in caught]
        segment_report(
            report, masks, loaded.preprocessing, outcome.failures, value_names, settings, known
        )
    return Segmented(
        **vars(outcome),
        empty=sum(not mask.objects for mask in masks),
        class_names=value_names,
        threshold=rule.threshold,
        gate=rule.gate,
        guarantee=promise,
        unusual=sum("unusual" in mask.facts for mask in masks),
    )


def _promise(guarantee: Guarantee) -> str:
    """What the inner and outer masks guarantee, one sentence."""
    inner = "the inner mask is always empty"
    if guarantee.inner_threshold is not None:
        inner = f"the inner mask spills over by at most {guarantee.alpha:g} of the object's area"
    kind = ", approximate" if guarantee.kind == "folds" else ""
    return (
        f"the outer mask misses on average at most {guarantee.alpha:g} of an object and {inner}, for "
        f"photos like the {guarantee.units} {guarantee.unit}s it was calibrated on "
        f"({guarantee.kind}{kind})"
    )


def _mask_rule(recipe: Recipe | None, rule: MaskRule, given: dict[str, Any]) -> MaskRule:
    """The rule of a run; warns where a recipe's window rule or guarantee does not fit.

    Args:
        recipe: Whose threshold and gate, or window rule and guarantee, are used where they fit.
        rule: Classes and windows of the run, and what holds without a recipe.
        given: Fields of the rule that the user sets.
    """
    if recipe is None:
        return replace(rule, **given)
    own, windows = recipe.window_rule, rule.windows
    if own and windows == Windows(own.side, own.overlap):
        rule = replace(rule, threshold=own.threshold, gate=own.gate, min_object=own.smallest_object)
    else:
        rule = replace(rule, threshold=recipe.threshold, gate=recipe.gate)
        has = "has none"
        if own:
            has = f"has one for windows of {own.side} pixels that overlap by {own.overlap:g}"
        if windows:
            warnings.warn(
                "threshold, gate and smallest object for windows over photos come from photos "
                f"without the object, and the recipe {has}; expect false objects, or search with "
                "--negatives and this --window",
                stacklevel=2,
            )
    rule = replace(rule, **given)
    if recipe.guarantee is None:
        return rule
    if windows is None and (rule.classes, rule.gate) == (recipe.classes, recipe.gate):
        return replace(rule, guarantee=recipe.guarantee)
    warnings.warn(
        "the recipe's guarantee is for whole photos, its class and its gate, so no inner and outer "
        "masks are written",
        stacklevel=2,
    )
    return rule


def _classes(
    model: LoadedModel,
    wanted: Sequence[int | str] | int | str | None,
    recipe: Recipe | None,
    count: int,
) -> tuple[int, ...]:
    if wanted is None and recipe is not None and recipe.classes:
        return recipe.classes
    given = [wanted] if isinstance(wanted, (int, str)) else list(wanted or ["all"])
    if given == ["top"]:
        return ()
    if given == ["all"]:
        return tuple(range(count))
    return tuple(model.class_index(each, count) for each in given)


def _copy_for_review(masks: Sequence[Mask], count: int, out: Path) -> None:
    """Copy the photos with the least sure masks, and these, in the layout of a data set."""
    full = [mask for mask in masks if mask.objects]
    for mask in sorted(full, key=lambda mask: mask.predicted_iou)[:count]:
        copies = {
            f"images/{mask.image.output}{mask.image.path.suffix}": mask.image.path,
            f"masks/{mask.image.output}.png": mask.path,
        }
        for name, source in copies.items():
            if not (out / "review" / name).exists():  # it may have been corrected
                with written_whole(out / "review" / name) as temporary:
                    shutil.copyfile(source, temporary)


def _legend(rule: MaskRule, names: Sequence[str]) -> list[dict[str, Any]]:
    """Class, name and color of each mask value."""
    indices = [None, *(rule.classes or [None])]
    return [
        {"value": value, "class": index, "name": name, "color": list(voc_colors()[value])}
        for value, (index, name) in enumerate(zip(indices, ["background", *names], strict=True))
    ]
