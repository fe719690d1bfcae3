"""The command ``ssgcam train``: a network's file and a report."""

import json

import typer
from typer.testing import CliRunner

from helpers.training_sets import class_folders
from ssgcam.cli.train import train
from ssgcam.errors import SsgcamError
from ssgcam.models import load_model


def test_the_command_writes_a_network_and_a_report(tmp_path):
    app = typer.Typer()
    app.command()(train)
    folder = class_folders(tmp_path / "data", infected=12, healthy=12)
    out = tmp_path / "runs" / "net.pth"
    options = "--model mobilenet_v3_small --input-size 32 --epochs 1 --device cpu --amp"
    words = [str(folder), "--out", str(out), *options.split(), "--group-pattern", r"slide\d+",
             "--report", str(tmp_path / "report.html")]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.parent.iterdir()) == ["net.json", "net.pth"]
    written = json.loads(out.with_suffix(".json").read_text())
    assert written["settings"]["epochs"] == 1
    held_out = written["report"]["n"]
    assert f"{held_out} held-out images" in done.output
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for part in (
        "Recall of each class",
        f"{held_out} held-out images",
        "as healthy",
        "&#34;epochs&#34;",
    ):
        assert part in page
    assert load_model(str(out)).class_names == ("healthy", "infected")
    refused = CliRunner().invoke(app, [str(folder), "--out", str(tmp_path / "net.onnx")])
    assert isinstance(refused.exception, SsgcamError)
    assert "does not end in .pth" in str(refused.exception)
