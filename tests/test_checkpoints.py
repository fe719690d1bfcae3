"""Checkpoints as frameworks write them: nested, with prefixes, or not checkpoints at all."""

import pickle

import pytest
import torch
from torch import nn

from ssgcam.checkpoints import match_names, read_checkpoint
from ssgcam.errors import SsgcamError
from ssgcam.models import load_model

NAME = "squeezenet1_1"
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def start():
    torch.manual_seed(1)
    return load_model(NAME, "none", num_classes=5)


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


WRITTEN = {
    "plain": lambda state: state,
    "DataParallel": lambda state: {"state_dict": prefixed(state, "module."), "epoch": 3},
    "Lightning": lambda state: {
        "state_dict": {**prefixed(state, "model."), "loss.weight": torch.ones(5)}
    },
    "torch.compile": lambda state: {"model_state_dict": prefixed(state, "_orig_mod.")},
    "compiled inside": lambda state: prefixed(state, "net._orig_mod."),
    "nested prefixes": lambda state: {"model": prefixed(state, "module.encoder.backbone.")},
    "nested keys": lambda state: {"run": {"best": {"weights": state}}, "optimizer": {"lr": 0.1}},
    "with an average": lambda state: {
        "model": state,
        "ema": {key: torch.zeros_like(value) for key, value in state.items()},
    },
    "one part without prefix": lambda state: {
        key if key.startswith("classifier") else f"backbone.{key}": value
        for key, value in state.items()
    },
}


@pytest.mark.parametrize("kind", sorted(WRITTEN.keys() - {"Lightning"}))
def test_names_are_matched_against_the_networks_own(kind, start, tmp_path):
    torch.save(WRITTEN[kind](start.network.state_dict()), tmp_path / "a.ckpt")
    loaded = load_model(NAME, tmp_path / "a.ckpt")
    assert torch.equal(loaded(IMAGES), start(IMAGES))


def test_what_is_left_over_is_listed(start, tmp_path):
    torch.save(WRITTEN["Lightning"](start.network.state_dict()), tmp_path / "a.ckpt")
    with pytest.raises(SsgcamError, match=r"it has the unknown 'loss\.weight'; is it"):
        load_model(NAME, tmp_path / "a.ckpt")
    state = dict(start.network.state_dict())
    for key in list(state)[:5]:
        state[f"other.{key}"] = state.pop(key)
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(SsgcamError, match=r"lacks 'features\.0\.weight', .* and 2 more and has "):
        load_model(NAME, tmp_path / "b.pth")


def test_a_network_with_a_prefix_takes_a_state_without():
    network = nn.ModuleDict({"model": nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))})
    state = network["model"].state_dict()
    assert match_names(state, network).keys() == network.state_dict().keys()


def test_quantized_tensors_are_refused(start, tmp_path):
    state = dict(start.network.state_dict())
    key = "classifier.1.weight"
    state[key] = torch.quantize_per_tensor(state[key], 0.1, 0, torch.qint8)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(SsgcamError, match=r"a\.pth' can't be loaded into .*not quantized"):
        load_model(NAME, tmp_path / "a.pth")


class Code:
    """A pickle that calls print when it is read."""

    def __reduce__(self):
        return print, ("code was run",)


FILES = {
    "lfs.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git-lfs pointer"),
    "page.pth": (b"\n<!DOCTYPE html><html></html>", "is a web page"),
    "page.safetensors": (b"<html><body>403</body></html>", "is a web page"),
    "net.onnx": (b"anything", "is an ONNX file, which has no gradients"),
    "onnx.pth": (b"\x08\x08\x12\x07pytorch", "is an ONNX file"),
    "keras.h5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
    "code.pth": (pickle.dumps(Code()), "is a pickle that needs code"),
    "old.pth": (pickle.dumps(Code(), 2), "is a pickle that needs code"),
    "text.pth": (b"hello", "can't be read as weights"),
    "empty.pth": (b"", "can't be read as weights"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_kind_gets_its_own_sentence(name, tmp_path, capsys):
    content, said = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SsgcamError, match=said) as caught:
        read_checkpoint(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "code was run" not in capsys.readouterr().out


def test_whole_networks_and_torchscript_are_refused(tmp_path):
    network = nn.Sequential(nn.Linear(2, 2))
    torch.save(network, tmp_path / "whole.pth")
    with pytest.raises(SsgcamError, match="is a pickle that needs code"):
        read_checkpoint(tmp_path / "whole.pth")
    torch.jit.trace(network, torch.zeros(1, 2)).save(tmp_path / "script.pt")
    with pytest.raises(SsgcamError, match="is TorchScript"):
        read_checkpoint(tmp_path / "script.pt")


def test_an_onnx_file_is_refused_by_name(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"x")
    with pytest.raises(SsgcamError, match="ONNX"):
        load_model(str(tmp_path / "net.onnx"))
