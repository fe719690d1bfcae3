"""The WSOL benchmark's metadata on tiny trees in exactly their layout."""

from pathlib import Path

import numpy as np

from helpers.data_trees import mask_file, photo, refusal, text
from ssgcam.data import IGNORE, read_samples


def wsol(root, dataset, names, labels, localization, sizes=None):
    split = root / "metadata" / dataset / "test"
    text(split / "image_ids.txt", "".join(f"{name}\n" for name in names))
    lines = (f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
    text(split / "class_labels.txt", "".join(lines))
    text(split / "localization.txt", "".join(f"{line}\n" for line in localization))
    if sizes:
        lines = (f"{name},{size}\n" for name, size in zip(names, sizes, strict=True))
        text(split / "image_sizes.txt", "".join(lines))
    for name in names:
        photo(root / "dataset" / dataset / name)
    return split


def test_wsol_boxes(tmp_path):
    names = ["val/ILSVRC2012_val_00000001.JPEG", "val/ILSVRC2012_val_00000002.JPEG"]
    boxes = [f"{names[0]},1,2,19,9", f"{names[1]},4,4,5,5", f"{names[0]},3,3,25,4"]
    split = wsol(tmp_path, "ILSVRC", names, [2, 0], boxes, ["20,10", "20,10"])
    found = read_samples(split)
    assert found.kind == "wsol"
    assert found.class_names == ("0", "1", "2")
    first, second = found
    assert first.name == names[0]
    assert first.image == tmp_path / "dataset" / "ILSVRC" / names[0]
    assert (first.labels, first.box_labels) == ((2,), (2, 2))
    assert first.boxes == ((1, 2, 19, 9), (3, 3, 19, 4))
    assert second.boxes == ((4, 4, 5, 5),)
    assert found.clipped == 1
    assert found.mask_names == ()
    (tmp_path / "dataset").rename(tmp_path / "elsewhere")
    assert "images=FOLDER" in refusal(read_samples, split)
    moved = read_samples(split, images=tmp_path / "elsewhere" / "ILSVRC")
    assert moved.samples[0].image == tmp_path / "elsewhere" / "ILSVRC" / names[0]


def test_wsol_masks(tmp_path):
    names = ["test/0bt_c3/a.jpg", "test/0bt_c3/b.jpg"]
    lines = [
        f"{names[0]},test/0bt_c3/a_m1.png,test/0bt_c3/a_ignore.png",
        f"{names[0]},test/0bt_c3/a_m2.png,",
        f"{names[1]},test/0bt_c3/b_m1.png,",
    ]
    split = wsol(tmp_path, "OpenImages", names, [0, 1], lines)
    folder = tmp_path / "dataset" / "OpenImages" / "test" / "0bt_c3"
    one, two, ignore = (np.zeros((10, 20), np.uint8) for _ in range(3))
    one[:, :5] = 255
    two[:, 5:8] = 255
    ignore[:, 7:12] = 255
    mask_file(folder / "a_m1.png", one)
    mask_file(folder / "a_m2.png", two)
    mask_file(folder / "a_ignore.png", ignore)
    mask_file(folder / "b_m1.png", one[::2, ::2])  # of another size than its image
    found = read_samples(split)
    assert found.mask_names == ("object",)
    expected = np.zeros((10, 20), np.uint8)
    expected[:, 7:12] = IGNORE
    expected[:, :8] = 1
    assert np.array_equal(found.samples[0].mask.read((20, 10)), expected)
    assert found.samples[1].mask.read((20, 10)).sum() > 0
    (folder / "b_m1.png").unlink()
    assert "b_m1.png" in refusal(read_samples, split)
    assert read_samples(split, missing="skip").skipped == 1


def test_the_images_of_a_folder_near_the_root_of_the_disk_are_asked_for(tmp_path, monkeypatch):
    split = wsol(tmp_path, "CUB", ["a.jpg"], [0], [])
    with monkeypatch.context() as patched:
        patched.setattr(Path, "resolve", lambda self: Path("/test"))
        assert "images=FOLDER" in refusal(read_samples, split)


def test_wsol_refusals(tmp_path):
    split = wsol(tmp_path, "CUB", ["a.jpg", "b.jpg"], [0, 1], ["a.jpg,1,2,3,4"], ["20,10", "30,10"])
    assert "30x10" in refusal(read_samples, split)
    text(split / "localization.txt", "a.jpg,1,2,3\n")
    assert "line 1" in refusal(read_samples, split)
    text(split / "class_labels.txt", "a.jpg,0\n")
    text(split / "localization.txt", "a.jpg,1,2,3,4\n")
    assert "'b.jpg'" in refusal(read_samples, split)
    text(split / "class_labels.txt", "a.jpg,bird\nb.jpg,1\n")
    assert "'bird'" in refusal(read_samples, split)
    (split / "class_labels.txt").unlink()
    assert str(split / "class_labels.txt") in refusal(read_samples, split)
