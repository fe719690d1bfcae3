"""What all four evaluations do first and last: match classes, run the network, state the facts."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ssgcam.core.network import explaining
from ssgcam.data import SampleSet
from ssgcam.devices import choose_device
from ssgcam.errors import SsgcamError
from ssgcam.evaluation.board import Board
from ssgcam.evaluation.contenders import Competition, Entrants, Explained
from ssgcam.evaluation.figures import Entry, Example, Picture
from ssgcam.evaluation.items import Item, match_classes, owners
from ssgcam.evaluation.settings import EvaluationSettings
from ssgcam.explain import check_network
from ssgcam.models import LoadedModel


class Run:
    """One evaluation: the network in eval mode on its device, the entries and their board."""

    def __init__(
        self, model: LoadedModel, samples: SampleSet, who: Entrants, settings: EvaluationSettings
    ) -> None:
        self.model, self.samples, self.who, self.settings = model, samples, who, settings
        device = None if settings.device is None else choose_device(settings.device)
        with explaining(model.network):
            self.outputs = check_network(model, device)[1]
        self.competition = Competition(model, who)
        self.entries = self.competition.entries
        self.empty: Counter[Entry] = Counter()
        self.explained = 0

    def classes_of(
        self, class_index: int | None, samples: SampleSet | None = None
    ) -> dict[int, int]:
        """Class of the data set -> class of the network; all to ``class_index`` where it is given."""
        samples = samples or self.samples
        if class_index is None:
            return match_classes(samples, self.model, self.outputs)
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

    def explain(self, inputs: Tensor, classes: Tensor | None) -> Explained:
        """All maps of a batch; counts those without evidence."""
        found = self.competition(inputs, classes)
        self.explained += found.classes.numel()
        for entry, maps in found.maps.items():
            self.empty[entry] += int((~(maps.flatten(2).amax(2) > 0)).sum())
        return found

    def forget(self) -> None:
        """Start counting maps without evidence anew."""
        self.empty.clear()
        self.explained = 0

    def probabilities(self, pixels: Tensor) -> Tensor:
        """Class probabilities of RGB pixels in [0, 1]."""
        logits: Tensor = self.model.network(self.model.preprocessing.normalise(pixels))
        return self.model.probabilities(logits)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Eval mode for the block; every flag as it was afterwards."""
        with explaining(self.model.network):
            yield

    def facts(self, **more: str) -> dict[str, str]:
        """What makes the numbers comparable and repeatable."""
        competition, settings = self.competition, self.settings
        recipe = competition.recipe
        facts = {
            "network": self.model.name,
            "input": "x".join(map(str, self.model.preprocessing.size)) + ", whole image",
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
            facts[contender.title] = settled
        score = competition.score
        facts["score"] = f"{score.score}, second order {score.second}, sign {score.sign}"
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

    def notes(self) -> list[str]:
        """Maps without evidence."""
        return [
            f"No evidence in {count} of {self.explained} maps of {entry.method} ({entry.layers}): "
            "such a map counts as constant."
            for entry, count in self.empty.items()
            if count
        ]

    def ours(self) -> list[str]:
        """The forms of SSG-CAM among the contenders."""
        return [c.title for c in self.competition.contenders if c.method == "ssg_cam"]

    def pictured(self) -> list[Entry]:
        """The entries that the panel shows: one for each method, at most seven, and the recipe."""
        found = [self.competition.entry_of(c) for c in self.competition.contenders]
        shown = [entry for entry in found if entry is not None][:7]
        return shown + [self.entries[-1]] * (self.competition.recipe is not None)


def chosen(count: int, wanted: int) -> set[int]:
    """Indices of at most ``wanted`` of ``count`` items, spread evenly."""
    wanted = min(wanted, count)
    return {k * count // wanted for k in range(wanted)}


def example(run: Run, item: Item, mask: Tensor | None, pictures: Sequence[Picture]) -> Example:
    """An example for the panel."""
    names = run.samples.class_names
    title = ", ".join(names[label] for label in item.labels if label < len(names))
    if item.classes and run.model.class_names:
        title = ", ".join(run.model.class_names[index] for index in item.classes)
    return Example(item.sample.image, title, item.sample.boxes, mask, tuple(pictures))
