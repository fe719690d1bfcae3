"""What an evaluation found, and its tables as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ssgcam.evaluation.figures import Chart, Example
from ssgcam.files import write_json, write_text

Better = Literal["higher", "lower", ""]
#: What stands in the column of the layers for all of them fused, and for the mean of single ones.
ALL_FUSED = "all fused"
MEAN = "mean of layers"
#: What stands in the column of the method for a recipe.
RECIPE = "recipe"


@dataclass(frozen=True)
class Score:
    """One number: whose map, from which layers, by which metric, with its 95 % interval."""

    method: str
    layers: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    """Images (of an image with several classes, one for each)."""
    groups: int
    """What was resampled: fields, patients, or the images themselves."""
    better: Better
    shown: bool
    """Whether the printed table has it; the files have all."""


@dataclass(frozen=True)
class Difference:
    """``method`` on ``layers`` less ``rival`` on ``rival_layers``, paired, with its 95 % interval."""

    metric: str
    method: str
    layers: str
    rival: str
    rival_layers: str
    value: float
    low: float
    high: float
    n: int
    groups: int
    better: Better
    shown: bool

    @property
    def verdict(self) -> str:
        """``leads``, ``loses`` or ``open`` (the interval holds zero)."""
        if self.low <= 0 <= self.high:
            return "open"
        return "leads" if (self.low > 0) == (self.better == "higher") else "loses"


@dataclass(frozen=True)
class Table:
    """Another table of the report."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found.

    Attributes:
        task: ``"localization"``, ``"segmentation"``, ``"perturbation"`` or ``"sanity"``.
        facts: What makes the numbers comparable: network, layers, thresholds, seed, ...
        scores: All numbers.
        differences: Paired differences to the best rival.
        tables: Other tables.
        charts: Curves.
        examples: Images for the panel.
        notes: Sentences that a reader must know.
    """

    task: str
    facts: dict[str, str]
    scores: tuple[Score, ...]
    differences: tuple[Difference, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    examples: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()

    def score(self, method: str, layers: str, metric: str) -> Score:
        """The score of a line of the table.

        Raises:
            KeyError: If there is none.
        """
        for found in self.scores:
            if (found.method, found.layers, found.metric) == (method, layers, metric):
                return found
        raise KeyError((method, layers, metric))

    def table(self) -> str:
        """The main table, methods and layers by metrics, as Markdown that is readable as text."""
        shown = [score for score in self.scores if score.shown]
        metrics = list(dict.fromkeys(score.metric for score in shown))
        arrows = {
            score.metric: {"lower": " (lower is better)"}.get(score.better, "") for score in shown
        }
        cells: dict[tuple[str, str, str], dict[str, str]] = {}
        for score in shown:
            text = f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
            n = str(score.n)
            if score.groups != score.n:
                n += f" ({score.groups} groups)"
            cells.setdefault((score.method, score.layers, n), {})[score.metric] = text
        header = ["method", "layers", "n", *(metric + arrows[metric] for metric in metrics)]
        rows = [[*line, *(found.get(m, "") for m in metrics)] for line, found in cells.items()]
        return markdown_table(header, rows) if shown else ""

    def difference_table(self, brief: bool = False) -> str:
        """The paired differences of the metrics that the main table shows, as Markdown.

        Args:
            brief: Leave out the single layers where there are fused ones or means of layers.
        """
        shown = [difference for difference in self.differences if difference.shown]
        joint = [d for d in shown if d.layers in (ALL_FUSED, MEAN)]
        if brief and joint:
            shown = joint + [d for d in shown if d.method == RECIPE]
        rows = [
            [
                d.metric,
                f"{d.method}, {d.layers}",
                f"{d.rival}, {d.rival_layers}" if d.rival_layers != d.layers else d.rival,
                f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]",
                d.verdict,
            ]
            for d in shown
        ]
        return (
            markdown_table(["metric", "of", "best rival", "difference", ""], rows) if rows else ""
        )

    def text(self, brief: bool = False) -> str:
        """The tables and the notes.

        Args:
            brief: As for :meth:`difference_table`.
        """
        parts = [self.table()]
        parts += [
            f"{t.title}\n\n{markdown_table(t.header, [list(row) for row in t.rows])}"
            for t in self.tables
        ]
        differences = self.difference_table(brief)
        if differences:
            parts.append(
                "Less the best rival, paired (positive: higher; open: the interval holds zero)\n\n"
                + differences
            )
        return "\n\n".join([part for part in parts if part] + list(self.notes))

    def markdown(self, pictures: Sequence[str] = ()) -> str:
        """The report.

        Args:
            pictures: Files to show, relative to the report.
        """
        facts = "\n".join(f"- {name}: {value}" for name, value in self.facts.items())
        shown = "\n\n".join(f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in pictures)
        parts = [f"# {self.task.capitalize()}", facts, self.text(), shown]
        return "\n\n".join(part for part in parts if part) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Everything but the examples, as plain values."""
        return {
            "task": self.task,
            "facts": self.facts,
            "scores": [asdict(score) for score in self.scores],
            "differences": [{**asdict(d), "verdict": d.verdict} for d in self.differences],
            "tables": [asdict(table) for table in self.tables],
            "charts": [asdict(chart) for chart in self.charts],
            "notes": list(self.notes),
        }

    def write_tables(self, out: Path, pictures: Sequence[str] = ()) -> list[Path]:
        """Write ``TASK.json``, ``TASK.csv``, ``TASK_differences.csv`` and ``TASK.md``.

        Raises:
            SsgcamError: If the folder can't be written to.
        """
        write_json(out / f"{self.task}.json", self.to_json())
        written = [out / f"{self.task}.json"]
        for name, kind, rows in (
            (self.task, Score, self.scores),
            (f"{self.task}_differences", Difference, self.differences),
        ):
            if rows:
                write_text(out / f"{name}.csv", _csv(kind, rows))
                written.append(out / f"{name}.csv")
        write_text(out / f"{self.task}.md", self.markdown(pictures))
        return [*written, out / f"{self.task}.md"]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    lines = [list(header), *map(list, rows)]
    widths = [max(3, *(len(line[k]) for line in lines)) for k in range(len(header))]
    padded = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([padded[0], rule, *padded[1:]])


def _csv(kind: type[Score] | type[Difference], rows: Sequence[Score] | Sequence[Difference]) -> str:
    names = [field.name for field in fields(kind) if field.name != "shown"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([getattr(row, name) for name in names])
    return stream.getvalue()
