"""What was tried, on what, how sure: the search's report as Markdown, JSON and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ssgcam.files import write_json, write_png, write_text, written_whole
from ssgcam.metrics import Interval, MaskOffset
from ssgcam.recipe import Recipe
from ssgcam.report.heatmap import overlay
from ssgcam.report.panel import Cell, panel
from ssgcam.search.scoring import Fitness
from ssgcam.search.validation import Table

TITLES: dict[Fitness, str] = {
    "pooled": "foreground IoU of all images' pixels pooled",
    "with_background": "mean of the pooled foreground and background IoU",
    "per_image": "mean foreground IoU of the images",
    "box": "mean IoU of the box around the mask",
}


@dataclass(frozen=True, eq=False)
class Shown:
    """One image of the panel.

    Attributes:
        name: Its name.
        place: ``"worst"``, ``"median"`` or ``"best"``.
        score: IoU of its mask.
        pixels: ``[3, H, W]`` in [0, 1].
        map: ``[H, W]`` in [0, 1].
        mask: ``[H, W]`` bool.
        truth: ``[H, W]`` uint8.
    """

    name: str
    place: str
    score: float
    pixels: torch.Tensor
    map: torch.Tensor
    mask: torch.Tensor
    truth: torch.Tensor


@dataclass(frozen=True, eq=False)
class Report:
    """The whole search.

    Attributes:
        recipe: What it found.
        fitness: What it maximized.
        table: Everything scored where it was not calibrated.
        warnings: What speaks against trusting it.
        views: Name and fitness (penalty off) of the evolution on each of the views.
        variants: Name and calibration score of the recipe with each augmentation and refinement.
        history: Best fitness after each generation, penalty included.
        evaluations: Candidates scored.
        fold_layers: Layers that each fold chose.
        counts: Images, negatives and groups of the calibration and the held-out set.
        interrupted: Whether the search was stopped early.
        offset: Where the recipe's masks would fit best, all moved alike: of the held-out images, or else
            of the calibration images.
        shown: Images for the panel, worst to best.
    """

    recipe: Recipe
    fitness: Fitness
    table: Table
    warnings: tuple[str, ...]
    views: tuple[tuple[str, float], ...]
    variants: tuple[tuple[str, float], ...]
    history: tuple[float, ...]
    evaluations: int
    fold_layers: tuple[tuple[str, ...], ...]
    counts: dict[str, dict[str, int]]
    interrupted: bool
    offset: MaskOffset
    shown: tuple[Shown, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return self.markdown()

    def summary(self) -> str:
        """One sentence: how well the recipe does, as honestly as is known."""
        scores = self.recipe.origin.scores
        found = [
            f"{name.replace('_', '-')} {value:.3f}"
            for name in ("calibration", "folds", "held_out")
            if (value := scores.get(name)) is not None
        ]
        return f"{TITLES[self.fitness]}: {', '.join(found)}"

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON values."""
        return {
            "fitness": self.fitness,
            "fitness_is": TITLES[self.fitness],
            "images": self.counts,
            "warnings": list(self.warnings),
            "rows": [asdict(row) for row in self.table.rows],
            "leads": [asdict(lead) for lead in self.table.leads],
            "views": [{"name": name, "fitness": score} for name, score in self.views],
            "variants": [{"name": name, "calibration": score} for name, score in self.variants],
            "fold_layers": [list(layers) for layers in self.fold_layers],
            "evaluations": self.evaluations,
            "interrupted": self.interrupted,
            "offset": asdict(self.offset),
            "history": list(self.history),
            "recipe": asdict(self.recipe),
        }

    def markdown(self) -> str:
        """The report as Markdown."""
        recipe = self.recipe
        lines = ["# DE-SSG-CAM search", ""]
        for name, counts in self.counts.items():
            lines.append(
                f"- {name} set: {counts['images']} images of {counts['groups']} groups, "
                f"{counts['negatives']} without an object"
            )
        lines += [
            f"- score: {TITLES[self.fitness]}",
            f"- {self.evaluations:,} candidates in {len(self.history) - 1} generations, seed "
            f"{recipe.origin.seed}"
            + (", interrupted: the best so far" if self.interrupted else ""),
            "- fitness by the views it was searched on: "
            + "; ".join(f"{name} {score:.3f}" for name, score in self.views),
            "",
        ]
        if self.warnings:
            lines += ["## Warnings", "", *(f"- {warning}" for warning in self.warnings), ""]
        lines += ["## Recipe", "", "| layer | weight | form | sigma | a | b | gamma |"]
        lines.append("| --- | --- | --- | --- | --- | --- | --- |")
        lines += [
            f"| {layer.name} | {layer.weight:.3f} | {layer.ssg.form} | {layer.ssg.sigma:g} | "
            f"{layer.ssg.first_exponent:g} | {layer.ssg.second_exponent:g} | {layer.gamma:g} |"
            for layer in recipe.layers
        ]
        lines += [
            "",
            f"Threshold {recipe.threshold:.3f}, class gate {recipe.gate:.3f}, working size "
            f"{recipe.working_size[0]}x{recipe.working_size[1]}. On the calibration images, with views "
            "and refinement:",
            "",
            "| views and refinement | calibration |",
            "| --- | --- |",
            *(f"| {name} | {score:.3f} |" for name, score in self.variants),
            "",
            "## Where it was not calibrated",
            "",
            "Thresholds and gates are chosen on calibration images only (in `folds`, on the other "
            "folds' images; the recipe is searched anew in each fold, with the views that were best on "
            "all). The rivals have no views, but the best layer with searched settings has the recipe's. "
            f"Intervals: {_level(self.table)} bootstrap over groups.",
            "",
            "| | calibration | folds | held-out |",
            "| --- | --- | --- | --- |",
        ]
        ranked = sorted(self.table.rows, key=lambda row: (row.kind != "recipe", -row.calibration))
        lines += [
            f"| {row.name} | {row.calibration:.3f} | {_interval(row.folds)} | {_interval(row.held_out)} |"
            for row in ranked
        ]
        lines += [
            "",
            "## Leads",
            "",
            "| of | over | where | difference |",
            "| --- | --- | --- | --- |",
        ]
        lines += [
            f"| {lead.recipe} | {lead.why}: {lead.over} | {lead.where.replace('_', '-')} | "
            f"{_interval(lead.difference, '+')} |"
            for lead in self.table.leads
        ]
        return "\n".join([*lines, ""])

    def save(self, folder: str | Path) -> None:
        """Write ``report.md``, ``report.json``, ``convergence.png`` and ``examples.png``."""
        folder = Path(folder)
        pictures = ["", "![Convergence](convergence.png)", ""]
        with written_whole(folder / "convergence.png") as path:
            self.convergence().savefig(path, dpi=130)
        if self.shown:
            write_png(folder / "examples.png", self.panel())
            pictures += ["![Worst, median and best](examples.png)", ""]
        write_text(folder / "report.md", self.markdown() + "\n".join(pictures))
        write_json(folder / "report.json", self.to_json())

    def convergence(self) -> Figure:
        """Best fitness against the number of candidates scored."""
        figure = Figure(figsize=(6, 3.2), layout="constrained")
        axes = figure.subplots()
        per_generation = self.evaluations / max(1, len(self.history))
        scored = [per_generation * (index + 1) for index in range(len(self.history))]
        axes.plot(scored, self.history)
        axes.axhline(self.history[0], color="0.6", linestyle=":", label="best planted or random")
        axes.set(xlabel="candidates scored", ylabel="best fitness", title=TITLES[self.fitness])
        axes.legend(loc="lower right", frameon=False)
        return figure

    def panel(self) -> Image.Image:
        """The worst, median and best images: photo with truth, map, mask."""
        rows = []
        for shown in self.shown:
            photo = _photo(shown.pixels)
            values: NDArray[np.float32] = shown.map.numpy()
            rows.append(
                [
                    Cell(photo, "labeled", shown.name, mask=(shown.truth == 1).numpy()),
                    Cell(overlay(photo, values), "map"),
                    Cell(photo, "mask", f"IoU {shown.score:.3f}", mask=shown.mask.numpy()),
                ]
            )
        where = "held-out" if "held-out" in self.counts else "calibration"
        return panel(
            rows,
            title=f"Worst, median and best {where} images",
            row_titles=[shown.place for shown in self.shown],
        )


def _photo(pixels: torch.Tensor) -> Image.Image:
    values = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).numpy())


def _interval(interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return ""
    return f"{interval.value:{sign}.3f} ({interval.low:{sign}.3f} to {interval.high:{sign}.3f})"


def _level(table: Table) -> str:
    found: Sequence[Interval] = [i for row in table.rows for i in (row.folds, row.held_out) if i]
    return f"{100 * found[0].level:g} %" if found else "95 %"
