"""Each kind of bad input through the command: one sentence, exit code 2, and the others go on."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

import ssgcam.cli.explain
from helpers.commands import TINY, photo, run


@pytest.fixture
def good(tmp_path):
    return photo(tmp_path / "good.png")


def explain(tmp_path: Path, *words: object, model: str = TINY):
    result = run("explain", *words, "--model", model, "--out", tmp_path / "out")
    assert "Traceback" not in result.output
    return result


def refused(result, *parts: str) -> str:
    """The one sentence of a command that did nothing."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("ssgcam: ")
    for part in parts:
        assert part in lines[0]
    return lines[0]


def reported(tmp_path: Path, result, bad: Path, *parts: str) -> None:
    """One photo is reported in a sentence, and good.png is explained all the same."""
    sentence = refused(result, str(bad), *parts)
    entries = {
        Path(entry["photo"]).name: entry
        for entry in json.loads((tmp_path / "out" / "explain.json").read_text())["photos"]
    }
    assert f"ssgcam: {entries[bad.name]['error']}" == sentence
    assert entries["good.png"]["maps"][0]["evidence"]
    assert (tmp_path / "out" / "good_overlay.png").is_file()
    assert "explained 1 of 2 images" in result.stdout


def test_not_an_image(tmp_path, good):
    bad = tmp_path / "bad.jpg"
    bad.write_text("hello")
    reported(tmp_path, explain(tmp_path, bad, good), bad, "is not an image; give")


def test_empty_file(tmp_path, good):
    bad = tmp_path / "bad.jpg"
    bad.touch()
    reported(tmp_path, explain(tmp_path, bad, good), bad, "is empty (0 bytes)")


def test_missing_file(tmp_path, good):
    bad = tmp_path / "bad.jpg"
    reported(tmp_path, explain(tmp_path, good, bad), bad, "there is no file")


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_truncated(tmp_path, good, ending):
    bad = photo(tmp_path / f"bad.{ending}", (200, 200))
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    reported(tmp_path, explain(tmp_path, bad, good), bad, "is cut short or damaged")


def test_decompression_bomb(tmp_path, good):
    bad = tmp_path / "bad.png"

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    bad.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    reported(tmp_path, explain(tmp_path, bad, good), bad, "decompression bombs; shrink it")


def test_empty_folder(tmp_path):
    (tmp_path / "in").mkdir()
    refused(explain(tmp_path, tmp_path / "in"), "holds no image; put")
    refused(explain(tmp_path, tmp_path / "*.webp"), "no image matches")
    assert not (tmp_path / "out").exists()


def test_unusual_pictures_are_explained(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    rgb = Image.fromarray(pixels)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    rgb.save(tmp_path / "exif.jpg", exif=rotated)
    rgb.convert("L").save(tmp_path / "gray.png")
    rgb.convert("RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg")
    rgb.resize((1, 1)).save(tmp_path / "dot.png")
    result = explain(tmp_path, tmp_path)
    assert result.exit_code == 0, result.output
    entries = json.loads((tmp_path / "out" / "explain.json").read_text())["photos"]
    sizes = {Path(entry["photo"]).name: tuple(entry["size"]) for entry in entries}
    wide = dict.fromkeys(("gray.png", "rgba.png", "deep.png", "cmyk.jpg"), (60, 40))
    assert sizes == {"exif.jpg": (40, 60), "dot.png": (1, 1), **wide}
    for name, size in sizes.items():
        assert Image.open(tmp_path / "out" / f"{Path(name).stem}_overlay.png").size == size
    gray, deep = (np.load(tmp_path / "out" / f"{n}_map.npy") for n in ("gray", "deep"))
    assert np.isfinite(deep).all()
    assert gray.shape == deep.shape == (32, 32)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--class", "4"),
            "class 4 is out of range: 'helpers.factories:tiny' has 4 classes, 0 to 3",
        ),
        (("--class", "-1"), "class -1 is out of range"),
        (("--class", "cherry"), "class 'cherry' is not a class of"),
        (("--class", "appl"), "fits 2 classes"),
        (("--class", "\N{SUPERSCRIPT TWO}"), "is not a class of"),
        (("--channels", "1.5"), "--channels is '1.5'; it must be a whole number"),
        (("--channels", "inf"), "--channels is 'inf'; it must be a whole number"),
        (("--top", "5"), "top is 5; 'helpers.factories:tiny' has 4 classes"),
        (("--top", "0"), "top is 0"),
        (("--top", "2", "--class", "1"), "leave one of them out"),
        (("--layers", "actt"), "the network has no layer 'actt'; did you mean 'act'"),
        (("--layers", "head"), "no spatial extent"),
        (("--method", "grad-cam"), "no method named 'grad-cam'; choose one of ssg_cam"),
        (("--method", "grad_cam", "--sigma", "0.2"), "--sigma belongs to the method ssg_cam"),
        (("--sigma", "-1"), "sigma is -1.0; it must be from 0 to 1"),
        (("--sigma", "nan"), "sigma is nan"),
        (("--sigma", "wide"), "--sigma"),
        (("--form", "Taylor"), "form is 'Taylor'; choose one of taylor, gradient"),
        (("--first-exponent", "0", "--second-exponent", "0"), "raise one of them"),
        (("--gamma", "0"), "gamma is 0"),
        (("--batch-size", "0"), "--batch-size"),
        (("--device", "gpu"), "device 'gpu' is not available; give cpu"),
        (("--color", "red"), "--color"),
    ],
)
def test_wrong_options(tmp_path, good, words, sentence):
    refused(explain(tmp_path, good, *words), sentence)


@pytest.mark.parametrize(
    "words",
    [
        ("explain", "photo.png", "--method", "grad-cam"),
        ("segment", "photo.png", "--method", "grad-cam"),
        ("evaluate", "grid", "folder", "--methods", "layer_cam,grad-cam"),
        ("inspect", "folder", "--methods", "grad-cam"),
    ],
)
def test_a_misspelt_method_is_refused_before_the_network_is_loaded(tmp_path, words):
    command = run(*words, "--model", "nowhere:factory", "--out", tmp_path / "out")
    refused(command, "no method named 'grad-cam'")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("resnet43", "did you mean 'resnet34'"),
        ("nowhere:factory", "'nowhere:factory' can't be imported"),
        ("helpers.factories:absent", "can't be imported"),
        ("helpers.factories:nothing", "returned a NoneType"),
        ("missing.pth", "no weights file at 'missing.pth'"),
        ("helpers.factories:text_network", "the network returned a str, not a tensor of logits"),
        ("helpers.factories:gray_only", "fails on an input of shape [1, 3, 32, 32]"),
    ],
)
def test_wrong_networks(tmp_path, good, model, sentence):
    refused(explain(tmp_path, good, model=model), sentence)


def test_checkpoint_of_another_architecture(tmp_path, good):
    torch.save(models.squeezenet1_1(num_classes=3).state_dict(), tmp_path / "other.pth")
    words = ("--weights", tmp_path / "other.pth")
    refused(explain(tmp_path, good, *words, model="resnet18"), "other.pth", "resnet18")
    torch.save(["no", "tensors"], tmp_path / "list.pth")
    words = ("--weights", tmp_path / "list.pth")
    refused(explain(tmp_path, good, *words, model="resnet18"), "list.pth", "state dict")
    (tmp_path / "text.pth").write_text("hello")
    words = ("--weights", tmp_path / "text.pth")
    refused(
        explain(tmp_path, good, *words, model="resnet18"), "text.pth", "can't be read as weights"
    )


def test_output_folder_that_cannot_be_written(tmp_path, good):
    (tmp_path / "file").touch()
    result = run("explain", good, "--model", TINY, "--out", tmp_path / "file" / "out")
    refused(result, "can't write", "choose another output folder")


TRAIN = "train classes --input-size 32 --out net.pth"
SEGMENTER = "train-segmenter photos --masks photos --out net.pth"
EVALUATE = f"evaluate sanity photos --model {TINY} --out report"


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (f"explain good.png --model {TINY} --class-names empty", "'empty' is empty; write a class"),
        (f"{EVALUATE} --no-each --no-fused", "neither single layers nor all fused are scored"),
        (f"{TRAIN} --learning-rate nan", "learning_rate is nan"),
        (f"{TRAIN} --weight-decay -1", "weight_decay is -1"),
        (f"{TRAIN} --workers -1", "workers is -1"),
        (f"{SEGMENTER} --learning-rate nan", "learning_rate is nan"),
        ("train classes --out folder.pth", "'folder.pth' is a folder, not a file"),
        ("train classes --out good.png/net.pth", "'good.png' is a file, not a folder"),
        ("app --port 99999", "Invalid value for '--port'"),
        ("search photos --recipe r.pth --model none", "does not end in .json"),
    ],
)
def test_wrong_files_and_settings(tmp_path, good, monkeypatch, command, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    (tmp_path / "folder.pth").mkdir()
    for name in ("photos/a.png", "classes/a/1.png", "classes/b/1.png"):
        photo(tmp_path / name)
    refused(run(*command.split()), sentence)


def test_too_little_memory_is_a_sentence(tmp_path, good, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")

    monkeypatch.setattr(ssgcam.cli.explain, "_print_entry", fail)
    refused(explain(tmp_path, good), "not enough memory", "give a smaller --batch-size")


def test_network_that_returns_nan(tmp_path, good):
    other = photo(tmp_path / "other.png", seed=3)
    result = explain(tmp_path, good, other, model="helpers.factories:nan_network")
    assert result.exit_code == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 2
    for line, path in zip(lines, (good, other), strict=True):
        assert line.startswith(f"ssgcam: '{path}': the network returned NaN or infinity")
        assert "check its weights" in line
    assert "explained 0 of 2 images" in result.stdout


def test_network_that_returns_nan_for_one_photo_of_a_batch(tmp_path, good):
    bad = tmp_path / "bad.png"
    Image.new("RGB", (50, 50), "white").save(bad)
    result = explain(tmp_path, good, bad, model="helpers.factories:nan_when_bright")
    reported(tmp_path, result, bad, "the network returned NaN or infinity")


def test_layers_refuses_alike():
    refused(run("layers", "resnet43"), "did you mean")
    refused(run("layers", "helpers.factories:text_network"), "the network returned a str")


def test_unknown_command():
    refused(run("explian"), "explian", "--help")


def test_an_interrupt_is_a_sentence_and_the_report_is_whole(tmp_path, good, monkeypatch):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(ssgcam.cli.explain, "_print_entry", interrupt)
    result = explain(tmp_path, good)
    assert result.exit_code == 130
    assert result.stderr.strip().startswith("ssgcam: interrupted")
    assert len(json.loads((tmp_path / "out" / "explain.json").read_text())["photos"]) == 1


def test_a_bug_is_a_sentence_and_debug_shows_it(tmp_path, good, monkeypatch):
    def fail(*_args, **_options):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(ssgcam.cli.explain, "_print_entry", fail)
    result = explain(tmp_path, good)
    assert result.exit_code == 1
    assert "this is a bug" in result.stderr
    words = ("explain", good, "--model", TINY, "--out", tmp_path / "again", "--debug")
    assert "Traceback" in run(*words).stderr
