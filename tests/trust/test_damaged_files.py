"""A damaged recipe, network, manifest or data set ends in one sentence, never in another exception."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.damage import damaged, damaged_text
from helpers.layouts import TREES, root_of
from helpers.segmentation import photos, recipe_for, small
from ssgcam import SsgcamError, load_model, save_model
from ssgcam.bulk.segment import segment_images
from ssgcam.checkpoints import read_checkpoint
from ssgcam.data import read_samples
from ssgcam.images import image_header
from ssgcam.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
#: How many damaged inputs each reader gets, and the seed.
SMALL, LARGE = (25, 1), (1000, 2)
counts = pytest.mark.parametrize(
    ("count", "seed"), [SMALL, pytest.param(*LARGE, marks=pytest.mark.long)]
)


def check(read: Callable[[], Any], what: object) -> bool:
    """Whether something could be read; anything but one sentence fails the test."""
    try:
        read()
    except SsgcamError as error:
        sentence = str(error)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} ({error!s:.300}) on {what!r:.300}") from error
    else:
        return True
    assert "\n" not in sentence, what
    return False


def new_content(path: Path, content: bytes, rng: random.Random) -> bytes:
    if path.suffix in (".png", ".jpg", ".npy"):
        return damaged(content, rng)
    return damaged_text(content.decode(), rng)


@counts
@pytest.mark.parametrize("kind", sorted(TREES))
def test_damaged_data_sets(kind: str, count: int, seed: int, tmp_path: Path) -> None:
    files = TREES[kind](tmp_path)
    contents = {path: path.read_bytes() for path in files}
    root, name = root_of(kind, tmp_path), kind.split()[0]

    def read_all() -> None:
        for sample in read_samples(root, name):
            if sample.mask is not None:
                width, height, orientation = image_header(sample.image)
                sample.mask.read((width, height) if orientation <= 4 else (height, width))

    assert check(read_all, kind), "the undamaged set must be readable"
    rng = random.Random(f"{kind} {seed}")
    readable = 0
    for number in range(count):
        path = files[number % len(files)]
        path.write_bytes(new_content(path, contents[path], rng))
        readable += check(read_all, (path.name, path.read_bytes()))
        path.write_bytes(contents[path])
    assert readable < count


@counts
def test_damaged_recipes(count: int, seed: int, tmp_path: Path) -> None:
    model, file = small(), tmp_path / "recipe.json"
    recipe_for(model).save(file)
    text, rng = file.read_text(), random.Random(seed)
    image = torch.rand(1, 3, 16, 16)
    outcomes = set()
    for _ in range(count):
        file.write_bytes(damaged_text(text, rng))
        outcomes.add(check(lambda: Recipe.load(file), file.read_bytes()))
        if outcomes == {True} or rng.random() < 0.1:  # what was read can be used or is refused
            check(lambda: Recipe.load(file).bind(model)(image), file.read_bytes())
    assert False in outcomes


@counts
def test_damaged_network_files(count: int, seed: int, tmp_path: Path) -> None:
    file = tmp_path / "net.pth"
    save_model(load_model("squeezenet1_1", "none", num_classes=2), file)
    small_state = {"state_dict": {"a": torch.rand(3, 2), "b": torch.rand(2)}, "epoch": 3}
    stream = io.BytesIO()
    torch.save(small_state, stream)
    rng = random.Random(seed)
    outcomes = set()
    for _ in range(count):
        file.write_bytes(damaged(stream.getvalue(), rng))
        outcomes.add(check(lambda: read_checkpoint(file), file.read_bytes()))
    assert False in outcomes


ENTRIES = (
    "architecture",
    "class_names",
    "num_classes",
    "output",
    "preprocessing",
    "state",
    "version",
)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("value", [None, "gone", -1, 2.5, [], {}, [["a"]], {"mean": 3}, "resnet19"])
def test_a_wrong_entry_of_a_network_file(entry: str, value: object, tmp_path: Path) -> None:
    file = tmp_path / "net.pth"
    save_model(load_model("squeezenet1_1", "none", num_classes=2), file)
    content = torch.load(file, weights_only=True)
    content[entry] = value
    if value == "gone":
        del content[entry]
    torch.save(content, file)
    check(lambda: load_model(str(file)), (entry, value))


@counts
def test_damaged_manifests(count: int, seed: int, tmp_path: Path) -> None:
    model, out = replace(small()), tmp_path / "out"
    photos(tmp_path / "in", 3)

    def segment() -> None:
        segment_images([tmp_path / "in"], model, out, threshold=0.3, gate=0.0, workers=1, review=1)

    segment()
    file = out / "manifest.jsonl"
    lines, rng = file.read_bytes().splitlines(keepends=True), random.Random(seed)
    for _ in range(count):
        number = rng.randrange(len(lines))
        line = damaged_text(lines[number].decode(), rng).replace(b"\n", b" ")
        file.write_bytes(b"".join([*lines[:number], line + b"\n", *lines[number + 1 :]]))
        if check(segment, line):
            entries = [json.loads(each) for each in file.read_bytes().splitlines()[1:]]
            assert sorted(each["unit"] for each in entries if each["unit"].startswith("00")) == [
                "000.png", "001.png", "002.png"
            ]  # fmt: skip
