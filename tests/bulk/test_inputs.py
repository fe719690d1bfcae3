"""Which images a run works on, and their names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers.data_trees import photo, refusal
from helpers.stream_tasks import Upper, manifest
from ssgcam.bulk.inputs import list_inputs
from ssgcam.bulk.stream import run
from ssgcam.images import find_images
from ssgcam.manifest import Manifest


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def names_of(patterns, out=Path("elsewhere")):
    return [image.name for image in list_inputs(patterns, out)]


def test_names_are_paths_below_the_given_folder(tmp_path, monkeypatch):
    for name in ("in/b.png", "in/sub/a.jpg", "in/sub/b.jpg", "other/c.jpg"):
        photo(tmp_path / name)
    assert names_of([tmp_path / "in"]) == ["b.png", "sub/a.jpg", "sub/b.jpg"]
    assert names_of([tmp_path / "in" / "*" / "*.jpg"]) == ["sub/a.jpg", "sub/b.jpg"]
    single = [tmp_path / "in/sub/a.jpg", tmp_path / "other/c.jpg"]
    assert names_of(single) == ["in/sub/a.jpg", "other/c.jpg"]
    assert names_of([tmp_path / "in", tmp_path / "in/sub"]) == [
        "b.png", "sub/a.jpg", "sub/b.jpg",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path / "in")
    assert names_of(["b.png", "../other/c.jpg"]) == ["in/b.png", "other/c.jpg"]
    assert names_of(["."]) == ["b.png", "sub/a.jpg", "sub/b.jpg"]


def test_outputs_of_earlier_runs_below_are_not_inputs(tmp_path):
    photo(tmp_path / "a.jpg")
    photo(tmp_path / "heatmaps" / "x" / "a_overlay.png")
    photo(tmp_path / "data" / "b.jpg")
    with Manifest(tmp_path / "heatmaps" / "manifest.jsonl", {}).opened(keep=bool):
        pass
    (tmp_path / "data" / "manifest.jsonl").write_text('{"image": "b.jpg"}\n')  # another program's
    with pytest.warns(UserWarning, match=r"images in '.*heatmaps' are left out \(1\)"):
        assert names_of([tmp_path]) == ["a.jpg", "data/b.jpg"]
    assert names_of([tmp_path / "heatmaps"]) == ["x/a_overlay.png"]
    assert names_of([tmp_path / "a.jpg", tmp_path / "heatmaps"]) == [
        "a.jpg",
        "heatmaps/x/a_overlay.png",
    ]
    assert "there are no others" in refusal(
        list_inputs, [tmp_path / "*" / "x" / "*.png"], tmp_path / "out"
    )


def test_names_of_two_folders_start_with_the_folder(tmp_path):
    photo(tmp_path / "x" / "a.jpg")
    photo(tmp_path / "y" / "a.jpg")
    assert names_of([tmp_path / "y", tmp_path / "x"]) == ["y/a.jpg", "x/a.jpg"]


def test_outputs_are_not_inputs(tmp_path):
    photo(tmp_path / "a.jpg")
    photo(tmp_path / "masks" / "a.png")
    assert names_of([tmp_path], tmp_path / "masks") == ["a.jpg"]
    assert "output folder" in refusal(list_inputs, [tmp_path / "masks"], tmp_path / "masks")
    assert "no image is given" in refusal(list_inputs, [], tmp_path)


def plainly_named(patterns: Sequence[Path], out: Path):
    """The names of ``list_inputs`` by a plain loop."""
    roots = []
    for pattern in patterns:
        root = pattern
        while "*" in str(root):
            root = root.parent
        roots.append(root.parent if root.is_file() else root)
    kept, names = set(), []
    for pattern in patterns:
        for path in find_images([pattern]):
            if path.resolve() not in kept and out not in path.parents:
                kept.add(path.resolve())
                names.append(path.relative_to(os.path.commonpath(roots)).as_posix())
    return names


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
    images = list_inputs(given, out)
    assert [image.name for image in images] == plainly_named(given, out)
    assert len({image.output.lower() for image in images}) == len(images)
    for image in images:
        others = {Path(other.name).with_suffix("") for other in images if other is not image}
        if not any(
            str(stem).lower() == str(Path(image.name).with_suffix("")).lower() for stem in others
        ):
            assert image.output == str(Path(image.name).with_suffix(""))


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_file_name_that_is_not_utf_8_is_kept(tmp_path, out):
    path = tmp_path / os.fsdecode(b"gr\xfc\xdfe.png")
    path.write_text("word")
    images = list_inputs([tmp_path], out)
    run(images, Upper(out), manifest(out))
    assert (out / path.with_suffix(".out").name).read_text() == "WORD"
    assert run(list_inputs([tmp_path], out), Upper(out), manifest(out)).before == 1


def test_outputs_are_unique_whatever_the_case(tmp_path):
    names = ["Cat.jpg", "cat.png", "dog.gif", "cat.jpg.tif", "b/cat.jpg", "CAT.tif"]
    images = list_inputs([tmp_path / name for name in names], tmp_path / "out")
    assert [image.name for image in images] == names
    assert [image.output for image in images] == [
        "Cat.jpg", "cat.png", "dog", "cat.jpg-2", "b/cat", "CAT.tif",
    ]  # fmt: skip
