"""What does the HTML report of an ``explain`` or ``segment`` run show? See ``ssgcam.report.html``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from ssgcam.bulk.export import Mask
from ssgcam.bulk.inputs import Failure
from ssgcam.bulk.mask_files import mask_overlay
from ssgcam.images import read_image
from ssgcam.preprocessing import Preprocessing
from ssgcam.report.html import Gallery, Picture, Plot, Section, Table, write_html

#: Most pictures and most rows of a table in a report.
MOST_PICTURES, MOST_ROWS = 100, 2000
#: Longer side of the pictures that are drawn for a report.
SIDE = 720
#: A mask with a lower stability is counted in a warning.
LOW_STABILITY = 0.5


def explain_report(
    path: str | Path,
    folder: Path,
    entries: Sequence[Mapping[str, Any]],
    failures: Sequence[Failure],
    settings: Mapping[str, Any],
) -> None:
    """Write the report of an ``explain`` run.

    Args:
        path: The file.
        folder: Of the outputs.
        entries: What ``explain.json`` says of each photo.
        failures: Photos without outputs.
        settings: Of the run.
    """
    maps = [
        (Path(entry["photo"]).name, one["name"] or f"class {one['class']}", one)
        for entry in entries
        for one in entry["maps"]
    ]
    warnings = [failure.reason for failure in failures]
    if without := sum(not one["evidence"] for _, _, one in maps):
        warnings.append(f"maps without evidence for their class: {without} of {len(maps)}")
    rows = [
        [photo, name, one["probability"], "yes" if one["evidence"] else "no", one["note"]]
        for photo, name, one in maps
    ]
    pictures = []
    for photo, name, one in maps[:MOST_PICTURES]:
        picture = _small(read_image(folder / one.get("against", one["overlay"])))
        pictures.append(Picture(picture, photo, f"{name}, probability {one['probability']:.3f}"))
    sections: list[Section] = [
        Gallery("Heat maps", pictures, _shown(pictures, maps, "maps")),
        Plot("Class probability", [_histogram([row[2] for row in rows], "probability")]),
        _table("Photos and classes", ["photo", "class", "probability", "evidence", "note"], rows),
    ]
    method = settings["method"].get("name", "recipe")
    about = f"method {method}. Photos explained: {len(entries)}, failed: {len(failures)}."
    summary = [f"{settings['model']['name']}, {about}"]
    title = f"Heat maps of {len(entries)} photos"
    write_html(path, title, sections, summary=summary, warnings=warnings, settings=settings)


def segment_report(
    path: str | Path,
    masks: Sequence[Mask],
    preprocessing: Preprocessing,
    failures: Sequence[Failure],
    names: Sequence[str],
    settings: Mapping[str, Any],
    warnings: Sequence[str] = (),
) -> None:
    """Write the report of a ``segment`` run.

    Args:
        path: The file.
        masks: The photos and their masks.
        preprocessing: Reads the photos as the network saw them.
        failures: Photos without a mask.
        names: Of the classes; ``names[k]`` has value k + 1 in the masks.
        settings: Of the run.
        warnings: Sentences from the run.
    """
    masks = sorted(masks, key=lambda mask: mask.predicted_iou)
    objects = [one for mask in masks for one in mask.objects]
    empty = sum(not mask.objects for mask in masks)
    unstable = sum(one["stability"] < LOW_STABILITY for one in objects)
    warnings = [*warnings, *(failure.reason for failure in failures)]
    if empty > len(masks) / 2:
        warnings.append(f"empty masks: {empty} of {len(masks)}; a lower gate fills more of them")
    if unstable:
        warnings.append(
            f"masks that depend much on the threshold (stability below {LOW_STABILITY}): {unstable}; "
            "look at the first pictures"
        )
    unusual = sum("unusual" in mask.facts for mask in masks)
    if unusual:
        warnings.append(f"photos that are unlike the calibration images of the recipe: {unusual}")
    rows: list[list[Any]] = []
    pictures: list[Picture] = []
    for mask in masks:
        width, height = mask.facts["size"]
        caption = []
        for one in mask.objects or mask.facts["classes"][:1]:
            name = one["name"] or names[one["value"] - 1]
            share, iou = one["pixels"] / (width * height), one["predicted_iou"]
            rows.append([mask.image.name, name, one["probability"], iou, one["stability"], share])
            if share:
                about = f"predicted IoU {iou:.2f}, probability {one['probability']:.2f}"
                caption.append(f"{name}: {about}")
        if len(pictures) < MOST_PICTURES:
            photo = _small(preprocessing.read(mask.image.path))
            labels = Image.fromarray(mask.labels()).resize(photo.size, Image.Resampling.NEAREST)
            picture = mask_overlay(photo, np.asarray(labels))
            pictures.append(Picture(picture, mask.image.name, "; ".join(caption) or "empty"))
    by_class = []
    for value, name in enumerate(names, 1):
        if of_class := [one["predicted_iou"] for one in objects if one["value"] == value]:
            by_class.append([value, name, len(of_class), median(of_class)])
    plots = [
        _histogram([one["predicted_iou"] for one in objects], "predicted IoU"),
        _histogram([one["probability"] for one in objects], "probability"),
        _histogram([row[-1] for row in rows], "fraction of the photo in the mask"),
    ]
    note = (
        "The predicted IoU orders masks; it is not calibrated. Stability is the IoU of the masks at a "
        "threshold 0.05 lower and 0.05 higher."
    )
    shown = _shown(pictures, masks, "photos")
    columns = ["photo", "class", "probability", "predicted IoU", "stability", "fraction of photo"]
    sections: list[Section] = [
        Gallery("Masks, the least sure first", pictures, f"{note} {shown}"),
        Plot(
            "Distributions", plots, "Predicted IoU and probability are of masks that are not empty."
        ),
        Table("Classes", ["value", "class", "photos", "median predicted IoU"], by_class),
        _table("Photos", columns, rows),
    ]
    used = f"threshold {settings['rule']['threshold']:g}, gate {settings['rule']['gate']:g}"
    done = f"Photos segmented: {len(masks)}, with an empty mask: {empty}, failed: {len(failures)}."
    summary = [f"{settings['model']['name']}, {used}. {done}"]
    title = f"Masks of {len(masks)} photos"
    write_html(path, title, sections, summary=summary, warnings=warnings, settings=settings)


def _small(picture: Image.Image) -> Image.Image:
    """A picture, made no larger than a report's pictures."""
    picture.thumbnail((SIDE, SIDE))
    return picture


def _histogram(values: Sequence[float], label: str) -> Figure:
    figure = Figure((3.3, 2.2))
    axes = figure.add_subplot()
    axes.hist(values, bins=20, range=(0, 1), color="#0b62a5")
    axes.set(xlabel=label, ylabel="count", xlim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _table(title: str, columns: Sequence[str], rows: Sequence[list[Any]]) -> Table:
    shown = rows[:MOST_ROWS]
    return Table(title, columns, shown, _shown(shown, rows, "rows"))


def _shown(shown: Sequence[object], every: Sequence[object], what: str) -> str:
    return f"{len(shown)} of {len(every)} {what} are shown." if len(shown) < len(every) else ""
