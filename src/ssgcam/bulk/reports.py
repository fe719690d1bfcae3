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

from ssgcam.bulk.inputs import Failure, InputImage
from ssgcam.bulk.mask_files import mask_overlay
from ssgcam.bulk.settings import versions
from ssgcam.data.masks import read_raw_mask
from ssgcam.images import read_image
from ssgcam.report.html import Gallery, Picture, Plot, Section, Table, write_html

REPORT = "report.html"
#: Most pictures and most rows of a table in a report.
MOST_PICTURES, MOST_ROWS = 100, 2000
#: Longer side of the pictures that are drawn for a report.
SIDE = 720
#: A mask with a lower stability is counted in a warning.
LOW_STABILITY = 0.5


def explain_report(
    path: Path,
    entries: Sequence[Mapping[str, Any]],
    failures: Sequence[Failure],
    settings: Mapping[str, Any],
) -> None:
    """Write the report of an ``explain`` run.

    Args:
        path: The file, in the folder of the outputs.
        entries: What ``explain.json`` says of each photo.
        failures: Photos without outputs.
        settings: Of the run.
    """
    maps = [(entry["photo"], found) for entry in entries for found in entry["maps"]]
    without = [found for _, found in maps if not found["evidence"]]
    warnings = [failure.reason for failure in failures]
    if without:
        warnings.append(f"maps without evidence for their class: {len(without)} of {len(maps)}")
    rows = [
        [Path(photo).name, _name(one), one["probability"], _yes(one["evidence"]), one["note"]]
        for photo, one in maps
    ]
    pictures = [
        Picture(
            _opened(path.parent / found["overlay"]),
            Path(photo).name,
            f"{_name(found)}, probability {found['probability']:.3f}",
        )
        for photo, found in maps[:MOST_PICTURES]
    ]
    probabilities = [found["probability"] for _, found in maps]
    sections: list[Section] = [
        Gallery("Heat maps", pictures, _shown(len(pictures), len(maps), "maps")),
        Plot("Class probability", [_histogram(probabilities, "probability")]),
        Table(
            "Photos and classes",
            ["photo", "class", "probability", "evidence", "note"],
            rows[:MOST_ROWS],
            _shown(min(len(rows), MOST_ROWS), len(rows), "rows"),
        ),
    ]
    write_html(
        path,
        f"Heat maps of {len(entries)} photos",
        sections,
        summary=[
            f"{settings['model']['name']}, method {settings['method'].get('name', 'recipe')}. "
            f"Photos explained: {len(entries)}, failed: {len(failures)}."
        ],
        warnings=warnings,
        settings=settings,
        versions=versions(),
    )


def segment_report(
    path: Path,
    images: Sequence[tuple[InputImage, Path, Mapping[str, Any]]],
    failures: Sequence[Failure],
    names: Sequence[str],
    settings: Mapping[str, Any],
    warnings: Sequence[str] = (),
) -> None:
    """Write the report of a ``segment`` run.

    Args:
        path: The file.
        images: Each photo, its mask file and the facts in the manifest.
        failures: Photos without a mask.
        names: Of the classes; ``names[k]`` has value k + 1 in the masks.
        settings: Of the run.
        warnings: Sentences from the run.
    """
    found = [(image, mask, _in_mask(facts), facts) for image, mask, facts in images]
    found.sort(key=lambda each: min((one["stability"] for one in each[2]), default=2.0))
    objects = [one for _, _, classes, _ in found for one in classes]
    empty = sum(not classes for _, _, classes, _ in found)
    unstable = sum(one["stability"] < LOW_STABILITY for one in objects)
    warnings = [*warnings, *(failure.reason for failure in failures)]
    if empty > len(found) / 2:
        warnings.append(f"empty masks: {empty} of {len(found)}; a lower gate fills more of them")
    if unstable:
        warnings.append(
            f"masks that depend much on the threshold (stability below {LOW_STABILITY}): {unstable}; "
            "look at the first pictures"
        )
    pictures: list[Picture] = []
    rows: list[list[Any]] = []
    for image, mask, classes, facts in found:
        width, height = facts["size"]
        if len(pictures) < MOST_PICTURES:
            caption = "; ".join(
                f"{one['name'] or names[one['value'] - 1]}: stability {one['stability']:.2f}, "
                f"probability {one['probability']:.2f}"
                for one in classes
            )
            pictures.append(Picture(_segmented(image, mask), image.name, caption or "empty"))
        for one in classes or facts["classes"][:1]:
            share = one["pixels"] / (width * height)
            name = one["name"] or names[one["value"] - 1]
            rows.append([image.name, name, one["probability"], one["stability"], share])
    by_class: list[list[Any]] = []
    for value, name in enumerate(names, 1):
        of_class = [one for one in objects if one["value"] == value]
        if of_class:
            middle = median(one["stability"] for one in of_class)
            by_class.append([value, name, len(of_class), middle])
    plots = [
        _histogram([one["stability"] for one in objects], "stability"),
        _histogram([one["probability"] for one in objects], "probability"),
        _histogram([row[-1] for row in rows], "fraction of the photo in the mask"),
    ]
    sections: list[Section] = [
        Gallery(
            "Masks, the least stable first",
            pictures,
            "Stability is the IoU of the masks at a threshold 0.05 lower and 0.05 higher. "
            + _shown(len(pictures), len(found), "photos"),
        ),
        Plot(
            "Distributions", plots, "Stability and probability are of the masks that are not empty."
        ),
        Table("Classes", ["value", "class", "photos", "median stability"], by_class),
        Table(
            "Photos",
            ["photo", "class", "probability", "stability", "fraction of photo"],
            rows[:MOST_ROWS],
            _shown(min(len(rows), MOST_ROWS), len(rows), "rows"),
        ),
    ]
    rule = settings["rule"]
    write_html(
        path,
        f"Masks of {len(found)} photos",
        sections,
        summary=[
            f"{settings['model']['name']}, threshold {rule['threshold']:g}, gate {rule['gate']:g}. "
            f"Photos segmented: {len(found)}, with an empty mask: {empty}, failed: {len(failures)}."
        ],
        warnings=warnings,
        settings=settings,
        versions=versions(),
    )


def _in_mask(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [one for one in facts["classes"] if one["pixels"]]


def _segmented(image: InputImage, mask: Path) -> Image.Image:
    photo = read_image(image.path)
    photo.thumbnail((SIDE, SIDE))
    labels = Image.fromarray(read_raw_mask(mask).astype(np.uint8))
    return mask_overlay(photo, np.asarray(labels.resize(photo.size, Image.Resampling.NEAREST)))


def _opened(path: Path) -> Image.Image:
    picture = read_image(path)
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


def _name(found: Mapping[str, Any]) -> str:
    return found["name"] or f"class {found['class']}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _shown(count: int, total: int, what: str) -> str:
    return "" if count == total else f"{count} of {total} {what} are shown."
