"""Several labels for each image: reading, balanced drawing, training, scores and the file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics
from typer.testing import CliRunner

from helpers.data_trees import mask_file, photo, text
from helpers.training_sets import TINY, halves, labels_only, read_labeled_images, table
from ssgcam.cli import app
from ssgcam.data import read_samples
from ssgcam.models import load_model, save_model
from ssgcam.training import evaluate, labeled_images, split_by_group, train_classifier
from ssgcam.training.classifier import _loss_function
from ssgcam.training.data import training_batches
from ssgcam.training.report import average_precisions, score_and_loss


def test_a_label_for_each_line_and_a_list_in_one_cell_are_read_alike(tmp_path: Path) -> None:
    rows = halves(4, tmp_path)
    assert [labels for _, labels in rows] == ["", "left", "right", "left;right"]
    one_cell = read_labeled_images(table(tmp_path / "a.csv", [["image", "label"], *rows]))
    lines = [[image, label] for image, labels in rows for label in labels.split(";")]
    several = read_labeled_images(table(tmp_path / "b.csv", [["image", "label"], *lines]))
    for found in (one_cell, several):
        assert found.class_names == ("left", "right")
        assert found.labels == [(), (0,), (1,), (0, 1)]
        assert found.multi_label
        assert found.targets().tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]


def test_voc_and_coco_give_every_class_of_an_image(tmp_path: Path) -> None:
    root = tmp_path / "VOC2012"
    shown = {"2007_01": ["dog", "person"], "2007_02": ["dog"], "2007_03": ["person"]}
    for name, classes in shown.items():
        photo(root / "JPEGImages" / f"{name}.jpg")
        mask = np.zeros((10, 20), dtype=np.uint8)
        (root / "SegmentationClass").mkdir(exist_ok=True)
        mask_file(root / "SegmentationClass" / f"{name}.png", mask, palette=True)
        box = "<xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax>"
        objects = "".join(
            f"<object><name>{each}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>"
            for each in classes
        )
        size = "<size><width>20</width><height>10</height><depth>3</depth></size>"
        text(root / "Annotations" / f"{name}.xml", f"<annotation>{size}{objects}</annotation>")
    text(root / "ImageSets" / "Segmentation" / "train.txt", "\n".join(shown))
    found = labeled_images(read_samples(root, split="train"))
    assert found.class_names == ("dog", "person")
    assert found.labels == [(0, 1), (0,), (1,)]

    images = [{"id": k, "file_name": f"{k}.jpg", "width": 20, "height": 10} for k in (1, 2, 3)]
    for image in images:
        photo(tmp_path / "coco" / "val2017" / str(image["file_name"]))
    annotation = {
        "bbox": [2, 2, 5, 5],
        "segmentation": [[2, 2, 7, 2, 7, 7]],
        "iscrowd": 0,
        "area": 12,
    }
    content = {
        "images": images,
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, **annotation}
            for n, (image, category) in enumerate([(1, 18), (1, 1), (2, 18)])
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
    }
    text(tmp_path / "coco" / "annotations" / "instances_val2017.json", json.dumps(content))
    found = labeled_images(read_samples(tmp_path / "coco"))
    named = [sorted(found.class_names[k] for k in labels) for labels in found.labels]
    assert sorted(named) == [[], ["dog"], ["dog", "person"]]


def test_balanced_drawing_takes_every_class_and_images_without_any_equally_often() -> None:
    labels = [(0,)] * 20 + [(0, 1)] * 3 + [()] * 2
    images = labels_only(labels, class_names=("a", "b"))
    settings = replace(TINY, batch_size=30, balance="sampling")
    loader = training_batches(images, settings, None, 1, 60)  # type: ignore[arg-type]
    rows = [index for index, _ in loader.sampler]
    assert len(rows) == 60
    assert sum(row >= 23 for row in rows) == 20  # of three kinds each a third
    assert 20 <= sum(20 <= row < 23 for row in rows) <= 24  # drawn for b, and a few for a


def test_a_split_holds_out_a_share_of_every_class() -> None:
    labels = [(0,), (1,), (0, 1), ()] * 10
    kept, held_out = split_by_group(labels_only(labels, class_names=("a", "b")), 0.25, 0)
    assert len(held_out) + len(kept) == 40
    assert held_out.targets().sum(0).tolist() == pytest.approx([5, 5], abs=1)


def test_the_weights_of_the_loss_make_positive_and_negative_images_count_alike() -> None:
    images = labels_only([(0,), (0, 1), (0,), ()], class_names=("a", "b"))
    function = _loss_function(images, replace(TINY, balance="loss"))
    assert function.pos_weight.tolist() == pytest.approx([1 / 3, 3])
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    plain = _loss_function(images, replace(TINY, balance="none"))(logits, images.targets())
    p, t = logits.sigmoid(), images.targets()
    assert float(plain) == pytest.approx(float(-(t * p.log() + (1 - t) * (1 - p).log()).mean()))


def random_case(count: int = 120) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
    generator = np.random.default_rng(0)
    truth = generator.random((count, 3)) < [0.5, 0.2, 0.3]
    scores = 1 / (1 + np.exp(-generator.normal(size=(count, 3)) - 1.5 * truth))
    return torch.from_numpy(scores), [tuple(np.flatnonzero(row).tolist()) for row in truth]


def test_average_precision_against_scikit_learn() -> None:
    scores, labels = random_case()
    images = labels_only(labels, [f"g{n % 15}" for n in range(120)])
    targets = images.targets()
    expected = [metrics.average_precision_score(targets[:, k], scores[:, k]) for k in range(3)]
    assert average_precisions(scores, targets).tolist() == pytest.approx(expected)
    tied = (scores * 5).round()
    expected_tied = [metrics.average_precision_score(targets[:, k], tied[:, k]) for k in range(3)]
    assert average_precisions(tied, targets).tolist() == pytest.approx(expected_tied)
    weights = torch.from_numpy(np.random.default_rng(1).integers(0, 4, 120))
    repeated = scores.repeat_interleave(weights, 0), targets.repeat_interleave(weights, 0)
    assert average_precisions(scores, targets, weights).tolist() == pytest.approx(
        average_precisions(*repeated).tolist()
    )
    report = evaluate(scores, images)
    value, low, high = report.mean_average_precision
    assert value == pytest.approx(np.mean(expected))
    assert low < value < high
    auc = metrics.roc_auc_score(targets, scores, average="macro")
    assert report.roc_auc == pytest.approx(auc, abs=1e-6)
    assert (report.n, report.n_groups) == (120, 15)
    assert f"mean average precision {value:.3f}" in str(report)
    found = score_and_loss(scores, images)
    assert found["score"] == pytest.approx(value)
    assert found["loss"] == pytest.approx(metrics.log_loss(targets.flatten(), scores.flatten()))


def test_a_class_without_held_out_images_has_no_average_precision() -> None:
    scores, labels = random_case()
    found = evaluate(scores, labels_only([tuple(k for k in own if k != 1) for own in labels]))
    assert np.isnan(found.average_precisions[1])
    assert 0 < found.mean_average_precision[0] < 1


def test_the_command_trains_and_saves_a_sigmoid_network(tmp_path: Path) -> None:
    rows = halves(24, tmp_path)
    data = table(tmp_path / "labels.csv", [["image", "label"], *rows])
    out = tmp_path / "net.pth"
    words = ["train", str(data), "--model", "mobilenet_v3_small", "--input-size", "32"]
    words += ["--epochs", "2", "--samples-per-epoch", "16", "--batch-size", "8", "--device", "cpu"]
    done = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "mean average precision" in done.output
    loaded = load_model(str(out))
    assert (loaded.output, loaded.class_names) == ("sigmoid", ("left", "right"))
    report = json.loads(out.with_suffix(".json").read_text())["report"]
    assert len(report["average_precisions"]) == 2


def test_two_halves_are_learned_apart(tmp_path: Path) -> None:
    images = read_labeled_images(
        table(tmp_path / "a.csv", [["image", "label"], *halves(48, tmp_path)])
    )
    settings = replace(
        TINY, model="resnet18", epochs=4, samples_per_epoch=96, augmentation=False, held_out=0.25
    )
    result = train_classifier(images, settings, progress=False)
    assert result.report.mean_average_precision[0] > 0.9, str(result.report)
    save_model(result.model, tmp_path / "net.pth")
    assert load_model(str(tmp_path / "net.pth")).output == "sigmoid"
