"""Training of a classifier: learning, early stopping, fine-tuning, and resuming from a checkpoint."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.training_sets import TINY, discs, labels_only
from ssgcam.errors import SsgcamError
from ssgcam.models import LoadedModel, load_model, save_model
from ssgcam.training import predict, train_classifier
from ssgcam.training.classifier import freeze_before, start_model


def weights_equal(one: LoadedModel, other: LoadedModel) -> bool:
    mine, theirs = one.network.state_dict(), other.network.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_an_interrupted_training_resumes_with_identical_weights(tmp_path):
    settings = replace(TINY, balance="loss", samples_per_epoch=None)
    whole = train_classifier(discs(24), settings, progress=False)
    reads_in_epoch_one = 24  # training and held out

    file = tmp_path / "net.checkpoint.pth"
    stopping = discs(24, stops_at=reads_in_epoch_one + 8)
    with pytest.raises(KeyboardInterrupt):
        train_classifier(stopping, settings, checkpoint=file, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["net.checkpoint.pth"]

    torch.rand(7)  # the state of the global generator must not matter
    rest = discs(24)
    resumed = train_classifier(rest, settings, checkpoint=file, resume=True, progress=False)
    assert len(rest.read.reads) < 2 * 24, "the first epoch was trained again"
    assert resumed.history == whole.history
    assert resumed.best_epoch == whole.best_epoch
    assert resumed.report == whole.report
    assert weights_equal(resumed.model, whole.model)

    other = train_classifier(discs(24), replace(settings, seed=1), progress=False)
    assert not weights_equal(other.model, whole.model)

    finished = train_classifier(discs(24), settings, checkpoint=file, resume=True, progress=False)
    assert weights_equal(finished.model, whole.model)


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    file = tmp_path / "net.checkpoint.pth"
    settings = replace(TINY, epochs=1, samples_per_epoch=8)
    train_classifier(discs(24), settings, checkpoint=file, progress=False)
    changed = replace(settings, epochs=3)
    with pytest.raises(SsgcamError, match="another training \\(epochs: 1 there, 3 here\\)"):
        train_classifier(discs(24), changed, checkpoint=file, resume=True, progress=False)
    with pytest.raises(SsgcamError, match="another training \\(training images"):
        train_classifier(discs(28), settings, checkpoint=file, resume=True, progress=False)
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(SsgcamError, match="is not a checkpoint"):
        train_classifier(discs(24), settings, checkpoint=file, resume=True, progress=False)


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_classifier(discs(24), replace(TINY, epochs=1, samples_per_epoch=8), progress=False)
    assert torch.equal(torch.rand(3), expected)


def test_training_learns_and_its_file_predicts_the_same(tmp_path):
    settings = replace(TINY, model="resnet18", epochs=3, samples_per_epoch=96, color=0.1)
    held_out = discs(60)
    result = train_classifier(discs(90, 6), settings, held_out=held_out, progress=False)
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
    result = train_classifier(discs(24), settings, progress=False)
    assert len(result.history) == 3
    assert result.best_epoch == 1


def test_without_held_out_images_the_last_epoch_is_kept():
    settings = replace(TINY, held_out=0, samples_per_epoch=8, patience=1)
    result = train_classifier(discs(8), settings, progress=False)
    assert result.best_epoch == len(result.history) == 2
    assert result.report is None
    for epoch in result.to_json()["history"]:
        assert list(epoch) == ["number", "training_loss", "score", "loss"]
        assert epoch["score"] is epoch["loss"] is None


def test_mixed_precision_trains_and_a_diverging_loss_is_named():
    low = train_classifier(discs(24), replace(TINY, epochs=1, amp=True), progress=False)
    assert np.isfinite(low.history[0]["training_loss"])
    with pytest.raises(SsgcamError, match="lower learning rate than 1e\\+30"):
        train_classifier(discs(24), replace(TINY, learning_rate=1e30), progress=False)


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
    tuned = train_classifier(discs(24), settings, progress=False).model
    before, after = start.network.state_dict(), tuned.network.state_dict()
    assert after["fc.weight"].shape == (2, 512)
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])} - {
        "fc"
    }
    assert changed == {"layer4"}
    assert all(parameter.requires_grad for parameter in tuned.network.parameters())

    with pytest.raises(SsgcamError, match="holds a resnet18, not a resnet34"):
        start_model(replace(settings, model="resnet34"), discs(4))
    torch.save(start.network.state_dict(), file)  # a bare state dict
    kept = start_model(
        settings, labels_only([0, 1], class_names=tuple("vwxyz"))
    ).network.state_dict()
    assert torch.equal(kept["fc.weight"], before["fc.weight"])


@pytest.mark.parametrize("model", ["helpers.factories:tiny", "timm/test_convnext"])
def test_every_kind_of_network_is_trained_saved_and_loaded(tmp_path, model):
    settings = replace(TINY, model=model, weights="DEFAULT", epochs=1, samples_per_epoch=8)
    if model.startswith("timm/"):
        settings = replace(settings, weights="none", input_size=64)
    result = train_classifier(discs(24), settings, progress=False)
    assert result.model.name == model
    save_model(result.model, tmp_path / "net.pth")
    file = tmp_path / "net.pth"  # which may not name code itself
    loaded = load_model(model, file) if ":" in model else load_model(str(file))
    assert loaded.class_names == ("empty", "disc")
    assert weights_equal(loaded, result.model)
    torch.testing.assert_close(predict(loaded, discs(4)), predict(result.model, discs(4)))


def test_efficientnet_lite0_is_fine_tuned_from_its_imagenet_weights():
    model = start_model(replace(TINY, model="efficientnet_lite0", weights="DEFAULT"), discs(4))
    trained = load_model("efficientnet_lite0").network.state_dict()
    state = model.network.state_dict()
    assert state.pop("_fc.weight").shape == (2, 1280)
    state.pop("_fc.bias")
    assert all(torch.equal(value, trained[key]) for key, value in state.items())
    assert model.preprocessing.mean == (127 / 255,) * 3


def test_modules_before_the_first_trained_one_are_frozen():
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0; give a number above zero"),
        ({"held_out": 1.0}, "held_out is 1.0; it must be from 0 to 0.99"),
        ({"color": -0.1}, "color is -0.1"),
        ({"balance": "magic"}, "balance is 'magic'; choose one of sampling, loss, none"),
    ],
)
def test_bad_settings_give_one_sentence(changes, message):
    with pytest.raises(SsgcamError, match=message):
        replace(TINY, **changes)


def test_settings_that_only_the_training_can_judge():
    for changes, message in (
        ({"device": "abacus"}, "device 'abacus' is not available"),
        ({"model": "resnet19"}, "no network named 'resnet19'"),
        ({"model": "vit_b_32", "input_size": 40}, r"'vit_b_32' fails on an input of .*40, 40"),
        ({"weights": "missing.pth"}, "missing.pth"),
    ):
        with pytest.raises(SsgcamError, match=message):
            train_classifier(discs(24), replace(TINY, **changes), progress=False)
