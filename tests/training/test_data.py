"""Labeled images: reading, the split by group, balanced batches, augmentation and bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.training_sets import (
    TINY,
    class_folders,
    discs,
    labels_only,
    read_labeled_images,
    table,
)
from ssgcam.data import read_samples
from ssgcam.errors import SsgcamError
from ssgcam.images import Reading
from ssgcam.preprocessing import Preprocessing
from ssgcam.training import (
    labeled_images,
    split_by_group,
    train_classifier,
)
from ssgcam.training.data import augment, draw_balanced, training_batches


@pytest.mark.parametrize("seed", range(5))
def test_a_split_never_shares_a_group_and_keeps_class_shares(seed):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 12, 60)
    groups = [f"g{index}" for index, size in enumerate(sizes) for _ in range(size)]
    labels = generator.choice(3, len(groups), p=[0.7, 0.2, 0.1]).tolist()
    images = labels_only(labels, groups)
    kept, held_out = split_by_group(images, 0.25, seed)
    assert not set(kept.groups) & set(held_out.groups)
    assert sorted([*kept.labels, *held_out.labels]) == sorted(labels)
    shares = np.bincount(held_out.labels) / np.bincount(labels)
    assert np.abs(shares - 0.25).max() < 0.08
    assert split_by_group(images, 0.25, seed)[1].groups == held_out.groups


def test_balanced_drawing_uses_each_photo_equally_often():
    labels = [0] * 50 + [1] * 7 + [2] * 3
    drawn = draw_balanced(labels, 60, np.random.default_rng(0))
    times = np.bincount(drawn, minlength=60)
    assert np.bincount(np.asarray(labels)[drawn]).tolist() == [20, 20, 20]
    for members in (slice(0, 50), slice(50, 57), slice(57, 60)):
        assert np.ptp(times[members]) <= 1
    assert np.ptp(np.asarray(labels)[drawn][:20]) > 0, "classes come mixed"


def test_batches_are_balanced_and_a_function_of_the_epoch():
    preprocessing = Preprocessing((32, 32))

    def batches(epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        loader = training_batches(discs(40, 10), TINY, preprocessing, epoch, 24)
        images, labels = zip(*loader, strict=True)
        return torch.cat(images), torch.cat(labels)

    images, labels = batches(1)
    assert torch.bincount(labels).tolist() == [12, 12]
    assert torch.equal(images, batches(1)[0])
    assert not torch.equal(images, batches(2)[0])


def test_augmentation_reaches_all_eight_turns_and_flips():
    photo = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    generator = np.random.default_rng(0)
    turned = {augment(photo, generator, 0.0).tobytes() for _ in range(100)}
    array = np.asarray(photo)
    expected = {
        np.ascontiguousarray(np.rot90(view, turns)).tobytes()
        for view in (array, array[:, ::-1])
        for turns in range(4)
    }
    assert turned == expected
    recolored = [np.asarray(augment(photo, generator, 0.2)).sum() for _ in range(5)]
    assert len(set(recolored)) > 1


def test_augmentation_turns_other_channels_with_the_picture_and_keeps_their_values():
    values = np.random.default_rng(0).integers(0, 256, (4, 6, 5), dtype=np.uint8)
    photo = Image.fromarray(values[..., :3])
    photo.info["channels"] = values
    generator = np.random.default_rng(0)
    turned = [augment(photo, generator, 0.2) for _ in range(100)]
    for each in turned:
        assert np.array_equal(each.info["channels"][..., :3], np.asarray(each))
    found = {each.info["channels"].tobytes() for each in turned}
    assert found == {
        np.ascontiguousarray(np.rot90(view, turns)).tobytes()
        for view in (values, values[:, ::-1])
        for turns in range(4)
    }
    assert photo.info["channels"] is values


def test_class_folders_and_tables_are_read_alike(tmp_path):
    folder = class_folders(tmp_path / "data", infected=3, healthy=4)
    (folder / "notes.txt").write_text("not an image")
    found = read_labeled_images(folder, r"(slide\d+)_")
    assert found.class_names == ("healthy", "infected")
    assert list(found.labels) == [0, 0, 0, 0, 1, 1, 1]
    assert [name[-1] for name in found.groups] == list("0011001")
    assert found.read(0, None).size == (32, 32)
    assert len(set(read_labeled_images(folder).groups)) == 7
    rows = [
        [str(sample.image.relative_to(tmp_path)), found.class_names[label], group]
        for sample, label, group in zip(
            read_samples(folder), found.labels, found.groups, strict=True
        )
    ]
    same = read_labeled_images(table(tmp_path / "a.csv", [CSV, *rows]))
    assert (same.class_names, same.labels, same.groups) == (
        found.class_names, found.labels, found.groups
    )  # fmt: skip
    assert np.array_equal(same.read(5, None), found.read(5, None))


def test_classes_that_are_numbers_are_sorted_as_numbers(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        discs(1).read(0, None).save(tmp_path / name)
    rows = [["a.png", "10"], ["b.png", "2"], ["c.png", "0"]]
    found = read_labeled_images(table(tmp_path / "a.csv", [CSV[:2], *rows]))
    assert found.class_names == ("0", "2", "10")
    assert list(found.labels) == [2, 1, 0]


def test_masks_are_not_taken_for_a_class(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8), 255 * (name == "masks")).save(tmp_path / name / "a.png")
    with pytest.raises(SsgcamError, match="has images of 1 class"):
        read_labeled_images(tmp_path)


def test_an_image_needs_a_label_unless_others_have_several(tmp_path):
    sample_set = read_samples(class_folders(tmp_path / "data", infected=1, healthy=1))
    first = replace(sample_set.samples[0], labels=(0, 1))
    second = replace(sample_set.samples[1], labels=())
    found = labeled_images(replace(sample_set, samples=(first, second)))
    assert found.labels == [(0, 1), ()]
    with pytest.raises(SsgcamError, match="has no label; training needs a class for each"):
        labeled_images(replace(sample_set, samples=(sample_set.samples[1], second)))


CSV = ["image", "label", "group"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["spam", "label"], ["a.png", "x"]], "names no image .it has: spam, label."),
        ([["image", "group"], ["a.png", "g"]], "a.png' has no label; training needs a class"),
        ([CSV, ["a.png", "", "g"]], "a.png' has no label"),
        ([CSV, ["a.png"]], "a.png' has no label"),
        ([CSV, ["a.png", "x", "g"], ["b.png", "x", " "]], "b.png' has no group, but other images"),
        (
            [CSV, ["a.png", "x", "g"], ["c.png", "y", "g"]],
            "c.png' is missing but listed in .*a.csv",
        ),
        ([CSV, ["a.png", "x", "g"]], "has images of 1 class.es. .'x'., but training needs"),
        ([CSV], "has no images: its list is empty"),
    ],
)
def test_a_bad_table_gives_one_sentence(tmp_path, rows, message):
    for name in ("a.png", "b.png"):
        discs(1).read(0, None).save(tmp_path / name)
    with pytest.raises(SsgcamError, match=message) as caught:
        read_labeled_images(table(tmp_path / "a.csv", rows))
    assert "\n" not in str(caught.value)


def test_other_bad_data_gives_one_sentence(tmp_path):
    with pytest.raises(SsgcamError, match="there is no folder '"):
        read_labeled_images(tmp_path / "nowhere")
    folder = class_folders(tmp_path / "data", infected=2, healthy=2)
    with pytest.raises(SsgcamError, match="'\\(' is not a regular expression"):
        read_labeled_images(folder, "(")
    with pytest.raises(SsgcamError, match="'patient' matches nothing in the name of"):
        read_labeled_images(folder, "patient")
    rows = [CSV, ["data/healthy/slide0_0.png", "x", "g"]]
    with pytest.raises(SsgcamError, match="names groups in a table already"):
        read_labeled_images(table(tmp_path / "a.csv", rows), "slide")
    with pytest.raises(SsgcamError, match="class 'infected' can't be on both sides"):
        split_by_group(labels_only([0, 1, 0, 0], class_names=("healthy", "infected")), 0.5, 0)
    (folder / "healthy" / "slide0_0.png").write_bytes(b"broken")
    with pytest.raises(SsgcamError, match=r"slide0_0\.png"):
        train_classifier(read_labeled_images(folder), replace(TINY, held_out=0), progress=False)


def test_the_rule_for_wide_pixels_reaches_the_trained_network(tmp_path):
    folder = class_folders(tmp_path / "data", infected=4, healthy=4)
    for file in folder.glob("*/*.png"):
        values = np.asarray(Image.open(file).convert("L")).astype(np.uint16) * 16
        Image.fromarray(values).save(file)
    images = read_labeled_images(folder, reading=Reading("0,4080"))
    assert np.asarray(images.read(0, None)).max() > 100
    settings = replace(TINY, held_out=0, epochs=1)
    trained = train_classifier(images.subset(range(8)), settings, progress=False).model
    assert trained.preprocessing.reading == Reading("0,4080")
