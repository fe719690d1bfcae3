"""How does an evaluation run? Settings, batches that are read ahead, resuming, and the facts of a run."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from hashlib import sha256
from itertools import islice
from math import isqrt
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image
from tqdm.auto import tqdm

from ssgcam.core.layers import auto_layers
from ssgcam.core.network import explaining
from ssgcam.core.target import logits_of
from ssgcam.data import Sample, SampleSet
from ssgcam.data.classes import match_classes
from ssgcam.device import choose_device
from ssgcam.errors import SsgcamError
from ssgcam.evaluation.maps import (
    RECIPE,
    SSG_METHODS,
    BatchMaps,
    Explainer,
    MapSource,
    MethodsCompared,
    settings_text,
)
from ssgcam.evaluation.report import LONGEST, Drawn, Evaluation, example_cell
from ssgcam.evaluation.scores import Metric, Parts, ScoreTable
from ssgcam.files import written_whole
from ssgcam.fingerprint import parameter_hash
from ssgcam.manifest import file_stamp
from ssgcam.metrics import compose_mosaic
from ssgcam.metrics.checks import check
from ssgcam.models import LoadedModel, check_network
from ssgcam.preprocessing import unit_range
from ssgcam.report.panel import Cell
from ssgcam.threads import ahead
from ssgcam.version import __version__

Extra = TypeVar("Extra")


@dataclass(frozen=True)
class EvaluationSettings:
    """How an evaluation runs.

    Attributes:
        batch_size: Images whose maps are computed in one pass of the network.
        pixels: Of the perturbed images of one pass: so many images fit as have no more pixels. None
            takes what suits the device, see :func:`ssgcam.metrics.images_at_once`.
        fast: As for :class:`ssgcam.CAM`. The maps of a perturbation are always exact; there it is
            the network's answer to perturbed images that is computed by the fast copy.
        device: Where the network is moved to; None leaves it where it is.
        workers: Threads that read images; one for each processor, at most 8, if None.
        seed: Of the bootstrap, of ties and of everything else that is random.
        resamples: Bootstrap resamples of each interval.
        max_units: How many resampling units are kept apart. If there are more groups (or images, in
            a set without groups), some share a unit, so that memory doesn't grow with the data set.
        examples: Images in the panel of examples.
        progress: Show a progress bar if the standard error is a terminal.
        out: The folder of the results. Finished batches are kept there until
            :func:`ssgcam.evaluation.write_evaluation` has written to it; None keeps none.
        resume: Use the finished batches of a killed run of the same network, images and settings.

    Raises:
        SsgcamError: If a number is out of range.
    """

    batch_size: int = 16
    pixels: int | None = None
    fast: bool = False
    device: str | None = None
    workers: int | None = None
    seed: int = 0
    resamples: int = 1000
    max_units: int = 500
    examples: int = 4
    progress: bool = False
    out: str | Path | None = None
    resume: bool = True

    def __post_init__(self) -> None:
        """Check every number."""
        for name in ("batch_size", "pixels", "workers", "resamples", "max_units"):
            value = getattr(self, name)
            check(value is None or value >= 1, f"{name} is {value}; give at least 1")
        check(self.seed >= 0 and self.examples >= 0, "seed and examples can't be negative")


@dataclass(frozen=True)
class Item:
    """An image and what to explain in it.

    Attributes:
        sample: The image.
        labels: Classes of the data set.
        classes: The same as outputs of the network; if empty, its top class is explained.
        others: Further images that form a square mosaic with the first one, row by row.
    """

    sample: Sample
    labels: tuple[int, ...] = ()
    classes: tuple[int, ...] = ()
    others: tuple[Sample, ...] = ()


@dataclass(frozen=True, eq=False)
class Batch(Generic[Extra]):
    """Some items with their images.

    Attributes:
        first: Index of the first item in the whole set.
        items: The items.
        pixels: RGB in [0, 1] at the network's input size, ``[N, 3, H, W]``, on its device.
        inputs: The same, normalized.
        sizes: Height and width of each original image.
        extras: What else was read for each item.
    """

    first: int
    items: list[Item]
    pixels: Tensor
    inputs: Tensor
    sizes: list[tuple[int, int]]
    extras: list[Extra]

    def classes(self) -> Tensor:
        """``[N, K]``: the classes, padded by repeating the first; -1 if an item has none."""
        most = max(1, *(len(item.classes) for item in self.items))
        classes = [item.classes or (-1,) for item in self.items]
        rows = [[*own, *own[:1] * (most - len(own))] for own in classes]
        return torch.tensor(rows, device=self.pixels.device)


def limited(samples: SampleSet, limit: int | None) -> SampleSet:
    """At most ``limit`` samples, spread evenly over the set.

    Raises:
        SsgcamError: If the limit is below 1.
    """
    check(limit is None or limit >= 1, f"the limit is {limit}; give at least 1")
    return replace(samples, samples=spread(samples.samples, limit))


def spread(items: Sequence[Extra], limit: int | None) -> tuple[Extra, ...]:
    """At most ``limit`` of the items, spread evenly; all if it is None."""
    count = len(items)
    if limit is None or limit >= count:
        return tuple(items)
    return tuple(items[k * count // limit] for k in range(limit))


def no_extra(item: Item, photo: Image.Image) -> None:
    """What is read for items that need only their image."""


class Run:
    """One evaluation: a network on its device, the methods that are compared, and the settings.

    Args:
        task: Its name.
        model: The network; moved to the device of the settings.
        samples: The images that are scored.
        methods: What is compared; :class:`MethodsCompared` with its defaults if None.
        settings: Defaults if None.
        exact: Compute exact maps whatever the settings say.

    Raises:
        SsgcamError: If the network fails on noise, a layer doesn't exist, or the recipe doesn't fit.
    """

    def __init__(
        self,
        task: str,
        model: LoadedModel,
        samples: SampleSet,
        methods: MethodsCompared | None,
        settings: EvaluationSettings | None,
        exact: bool = False,
    ) -> None:
        self.task, self.model, self.samples = task, model, samples
        self.compared = methods or MethodsCompared()
        self.settings = settings or EvaluationSettings()
        device = None if self.settings.device is None else choose_device(self.settings.device)
        noise, self.outputs = check_network(model, device)
        self.device = noise.device
        if isinstance(self.compared.layers, str) and self.compared.layers == "auto":
            self.compared = replace(self.compared, layers=auto_layers(model.network, noise))
        self.explainer = Explainer(model, self.compared, self.settings.fast and not exact)
        self.compared = replace(self.compared, layers=self.explainer.layers)
        self.sources = self.explainer.sources

    def class_index(self, wanted: int | str | None) -> int | None:
        """The index of a class of the network given by index or name; None for None."""
        return None if wanted is None else self.model.class_index(wanted, self.outputs)

    def class_mapping(self, samples: SampleSet, wanted: int | None) -> dict[int, int]:
        """Class of a data set -> output of the network; all to ``wanted`` if it is given."""
        if wanted is None:
            return match_classes(samples, self.model.class_names, self.outputs, self.model.name)
        return dict.fromkeys({label for sample in samples for label in sample.labels}, wanted)

    def explain(self, batch: Batch[Any]) -> BatchMaps:
        """The maps of all sources."""
        return self.explainer(batch.inputs, batch.classes())

    def accumulate(
        self,
        items: Sequence[Item],
        read: Callable[[Item, Image.Image], Extra],
        score: Callable[[Batch[Extra], BatchMaps], Parts],
        *options: object,
        title: str = "",
        pooled: Sequence[str] = (),
    ) -> ScoreTable:
        """Score all items, batch by batch; use the finished batches of a killed run.

        Args:
            items: All that are scored.
            read: Reads what else an item needs, such as its mask; called in a thread.
            score: From a batch and its maps to parts.
            options: What else the parts depend on.
            title: Of the progress bar and of the kept batches; the task by default.
            pooled: As for :class:`ScoreTable`.

        Returns:
            The table with the parts of all items, and the part ``"empty"``: how many maps of an image
            are zero everywhere, and how many there are.

        Raises:
            SsgcamError: If an image or an extra can't be read, or memory is too small.
        """
        settings, title = self.settings, title or self.task
        units, groups = _resampling_units(items, settings.max_units)
        table = ScoreTable(
            self.sources, units, groups, seed=settings.seed, resamples=settings.resamples,
            pooled=pooled,
        )  # fmt: skip
        starts = range(0, len(items), settings.batch_size)
        files = self._batch_files(items, starts, title, *options)
        done = set()
        for first, file in files.items():
            if settings.resume and self._read(file, first, table):
                done.add(first)
        if done and settings.progress:
            count = sum(len(items[k : k + settings.batch_size]) for k in done)
            said = f"{title}: resuming after {count} of {len(items)} images"
            tqdm.write(said, file=sys.stderr)
        due = [k for k in starts if k not in done]
        with self._computing(), closing(self._batches(items, read, due, title)) as batches:
            for batch in batches:
                maps = self.explain(batch)
                parts = _empty_maps(maps) | score(batch, maps)
                if files:
                    self._write(files[batch.first], parts)
                table.add(batch.first, parts)
        return table

    def probabilities(self, items: Sequence[Item]) -> Tensor:
        """Class probabilities ``[N, outputs]`` of all items, from the network itself."""
        found = []
        starts = range(0, len(items), self.settings.batch_size)
        loaded = closing(self._batches(items, no_extra, starts, "predictions"))
        with self._computing(), torch.no_grad(), loaded as batches:
            for batch in batches:
                logits = logits_of(self.model.network(batch.inputs))
                found.append(self.model.probabilities(logits.float()).cpu())
        return torch.cat(found)

    def evaluation(
        self,
        table: ScoreTable,
        metrics: Sequence[Metric],
        facts: dict[str, str],
        notes: Sequence[str] = (),
        **found: Any,
    ) -> Evaluation:
        """The result.

        Args:
            table: Of :meth:`accumulate`.
            metrics: What is computed from it.
            facts: Of this task.
            notes: Of this task.
            found: Other fields of :class:`Evaluation`.
        """
        counts = {source: table.total(source, "empty").tolist() for source in self.sources}
        empty = [f"{source} {zero} of {maps}" for source, (zero, maps) in counts.items() if zero]
        if empty:
            names = ", ".join(empty)
            notes = [f"Maps that are zero everywhere, which count as constant: {names}.", *notes]
        variants = [m.title for m in self.compared.methods if m.name in SSG_METHODS]
        return Evaluation(
            task=self.task,
            facts=self._facts(facts),
            scores=found.pop("scores", None) or table.scores(metrics),
            differences=table.differences(metrics, variants),
            notes=tuple(notes),
            **found,
        )

    def examples(
        self,
        items: Sequence[Item],
        read: Callable[[Item, Image.Image], Extra],
        draw: Callable[[BatchMaps, MapSource, int, Item, Extra], Drawn],
        truth: Callable[[Extra], Tensor] | None = None,
        sources: Sequence[MapSource] = (),
    ) -> Iterator[list[Cell]]:
        """A row of cells for each of a few items: the truth, then the maps.

        Args:
            items: All items, of which a few are shown.
            read: As for :meth:`accumulate`.
            draw: From maps, a source, and index, item and extra of an image to what is drawn.
            truth: From an extra to the true mask ``[H, W]``.
            sources: The maps to show; if empty, one of each of the first methods, and the recipe's.
        """
        last = {source.method: source for source in self.sources}
        recipe = last.pop(RECIPE, None)
        shown = sources or [*list(last.values())[:7], *([recipe] if recipe else [])]
        some = spread(items, self.settings.examples)
        starts = range(0, len(some), self.settings.batch_size)
        own, names = self.samples.class_names, self.model.class_names
        with self._computing(), closing(self._batches(some, read, starts, "")) as batches:
            for batch in batches:
                found = self.explain(batch)
                for k, (item, extra) in enumerate(zip(batch.items, batch.extras, strict=True)):
                    title = ", ".join(own[label] for label in item.labels if label < len(own))
                    if item.classes and names:
                        title = ", ".join(names[index] for index in item.classes)
                    photo = to_pil_image(batch.pixels[k])
                    if not item.others:
                        photo = self.model.preprocessing.read(item.sample.image)
                    width, height = photo.size
                    photo.thumbnail((LONGEST, LONGEST))
                    boxes = [
                        (x0 / width, y0 / height, (x1 + 1) / width, (y1 + 1) / height)
                        for x0, y0, x1, y1 in item.sample.boxes
                    ]
                    outline = truth(extra) if truth else None
                    row = [example_cell(photo, title, "", (None, boxes, outline))]
                    for source in shown:
                        drawn = draw(found, source, k, item, extra)
                        row.append(example_cell(photo, source.method, source.layers, drawn))
                    yield row

    def class_title(self, index: int) -> str:
        """Name and index of a class of the network."""
        names = self.model.class_names
        return f"{names[index]} ({index})" if names else str(index)

    def _facts(self, own: dict[str, str]) -> dict[str, str]:
        """What makes the numbers comparable and repeatable."""
        explain, settings, compared = self.explainer, self.settings, self.compared
        target, recipe = explain.target, compared.recipe
        facts = {
            "network": self.model.name,
            "input": "x".join(map(str, self.model.preprocessing.input_size)) + ", whole image",
            "data": f"{self.samples.root.name} ({self.samples.kind})",
            "layers": ", ".join(explain.layers),
            **{s.title: settings_text(s, compared.target, target.name) for s in compared.methods},
            "target": f"{target.name}, second order {target.second}, sign {target.sign}",
        }
        if compared.against is not None:
            facts["against"] = compared.against
        facts["computation"] = explain.cam.computation
        if recipe is not None:
            facts["recipe"] = (
                f"threshold {recipe.threshold:g}, gate {recipe.gate:g}, made for {recipe.network.name}"
            )
        return facts | own | {
            "intervals": f"95 % percentile bootstrap, {settings.resamples} resamples of groups, or "
            f"of images if there are none, in at most {settings.max_units} units; "
            f"seed {settings.seed}",
            "versions": f"torch {torch.__version__}, Python {platform.python_version()}",
        }  # fmt: skip

    def _batches(
        self,
        items: Sequence[Item],
        read: Callable[[Item, Image.Image], Extra],
        starts: Sequence[int],
        title: str,
    ) -> Generator[Batch[Extra], None, None]:
        """The batches that start at these items, read ahead by threads; at most two batches wait."""
        size, model = self.settings.batch_size, self.model

        def load(item: Item) -> tuple[Item, Tensor, tuple[int, int], Extra]:
            prepare = model.preprocessing
            photos = [prepare.read(sample.image) for sample in (item.sample, *item.others)]
            cells = torch.stack([prepare.pixels(photo) for photo in photos])
            pixels = compose_mosaic(cells, isqrt(len(cells)))
            size = photos[0].height, photos[0].width
            return item, pixels, size, read(item, photos[0])

        wanted = [item for first in starts for item in items[first : first + size]]
        stream = closing(ahead(load, wanted, window=2 * size, workers=self.settings.workers))
        hidden = None if self.settings.progress and title else True
        shown: dict[str, Any] = {"total": len(items), "initial": len(items) - len(wanted)}
        with tqdm(**shown, desc=title, unit="image", disable=hidden) as bar, stream as read_ahead:
            for first in starts:
                loaded = islice(read_ahead, min(size, len(items) - first))
                found, images, sizes, extras = zip(*loaded, strict=True)
                pixels = unit_range(torch.stack(images).to(self.device))
                inputs = model.preprocessing.normalize(pixels)
                yield Batch(first, list(found), pixels, inputs, list(sizes), list(extras))
                bar.update(len(found))

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Eval mode, restored afterwards; one sentence if the device has too little memory."""
        try:
            with explaining(self.model.network):
                yield
        except torch.OutOfMemoryError as error:
            raise SsgcamError(
                f"the device has too little memory for {self.settings.batch_size} images at once; "
                "give a smaller --batch-size (or, for perturbed images, --pixels)"
            ) from error

    def _batch_files(
        self, items: Sequence[Item], starts: Sequence[int], title: str, *options: object
    ) -> dict[int, Path]:
        """Where the parts of each batch are kept: the name depends on all that the parts depend on."""
        settings, model, compared = self.settings, self.model, self.compared
        if settings.out is None:
            return {}
        modules = [(name, type(module).__name__) for name, module in model.network.named_modules()]
        shared = (
            __version__, torch.__version__, model.name, parameter_hash(model.network), modules,
            str(self.device), model.preprocessing, model.output,
            self.sources, compared,
            settings.batch_size, settings.pixels, settings.fast, settings.seed,
            *options,
        )  # fmt: skip
        files = {}
        for first in starts:
            batch = items[first : first + settings.batch_size]
            stamps = [(path, file_stamp(path)) for item in batch for path in _paths(item)]
            key = sha256(repr((shared, batch, stamps)).encode()).hexdigest()
            name = f"{title}_{first}_{key[:24]}.npz"
            files[first] = Path(settings.out) / f".{self.task}" / name
        return files

    def _read(self, file: Path, first: int, table: ScoreTable) -> bool:
        """Add the kept parts of a batch to a table; False if the file is missing or damaged."""
        sources = [*self.sources, None]
        try:
            with np.load(file) as arrays:
                found = {name.partition(" "): torch.from_numpy(arrays[name]) for name in arrays}
        except Exception:  # NumPy raises many kinds of errors for a damaged file
            return False
        table.add(first, {(sources[int(k)], part): rows for (k, _, part), rows in found.items()})
        return True

    def _write(self, file: Path, parts: Parts) -> None:
        """Keep the parts of a batch."""
        sources = [*self.sources, None]
        arrays: dict[str, Any] = {
            f"{sources.index(source)} {part}": rows.detach().cpu().numpy()
            for (source, part), rows in parts.items()
        }
        with written_whole(file) as temporary:
            np.savez_compressed(temporary, **arrays)


def _empty_maps(found: BatchMaps) -> Parts:
    parts: Parts = {}
    for source, maps in found.maps.items():
        empty = ~(maps.flatten(2).amax(2) > 0)
        counts = torch.full((len(empty),), empty.shape[1], device=empty.device)
        parts[source, "empty"] = torch.stack([empty.sum(1), counts], 1)
    return parts


def _resampling_units(items: Sequence[Item], most: int) -> tuple[Tensor, int]:
    """The resampling unit of each item ``[N]``, and how many groups there are.

    Items of one group (field, patient, slide) stay together; without groups, those of one image. The
    k-th group belongs to unit ``k % most``.
    """
    numbers: dict[tuple[bool, str], int] = {}
    found = []
    for item in items:
        key = (bool(item.sample.group), item.sample.group or item.sample.name)
        found.append(numbers.setdefault(key, len(numbers)))
    return torch.tensor(found) % most, len(numbers)


def _paths(value: object) -> Iterator[Path]:
    """The paths in a dataclass, and in the tuples and dataclasses in it."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _paths(each)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _paths(getattr(value, field.name))
