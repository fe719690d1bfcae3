"""Damaged pictures end in one sentence each; every good picture beside them is still worked on."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path

import pytest

from helpers.commands import TINY, photo, run
from helpers.damage import FORMATS, crafted_images, damaged_images, good_image
from ssgcam import SsgcamError
from ssgcam.images import image_header, read_image

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
#: Seconds that no single file may take.
SLOWEST = 20.0


def check_read(path: Path) -> bool:
    """Whether a picture can be read; asserts that a bad one gets one sentence, soon."""
    started = time.process_time()
    sentences = []
    for read in (read_image, image_header):
        try:
            read(path)
        except SsgcamError as error:
            sentences.append(str(error))
    assert all("\n" not in each and len(each) < 1000 for each in sentences), path.name
    assert time.process_time() - started < SLOWEST, path.name
    return not sentences


def written(folder: Path, files: dict[str, bytes]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_the_good_files_are_read_in_every_mode(kind: str, tmp_path: Path) -> None:
    for mode in FORMATS[kind][1]:
        (path,) = written(tmp_path, {f"{mode}{FORMATS[kind][0]}": good_image(kind, mode)})
        with warnings.catch_warnings():
            assert check_read(path)


@pytest.mark.parametrize(("name", "content"), sorted(crafted_images()), ids=lambda x: str(x)[:20])
def test_a_file_made_to_do_harm_ends_in_a_sentence_or_a_picture(
    name: str, content: bytes, tmp_path: Path
) -> None:
    check_read(*written(tmp_path, {name: content}))


@pytest.mark.parametrize(
    ("count", "seed"), [(200, 1), pytest.param(10000, 2, marks=pytest.mark.long)]
)
def test_damaged_files_are_read_or_refused(count: int, seed: int, tmp_path: Path) -> None:
    paths = written(tmp_path, dict(damaged_images(count, seed)))
    assert len(paths) == count
    readable = [check_read(path) for path in paths]
    assert any(readable)
    assert not all(readable)


@pytest.mark.parametrize("command", ["explain", "segment"])
@pytest.mark.parametrize(
    ("count", "seed"), [(16, 3), pytest.param(2000, 4, marks=pytest.mark.long)]
)
def test_a_command_does_all_good_files_and_reports_the_others(
    command: str, count: int, seed: int, tmp_path: Path
) -> None:
    bad = written(tmp_path / "in", dict(damaged_images(count, seed)))
    readable = {path for path in bad if check_read(path)}
    good = [photo(tmp_path / "in" / f"good{k}.png", seed=k) for k in range(3)]
    done = run(command, tmp_path / "in", "--model", TINY, "--out", tmp_path / "out")
    assert "Traceback" not in done.output
    assert "this is a bug" not in done.output
    assert done.exit_code == 2, done.output
    lines = (tmp_path / "out" / "manifest.jsonl").read_text("utf-8").splitlines()
    entries = [json.loads(line) for line in lines[1:]]
    assert len(entries) == len(bad) + len(good)
    finished = sum("error" not in entry for entry in entries)
    assert finished == len(readable) + len(good)
    for entry in entries:
        for output in entry.get("outputs", ()):
            assert (tmp_path / "out" / output).is_file()
