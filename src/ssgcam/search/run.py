"""DE-SSG-CAM from a few labelled images to a recipe and an honest report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ssgcam.core.blocks import block_layers
from ssgcam.core.capture import unwrap
from ssgcam.core.layers import resolve
from ssgcam.core.maps import resize, threshold
from ssgcam.data import SampleSet
from ssgcam.errors import SsgcamError
from ssgcam.models import LoadedModel
from ssgcam.recipe import Origin, Recipe, parameter_hash
from ssgcam.search.baselines import Mapped, rival_sweeps
from ssgcam.search.cache import MapCache, build_cache
from ssgcam.search.calibration import Examples, make_examples, warnings_for
from ssgcam.search.report import Report, Shown
from ssgcam.search.samples import Calibration
from ssgcam.search.scoring import Sweep
from ssgcam.search.settings import SearchSettings
from ssgcam.search.steps import Draft, Variant, choose_variant, draft, origin, variants
from ssgcam.search.validation import Contender, Table, compare, doubts, group_folds

Model = nn.Module | LoadedModel
Layers = Literal["auto", "all"] | Sequence[str | nn.Module]
BEST_LAYER = "SSG-CAM, best layer and settings"


@dataclass(frozen=True, eq=False)
class Found:
    """What a search gives.

    Attributes:
        recipe: To save and to bind.
        report: What was tried, on what, how sure.
    """

    recipe: Recipe
    report: Report


def search_recipe(
    model: Model,
    calibration: Calibration | SampleSet | Examples,
    layers: Layers = "auto",
    *,
    held_out: Calibration | SampleSet | Examples | None = None,
    target: int | None = None,
    boxes: Literal["filled", "ellipse"] = "filled",
    settings: SearchSettings | None = None,
    cache: Path | str | None = None,
    resume: bool = False,
    progress: bool = False,
    **changes: Any,
) -> Found:
    """Search the layers, their settings and their weights that give the best masks (DE-SSG-CAM).

    Args:
        model: The network, or what :func:`ssgcam.load_model` returns.
        calibration: Ten to two hundred images with masks or boxes; images without the object calibrate
            the class gate.
        layers: Names or modules; ``"auto"``: the outputs of at most 12 blocks, see
            ``core.blocks.block_layers``; ``"all"``: of every block.
        held_out: Labelled images of other groups, to score the result on.
        target: The network's class that the masks show, where the data don't say it.
        boxes: What masks are made of boxes.
        settings: Everything else.
        cache: Folder for the maps and the journal; both are used again by the same search.
        resume: Go on with a search that was killed, from its journal in ``cache``.
        progress: Show progress bars.
        **changes: Fields of :class:`SearchSettings` to change, such as ``generations=60, seed=0``.

    Returns:
        The recipe and its report. Ctrl-C keeps the best so far; the report says so.

    Raises:
        SsgcamError: If the images can't be used (see ``search.calibration.make_examples``), a layer
            doesn't exist, or a journal belongs to another search.
    """
    settings = replace(settings or SearchSettings(), **changes)
    if resume and cache is None:
        raise SsgcamError("a search goes on from its journal; name the cache folder that holds it")
    examples = _examples(calibration, model, target, boxes, settings)
    other = None
    if held_out is not None:
        other = _examples(held_out, model, target, boxes, settings, any_count=True)
    names = _layers(model, layers, examples)
    folder = None if cache is None else Path(cache)
    maps = _cached(model, examples, names, settings, folder, progress)
    journal = (
        None if folder is None else folder / f"journal-{_key(model, examples, names, settings)}"
    )

    def search(title: str, rows: list[int] | None = None) -> Draft:
        return draft(
            model,
            maps,
            examples,
            settings,
            rows=rows,
            journal=None if journal is None else journal.with_name(f"{journal.name}-{title}.jsonl"),
            resume=resume,
            progress=progress,
            title=title,
        )

    main = search("search")
    with _said(progress, "views and refinement"):
        tried = variants(main.recipe, model, examples, settings)
    chosen = choose_variant(tried, settings.margin)
    folds = [] if main.evolved.interrupted else group_folds(examples, settings.folds)
    drafts = []
    for number, test in enumerate(folds):
        tested = set(test)
        rows = [row for row in range(len(examples)) if row not in tested]
        drafts.append(search(f"fold-{number + 1}", rows))
        if drafts[-1].evolved.interrupted:
            folds, drafts = [], []
            break
    with _said(progress, "comparison"):
        table, shown = _validated(
            model, examples, other, names, settings, main, drafts, folds, tried, chosen
        )
    recipe = replace(chosen.recipe, origin=_origin(examples, settings, main, chosen, table))
    fold_layers = [frozenset(layer.name for layer in each.recipe.layers) for each in drafts]
    doubtful = [*warnings_for(examples), *doubts(table, fold_layers)]
    if main.evolved.interrupted:
        doubtful.insert(0, "The search was interrupted: this is the best candidate so far.")
    if folds == [] and not main.evolved.interrupted and other is None:
        doubtful.append("Nothing was held out and there are no folds, so no score here is honest.")
    counts = {"calibration": _counts(examples)}
    if other is not None:
        counts["held-out"] = _counts(other)
    report = Report(
        recipe=recipe,
        fitness=settings.fitness,
        table=table,
        warnings=tuple(doubtful),
        variants=tuple((each.name, each.score) for each in tried),
        history=tuple(1 - cost for cost in main.evolved.history),
        evaluations=main.evolved.evaluations,
        fold_layers=tuple(tuple(sorted(layers)) for layers in fold_layers),
        counts=counts,
        interrupted=main.evolved.interrupted,
        shown=shown,
    )
    return Found(recipe, report)


def _examples(
    data: Calibration | SampleSet | Examples,
    model: Model,
    target: int | None,
    boxes: Literal["filled", "ellipse"],
    settings: SearchSettings,
    any_count: bool = False,
) -> Examples:
    if isinstance(data, Examples):
        return data
    return make_examples(
        data,
        model,
        target=target,
        boxes=boxes,
        batch_size=settings.batch_size,
        negatives_only=any_count,
    )


def _layers(model: Model, layers: Layers, examples: Examples) -> list[str]:
    network = unwrap(model.network if isinstance(model, LoadedModel) else model)
    if isinstance(layers, str):
        if layers not in ("auto", "all"):
            return resolve(network, [layers])
        device = next(iter(network.parameters()), torch.zeros(1)).device
        image = examples.images[:1].to(device)
        return block_layers(network, image, **({"most": None} if layers == "all" else {}))
    return resolve(network, layers)


def _cached(
    model: Model,
    examples: Examples,
    names: list[str],
    settings: SearchSettings,
    folder: Path | None,
    progress: bool,
) -> MapCache:
    with tqdm(total=len(examples), desc="maps", disable=not progress, unit="image") as bar:
        return build_cache(
            model,
            examples,
            names,
            grid=settings.grid,
            size=settings.size,
            score=settings.score,
            storage=settings.storage,
            limit=settings.memory,
            folder=folder,
            batch_size=settings.batch_size,
            progress=lambda done: bar.update(done - bar.n),
        )


def _key(model: Model, examples: Examples, names: list[str], settings: SearchSettings) -> str:
    network = model.network if isinstance(model, LoadedModel) else model
    content = [parameter_hash(network), examples.digest, names, settings.as_text()]
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _validated(
    model: Model,
    examples: Examples,
    other: Examples | None,
    names: list[str],
    settings: SearchSettings,
    main: Draft,
    drafts: list[Draft],
    folds: list[list[int]],
    tried: list[Variant],
    chosen: Variant,
) -> tuple[Table, tuple[Shown, ...]]:
    """All contenders' counts, the table and the pictures."""
    kind, batch = settings.fitness, settings.batch_size

    def swept(recipe: Recipe, data: Examples) -> Sweep:
        return Mapped.of(recipe.bind(model), data, batch).sweep(data, kind)

    rivals = rival_sweeps(model, examples, names, kind, batch)
    far = {} if other is None else rival_sweeps(model, other, names, kind, batch)
    contenders = [
        Contender(
            rival.name,
            "mean" if rival.layer is None else "ssg" if rival.method == "ssg_cam" else "single",
            sweep,
            far.get(rival),
        )
        for rival, sweep in rivals.items()
    ]
    contenders.append(
        Contender(
            BEST_LAYER,
            "ssg",
            swept(main.best_layer, examples),
            None if other is None else swept(main.best_layer, other),
            tuple(swept(each.best_layer, examples) for each in drafts),
        )
    )
    finals: dict[str, Mapped] = {}
    plain: Mapped | None = None
    for each in tried:
        if other is not None:
            recipe = each.recipe
            if recipe.refinement is None:
                plain = Mapped.of(recipe.bind(model), other, batch)
                finals[each.name] = plain
            else:
                assert plain is not None
                finals[each.name] = plain.refined(other, recipe.refinement)
        contenders.append(
            Contender(
                f"Recipe, {each.name}",
                "recipe",
                each.swept,
                finals[each.name].sweep(other, kind) if other is not None else None,
                tuple(swept(one.recipe, examples) for one in drafts) if each is tried[0] else (),
            )
        )
    table = compare(
        contenders,
        examples,
        other,
        folds,
        kind,
        final=f"Recipe, {chosen.name}",
        gate=settings.gate,
        seed=settings.seed,
    )
    if other is None:
        finals[chosen.name] = Mapped.of(chosen.recipe.bind(model), examples, batch)
    data = examples if other is None else other
    return table, _shown(model, data, finals[chosen.name], chosen.recipe)


def _shown(model: Model, data: Examples, mapped: Mapped, recipe: Recipe) -> tuple[Shown, ...]:
    """The two worst, two median and two best images that show an object."""
    size = (int(data.masks.shape[-2]), int(data.masks.shape[-1]))
    masks = threshold(resize(mapped.maps, size), recipe.threshold)
    masks &= (mapped.probabilities >= recipe.gate)[:, None, None]
    valid, truth = data.masks != 255, data.masks == 1
    shared = (masks & truth).flatten(1).sum(1)
    union = ((masks | truth) & valid).flatten(1).sum(1)
    scores = shared / union.clamp_min(1)
    rows = (~data.negatives).nonzero()[:, 0]
    ranked = rows[scores[rows].argsort(stable=True)].tolist()
    middle = len(ranked) // 2
    places = {"worst": ranked[:2], "median": ranked[middle - 1 : middle + 1], "best": ranked[-2:]}
    seen: dict[int, str] = {}
    for place, chosen in places.items():
        for row in chosen:
            seen.setdefault(row, place)
    pixels = _resized(_pixels(data.images, model), size)
    maps = resize(mapped.maps, size)
    return tuple(
        Shown(
            data.names[row],
            place,
            float(scores[row]),
            pixels[row],
            maps[row],
            masks[row],
            data.masks[row],
        )
        for row, place in seen.items()
    )


def _pixels(images: Tensor, model: Model) -> Tensor:
    """RGB in [0, 1] of the network's input; each image by its own range where it isn't known how."""
    if isinstance(model, LoadedModel):
        shape = model.preprocessing
        mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (shape.mean, shape.std))
        pixels = images * std + mean
        return pixels.flip(-3) if shape.channel_order == "bgr" else pixels
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(1e-12)


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """``[N, 3, H, W]`` to ``[N, 3, *size]``."""
    return resize(pixels.flatten(0, 1), size).view(*pixels.shape[:2], *size)


def _origin(
    examples: Examples, settings: SearchSettings, main: Draft, chosen: Variant, table: Table
) -> Origin:
    made = origin(examples, settings, main.evolved, chosen.score)
    row = table.row(f"Recipe, {chosen.name}")
    plain = next(row for row in table.rows if row.kind == "recipe")
    folds = None if plain.folds is None else plain.folds.value
    held_out = None if row.held_out is None else row.held_out.value
    return replace(made, scores={**made.scores, "folds": folds, "held_out": held_out})


def _counts(examples: Examples) -> dict[str, int]:
    return {
        "images": len(examples),
        "negatives": int(examples.negatives.sum()),
        "groups": len(set(examples.groups)),
    }


@contextmanager
def _said(progress: bool, what: str) -> Iterator[None]:
    with tqdm(total=1, desc=what, disable=not progress, unit="step") as bar:
        yield
        bar.update()
