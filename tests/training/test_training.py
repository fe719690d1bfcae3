"""Training from image-level labels, on small synthetic photos."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from scipy import stats
from sklearn import metrics
from typer.testing import CliRunner

from ssgcam.cli.train import train
from ssgcam.errors import SsgcamError
from ssgcam.models import LoadedModel, load_model, save_model
from ssgcam.training import (
    TrainingSettings,
    evaluate,
    predict,
    read_labeled_images,
    split_by_group,
    train_classifier,
)
from ssgcam.training.batches import training_batches
from ssgcam.training.data import augment, draw_balanced
from ssgcam.training.network import freeze_before, replace_head, start_model
from ssgcam.training.report import recall_interval, report

TINY = TrainingSettings(
    model="mobilenet_v3_small",  # batch-norm and dropout
    size=32,
    epochs=2,
    batch_size=8,
    samples_per_epoch=24,
    precision="float32",
    device="cpu",
)


@dataclass(frozen=True)
class Blobs:
    """Gray noise; photos of class 1 hold a dark disc at a random place."""

    labels: list[int]
    groups: list[str]
    class_names: tuple[str, ...] = ("empty", "disc")
    dies_at: int | None = None
    seen: list[int] = field(default_factory=list)

    def image(self, index: int, generator: np.random.Generator | None = None) -> Image.Image:
        self.seen.append(index)
        if self.dies_at is not None and len(self.seen) == self.dies_at:
            raise KeyboardInterrupt
        noise = np.random.default_rng(index)
        pixels = noise.integers(150, 200, (32, 32, 3))
        if self.labels[index]:
            x, y = (generator or noise).integers(10, 22, 2)
            rows, columns = np.mgrid[:32, :32]
            pixels[(rows - y) ** 2 + (columns - x) ** 2 < 64] //= 4
        return Image.fromarray(pixels.astype(np.uint8))


def blobs(count: int, positive: int = 3, **changes: object) -> Blobs:
    """``count`` photos, every ``positive``-th with a disc, in groups of four."""
    labels = [int(index % positive == 0) for index in range(count)]
    return Blobs(labels, [f"field{index // 4}" for index in range(count)], **changes)


def weights_equal(one: LoadedModel, other: LoadedModel) -> bool:
    mine, theirs = one.network.state_dict(), other.network.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


# --- continuing after a kill


def test_a_killed_training_continues_with_identical_weights(tmp_path):
    settings = replace(TINY, balance="loss", samples_per_epoch=None)
    whole = train_classifier(blobs(24), settings, progress=False)
    reads_in_epoch_one = 24  # training and held out

    file = tmp_path / "net.checkpoint.pth"
    dying = blobs(24, dies_at=reads_in_epoch_one + 8)
    with pytest.raises(KeyboardInterrupt):
        train_classifier(dying, settings, checkpoint=file, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["net.checkpoint.pth"]

    torch.rand(7)  # the state of the global generator must not matter
    rest = blobs(24)
    resumed = train_classifier(rest, settings, checkpoint=file, resume=True, progress=False)
    assert len(rest.seen) < 2 * 24, "the first epoch was trained again"
    assert resumed.history == whole.history
    assert resumed.best_epoch == whole.best_epoch
    assert resumed.report == whole.report
    assert weights_equal(resumed.model, whole.model)

    other = train_classifier(blobs(24), replace(settings, seed=1), progress=False)
    assert not weights_equal(other.model, whole.model)

    finished = train_classifier(blobs(24), settings, checkpoint=file, resume=True, progress=False)
    assert weights_equal(finished.model, whole.model)


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    file = tmp_path / "net.checkpoint.pth"
    settings = replace(TINY, epochs=1, samples_per_epoch=8)
    train_classifier(blobs(24), settings, checkpoint=file, progress=False)
    changed = replace(settings, epochs=3)
    with pytest.raises(SsgcamError, match="another training \\(epochs: 1 there, 3 here\\)"):
        train_classifier(blobs(24), changed, checkpoint=file, resume=True, progress=False)
    with pytest.raises(SsgcamError, match="another training \\(training photos"):
        train_classifier(blobs(28), settings, checkpoint=file, resume=True, progress=False)
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(SsgcamError, match="is not a checkpoint"):
        train_classifier(blobs(24), settings, checkpoint=file, resume=True, progress=False)


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_classifier(blobs(24), replace(TINY, epochs=1, samples_per_epoch=8), progress=False)
    assert torch.equal(torch.rand(3), expected)


# --- what is learned


def test_training_learns_and_its_file_predicts_the_same(tmp_path):
    settings = replace(TINY, model="resnet18", epochs=3, samples_per_epoch=96, color=0.1)
    held_out = blobs(60)
    result = train_classifier(blobs(90, 6), settings, held_out=held_out, progress=False)
    assert result.report is not None
    assert min(result.report.recalls) >= 0.9, str(result.report)
    assert result.report.n == 60
    assert result.report.n_groups == 15
    save_model(result.model, tmp_path / "net.pth")
    loaded = load_model(str(tmp_path / "net.pth"))
    assert loaded.class_names == ("empty", "disc")
    assert loaded.preprocessing.input_size == (32, 32)
    torch.testing.assert_close(predict(loaded, held_out), predict(result.model, held_out))


def test_early_stopping_keeps_the_first_of_equal_epochs():
    frozen_in_effect = replace(TINY, epochs=5, patience=2, learning_rate=1e-30, samples_per_epoch=8)
    settings = replace(frozen_in_effect, train_from="classifier.3")
    result = train_classifier(blobs(24), settings, progress=False)
    assert len(result.history) == 3
    assert result.best_epoch == 1


def test_without_held_out_photos_the_last_epoch_is_kept():
    settings = replace(TINY, held_out=0, samples_per_epoch=8, patience=1)
    result = train_classifier(blobs(8), settings, progress=False)
    assert result.best_epoch == len(result.history) == 2
    assert result.report is None


def test_bfloat16_trains_and_a_diverging_loss_is_named():
    low = train_classifier(blobs(24), replace(TINY, epochs=1, precision="bfloat16"), progress=False)
    assert np.isfinite(low.history[0].training_loss)
    with pytest.raises(SsgcamError, match="lower learning rate than 1e\\+30"):
        train_classifier(blobs(24), replace(TINY, learning_rate=1e30), progress=False)


def test_fine_tuning_replaces_the_head_and_trains_only_the_last_stage(tmp_path):
    file = tmp_path / "start.pth"
    start = load_model("resnet18", "none", num_classes=5)
    save_model(replace(start, class_names=tuple("abcde")), file)
    settings = replace(
        TINY,
        model="resnet18",
        weights=str(file),
        train_from="layer4",
        epochs=1,
        samples_per_epoch=16,
    )
    tuned = train_classifier(blobs(24), settings, progress=False).model
    before, after = start.network.state_dict(), tuned.network.state_dict()
    assert after["fc.weight"].shape == (2, 512)
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])} - {
        "fc"
    }
    assert changed == {"layer4"}
    assert all(parameter.requires_grad for parameter in tuned.network.parameters())

    with pytest.raises(SsgcamError, match="holds a resnet18, not a resnet34"):
        start_model(replace(settings, model="resnet34"), ("a", "b"))
    torch.save(start.network.state_dict(), file)  # a bare state dict
    kept = start_model(settings, tuple("vwxyz")).network.state_dict()
    assert torch.equal(kept["fc.weight"], before["fc.weight"])


def test_heads_and_freezing():
    squeezenet = load_model("squeezenet1_1", "none", num_classes=5).network
    replace_head(squeezenet, 3)
    assert squeezenet(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    headless = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    with pytest.raises(SsgcamError, match="'1' is a BatchNorm1d"):
        replace_head(headless, 3)
    with pytest.raises(SsgcamError, match="no module 'layer9' to train from"):
        freeze_before(load_model("resnet18", "none").network, "layer9")
    with pytest.raises(SsgcamError, match=r"no module from 'classifier\.0' on"):
        freeze_before(
            torch.nn.ModuleDict({"classifier": torch.nn.Sequential(torch.nn.ReLU())}),
            "classifier.0",
        )
    vgg = load_model("vgg11", "none", num_classes=2).network
    freeze_before(vgg, "features.16")
    trained = {name for name, parameter in vgg.named_parameters() if parameter.requires_grad}
    assert {name.rpartition(".")[0] for name in trained} == {
        "features.16", "features.18", "classifier.0", "classifier.3", "classifier.6"
    }  # fmt: skip


# --- data


@pytest.mark.parametrize("seed", range(5))
def test_a_split_never_shares_a_group_and_keeps_class_shares(seed):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 12, 60)
    groups = [f"g{index}" for index, size in enumerate(sizes) for _ in range(size)]
    labels = generator.choice(3, len(groups), p=[0.7, 0.2, 0.1]).tolist()
    samples = Blobs(labels, groups, ("a", "b", "c"))
    kept, held_out = split_by_group(samples, 0.25, seed)
    assert not set(kept.groups) & set(held_out.groups)
    assert sorted(kept.indices + held_out.indices) == list(range(len(labels)))
    shares = np.bincount(held_out.labels) / np.bincount(labels)
    assert np.abs(shares - 0.25).max() < 0.08
    assert split_by_group(samples, 0.25, seed)[1].indices == held_out.indices


def test_balanced_drawing_uses_each_photo_equally_often():
    labels = [0] * 50 + [1] * 7 + [2] * 3
    drawn = draw_balanced(labels, 60, np.random.default_rng(0))
    times = np.bincount(drawn, minlength=60)
    assert np.bincount(np.asarray(labels)[drawn]).tolist() == [20, 20, 20]
    for members in (slice(0, 50), slice(50, 57), slice(57, 60)):
        assert np.ptp(times[members]) <= 1
    assert np.ptp(np.asarray(labels)[drawn][:20]) > 0, "classes come mixed"


def test_batches_are_balanced_and_a_function_of_the_epoch():
    preprocessing = start_model(TINY, ("empty", "disc")).preprocessing

    def batches(epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        loader = training_batches(blobs(40, 10), TINY, preprocessing, epoch, 24)
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


# --- reading, and bad input


def class_folders(folder: Path, **photos: int) -> Path:
    for name, count in photos.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            blob = blobs(2, 2).image(int(name == "healthy"))
            blob.save(folder / name / f"slide{index // 2}_{index}.png")
    return folder


def table(file: Path, rows: list[list[str]]) -> Path:
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return file


def test_class_folders_and_tables_are_read_alike(tmp_path):
    folder = class_folders(tmp_path / "data", infected=3, healthy=4)
    (folder / "notes.txt").write_text("not a photo")
    found = read_labeled_images(folder, r"(slide\d+)_")
    assert found.class_names == ("healthy", "infected")
    assert found.labels == (0, 0, 0, 0, 1, 1, 1)
    assert found.groups == ("slide0", "slide0", "slide1", "slide1", "slide0", "slide0", "slide1")
    assert found.image(0).size == (32, 32)
    assert len(set(read_labeled_images(folder).groups)) == 7
    rows = [
        [str(path.relative_to(tmp_path)), found.class_names[label], group]
        for path, label, group in zip(found.paths, found.labels, found.groups, strict=True)
    ]
    assert (
        read_labeled_images(table(tmp_path / "a.csv", [["image", "label", "group"], *rows]))
        == found
    )


CSV = ["image", "label", "group"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["file", "label"]], "no column 'image' .its columns: file, label."),
        ([], "no column 'image' .its columns: none."),
        ([CSV, ["a.png", "", "g"]], "has no label on line 2"),
        ([CSV, ["a.png", "x", " "]], "has no group on line 2"),
        ([CSV, ["a.png"]], "has no label on line 2"),
        ([CSV, ["a.png", "x", "g"], ["b.png", "y", "g"]], "'.*b.png', named on line 3"),
        ([CSV, ["a.png", "x", "g"]], "has photos of 1 class.es. .'x'., but training needs"),
        ([CSV], "has photos of 0 class.es., but"),
    ],
)
def test_a_bad_table_gives_one_sentence(tmp_path, rows, message):
    blobs(1).image(0).save(tmp_path / "a.png")
    with pytest.raises(SsgcamError, match=message) as caught:
        read_labeled_images(table(tmp_path / "a.csv", rows))
    assert "\n" not in str(caught.value)


def test_other_bad_data_gives_one_sentence(tmp_path):
    with pytest.raises(SsgcamError, match="nowhere' does not exist"):
        read_labeled_images(tmp_path / "nowhere")
    folder = class_folders(tmp_path / "data", infected=2, healthy=2)
    with pytest.raises(SsgcamError, match="'\\(' is not a regular expression"):
        read_labeled_images(folder, "(")
    with pytest.raises(SsgcamError, match="'patient' matches nothing in the name of"):
        read_labeled_images(folder, "patient")
    with pytest.raises(SsgcamError, match="is a CSV; put the groups"):
        read_labeled_images(table(tmp_path / "a.csv", [CSV]), "slide")
    with pytest.raises(SsgcamError, match="class 'infected' can't be on both sides"):
        split_by_group(Blobs([0, 1, 0, 0], list("abcd"), ("healthy", "infected")), 0.5, 0)
    (folder / "healthy" / "slide0_0.png").write_bytes(b"broken")
    with pytest.raises(SsgcamError, match=r"slide0_0\.png"):
        train_classifier(read_labeled_images(folder), replace(TINY, held_out=0), progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0; give a number above zero"),
        ({"held_out": 1.0}, "held-out share is 1; give one between 0 and 1"),
        ({"color": -0.1}, "color is -0.1"),
        ({"balance": "magic"}, "balance is 'magic'; give one of sampling, loss, none"),
        ({"precision": "int8"}, "precision is 'int8'; give one of auto, bfloat16, float32"),
    ],
)
def test_bad_settings_give_one_sentence(changes, message):
    with pytest.raises(SsgcamError, match=message):
        replace(TINY, **changes)


def test_settings_that_only_the_training_can_judge():
    for changes, message in (
        ({"device": "abacus"}, "device 'abacus' is not available"),
        ({"model": "resnet19"}, "no network named 'resnet19'"),
        ({"model": "vit_b_32", "size": 40}, "'vit_b_32' can't take photos of 40x40 px"),
        ({"weights": "missing.pth"}, "missing.pth"),
    ):
        with pytest.raises(SsgcamError, match=message):
            train_classifier(blobs(24), replace(TINY, **changes), progress=False)


# --- the report


@pytest.mark.parametrize("classes", [2, 4])
def test_report_against_scikit_learn(classes):
    generator = np.random.default_rng(classes)
    labels = generator.choice(classes, 200)
    scores = generator.normal(size=(200, classes)) + 1.2 * np.eye(classes)[labels]
    probabilities = torch.as_tensor(scores).softmax(1)
    names = tuple("abcd"[:classes])
    groups = [f"g{index % 20}" for index in range(200)]
    result = report(probabilities, torch.as_tensor(labels), groups, names)
    called = probabilities.argmax(1).numpy()
    assert np.array_equal(result.confusion, metrics.confusion_matrix(labels, called))
    recalls = metrics.recall_score(labels, called, average=None)
    assert result.recalls == pytest.approx(recalls)
    assert result.mean_recall == pytest.approx(metrics.balanced_accuracy_score(labels, called))
    auc = (
        metrics.roc_auc_score(labels, probabilities[:, 1])
        if classes == 2
        else metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    )
    assert result.roc_auc == pytest.approx(auc, abs=1e-6)

    confidence, right = probabilities.max(1).values.numpy(), called == labels
    bins = np.minimum((confidence * 15).astype(int), 14)
    expected = sum(
        (bins == b).mean() * abs(right[bins == b].mean() - confidence[bins == b].mean())
        for b in np.unique(bins)
    )
    assert result.calibration_error == pytest.approx(expected, abs=1e-6)
    assert (result.n, result.n_groups) == (200, 20)
    for recall, (low, high) in zip(result.recalls, result.intervals, strict=True):
        assert low < recall < high
    assert json.loads(json.dumps(result.to_json()))["confusion"] == [
        list(r) for r in result.confusion
    ]
    assert f"recall {recalls[0]:.3f}" in str(result)


def test_recall_interval():
    right = np.repeat([True, True, True, False], 25)
    alone = recall_interval(right, np.arange(100))
    exact = stats.binom.ppf([0.025, 0.975], 100, 0.75) / 100
    assert alone == pytest.approx(exact, abs=0.011)
    low, high = recall_interval(right, np.arange(100) // 25)  # four groups, one all wrong
    assert (low, high) == (0.25, 1.0)
    wilson = 10 / (10 + stats.norm.ppf(0.975) ** 2)  # ten of ten
    assert recall_interval(np.ones(50, bool), np.arange(50) // 5) == pytest.approx((wilson, 1))
    assert recall_interval(np.zeros(50, bool), np.arange(50) // 5) == pytest.approx((0, 1 - wilson))
    assert np.isnan(recall_interval(np.zeros(0, bool), np.zeros(0))).all()


@pytest.mark.filterwarnings("ignore:No positive samples")
def test_a_class_without_photos_has_no_recall():
    result = report(
        torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]]),
        torch.tensor([0, 1]),
        ["a", "b"],
        ("x", "y", "z"),
    )
    assert result.recalls[:2] == (1.0, 1.0)
    assert np.isnan(result.recalls[2])
    assert result.mean_recall == 1.0


# --- the command


def test_the_command_writes_a_network_and_a_report(tmp_path):
    app = typer.Typer()
    app.command()(train)
    folder = class_folders(tmp_path / "data", infected=12, healthy=12)
    out = tmp_path / "runs" / "net.pth"
    arguments = f"{folder} --out {out} --model mobilenet_v3_small --size 32 --epochs 1 --device cpu"
    done = CliRunner().invoke(app, [*arguments.split(), "--group-pattern", r"slide\d+"])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.parent.iterdir()) == ["net.json", "net.pth"]
    written = json.loads(out.with_suffix(".json").read_text())
    assert written["settings"]["epochs"] == 1
    held_out = written["report"]["n"]
    assert f"{held_out} held-out photos" in done.output
    assert load_model(str(out)).class_names == ("healthy", "infected")
    refused = CliRunner().invoke(app, [str(folder), "--out", str(tmp_path / "net.onnx")])
    assert isinstance(refused.exception, SsgcamError)
    assert "does not end in .pth" in str(refused.exception)


def test_evaluate_scores_predictions_of_samples():
    samples = blobs(8, 2)
    perfect = torch.eye(2)[samples.labels]
    assert evaluate(perfect, samples).recalls == (1.0, 1.0)
    assert evaluate(perfect.flip(1), samples).confusion == ((0, 4), (4, 0))
