"""The scores of all entries: parts added batch by batch, intervals and paired differences at the end.

Memory is bounded: parts (hits, histograms, confusion matrices) are summed in at most ``bins``
resampling units, so the bootstrap resamples single images or groups as long as there are no more.
All that an evaluation adds up is here, so that it can be saved and go on after a cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isnan, nan
from typing import Any, Literal

import torch
from torch import Tensor

from ssgcam.evaluation.figures import Entry
from ssgcam.evaluation.result import ALL_FUSED, MEAN, RECIPE, Difference, Score
from ssgcam.evaluation.settings import EvaluationSettings
from ssgcam.metrics import Interval, bootstrap_interval, paired_difference


@dataclass(frozen=True)
class Metric:
    """A number that is made of the mean of parts.

    Attributes:
        name: In tables.
        part: Which parts.
        statistic: Their mean ``[..., *P]`` over images to the number ``[...]``.
        better: Which way is better; empty for a number that is no merit.
        shown: Whether the printed table has it; files have all.
    """

    name: str
    part: str
    statistic: Callable[[Tensor], Tensor]
    better: Literal["higher", "lower", ""] = "higher"
    shown: bool = True


class Tally:
    """Sums of parts by resampling unit.

    Args:
        owners: The unit of each item, ``[N]``, in the order in which rows are added.

    Attributes:
        n: Items so far.
        sums: ``[units, *P]``.
    """

    def __init__(self, owners: Tensor) -> None:
        self.owners = owners
        self.n = 0
        self.sums = torch.empty(0)
        self._units = int(owners.max()) + 1

    def add(self, rows: Tensor) -> None:
        """Add the parts ``[n, *P]`` of the next n items."""
        rows = rows.detach().cpu()
        rows = rows.double() if rows.is_floating_point() else rows.int()
        if not self.n:
            self.sums = torch.zeros(self._units, *rows.shape[1:], dtype=rows.dtype)
        self.sums.index_add_(0, self.owners[self.n : self.n + len(rows)], rows)
        self.n += len(rows)

    @property
    def counts(self) -> Tensor:
        """Items of each unit, ``[units]``."""
        return self.owners[: self.n].bincount(minlength=self._units)


class Board:
    """Tallies of all entries.

    Args:
        entries: The lines.
        owners: The resampling unit of each item, ``[N]``.
        groups: How many groups the items come from.
        settings: Seed and resamples.
    """

    def __init__(
        self, entries: Sequence[Entry], owners: Tensor, groups: int, settings: EvaluationSettings
    ) -> None:
        self.entries = tuple(entries)
        self.owners = owners
        self.groups = groups
        self.settings = settings
        self._tallies: dict[tuple[Entry, str], Tally] = {}
        self._totals: dict[tuple[Entry | None, str], Tensor] = {}

    def add(self, entry: Entry, part: str, rows: Tensor) -> None:
        """Add the parts ``[n, *P]`` of an entry for the next n items."""
        if (entry, part) not in self._tallies:
            self._tallies[entry, part] = Tally(self.owners)
        self._tallies[entry, part].add(rows)

    def add_total(self, entry: Entry | None, part: str, value: Tensor) -> None:
        """Add to a sum over all items that is not resampled; of no entry if None."""
        value = value.detach().cpu()
        value = value.double() if value.is_floating_point() else value.long()
        so_far = self._totals.get((entry, part))
        self._totals[entry, part] = value if so_far is None else so_far + value

    def total(self, entry: Entry | None, part: str) -> Tensor:
        """The sum over all items."""
        if (entry, part) in self._totals:
            return self._totals[entry, part]
        assert entry is not None
        return self._tallies[entry, part].sums.sum(0)

    def count(self, entry: Entry, part: str) -> int:
        """How many items' parts were added."""
        return self._tallies[entry, part].n if (entry, part) in self._tallies else 0

    def state(self) -> dict[str, Any]:
        """All sums as plain values, for :meth:`restore`."""
        place = {entry: index for index, entry in enumerate(self.entries)}
        return {
            "tallies": [
                (place[entry], part, tally.n, tally.sums)
                for (entry, part), tally in self._tallies.items()
            ],
            "totals": [
                (None if entry is None else place[entry], part, value)
                for (entry, part), value in self._totals.items()
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state` gave, on a board of the same entries and items."""
        for index, part, n, sums in state["tallies"]:
            tally = self._tallies[self.entries[index], part] = Tally(self.owners)
            tally.n, tally.sums = n, sums
        for index, part, value in state["totals"]:
            self._totals[None if index is None else self.entries[index], part] = value

    def lines(self) -> dict[Entry, list[Entry]]:
        """Each line of the table and the entries whose mean it is: itself, or all single layers."""
        found: dict[Entry, list[Entry]] = {}
        for method in dict.fromkeys(entry.method for entry in self.entries):
            own = [entry for entry in self.entries if entry.method == method]
            found |= {entry: [entry] for entry in own}
            single = [entry for entry in own if entry.layers != ALL_FUSED and method != RECIPE]
            if len(single) > 1:
                found[Entry(method, MEAN)] = single
        return found

    def scores(self, metrics: Sequence[Metric]) -> tuple[Score, ...]:
        """Every metric of every line, with its interval; NaN where it is not defined."""
        return tuple(
            self._score(line, metric, self._interval(members, metric))
            for line, members in self.lines().items()
            for metric in metrics
        )

    def differences(self, metrics: Sequence[Metric], ours: Sequence[str]) -> tuple[Difference, ...]:
        """A method less its best rival on the same layers; the recipe less the best of all others.

        The rival is the best of the others on the very images that are scored, so the choice
        favors it.

        Args:
            metrics: Those that are a merit are compared.
            ours: The method, then others of its kind, which are no rivals; if empty, the recipe
                alone is compared.
        """
        lines = self.lines()
        single = [line for line in lines if line.method != RECIPE]
        pairs = [
            (line, [rival for rival in single if rival.layers == line.layers])
            for line in single
            if line.method in ours[:1]
        ]
        pairs = [(line, [r for r in found if r.method not in ours]) for line, found in pairs]
        pairs += [
            (line, [r for r in single if r.layers != MEAN])
            for line in lines
            if line.method == RECIPE
        ]
        found = (
            self._difference(line, rivals, metric)
            for line, rivals in pairs
            for metric in metrics
            if metric.better
        )
        return tuple(difference for difference in found if difference is not None)

    def _difference(
        self, line: Entry, rivals: Sequence[Entry], metric: Metric
    ) -> Difference | None:
        """None where a number is not defined or there is no rival."""
        lines = self.lines()
        sign = -1 if metric.better == "lower" else 1
        values = {rival: sign * self._value(lines[rival], metric) for rival in rivals}
        values = {rival: value for rival, value in values.items() if not isnan(value)}
        if not values or isnan(self._value(lines[line], metric)):
            return None
        best = max(values, key=lambda rival: values[rival])
        statistic, ours, theirs = self._parts(lines[line], metric, lines[best])
        found = paired_difference(
            ours, theirs, statistic, seed=self.settings.seed, samples=self.settings.resamples
        )
        found = self._told(found, lines[line][0], metric)
        return Difference(
            metric=metric.name,
            method=line.method,
            layers=line.layers,
            rival=best.method,
            rival_layers=best.layers,
            value=found.value,
            low=found.low,
            high=found.high,
            n=found.n,
            groups=found.groups,
            better=metric.better,
            shown=metric.shown,
        )

    def _score(self, line: Entry, metric: Metric, found: Interval) -> Score:
        return Score(
            method=line.method,
            layers=line.layers,
            metric=metric.name,
            value=found.value,
            low=found.low,
            high=found.high,
            n=found.n,
            groups=found.groups,
            better=metric.better,
            shown=metric.shown,
        )

    def _interval(self, members: Sequence[Entry], metric: Metric) -> Interval:
        statistic, parts, _ = self._parts(members, metric, members)
        seed, samples = self.settings.seed, self.settings.resamples
        if isnan(self._value(members, metric)):  # such as the IoU of a class that doesn't occur
            found = Interval(nan, nan, nan, 0.95, 0, 0, samples, seed, samples)
        else:
            found = bootstrap_interval(parts, statistic, seed=seed, samples=samples)
        return self._told(found, members[0], metric)

    def _value(self, members: Sequence[Entry], metric: Metric) -> float:
        statistic, parts, _ = self._parts(members, metric, members)
        return float(statistic(parts.sum(0, keepdim=True))[0])

    def _told(self, found: Interval, entry: Entry, metric: Metric) -> Interval:
        """What was resampled were sums of units; what is told are images and groups."""
        n = self._tallies[entry, metric.part].n
        return replace(found, n=n, groups=self.groups)

    def _parts(
        self, ours: Sequence[Entry], metric: Metric, theirs: Sequence[Entry]
    ) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
        """The statistic of flat sums with their count, ``[R, P + 1]`` to ``[R]``, and two such."""
        first = self._tallies[ours[0], metric.part]
        shape = (len(ours), *first.sums.shape[1:])

        def flat(members: Sequence[Entry]) -> Tensor:
            sums = [self._tallies[entry, metric.part].sums for entry in members]
            stacked = torch.stack(sums, 1).flatten(1).double()
            return torch.cat([stacked, first.counts.double()[:, None]], 1)

        def statistic(means: Tensor) -> Tensor:
            values = means[:, :-1] / means[:, -1:]
            return metric.statistic(values.view(-1, *shape)).double().mean(-1)

        return statistic, flat(ours), flat(theirs)
