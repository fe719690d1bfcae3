"""Every kind of input and what happens with it; ``docs/inputs.md`` is what these cases give.

``SSGCAM_UPDATE_DOCS=1 pytest tests/test_inputs_page.py`` writes the page anew.
"""

import os
import re
import warnings
from pathlib import Path

from helpers import commands
from helpers.data_trees import photo
from helpers.input_cases import CASES, beside_masks, case
from ssgcam import SsgcamError

PAGE = Path(__file__).parents[1] / "docs" / "inputs.md"
INTRODUCTION = """# Kinds of input

What happens with each kind of picture, network, checkpoint, data set and run. A test runs all of them
and compares this page with what it finds (`tests/test_inputs_page.py`). A sentence in *italics* is an
error; in a batch of images such an image is reported and the others are worked on.
"""


def run_of(title):
    def enter(function):
        @case("Runs", title)
        def run(folder):
            photo(folder / "in" / "a.jpg", (40, 30))
            result = function(folder, folder / "in", folder / "out")
            lines = (result.stderr + result.stdout).strip().splitlines()
            errors = [
                line.removeprefix("ssgcam: ") for line in lines if line.startswith("ssgcam: ")
            ]
            if result.exit_code:
                raise SsgcamError(errors[-1])
            return lines[-1]

    return enter


def explain(folder, out, *words):
    return commands.run("explain", folder, "--model", commands.TINY, "--out", out, *words)


@run_of("`explain` run again")
def again(root, images, out):
    explain(images, out)
    return explain(images, out)


@run_of("`explain` into the folder of another run")
def another(root, images, out):
    explain(images, out)
    return explain(images, out, "--layers", "conv")


@run_of("`explain` of a folder with one damaged image")
def damaged(root, images, out):
    (images / "b.jpg").write_bytes(b"no picture")
    return explain(images, out)


@run_of("`explain --class` of an unknown class")
def unknown(root, images, out):
    return explain(images, out, "--class", "cherry")


@run_of("`train` on `images/` beside `masks/`")
def trained(root, images, out):
    beside_masks([0, 0, 255, 255])(root / "set")
    return commands.run("train", root / "set", "--out", root / "net.pth")


def observed(part, title, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            sentence = CASES[part, title](folder)
        except SsgcamError as error:
            sentence = f"*{re.sub(r' [(][^()]*[)]', '', str(error))}*"
    plain = sentence.replace(f"{folder}{os.sep}", "").replace(str(folder), "FOLDER")
    return plain.replace("|", "/")


def page(folder):
    lines = [INTRODUCTION]
    for part in dict.fromkeys(part for part, _ in CASES):
        lines += [f"## {part}", "", "| input | what happens |", "| --- | --- |"]
        for number, (of, title) in enumerate(CASES):
            if of == part:
                place = folder / str(number)
                place.mkdir()
                lines.append(f"| {title} | {observed(part, title, place)} |")
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def test_the_page_of_inputs_says_what_happens(tmp_path):
    found = page(tmp_path)
    if os.environ.get("SSGCAM_UPDATE_DOCS"):
        PAGE.write_text(found, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8").splitlines() == found.splitlines()
