"""How good is each method on each choice of layers, and how sure is that?

A metric is a function of the mean of per-image parts (hits, histograms, confusion matrices). Parts are
added batch by batch. They are summed in at most ``max_units`` resampling units, which bounds memory;
the bootstrap resamples single images or groups as long as there are no more of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any, Literal

import torch
from torch import Tensor

from ssgcam.evaluation.maps import ALL_FUSED, MEAN, RECIPE, MapSource
from ssgcam.metrics import bootstrap_interval

Better = Literal["higher", "lower", ""]
#: Rows ``[n, *P]`` of some items, by source (None: of no source) and name of the part.
Parts = dict[tuple[MapSource | None, str], Tensor]


@dataclass(frozen=True)
class Metric:
    """A number that is computed from the mean of parts.

    Attributes:
        name: In tables.
        part: Name of the parts.
        statistic: Their mean ``[..., *P]`` over images to the number ``[...]``.
        better: Which direction is better; empty for a number that says nothing about quality.
        shown: Whether the printed table has it; the files have all.
    """

    name: str
    part: str
    statistic: Callable[[Tensor], Tensor]
    better: Better = "higher"
    shown: bool = True


@dataclass(frozen=True)
class Score:
    """One number with its 95 % interval.

    Attributes:
        method: Title of the method.
        layers: Names of the layers.
        metric: Name of the metric.
        value: The number, NaN if it is not defined.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Images (for an image with several classes, one for each).
        groups: What was resampled: fields, patients, or the images themselves.
        better: As in :class:`Metric`.
        shown: As in :class:`Metric`.
    """

    method: str
    layers: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    groups: int
    better: Better
    shown: bool

    def text(self, sign: str = "") -> str:
        """The number and its interval."""
        return f"{self.value:{sign}.3f} [{self.low:{sign}.3f}, {self.high:{sign}.3f}]"


@dataclass(frozen=True)
class Difference(Score):
    """The score of a method less that of a rival on the same images, with its 95 % interval.

    Attributes:
        rival: Title of the other method.
        rival_layers: Names of its layers.
    """

    rival: str
    rival_layers: str

    @property
    def verdict(self) -> str:
        """``leads``, ``loses`` or ``open`` (the interval contains zero)."""
        if self.low <= 0 <= self.high:
            return "open"
        return "leads" if (self.low > 0) == (self.better == "higher") else "loses"


class ScoreTable:
    """Sums of the parts of all sources, and the scores that follow from them.

    Args:
        sources: The lines of the table.
        units: The resampling unit of each item, ``[N]``.
        groups: How many groups the items come from.
        seed: Seed of the bootstrap.
        resamples: How many resamples each interval has.
        pooled: Names of parts that are summed over all items and not resampled.

    Attributes:
        lines: Each line of the table and the sources whose mean it is: itself, or all single layers.
    """

    def __init__(
        self,
        sources: Sequence[MapSource],
        units: Tensor,
        groups: int,
        *,
        seed: int,
        resamples: int,
        pooled: Sequence[str] = (),
    ) -> None:
        self.sources, self.groups = tuple(sources), groups
        self._units, self._sizes = units, units.bincount().double()
        self._bootstrap: dict[str, Any] = {
            "seed": seed, "samples": resamples, "counts": self._sizes,
        }  # fmt: skip
        self._pooled = pooled
        self._sums: Parts = {}
        self._counts: dict[tuple[MapSource | None, str], int] = {}
        self.lines: dict[MapSource, list[MapSource]] = {}
        for method in dict.fromkeys(source.method for source in sources):
            own = [source for source in sources if source.method == method]
            self.lines |= {source: [source] for source in own}
            single = [source for source in own if source.layers != ALL_FUSED and method != RECIPE]
            if len(single) > 1:
                self.lines[MapSource(method, MEAN)] = single

    def add(self, first: int, parts: Parts) -> None:
        """Add the parts of the items from index ``first`` on."""
        for key, rows in parts.items():
            rows = rows.detach().cpu()
            self._counts[key] = self._counts.get(key, 0) + len(rows)
            rows = rows.double() if rows.is_floating_point() else rows.long()
            if key[1] in self._pooled:
                self._sums[key] = self._sums.get(key, 0) + rows.sum(0, keepdim=True)
            else:
                empty = rows.new_zeros(len(self._sizes), *rows.shape[1:])
                units = self._units[first : first + len(rows)]
                self._sums.setdefault(key, empty).index_add_(0, units, rows)

    @property
    def size(self) -> str:
        """The number of items, and of groups if these aren't the items themselves."""
        items = len(self._units)
        return f"{items}, {self.groups} groups" if self.groups != items else str(items)

    def total(self, source: MapSource | None, part: str) -> Tensor:
        """The sum of a part over all items, ``[*P]``."""
        return self._sums[source, part].sum(0)

    def count(self, source: MapSource | None, part: str) -> int:
        """For how many items a part was added."""
        return self._counts.get((source, part), 0)

    def mean(self, source: MapSource | None, part: str) -> Tensor:
        """The mean of a part over all items, ``[*P]``."""
        return self.total(source, part) / self.count(source, part)

    def scores(self, metrics: Sequence[Metric]) -> tuple[Score, ...]:
        """Every metric of every line, but those whose parts some items lack."""
        known = self._known(metrics)
        return tuple(self.score(line, metric) for line in self.lines for metric in known)

    def score(self, line: MapSource, metric: Metric) -> Score:
        """A metric of a line with its interval; NaN if it is not defined, as the IoU of no object."""
        value, low, high = self._value(line, metric), nan, nan
        if not isnan(value):
            found = bootstrap_interval(
                self._parts(line, metric), _mean_of(metric), **self._bootstrap
            )
            value, low, high = found.value, found.low, found.high
        return Score(line.method, line.layers, metric.name, value, low, high,
                     *self._about(line, metric))  # fmt: skip

    def differences(
        self, metrics: Sequence[Metric], methods: Sequence[str]
    ) -> tuple[Difference, ...]:
        """Methods less their best rival on the same layers; the recipe less the best of all others.

        The rival is the best of the others on the very images that are scored, so the choice
        favors it.

        Args:
            metrics: Those with a better direction are compared, if all items have their parts.
            methods: Variants of one method, which are not rivals of each other; if empty, only the
                recipe is compared.
        """
        found, compared = [], [metric for metric in self._known(metrics) if metric.better]
        for line in self.lines:
            others = [rival for rival in self.lines if rival.method != RECIPE]
            if line.method == RECIPE:
                rivals = [rival for rival in others if rival.layers != MEAN]
            elif line.method in methods:
                rivals = [r for r in others if r.method not in methods and r.layers == line.layers]
            else:
                continue
            found += [self._difference(line, rivals, metric) for metric in compared]
        return tuple(difference for difference in found if difference is not None)

    def _known(self, metrics: Sequence[Metric]) -> list[Metric]:
        items = len(self._units)
        return [m for m in metrics if self.count(self.sources[0], m.part) == items]

    def _difference(
        self, line: MapSource, rivals: Sequence[MapSource], metric: Metric
    ) -> Difference | None:
        """None if the number is not defined or there is no rival."""
        values = {rival: self._value(rival, metric) for rival in rivals}
        values = {rival: value for rival, value in values.items() if not isnan(value)}
        if not values or isnan(self._value(line, metric)):
            return None
        best = (min if metric.better == "lower" else max)(values, key=lambda rival: values[rival])
        own, other = self._parts(line, metric), self._parts(best, metric)
        found = bootstrap_interval(own, _mean_of(metric), rival=other, **self._bootstrap)
        return Difference(line.method, line.layers, metric.name, found.value, found.low, found.high,
                          *self._about(line, metric), best.method, best.layers)  # fmt: skip

    def _about(self, line: MapSource, metric: Metric) -> tuple[int, int, Better, bool]:
        n = self._counts[self.lines[line][0], metric.part]
        return n, self.groups, metric.better, metric.shown

    def _value(self, line: MapSource, metric: Metric) -> float:
        means = self._parts(line, metric).sum(0, keepdim=True) / self._sizes.sum()
        return float(_mean_of(metric)(means))

    def _parts(self, line: MapSource, metric: Metric) -> Tensor:
        """The sums of each resampling unit for all sources of a line, ``[units, sources, *P]``."""
        return torch.stack([self._sums[s, metric.part] for s in self.lines[line]], 1).double()


def _mean_of(metric: Metric) -> Callable[[Tensor], Tensor]:
    """From means ``[R, sources, *P]`` to the mean number of the sources ``[R]``."""
    return lambda means: metric.statistic(means).double().mean(-1)
