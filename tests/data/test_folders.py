"""Folders of images, with a subfolder for each class or without labels."""

from helpers.data_trees import photo, refusal
from ssgcam.data import read_samples


def names(sample_set):
    return [sample.name for sample in sample_set]


def test_class_folders(tmp_path):
    photo(tmp_path / "dog" / "b.jpg")
    photo(tmp_path / "dog" / "deep" / "a.JPEG", mode="L")
    photo(tmp_path / "cat" / "z.png")
    photo(tmp_path / ".cache" / "x.png")
    (tmp_path / "empty").mkdir()
    found = read_samples(tmp_path)
    assert found.kind == "classes"
    assert found.class_names == ("cat", "dog")
    assert names(found) == ["cat/z.png", "dog/b.jpg", "dog/deep/a.JPEG"]
    assert [sample.labels for sample in found] == [(0,), (1,), (1,)]
    assert found.samples[0].mask is None


def test_flat_folder_has_no_labels(tmp_path):
    photo(tmp_path / "b.jpg")
    photo(tmp_path / "a.jpg")
    found = read_samples(tmp_path)
    assert (found.kind, names(found), found.class_names) == ("images", ["a.jpg", "b.jpg"], ())
    assert "class folders" in refusal(read_samples, tmp_path, "classes")
    photo(tmp_path / "only" / "c.jpg")
    assert read_samples(tmp_path).kind == "images"
