"""The HTML report: self-contained, escaped, small, sortable."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from ssgcam.errors import SsgcamError
from ssgcam.report.html import Gallery, Picture, Plot, Table, Text, write_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def noise(seed: int, size: tuple[int, int] = (800, 600)) -> Image.Image:
    width, height = size
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def sections():
    rows = [["b <i>.png", 0.5, None], ["a.png", 0.25, 3], ["c.png", 1.0, 20]]
    figure = Figure((2, 2))
    figure.add_subplot().plot([0, 1], [0, 1])
    return [
        Text("Notes", ["First & second", "Third"]),
        Table("Scores", ["image", "IoU", "objects"], rows, "Higher is better"),
        Gallery("Masks", [Picture(noise(0, (40, 30)), "a.png", "IoU 0.25")]),
        Plot("Curve", [figure]),
    ]


def written(path, **options):
    write_html(path, "Report <1>", sections(), **options)
    return path.read_text(encoding="utf-8")


def test_warnings_come_first_and_everything_is_in_the_file(tmp_path):
    text = written(
        tmp_path / "r.html", summary=["Three images."], warnings=["'x.png' is damaged"],
        settings={"threshold": 0.4, "layers": ("a", "b")},
    )  # fmt: skip
    order = ["1 warning", "x.png&#39; is damaged", "Three images.", "Notes", "First &amp; second",
             "Scores", "Higher is better", "Masks", "IoU 0.25", "Curve", "Settings and versions",
             f"torch {torch.__version__}", "&#34;threshold&#34;: 0.4"]  # fmt: skip
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_text_is_escaped(tmp_path):
    text = written(tmp_path / "r.html")
    assert "<title>Report &lt;1&gt;</title>" in text
    assert "b &lt;i&gt;.png" in text
    assert "<i>" not in text


def test_report_without_warnings_and_settings_has_no_such_sections(tmp_path):
    text = written(tmp_path / "r.html")
    assert 'class="warnings"' not in text
    assert "All settings" not in text
    assert "Settings and versions" in text


def test_numbers_with_intervals_sort_as_numbers(tmp_path):
    rows = [["0.9 [0.8, 1.0]"], ["-0.1 (-0.2 to 0.1)"], ["+0.25"], ["3 of 4"], ["nan [nan, nan]"]]
    write_html(tmp_path / "r.html", "Scores", [Table("Scores", ["score"], rows)])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert re.findall(r'data-value="([^"]*)"', text) == ["0.9", "-0.1", "0.25"]


def test_floats_of_a_column_have_equal_decimals_and_a_heading_on_the_right(tmp_path):
    rows = [["a", None, 0.5, 7], ["b", 0.25, 12.0, 11], ["c", -0.0001, 3, 2], ["d", 1.0, 0.04, 5]]
    table = Table("Scores", ["name", "first", "second", "count"], rows)
    write_html(tmp_path / "r.html", "Scores", [table])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    shown = re.findall(r'<td class="number" data-value="[^"]*">([^<]*)</td>', text)
    assert shown == ["0.50", "7", "0.25", "12.00", "11", "0.00", "3.00", "2", "1.00", "0.04", "5"]
    assert text.count('<th scope="col" class="number">') == 3


def test_columns_and_sections_without_content_are_left_out(tmp_path):
    rows = [["a", "", None, 0], ["b", None, "", 0.0]]
    sections = [
        Table("Scores", ["name", "folds", "held-out", "zero"], rows),
        Table("Leads", ["of", "over"], []),
        Gallery("Worst images", []),
    ]
    write_html(tmp_path / "r.html", "Scores", sections)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert re.findall(r'title="Sort">([^<]*)<', text) == ["name", "zero"]
    assert "Leads" not in text
    assert "Worst" not in text


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(SsgcamError, match=r"'.*r\.txt' does not end in \.html"):
        written(tmp_path / "r.txt")


def test_nothing_is_fetched(tmp_path):
    text = written(tmp_path / "r.html")
    addresses = re.findall(r"""(?:src|href|action|data)=["']([^"']+)""", text)
    assert len(addresses) == 3  # the icon, the picture, the plot
    assert all(address.startswith("data:") for address in addresses)
    assert not re.search(r"@import|url\(|<link(?! rel=\"icon\")|fetch\(|https?://", text)


def test_hundred_pictures_take_less_than_five_megabytes(tmp_path):
    pictures = [Picture(noise(seed), str(seed)) for seed in range(100)]
    write_html(tmp_path / "r.html", "Noise", [Gallery("Noise", pictures)])
    assert (tmp_path / "r.html").stat().st_size < 5_000_000


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_tables_sort_and_pictures_open_without_a_console_message(tmp_path):
    text = written(tmp_path / "r.html", warnings=["one"])
    clicks = """<script>
    const names = () => [...document.querySelectorAll("tbody tr")].map(r => r.cells[0].innerText);
    const heads = document.querySelectorAll("th button"), orders = [];
    for (const column of [0, 0, 1, 1, 2, 2]) { heads[column].click(); orders.push(names()); }
    document.querySelector(".open").click();
    const opened = document.querySelector("dialog[open] img");
    document.title = JSON.stringify([orders, opened.naturalWidth > 0 || opened.src.length > 100]);
    </script></body>"""
    page = tmp_path / "clicked.html"
    page.write_text(text.replace("</body>", clicks), encoding="utf-8")
    shown = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    a, b, c = "a.png", "b <i>.png", "c.png"
    orders = [[a, b, c], [c, b, a], [a, b, c], [c, b, a], [a, c, b], [c, a, b]]
    title = re.search(r"<title>(.*?)</title>", shown.stdout)[1]
    expected = str([orders, True]).replace("'", '"').replace("True", "true").replace(", ", ",")
    assert title.replace("&lt;", "<").replace("&gt;", ">") == expected
    assert "CONSOLE" not in shown.stderr
