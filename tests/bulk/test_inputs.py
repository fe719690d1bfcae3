"""Which images a run works on, and their names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers.data_trees import photo, refusal
from helpers.stream_tasks import Upper, manifest
from ssgcam.bulk.inputs import flat_inputs, nested_inputs
from ssgcam.bulk.stream import run
from ssgcam.images import images_of


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def names_of(patterns, out=Path("elsewhere")):
    images, failures = nested_inputs(patterns, out)
    return [image.name for image in images], [failure.reason for failure in failures]


def test_names_are_paths_below_the_given_folder(tmp_path, monkeypatch):
    for name in ("in/b.png", "in/sub/a.jpg", "in/sub/b.jpg", "other/c.jpg"):
        photo(tmp_path / name)
    assert names_of([tmp_path / "in"]) == (["b.png", "sub/a.jpg", "sub/b.jpg"], [])
    assert names_of([tmp_path / "in" / "*" / "*.jpg"]) == (["sub/a.jpg", "sub/b.jpg"], [])
    single = [tmp_path / "in/sub/a.jpg", tmp_path / "other/c.jpg"]
    assert names_of(single) == (["in/sub/a.jpg", "other/c.jpg"], [])
    assert names_of([tmp_path / "in", tmp_path / "in/sub"])[0] == [
        "b.png", "sub/a.jpg", "sub/b.jpg",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path / "in")
    assert names_of(["b.png", "../other/c.jpg"])[0] == ["in/b.png", "other/c.jpg"]
    assert names_of(["."])[0] == ["b.png", "sub/a.jpg", "sub/b.jpg"]


def test_two_images_never_share_an_output(tmp_path):
    photo(tmp_path / "a.jpg")
    photo(tmp_path / "a.png")
    names, reasons = names_of([tmp_path])
    assert names == ["a.jpg"]
    assert len(reasons) == 1
    assert "a.png' is left out" in reasons[0]


def test_outputs_are_not_inputs(tmp_path):
    photo(tmp_path / "a.jpg")
    photo(tmp_path / "masks" / "a.png")
    assert names_of([tmp_path], tmp_path / "masks") == (["a.jpg"], [])
    assert "output folder" in refusal(nested_inputs, [tmp_path / "masks"], tmp_path / "masks")
    assert "no image is given" in refusal(nested_inputs, [], tmp_path)


def plainly_named(patterns: Sequence[Path], out: Path):
    """The same as ``nested_inputs`` by a plain loop."""
    files = [
        p.parent for p in patterns if not (p.is_dir() or "*" in p.name or "*" in p.parent.name)
    ]
    kept, stems, names, unnamed = set(), set(), [], set()
    for pattern in patterns:
        root = pattern
        while "*" in str(root):
            root = root.parent
        if root.is_file():
            root = Path(os.path.commonpath(files))
        for path in sorted(path for path, _ in images_of(pattern)):
            real, name = path.resolve(), path.relative_to(root)
            if real in kept or out in path.parents:
                continue
            if name.with_suffix("") in stems:
                unnamed.add(real)
            else:
                kept.add(real)
                stems.add(name.with_suffix(""))
                names.append(name.as_posix())
    return names, unnamed - kept


TREE = [
    "a.b.jpg", "a.b.png", "a.b/x.jpg", "a.b/y/z.jpg", "a.jpg", "a.jpg.png", "a-c/x.png", "a/.x.png",
    "a/n.txt", "a/x.jpg", "a/x.png", "b.png", "B.PNG", "c/folder.jpg/x.png", ".hidden/x.png",
    "masks/a.png", "ä.jpg",
]  # fmt: skip


@pytest.mark.parametrize(
    "patterns", ["", "a,", ",a", "*/x.*", "a*,", "b.png,a/x.png,", "a/x.jpg,a/x.png", "**/*.png"]
)
def test_naming_equals_a_plain_loop(tmp_path, patterns):
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "0-link.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "z-folder").symlink_to(tmp_path / "a")
    given, out = [tmp_path / pattern for pattern in patterns.split(",")], tmp_path / "masks"
    images, failures = nested_inputs(given, out)
    names, unnamed = plainly_named(given, out)
    assert [image.name for image in images] == names
    assert {failure.path.resolve() for failure in failures} == unnamed


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_file_name_that_is_not_utf_8_is_kept(tmp_path, out):
    path = tmp_path / os.fsdecode(b"gr\xfc\xdfe.png")
    path.write_text("word")
    images, _ = nested_inputs([tmp_path], out)
    run(images, Upper(out), manifest(out))
    assert (out / path.with_suffix(".out").name).read_text() == "WORD"
    assert run(nested_inputs([tmp_path], out)[0], Upper(out), manifest(out)).before == 1


def test_flat_names_are_unique_whatever_the_case(tmp_path):
    names = ["a/Cat.jpg", "b/cat.png", "dog.gif", "a_Cat.jpg.tif", "a/cat.jpg", "c/A_cat.jpg.png"]
    paths = [tmp_path / name for name in names]
    images = list(flat_inputs(paths, tmp_path / "out"))
    assert [image.path for image in images] == paths
    assert [image.name for image in images] == [
        "a_Cat.jpg", "b_cat.png", "dog", "a_Cat.jpg.tif", "a_cat.jpg-2", "c_A_cat.jpg.png",
    ]  # fmt: skip
    assert [image.name for image in flat_inputs([paths[0]] * 2, tmp_path / "out")] == ["Cat"]
