"""A folder, a binary file or an unreadable file where a file of a certain kind is expected."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.commands import TINY, photo, run
from helpers.layouts import TREES, root_of
from ssgcam import SsgcamError, load_model
from ssgcam.data import read_samples
from ssgcam.data.masks import read_raw_mask
from ssgcam.data.tables import read_table
from ssgcam.files import read_array, read_json, read_lines
from ssgcam.images import image_header, read_image
from ssgcam.manifest import Manifest
from ssgcam.recipe import Recipe
from ssgcam.segmentation_model import load_segmenter
from ssgcam.training.loop import load_checkpoint
from ssgcam.training.segmenter import read_class_names

#: A file that can be opened, but whose first bytes can't be read, not even by root.
UNREADABLE = Path("/proc/self/mem")
#: What stands at the path that a reader is given.
PLACED: dict[str, Callable[[Path], object]] = {
    "binary file": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "folder": lambda path: path.mkdir(parents=True),
    "unreadable file": lambda path: path.symlink_to(UNREADABLE),
}
#: Files that a data set may lack; a folder of such a name is no file.
OPTIONAL = ("a.txt", "data.yaml", "image_sizes.txt", "localization.txt")
placed = pytest.mark.parametrize("wrong", sorted(PLACED))

#: Each reader with the name of a file that it is for.
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "array": ("a.npy", read_array),
    "checkpoint of a training": ("a.pth", lambda path: load_checkpoint(path, {}, {})),
    "class names": ("a.txt", read_lines),
    "class names of masks": ("segment.json", lambda path: read_class_names(path.parent)),
    "data set in COCO's JSON": ("a.json", read_samples),
    "data set in a table": ("a.csv", read_samples),
    "data set of any kind": ("a", read_samples),
    "image": ("a.jpg", read_image),
    "JSON": ("a.json", read_json),
    "manifest": ("a.jsonl", lambda path: list(Manifest(path, {}).entries())),
    "mask": ("a.png", read_raw_mask),
    "mask in an array": ("a.npy", read_raw_mask),
    "network": ("a.pth", lambda path: load_model(str(path))),
    "network in safetensors": ("a.safetensors", lambda path: load_model(str(path))),
    "recipe": ("a.json", Recipe.load),
    "segmentation network": ("a.pth", load_segmenter),
    "size of an image": ("a.tif", image_header),
    "table": ("a.csv", read_table),
    "table in JSON": ("a.json", read_table),
    "weights": ("a.ckpt", lambda path: load_model("squeezenet1_1", path)),
}


def place(path: Path, wrong: str) -> None:
    """Put something else where a file is expected."""
    if wrong == "unreadable file" and not UNREADABLE.exists():
        pytest.skip("this system has no file that root can't read")
    PLACED[wrong](path)


@placed
@pytest.mark.parametrize("reader", sorted(READERS))
def test_a_reader_refuses_other_files_in_one_sentence(
    reader: str, wrong: str, tmp_path: Path
) -> None:
    name, read = READERS[reader]
    place(tmp_path / name, wrong)
    if (reader, wrong) == ("class names of masks", "folder"):
        assert read(tmp_path / name) == ()
        return
    with pytest.raises(SsgcamError) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@placed
@pytest.mark.parametrize("kind", sorted(TREES))
def test_a_data_set_with_another_file_in_its_place_is_refused(
    kind: str, wrong: str, tmp_path: Path
) -> None:
    count = len(TREES[kind](tmp_path / "0"))
    for number in range(1, count + 1):
        folder = tmp_path / str(number)
        path = TREES[kind](folder)[number - 1]
        path.unlink()
        place(path, wrong)
        sentence = refused(root_of(kind, folder), kind.split()[0])
        assert "\n" not in sentence
        assert sentence or (wrong == "folder" and path.name in OPTIONAL)


def refused(root: Path, kind: str) -> str:
    """The sentence with which a data set is refused; empty if it and its masks are read."""
    try:
        for sample in read_samples(root, kind):
            if sample.mask is not None:
                sample.mask.read((20, 10))
    except SsgcamError as error:
        return str(error)
    return ""


@placed
@pytest.mark.parametrize("flag", ["--labels", "--masks"])
def test_a_path_option_of_inspect_with_another_file_is_refused(
    flag: str, wrong: str, tmp_path: Path
) -> None:
    photo(tmp_path / "photos" / "a.png")
    path = tmp_path / ("a.csv" if flag == "--labels" else "masks")
    for _ in range(2):  # nothing is there at first
        words = ("--model", TINY, "--out", tmp_path / "out", flag, path)
        done = run("inspect", tmp_path / "photos", *words)
        assert done.exit_code == 2, done.output
        assert str(path) in done.stderr.strip().splitlines()[-1]
        assert "bug" not in done.stderr
        if not path.exists():
            place(path, wrong)


@placed
@pytest.mark.parametrize("flag", ["--class-names", "--weights"])
def test_a_path_option_with_another_file_is_refused(flag: str, wrong: str, tmp_path: Path) -> None:
    place(tmp_path / "a.txt", wrong)
    words = ("--model", TINY, "--out", tmp_path / "out", flag, tmp_path / "a.txt")
    done = run("explain", photo(tmp_path / "a.png"), *words)
    assert done.exit_code == 2, done.output
    (sentence,) = done.stderr.strip().splitlines()
    assert str(tmp_path / "a.txt") in sentence
    assert "bug" not in sentence


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file names are text there")
def test_photos_whose_names_are_not_utf_8_are_explained_segmented_and_reported(
    tmp_path: Path,
) -> None:
    photo(tmp_path / "in" / "a.png").rename(tmp_path / "in" / os.fsdecode(b"a\xff.png"))
    words = (tmp_path / "in", "--model", TINY, "--out")
    for last in ((), ("--json",), ("--report", tmp_path / "a.html")):
        done = run("explain", *words, tmp_path / f"maps{len(last)}", *last)
        assert done.exit_code == 0, done.output
    (entry,) = json.loads((tmp_path / "maps2" / "explain.json").read_text("utf-8"))["photos"]
    assert entry["photo"] == str(tmp_path / "in" / os.fsdecode(b"a\xff.png"))
    report = ("--threshold", 0.3, "--gate", 0, "--report", tmp_path / "b.html")
    done = run("segment", *words, tmp_path / "masks", *report)
    assert done.exit_code == 0, done.output
    for name in ("a.html", "b.html"):
        assert "a\\udcff.png" in (tmp_path / name).read_text("utf-8")


@pytest.mark.parametrize("place", ["images", "out"])
def test_a_name_too_long_for_the_system_gets_a_sentence(place: str, tmp_path: Path) -> None:
    paths = {"images": photo(tmp_path / "a.png"), "out": tmp_path / "out"}
    paths[place] = tmp_path / ("a" * 300)
    done = run("explain", paths["images"], "--model", TINY, "--out", paths["out"])
    assert done.exit_code == 2
    assert "File name too long; check the path" in done.output
    assert "Errno" not in done.output
