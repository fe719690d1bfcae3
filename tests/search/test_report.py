"""The report of a search: its tables, in Markdown and HTML alike, and the panel of examples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from helpers.search_sets import short_search, squares
from ssgcam.preprocessing import Preprocessing
from ssgcam.report.panel import Cell
from ssgcam.search import SearchResult, report

pytestmark = pytest.mark.filterwarnings(
    "ignore:(The calibration set is small|The images come from|No image is without)"
)


@pytest.fixture(scope="module")
def found() -> SearchResult:
    torch.set_num_threads(1)
    return short_search()


def test_markdown_and_html_show_the_layers_and_every_score(
    found: SearchResult, tmp_path: Path
) -> None:
    found.report.write_html(tmp_path / "report.html")
    html, text = (tmp_path / "report.html").read_text(), found.report.markdown()
    html = re.sub("</?span>", "", html)  # around an interval
    for layer in found.recipe.layers:
        shown = [
            layer.name, f"{layer.weight:.3f}", layer.ssg.form, f"{layer.ssg.sigma:g}",
            f"{layer.ssg.first_exponent:g}", f"{layer.ssg.second_exponent:g}", f"{layer.gamma:g}",
        ]  # fmt: skip
        assert f"| {' | '.join(shown)} |" in text.splitlines()
        assert all(re.search(rf"<td[^>]*>{re.escape(cell)}[.0]*</td>", html) for cell in shown)
    for row in found.report.table.rows:
        cells = [row.name, f"{row.calibration:.3f}"]
        for interval in (row.folds, row.held_out):
            numbers = interval and (interval.value, interval.low, interval.high)
            cells.append("{:.3f} ({:.3f} to {:.3f})".format(*numbers) if numbers else "")
        assert f"| {' | '.join(cells)} |" in text.splitlines()
        assert all(cell.replace("'", "&#39;") in html for cell in cells)
    assert "\n\n\n" not in text


def test_the_examples_are_the_worst_the_median_and_the_best(monkeypatch: Any) -> None:
    data = squares(9, negatives=1)
    masks = torch.zeros(9, 32, 32, dtype=torch.bool)
    order = [3, 0, 7, 5, 1, 6, 2, 4]  # from the worst to the best
    for place, row in enumerate(order):
        rows = data.masks[row].any(1).nonzero()[: place + 2, 0]
        masks[row, rows] = data.masks[row, rows] == 1
    masks[8] = True  # shows no object, so it is no example
    drawn: dict[str, Any] = {}

    def panel(cells: list[list[Cell]], **options: Any) -> Image.Image:
        drawn.update(options, cells=cells)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(report, "panel", panel)
    plain = Preprocessing((32, 32), (0.0,) * 3, (1.0,) * 3)
    report.example_panel(plain, data, masks.float(), masks, "A title")
    chosen = [order[k] for k in (0, 1, 3, 4, 6, 7)]
    assert drawn["row_titles"] == ["worst", "worst", "median", "median", "best", "best"]
    assert [row[2].caption for row in drawn["cells"]] == [
        f"IoU {(place + 2) / 12:.3f}" for place in (0, 1, 3, 4, 6, 7)
    ]
    assert [row[0].caption for row in drawn["cells"]] == [data.names[row] for row in chosen]
