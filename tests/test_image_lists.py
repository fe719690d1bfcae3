"""The image files that names, folders and globs stand for."""

import pytest

from ssgcam.errors import SsgcamError
from ssgcam.images import find_images


@pytest.fixture
def tree(tmp_path):
    for name in ("b.png", "a.JPG", "sub/c.tif", "sub/notes.txt", ".hidden/d.png", "sub/.e.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def names(tree, patterns):
    return [path.relative_to(tree).as_posix() for path in find_images(patterns)]


def test_folder_is_recursive_sorted_and_skips_hidden(tree):
    assert names(tree, [str(tree)]) == ["a.JPG", "b.png", "sub/c.tif"]


def test_links_to_folders_are_followed_once(tree):
    (tree / "sub" / "loop").symlink_to(tree, target_is_directory=True)
    outside = tree.parent / f"{tree.name}_outside"
    outside.mkdir()
    (outside / "z.png").touch()
    (tree / "linked").symlink_to(outside, target_is_directory=True)
    assert names(tree, [tree]) == ["a.JPG", "b.png", "linked/z.png", "sub/c.tif"]


def test_globs(tree):
    assert names(tree, [str(tree / "*.png")]) == ["b.png"]
    assert names(tree, [str(tree / "**" / "*.tif")]) == ["sub/c.tif"]
    assert names(tree, [str(tree / "s*")]) == ["sub/c.tif"]


def test_duplicates_are_removed_in_order(tree):
    patterns = [tree / "sub" / "c.tif", tree, tree / "sub" / ".." / "b.png"]
    assert names(tree, patterns) == ["sub/c.tif", "a.JPG", "b.png"]


def test_a_named_file_is_taken_whatever_its_ending(tree):
    assert names(tree, [tree / "sub" / "notes.txt"]) == ["sub/notes.txt"]


def test_a_name_with_brackets_is_a_file_first(tree):
    (tree / "x[1].png").touch()
    assert names(tree, [tree / "x[1].png"]) == ["x[1].png"]


def test_a_missing_image_is_left_to_read_image(tree):
    assert names(tree, [tree / "b.png", tree / "gone.png"]) == ["b.png", "gone.png"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("empty", "holds no image"),
        ("*.webp", "no image matches"),
        ("nowhere", "no file or folder"),
        ("~nobody-of-this-name", "no file or folder"),
    ],
)
def test_nothing_found(tree, pattern, words):
    with pytest.raises(SsgcamError, match=words) as caught:
        find_images([tree / "b.png", tree / pattern])
    assert pattern in str(caught.value)


def test_nothing_given():
    with pytest.raises(SsgcamError, match="no image is given"):
        find_images([])
