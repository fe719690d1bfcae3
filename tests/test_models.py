"""Loading networks by name, file or factory, their last layer, and files of networks."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from ssgcam.errors import SsgcamError
from ssgcam.models import LoadedModel, check_network, load_model, save_model, with_classes

TINY = "helpers.factories:tiny"


def test_a_loaded_model_gives_logits():
    model = load_model(TINY)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(images), model.network(images))


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18", "timm/test_vit", TINY])
def test_the_last_layer_is_replaced_for_other_classes(name):
    model = load_model(name, "none", num_classes=3)
    size = model.preprocessing.input_size
    assert model(torch.zeros(1, 3, *size)).shape == (1, 3)
    assert model.class_names == ()
    weight = model.network.state_dict()
    assert with_classes(model, 3) is model
    assert all(torch.equal(value, weight[key]) for key, value in model.network.state_dict().items())


def test_a_network_without_a_last_linear_layer_is_refused():
    headless = LoadedModel(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "headless")
    with pytest.raises(
        SsgcamError, match=r"'headless' can't be replaced for 3 classes \('1' is a BatchNorm1d"
    ):
        with_classes(headless, 3)


def test_the_number_of_classes_is_read_from_a_state_dict(tmp_path):
    start = load_model("squeezenet1_1", "none", num_classes=5)
    torch.save(start.network.state_dict(), tmp_path / "five.pth")
    loaded = load_model("squeezenet1_1", tmp_path / "five.pth")
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded(images), start(images))
    assert loaded.class_names == ()


def test_a_file_keeps_everything(tmp_path):
    model = load_model(TINY)
    changed = replace(
        with_classes(model, 2),
        class_names=("no", "yes"),
        output="sigmoid",
        preprocessing=replace(model.preprocessing, mean=(0.1, 0.2, 0.3), channel_order="bgr"),
    )
    save_model(changed, tmp_path / "net.pth")
    loaded = load_model(str(tmp_path / "net.pth"))
    assert replace(loaded, network=changed.network) == changed
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images), changed(images))


def test_names_of_timms_hub_reach_timm(monkeypatch):
    asked = []
    real = timm.create_model

    def create_model(name, pretrained=False):
        asked.append((name, pretrained))
        if name == "hf-hub:org/absent":
            raise OSError("404 Client Error")
        return real("test_vit", num_classes=7)

    monkeypatch.setattr(timm, "create_model", create_model)
    model = load_model("timm/hf-hub:org/name")
    assert asked == [("hf-hub:org/name", True)]
    assert model.class_names == ()
    with pytest.raises(
        SsgcamError, match=r"'timm/hf-hub:org/absent' could not be downloaded \(404"
    ):
        load_model("timm/hf-hub:org/absent")
    with pytest.raises(SsgcamError, match="timm has no network named 'test_vot'"):
        load_model("timm/test_vot")


def test_the_check_names_an_input_that_fails():
    noise, count = check_network(load_model(TINY))
    assert (noise.shape, count) == ((1, 3, 32, 32), 4)
    with pytest.raises(SsgcamError, match=r"fails on an input of shape \[1, 3, 40, 40\]"):
        check_network(LoadedModel(nn.Linear(3, 2), "flat", noise_size(40)))


def noise_size(side):
    return replace(load_model(TINY).preprocessing, input_size=(side, side))
