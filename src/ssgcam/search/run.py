"""DE-SSG-CAM from a few labeled images to a recipe and an honest report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from torch import nn
from tqdm import tqdm

from ssgcam.core.augment import Augmentation
from ssgcam.core.blocks import block_layers
from ssgcam.core.layers import resolve
from ssgcam.core.network import unwrap
from ssgcam.data import SampleSet
from ssgcam.errors import SsgcamError
from ssgcam.fingerprint import parameter_hash, placed
from ssgcam.models import LoadedModel
from ssgcam.recipe import Origin, Recipe
from ssgcam.search.cache import MapCache, build_cache
from ssgcam.search.calibration import Examples, make_examples, warnings_for
from ssgcam.search.evidence import validated
from ssgcam.search.report import Report
from ssgcam.search.samples import Calibration
from ssgcam.search.settings import SearchSettings
from ssgcam.search.steps import (
    Draft,
    Variant,
    choose_variant,
    draft,
    origin,
    variant_name,
    variants,
)
from ssgcam.search.validation import Table, doubts, group_folds

Model = nn.Module | LoadedModel
Layers = Literal["auto", "all"] | Sequence[str | nn.Module]


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
        held_out: Labeled images of other groups, to score the result on.
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
    search = _Searches(
        model, examples, names, settings, None if cache is None else Path(cache), resume, progress
    )
    main, maps, tried_views = search.main()
    with _said(progress, "views and refinement"):
        tried = variants(main.recipe, model, examples, settings)
    chosen = choose_variant(tried, settings.margin)
    folds = [] if search.interrupted else group_folds(examples, settings.folds)
    drafts = [] if search.interrupted else search.folds(maps, main.recipe.augmentation, folds)
    if len(drafts) < len(folds):
        folds, drafts = [], []
    with _said(progress, "comparison"):
        table, shown, offset = validated(
            model, examples, other, names, settings, main, drafts, folds, tried, chosen
        )
    fold_layers = [frozenset(layer.name for layer in each.recipe.layers) for each in drafts]
    doubtful = [*warnings_for(examples), *doubts(table, fold_layers, offset)]
    if search.interrupted:
        doubtful.insert(0, "The search was interrupted: this is the best candidate so far.")
    if not folds and other is None:
        doubtful.append("Nothing was held out and there are no folds, so no score here is honest.")
    counts = {"calibration": _counts(examples)}
    if other is not None:
        counts["held-out"] = _counts(other)
    report = Report(
        recipe=replace(chosen.recipe, origin=_origin(examples, settings, main, chosen, table)),
        fitness=settings.fitness,
        table=table,
        warnings=tuple(doubtful),
        views=tried_views,
        variants=tuple((each.name, each.score) for each in tried),
        history=tuple(1 - cost for cost in main.evolved.history),
        evaluations=main.evolved.evaluations,
        fold_layers=tuple(tuple(sorted(layers)) for layers in fold_layers),
        counts=counts,
        interrupted=search.interrupted,
        offset=offset,
        shown=shown,
    )
    return Found(report.recipe, report)


@dataclass
class _Searches:
    """The evolutions of one call: on every view, then on every fold, with one journal each."""

    model: Model
    examples: Examples
    names: list[str]
    settings: SearchSettings
    folder: Path | None
    resume: bool
    progress: bool
    interrupted: bool = False

    def main(self) -> tuple[Draft, MapCache, tuple[tuple[str, float], ...]]:
        """The best of all views with its maps, and the fitness of each; two caches at a time."""
        best: tuple[Draft, MapCache] | None = None
        tried = []
        for views in self.settings.views:
            maps = self._maps(views)
            found = self._draft("search", maps, views)
            tried.append((variant_name(views, None), 1 - found.evolved.cost))
            if best is None or best[0].evolved.cost - found.evolved.cost > self.settings.margin:
                best = found, maps
            if self.interrupted:
                break
        assert best is not None
        return *best, tuple(tried)

    def folds(
        self, maps: MapCache, views: Augmentation, folds: Sequence[Sequence[int]]
    ) -> list[Draft]:
        """A search without each fold; fewer if interrupted."""
        drafts: list[Draft] = []
        for number, test in enumerate(folds):
            tested = set(test)
            rows = [row for row in range(len(self.examples)) if row not in tested]
            found = self._draft(f"fold-{number + 1}", maps, views, rows)
            if self.interrupted:
                break
            drafts.append(found)
        return drafts

    def _draft(
        self, what: str, maps: MapCache, views: Augmentation, rows: list[int] | None = None
    ) -> Draft:
        title = _title(what, views)
        journal = None
        if self.folder is not None:
            key = _key(self.model, self.examples, self.names, self.settings)
            journal = self.folder / f"journal-{key}-{title}.jsonl"
        found = draft(
            self.model,
            maps,
            self.examples,
            self.settings,
            views,
            rows=rows,
            journal=journal,
            resume=self.resume,
            progress=self.progress,
            title=title,
        )
        self.interrupted = found.evolved.interrupted
        return found

    def _maps(self, views: Augmentation) -> MapCache:
        settings, total = self.settings, len(self.examples)
        with tqdm(total=total, desc=_title("maps", views), disable=not self.progress) as bar:
            return build_cache(
                self.model,
                self.examples,
                self.names,
                grid=settings.grid,
                size=settings.size,
                score=settings.score,
                augmentation=views,
                storage=settings.storage,
                limit=settings.memory,
                folder=self.folder,
                batch_size=settings.batch_size,
                progress=lambda done: bar.update(done - bar.n),
            )


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
        image = placed(examples.images[:1], network)
        return block_layers(network, image, **({"most": None} if layers == "all" else {}))
    return resolve(network, layers)


def _title(what: str, views: Augmentation) -> str:
    """Of a progress bar and a journal: such as ``"search-flips-both"``."""
    return (
        what if views == Augmentation() else f"{what}-{variant_name(views, None)}".replace(" ", "-")
    )


def _key(model: Model, examples: Examples, names: list[str], settings: SearchSettings) -> str:
    network = model.network if isinstance(model, LoadedModel) else model
    content = [parameter_hash(network), examples.digest, names, settings.as_text()]
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _origin(
    examples: Examples, settings: SearchSettings, main: Draft, chosen: Variant, table: Table
) -> Origin:
    made = origin(examples, settings, main.evolved, chosen.score)
    row = table.row(f"Recipe, {chosen.name}")
    across = [each.folds for each in table.rows if each.kind == "recipe" and each.folds is not None]
    folds = across[0].value if across else None
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
