"""The second stage: a segmentation network trained on masks, and masks from it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from helpers.commands import run
from helpers.data_trees import refusal
from ssgcam.segmentation_model import build_segmenter, load_segmenter, save_segmenter
from ssgcam.training import SegmenterSettings
from ssgcam.training.segmenter import (
    held_out_iou,
    pair_images_and_masks,
    segmentation_loss,
    train_segmenter,
)

pytest.importorskip("segmentation_models_pytorch")
TINY = SegmenterSettings("mobilenet_v2", input_size=32, epochs=2, batch_size=4, device="cpu")


def squares(folder, count=8, undecided=True):
    """Photos of a bright square on dark noise, and their masks with an undecided border."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        rng = np.random.default_rng(index)
        photo = rng.integers(0, 80, (40, 48, 3), dtype=np.uint8)
        mask = np.zeros((40, 48), np.uint8)
        top, left = rng.integers(2, 16, 2)
        photo[top : top + 20, left : left + 20] += 150
        mask[top : top + 20, left : left + 20] = 1
        if undecided:
            mask[top, left : left + 20] = 255
        Image.fromarray(photo).save(folder / f"images/{index}.png")
        Image.fromarray(mask).save(folder / f"masks/{index}.png")
    return pair_images_and_masks(folder / "images", folder / "masks")


def test_loss_is_cross_entropy_plus_dice_of_the_known_pixels():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    masks = torch.randint(0, 3, (2, 5, 6))
    masks[0, 2:] = 255
    known = masks != 255
    p = logits.softmax(1)
    dice = []
    for k in (1, 2):
        t = (masks == k).double()[known]
        of_class = p[:, k][known]
        dice.append((2 * (of_class * t).sum() + 1) / ((of_class + t).sum() + 1))
    expected = F.cross_entropy(logits, masks, ignore_index=255) + 1 - torch.stack(dice).mean()
    torch.testing.assert_close(segmentation_loss(logits, masks), expected)
    assert segmentation_loss(logits, torch.full_like(masks, 255)) == 0


def test_the_held_out_iou_is_the_mean_over_classes_of_the_pooled_iou():
    from ssgcam.models import LoadedModel
    from ssgcam.preprocessing import Preprocessing

    rng = np.random.default_rng(0)
    found, truth = rng.integers(0, 3, (2, 5, 4, 4))
    truth[rng.random(truth.shape) < 0.2] = 255
    network = torch.nn.Conv2d(1, 4, 1)  # of a gray level k in [0, 1, 2], the largest output is k
    with torch.no_grad():
        network.weight[:, 0, 0, 0] = torch.tensor([0.0, 2.0, 4.0, 0.0])
        network.bias[:] = torch.tensor([0.0, -1.0, -4.0, -9.0])
    preprocessing = Preprocessing((4, 4), mean=(0.0,), std=(1 / 255,))
    model = LoadedModel(network, "levels", preprocessing, ("a", "b", "never"))
    known, ious = truth != 255, []
    for k in (1, 2):
        one, other = (found == k) & known, truth == k
        ious.append((one & other).sum() / (one | other).sum())
    arrays = found[:, None].astype(np.uint8), truth.astype(np.uint8)
    assert held_out_iou(model, *arrays, 2) == pytest.approx(np.mean(ious))
    assert held_out_iou(model, *(each[:0] for each in arrays), 2) is None


def test_an_encoder_takes_the_weights_of_a_classifier_whose_tensors_have_other_names(tmp_path):
    from ssgcam.models import load_model, save_model
    from ssgcam.preprocessing import Preprocessing

    pytest.importorskip("efficientnet_lite_pytorch")
    torch.manual_seed(1)
    classifier = load_model("efficientnet_lite0", weights="none")
    save_model(classifier, tmp_path / "net.pth")
    size = Preprocessing((64, 64), resize_shorter=None)
    words = "tu-tf_efficientnet_lite0", ("object",), size, str(tmp_path / "net.pth")
    encoder = build_segmenter(*words).network.encoder
    last = []
    handle = classifier.network._blocks[-1].register_forward_hook(
        lambda *call: last.append(call[2])
    )
    inputs = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        classifier.network(inputs)
        found = encoder(inputs)[-1]
    handle.remove()
    torch.testing.assert_close(found, last[0], rtol=0, atol=0)
    other = "tu-tf_efficientnet_lite1", *words[1:]
    assert "of the same architecture" in refusal(build_segmenter, *other)


def test_photos_are_normalized_as_the_weights_of_the_encoder_expect(tmp_path):
    from torchvision import models

    from ssgcam.models import LoadedModel, save_model
    from ssgcam.preprocessing import Preprocessing
    from ssgcam.training import segmenter

    colors = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 0.125), "channel_order": "bgr"}
    network = models.mobilenet_v2(num_classes=2)
    save_model(
        LoadedModel(network, "mobilenet_v2", Preprocessing((32, 32), **colors), ("a", "b")),
        tmp_path / "net.pth",
    )
    inputs = []

    def built(*words):
        model = build_segmenter(*words)
        model.network.register_forward_pre_hook(lambda _, given: inputs.append(given[0].clone()))
        return model

    pairs = squares(tmp_path, 2)
    settings = replace(TINY, epochs=1, weights=str(tmp_path / "net.pth"), held_out=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmenter, "build_segmenter", built)
        model = train_segmenter(pairs, settings, progress=False).model
    save_segmenter(model, tmp_path / "seg.pth")
    for each in (model, load_segmenter(tmp_path / "seg.pth")):
        assert {name: getattr(each.preprocessing, name) for name in colors} == colors
    photos = [Image.open(image).resize((32, 32), Image.Resampling.BILINEAR) for image, _ in pairs]
    rgb = np.stack([np.asarray(photo) for photo in photos]) / 255
    expected = (rgb[..., ::-1] - colors["mean"]) / colors["std"]
    first = inputs[0].numpy().transpose(0, 2, 3, 1)
    prepared = model.preprocessing([Image.open(image) for image, _ in pairs]).numpy()
    # each channel has the same values; the photos are in any order, turned or mirrored
    values = (np.sort(each.reshape(-1, 3), 0) for each in (first, prepared.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(*values, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        np.sort(first, axis=None), np.sort(expected, axis=None), atol=0.01 / 0.125
    )
    for found, wanted in zip(first.mean((0, 1, 2)), expected.mean((0, 1, 2)), strict=True):
        assert found == pytest.approx(wanted, abs=0.01)


def test_photos_are_normalized_as_the_downloaded_weights_expect(monkeypatch):
    import segmentation_models_pytorch as smp
    from timm.models import get_pretrained_cfg

    from ssgcam.preprocessing import Preprocessing

    unet, offline = smp.Unet, {"encoder_weights": None}
    monkeypatch.setattr(smp, "Unet", lambda name, **rest: unet(name, **rest | offline))
    name = "tf_efficientnet_lite0"
    size = Preprocessing((32, 32), channel_order="bgr")
    found = build_segmenter(f"tu-{name}", ("object",), size, "imagenet").preprocessing
    known = get_pretrained_cfg(name)
    assert known.mean != size.mean
    assert found == replace(size, mean=known.mean, std=known.std, channel_order="rgb")


def test_an_interrupted_training_resumes_with_identical_weights(tmp_path):
    pairs = squares(tmp_path)
    whole = train_segmenter(pairs, TINY, progress=False)
    checkpoint = tmp_path / "seg.checkpoint.pth"

    def stop(*_args):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        calls = iter([False, True])
        from ssgcam.training import segmenter

        original = segmenter.held_out_iou
        patch.setattr(segmenter, "held_out_iou", lambda *a: stop() if next(calls) else original(*a))
        with pytest.raises(KeyboardInterrupt):
            train_segmenter(pairs, TINY, checkpoint=checkpoint, progress=False)
    resumed = train_segmenter(pairs, TINY, checkpoint=checkpoint, resume=True, progress=False)
    assert resumed.history == whole.history
    for key, value in whole.model.network.state_dict().items():
        assert torch.equal(value, resumed.model.network.state_dict()[key])
    other = replace(TINY, seed=1)
    options = {"checkpoint": checkpoint, "resume": True, "progress": False}
    assert "another training" in refusal(train_segmenter, pairs, other, **options)


def test_commands_train_a_network_and_segment_with_it(tmp_path):
    squares(tmp_path, 10)
    words = ["--encoder", "mobilenet_v2", "--input-size", 32, "--epochs", 12, "--device", "cpu"]
    files = [tmp_path / "images", "--masks", tmp_path / "masks", "--out", tmp_path / "seg.pth"]
    (tmp_path / "names.txt").write_text("square\n")
    made = run("train-segmenter", *files, *words, "--class-names", tmp_path / "names.txt")
    assert made.exit_code == 0, made.output
    assert "wrote" in made.stdout
    assert sorted(path.suffix for path in tmp_path.glob("seg*")) == [".json", ".pth"]
    written = json.loads((tmp_path / "seg.json").read_text())
    assert written["class_names"] == ["square"]
    assert (written["images"], written["held_out"]) == (8, 2)
    out = tmp_path / "better"
    options = ["--segmenter", tmp_path / "seg.pth", "--device", "cpu", "--out", out]
    done = run("segment", tmp_path / "images", *options)
    assert done.exit_code == 0, done.output
    model = load_segmenter(tmp_path / "seg.pth")
    for index in range(10):
        with Image.open(tmp_path / f"images/{index}.png") as photo:
            inputs = model.preprocessing([photo])
        with torch.no_grad():
            p = model.network(inputs).softmax(1)
        share = F.interpolate(p[:, 1:] / p.sum(1, keepdim=True), (40, 48), mode="bilinear")[0, 0]
        found = np.array(Image.open(out / f"{index}.png"))
        clear = (share - 0.5).abs() > 1e-3
        assert np.array_equal(found[clear], (share[clear] >= 0.5).int().numpy())
    assert json.loads((out / "segment.json").read_text())["masks"][1]["name"] == "square"
    again = run("segment", tmp_path / "images", *options)
    assert "10 of them by an earlier run" in again.stdout


def test_several_classes_are_the_largest_output(tmp_path):
    from ssgcam.bulk.segment import segment_images
    from ssgcam.preprocessing import Preprocessing

    squares(tmp_path, 2)
    torch.manual_seed(0)
    model = build_segmenter("mobilenet_v2", ("a", "b"), Preprocessing((32, 32)))
    save_segmenter(model, tmp_path / "seg.pth")
    Image.open(tmp_path / "images/0.png").resize((32, 32)).save(tmp_path / "0.png")
    segment_images(tmp_path / "0.png", None, tmp_path / "out", segmenter=tmp_path / "seg.pth")
    with torch.no_grad():
        logits = model.network(model.preprocessing([Image.open(tmp_path / "0.png")]))
    found = np.array(Image.open(tmp_path / "out/0.png"))
    top = logits.topk(2, 1).values
    clear = (top[:, 0] - top[:, 1] > 1e-3)[0].numpy()
    assert np.array_equal(found[clear], logits.argmax(1)[0].numpy()[clear])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--input-size", "40"], "multiples of 32"),
        (["--encoder", "resnet7"], "no encoder named 'resnet7'"),
        (["--weights", "gone.pth"], "gone.pth"),
        (["--held-out", "2"], "held_out is 2"),
        (["--masks", "nowhere"], "no folder 'nowhere'"),
        (["--out", "seg.onnx"], "does not end in .pth"),
    ],
)
def test_bad_settings_get_one_sentence(tmp_path, words, part):
    squares(tmp_path, 2)
    files = [tmp_path / "images", "--masks", tmp_path / "masks", "--out", tmp_path / "seg.pth"]
    result = run("train-segmenter", *files, "--device", "cpu", *words)
    assert result.exit_code == 2
    assert part in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "seg.pth").exists()


def test_masks_without_an_object_and_a_file_of_another_kind_are_refused(tmp_path):
    pairs = squares(tmp_path, 2)
    for _, mask in pairs:
        Image.fromarray(np.full((40, 48), 255, np.uint8)).save(mask)
    assert "the masks show no object" in refusal(train_segmenter, pairs, TINY, progress=False)
    torch.save({"format": "other"}, tmp_path / "x.pth")
    assert "is not a segmentation network" in refusal(load_segmenter, tmp_path / "x.pth")
