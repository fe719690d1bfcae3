"""Options that say what a network or an image file does not say itself."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from helpers import factories
from helpers.commands import run

GRAY = "helpers.factories:gray"


@pytest.fixture
def gray(monkeypatch):
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    monkeypatch.setattr(factories, "gray", lambda: network, raising=False)


@pytest.fixture
def image(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (20, 30)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_gray_network_is_described_by_options(tmp_path, gray, image):
    (tmp_path / "names.txt").write_text("empty\ninfected\n")
    words = [
        "--layers",
        "1",
        "--input-size",
        "16",
        "--mean",
        "0.5",
        "--std",
        "0.25",
        "--intensity",
        "0,4095",
    ]
    out = tmp_path / "out"
    names = ("--class-names", tmp_path / "names.txt")
    result = run("explain", image, "--model", GRAY, "--out", out, *words, *names)
    assert result.exit_code == 0, result.output
    assert "note:" not in result.stderr
    assert "values from 0 to 4095 were read" in result.stderr
    written = json.loads((out / "explain.json").read_text())
    assert written["photos"][0]["maps"][0]["name"] in ("empty", "infected")
    assert written["photos"][0]["notes"] == ["values from 0 to 4095 were read"]
    used = written["model"]["preprocessing"]
    assert (used["input_size"], used["mean"], used["std"]) == ([16, 16], [0.5], [0.25])
    assert used["reading"]["intensity"] == "0,4095"
    assert np.load(out / "a_map.npy").shape == (16, 16)


def test_what_is_assumed_is_said(tmp_path, gray, image):
    result = run("explain", image, "--model", GRAY, "--layers", "1", "--out", tmp_path / "out")
    assert "note: the preprocessing is unknown" in result.stderr
    result = run("explain", image, "--model", "timm/test_vit", "--weights", "none",
                 "--out", tmp_path / "vit")  # fmt: skip
    assert "note: the network is untrained" in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--mean a", "--mean"),
        ("--mean 0.1,0.2", "mean has 2 and std 1 values"),
        ("--output relu", "output is 'relu'; choose one of softmax, sigmoid"),
        ("--channel-order rbg", "channel_order is 'rbg'; choose one of rgb, bgr"),
        ("--intensity bright", "intensity is 'bright'; give auto, full or LOW,HIGH"),
        ("--input-size 0", "give numbers above zero"),
    ],
)
def test_a_wrong_option_is_one_sentence(tmp_path, gray, image, words, said):
    result = run("explain", image, "--model", GRAY, "--out", tmp_path / "out", *words.split())
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output
