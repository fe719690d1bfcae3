"""What all four evaluations do first and last: match classes, run the network, state the facts."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ssgcam.core.methods import METHODS
from ssgcam.core.network import explaining
from ssgcam.data import SampleSet
from ssgcam.data.classes import match_classes
from ssgcam.device import choose_device
from ssgcam.errors import SsgcamError
from ssgcam.evaluation.board import Board
from ssgcam.evaluation.competition import Competition, Explained
from ssgcam.evaluation.contenders import Entrants
from ssgcam.evaluation.figures import Entry, Example, Picture
from ssgcam.evaluation.items import Batch, Item, batches, owners
from ssgcam.evaluation.settings import EvaluationSettings
from ssgcam.evaluation.unfinished import Unfinished, digest, folder_of, stamps
from ssgcam.fingerprint import parameter_hash
from ssgcam.models import LoadedModel, check_network
from ssgcam.version import __version__

Extra = TypeVar("Extra")


class Run:
    """One evaluation: the network in eval mode on its device, the entries and their board."""

    def __init__(
        self,
        task: str,
        model: LoadedModel,
        samples: SampleSet,
        who: Entrants,
        settings: EvaluationSettings,
    ) -> None:
        self.task, self.model, self.samples = task, model, samples
        self.who, self.settings = who, settings
        device = None if settings.device is None else choose_device(settings.device)
        with explaining(model.network):
            self.outputs = check_network(model, device)[1]
        self.device = next((p.device for p in model.network.parameters()), torch.device("cpu"))
        self.competition = Competition(model, who, fast=settings.fast)
        self.entries = self.competition.entries

    def classes_of(
        self, class_index: int | None, samples: SampleSet | None = None
    ) -> dict[int, int]:
        """Class of the data set -> class of the network; all to ``class_index`` where it is given."""
        samples = samples or self.samples
        if class_index is None:
            return match_classes(samples, self.model.class_names, self.outputs, self.model.name)
        if not 0 <= class_index < self.outputs:
            raise SsgcamError(
                f"class {class_index} is out of range: '{self.model.name}' has {self.outputs} "
                f"classes, 0 to {self.outputs - 1}"
            )
        used = {label for sample in samples for label in sample.labels}
        return dict.fromkeys(used, class_index)

    def class_name(self, index: int) -> str:
        """How the facts call a class of the network."""
        names = self.model.class_names
        return f"{names[index]} ({index})" if names else str(index)

    def board(self, items: Sequence[Item]) -> Board:
        """The board for these items."""
        units, groups = owners(items, self.settings.bins)
        return Board(self.entries, units, groups, self.settings)

    def explain(self, inputs: Tensor, classes: Tensor | None, board: Board | None) -> Explained:
        """All maps of a batch; the board, if there is one, counts those without evidence."""
        found = self.competition(inputs, classes)
        if board is not None:
            for entry, maps in found.maps.items():
                empty = ~(maps.flatten(2).amax(2) > 0)
                board.add_total(entry, "empty", torch.tensor([int(empty.sum()), empty.numel()]))
        return found

    def batches(
        self,
        board: Board,
        items: Sequence[Item],
        extra: Callable[[Item, Image.Image], Extra],
        *options: object,
        title: str = "",
    ) -> Iterator[Batch[Extra]]:
        """Batches of items whose parts go to the board, from where a killed run had got to.

        Args:
            board: Of these items. All parts of a batch are on it when the next one is asked for.
            items: All that are scored.
            extra: As for :func:`ssgcam.evaluation.items.batches`.
            options: What else the parts depend on.
            title: Of the progress bar; the task by default.

        Yields:
            The batches that the board lacks.
        """
        title = title or self.task
        kept = self.unfinished(title, *options, *items)
        state = kept.load()
        first: int = state.get("items", 0)
        if first and state["stamps"] != stamps(items[:first]):
            first = 0
        if first:
            board.restore(state["board"])
            self.tell(f"{title}: going on after {first} of {len(items)} images")
        for batch in batches(items, self.model, self.settings, title, extra, first):
            yield batch
            done = items[: batch.first + len(batch.items)]
            kept.save(partial(_state, board, done))

    def few(
        self, items: Sequence[Item], extra: Callable[[Item, Image.Image], Extra]
    ) -> Iterator[Batch[Extra]]:
        """Batches of the examples: a few of the items, spread evenly."""
        count = len(items)
        wanted = min(self.settings.examples, count)
        some = [items[k * count // wanted] for k in range(wanted)]
        quiet = replace(self.settings, progress=False)
        yield from batches(some, self.model, quiet, "examples", extra)

    def unfinished(self, title: str, *options: object) -> Unfinished:
        """The file of a run that depends on these options beside the network and the maps."""
        settings, model = self.settings, self.model
        if settings.unfinished is None:
            return Unfinished(None, "", False)
        competition = self.competition
        modules = [(name, type(module).__name__) for name, module in model.network.named_modules()]
        identity = digest((
            __version__, torch.__version__, self.task, title, model.name, modules,
            parameter_hash(model.network), str(self.device), model.preprocessing, model.output,
            competition.layers, competition.contenders, self.entries, self.who.score,
            self.who.recipe, settings.batch_size, settings.pixels, settings.fast,
            settings.seed, settings.bins, *options,
        ))  # fmt: skip
        path = folder_of(Path(settings.unfinished), self.task) / f"{title}.pt"
        return Unfinished(path, identity, settings.resume)

    def tell(self, sentence: str) -> None:
        """Say something beside the progress bar."""
        if self.settings.progress:
            tqdm.write(sentence, file=sys.stderr)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Eval mode for the block; every flag as it was afterwards.

        Raises:
            SsgcamError: If the device has too little memory for what is done inside.
        """
        try:
            with explaining(self.model.network):
                yield
        except torch.OutOfMemoryError as error:
            raise SsgcamError(
                f"the device has too little memory for {self.settings.batch_size} images at once; "
                "give a smaller --batch-size (or, for perturbed images, --pixels)"
            ) from error

    def facts(self, **more: str) -> dict[str, str]:
        """What makes the numbers comparable and repeatable."""
        competition, settings = self.competition, self.settings
        recipe = competition.recipe
        facts = {
            "network": self.model.name,
            "input": "x".join(map(str, self.model.preprocessing.input_size)) + ", whole image",
            "data": f"{self.samples.root.name} ({self.samples.kind})",
            "layers": ", ".join(competition.layers),
        }
        for contender in competition.contenders:
            settled = f"gamma {contender.power:g}"
            if contender.method == "ssg_cam":
                ssg = contender.ssg
                settled = (
                    f"{ssg.form} form, sigma {ssg.sigma:g}, exponents {ssg.first_exponent:g} and "
                    f"{ssg.second_exponent:g}, {settled}"
                )
            own = METHODS[contender.method].target
            if self.who.score is None and own != competition.score.name:
                settled += f", score {own}"
            facts[contender.title] = settled
        score = competition.score
        facts["score"] = f"{score.name}, second order {score.second}, sign {score.sign}"
        facts["fast"] = str(settings.fast).lower()
        if recipe is not None:
            facts["recipe"] = (
                f"threshold {recipe.recipe.threshold:g}, gate {recipe.recipe.gate:g}, "
                f"made for {recipe.recipe.network.name}"
            )
        facts |= more
        facts["intervals"] = (
            f"95 % percentile bootstrap, {settings.resamples} resamples of groups, or of images "
            f"where there are none, in at most {settings.bins} units; seed {settings.seed}"
        )
        facts["versions"] = f"torch {torch.__version__}, Python {platform.python_version()}"
        return facts

    def notes(self, board: Board) -> list[str]:
        """Maps without evidence."""
        counts = {entry: board.total(entry, "empty").tolist() for entry in self.entries}
        found = [
            f"{entry.method} ({entry.layers}) {empty} of {maps}"
            for entry, (empty, maps) in counts.items()
            if empty
        ]
        if not found:
            return []
        return [f"Maps without any evidence, which count as constant: {', '.join(found)}."]

    def ours(self) -> list[str]:
        """The forms of SSG-CAM among the contenders."""
        return [c.title for c in self.competition.contenders if c.method == "ssg_cam"]

    def pictured(self) -> list[Entry]:
        """The entries that the panel shows: one for each method, at most seven, and the recipe."""
        found = [self.competition.entry_of(c) for c in self.competition.contenders]
        shown = [entry for entry in found if entry is not None][:7]
        return shown + [self.entries[-1]] * (self.competition.recipe is not None)


def _state(board: Board, items: Sequence[Item]) -> dict[str, Any]:
    return {"items": len(items), "stamps": stamps(items), "board": board.state()}


def counted(images: int, groups: int) -> str:
    """The number of images, and of groups where these aren't the images themselves."""
    return f"{images}, {groups} groups" if groups != images else str(images)


def example(run: Run, item: Item, mask: Tensor | None, pictures: Sequence[Picture]) -> Example:
    """An example for the panel."""
    names = run.samples.class_names
    title = ", ".join(names[label] for label in item.labels if label < len(names))
    if item.classes and run.model.class_names:
        title = ", ".join(run.model.class_names[index] for index in item.classes)
    return Example(item.sample.image, title, item.sample.boxes, mask, tuple(pictures))
