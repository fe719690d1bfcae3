"""What was tried, on which images, and how reliable is it? The report as Markdown, JSON and pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from ssgcam.core.fusion import resize
from ssgcam.core.methods import METHODS
from ssgcam.data import IGNORE
from ssgcam.files import write_json, write_png, write_text, written_whole
from ssgcam.metrics.bootstrap import Interval
from ssgcam.metrics.offset import MaskOffset
from ssgcam.preprocessing import Preprocessing
from ssgcam.recipe import Recipe
from ssgcam.report import html
from ssgcam.report.heatmap import overlay
from ssgcam.report.notebook import html_pictures, html_table
from ssgcam.report.panel import Cell, panel
from ssgcam.report.tables import TableCell
from ssgcam.search.calibration_set import CalibrationSet
from ssgcam.search.maps import COMPARED
from ssgcam.search.settings import Fitness
from ssgcam.search.validation import KINDS, Table, Where

TITLES: dict[Fitness, str] = {
    "pooled": "foreground IoU of all images' pixels pooled",
    "with_background": "mean of the pooled foreground and background IoU",
    "per_image": "mean foreground IoU of the images",
    "box": "mean IoU of the box around the mask",
}
_TEMPLATES = Environment(
    loader=PackageLoader("ssgcam.search", "."),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
SETS: dict[Where, str] = {"folds": "calibration", "held_out": "held-out"}


def example_panel(
    preprocessing: Preprocessing, data: CalibrationSet, maps: Tensor, masks: Tensor, title: str
) -> Image.Image:
    """The two worst, two median and two best images that show an object: labeled mask, map, mask.

    Args:
        preprocessing: How the images were normalized.
        data: The images.
        maps: ``[N, h, w]`` in [0, 1], of the size of the labeled masks.
        masks: ``[N, h, w]`` bool.
        title: Title of the panel.
    """
    truth, valid = data.masks == 1, data.masks != IGNORE
    shared, union = ((masks & truth).flatten(1).sum(1), ((masks | truth) & valid).flatten(1).sum(1))
    scores = shared / union.clamp_min(1)
    positives = (~data.negatives).nonzero()[:, 0]
    ranked = positives[scores[positives].argsort(stable=True)].tolist()
    middle = len(ranked) // 2
    best, median = ranked[-2:], ranked[max(0, middle - 1) : middle + 1]
    places = dict.fromkeys(best, "best") | dict.fromkeys(median, "median")
    places |= dict.fromkeys(ranked[:2], "worst")
    chosen = [row for row in ranked if row in places]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    cells = []
    for row in chosen:
        pixels = (data.images[row] * std + mean).clamp(0, 1)
        pixels = pixels.flip(0) if preprocessing.channel_order == "bgr" else pixels
        photo = to_pil_image(resize(pixels, data.mask_size))
        score = f"IoU {float(scores[row]):.3f}"
        cells.append(
            [
                Cell(photo, "labeled", data.names[row], mask=truth[row].numpy()),
                Cell(overlay(photo, maps[row].numpy()), "map"),
                Cell(photo, "mask", score, mask=masks[row].numpy()),
            ]
        )
    return panel(cells, title=title, row_titles=[places[row] for row in chosen])


@dataclass(frozen=True, eq=False)
class Report:
    """The whole search.

    Attributes:
        recipe: What it found.
        fitness: What it maximized.
        table: The recipe and all that it is compared with.
        warnings: Why its scores may not hold on other images.
        views: Name and fitness (penalty off) of the evolution on each of the views.
        history: Best fitness after each generation, penalty included.
        evaluations: Candidates scored.
        fold_layers: Layers that each fold chose.
        counts: Images, negatives and groups of the calibration and the held-out set.
        interrupted: Whether the search was stopped early.
        offset: Where the recipe's masks would fit best, all moved alike: of the held-out images, or else
            of the calibration images.
        undecided: With a guarantee, the mean share of an image between inner and outer mask, on the
            images that it was calibrated on.
        examples: A panel of the worst, median and best images.
    """

    recipe: Recipe
    fitness: Fitness
    table: Table
    warnings: tuple[str, ...]
    views: tuple[tuple[str, float], ...]
    history: tuple[float, ...]
    evaluations: int
    fold_layers: tuple[tuple[str, ...], ...]
    counts: dict[Where, dict[str, int]]
    interrupted: bool
    offset: MaskOffset
    undecided: float | None
    examples: Image.Image = field(repr=False)

    def __str__(self) -> str:
        return self.markdown()

    def _repr_html_(self) -> str:
        names = ("row", "calibration", "folds", "held-out")
        rows = [
            (row.name, row.calibration, row.score("folds"), row.score("held_out"))
            for row in sorted(self.table.rows, key=lambda row: -row.calibration)
            if row.kind == "recipe" or row.name in {lead.over for lead in self.table.leads}
        ]
        sentences = "".join(f"<p>{escape(text)}</p>" for text in (self.summary(), *self.warnings))
        return sentences + html_table(names, rows) + html_pictures([(self.examples, "")], side=900)

    def summary(self) -> str:
        """The recipe's scores, in one sentence."""
        scores = self.recipe.origin.scores
        found = [
            f"{name.replace('_', '-')} {value:.3f}"
            for name in ("calibration", "folds", "held_out")
            if (value := scores.get(name)) is not None
        ]
        return f"{TITLES[self.fitness]}: {', '.join(found)}"

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures and the images' parts of the scores, as JSON values."""
        content = asdict(replace(self, table=replace(self.table, parts={})))
        del content["table"]["parts"]
        return {**content, "examples": None, "fitness_is": TITLES[self.fitness]}

    def markdown(self) -> str:
        """The report as Markdown."""
        return _TEMPLATES.get_template("report.md.jinja").render(
            report=self,
            tables={table.title: table for table in self._tables()},
            compared=[METHODS[key] for key in COMPARED],
            title=TITLES[self.fitness],
            sets=SETS,
        )

    def save(self, folder: str | Path) -> None:
        """Write ``report.md``, ``report.json``, ``convergence.png`` and ``examples.png``."""
        folder = Path(folder)
        with written_whole(folder / "convergence.png") as path:
            self.convergence().savefig(path, dpi=130)
        write_png(folder / "examples.png", self.examples)
        pictures = "![Convergence](convergence.png)\n\n![Worst, median and best](examples.png)"
        write_text(folder / "report.md", f"{self.markdown()}\n{pictures}\n")
        write_json(folder / "report.json", self.to_json())

    def write_html(self, path: str | Path) -> None:
        """Write the HTML report: warnings, scores, leads, pictures and settings in one file.

        Raises:
            SsgcamError: If the name doesn't end in .html or the file can't be written.
        """
        examples = [html.Picture(self.examples, "Worst to best")]
        html.write_html(
            path,
            "Search of a recipe" + ", interrupted" * self.interrupted,
            [
                *self._tables(),
                html.Plot("Convergence", [self.convergence()]),
                html.Gallery("Worst, median and best images", examples),
            ],
            summary=[self.summary()],
            warnings=self.warnings,
            settings=asdict(self.recipe),
        )

    def _tables(self) -> list[html.Table]:
        """The recipe's layers, all scores and the leads."""
        layers: list[list[TableCell]] = [
            [one.name, f"{one.weight:.3f}", one.ssg.form, one.ssg.sigma, one.ssg.first_exponent,
             one.ssg.second_exponent, one.gamma]
            for one in self.recipe.layers
        ]  # fmt: skip
        scores = [
            [row.name, f"{row.calibration:.3f}", _interval(row.folds), _interval(row.held_out)]
            for row in sorted(
                self.table.rows, key=lambda row: (row.kind != "recipe", -row.calibration)
            )
        ]
        leads = [
            [lead.recipe, f"{KINDS[lead.kind]}: {lead.over}", lead.where.replace("_", "-"),
             _interval(lead.difference, "+")]
            for lead in self.table.leads
        ]  # fmt: skip
        columns = ["layer", "weight", "form", "sigma", "a", "b", "gamma"]
        names = ["row", "calibration", "folds", "held-out"]
        note = "On its own calibration images a score is too high; intervals: 95 % bootstrap over groups."
        return [
            html.Table("Recipe", columns, layers),
            html.Table("Scores", names, scores, note),
            html.Table("Leads", ["of", "over", "where", "difference"], leads),
        ]

    def convergence(self) -> Figure:
        """Best fitness against the number of candidates scored."""
        figure = Figure(figsize=(6, 3.2), layout="constrained")
        axes = figure.subplots()
        scored = np.linspace(0, self.evaluations, len(self.history) + 1)[1:]
        axes.plot(scored, self.history)
        axes.axhline(
            self.history[0], color="0.6", linestyle=":", label="best of the initial population"
        )
        axes.set(xlabel="candidates scored", ylabel="best fitness", title=TITLES[self.fitness])
        axes.legend(loc="lower right", frameon=False)
        return figure


def _interval(interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return ""
    return f"{interval.value:{sign}.3f} ({interval.low:{sign}.3f} to {interval.high:{sign}.3f})"
