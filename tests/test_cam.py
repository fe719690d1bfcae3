"""The object a user holds: classes, settings, results, messages."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.networks import Constant, Small
from ssgcam import CAM, SSGCAM, LoadedModel, SSGSettings, TargetSettings
from ssgcam.core.fusion import fuse
from ssgcam.core.methods import METHODS, layer_cam
from ssgcam.errors import SsgcamError

LAYERS = ["act1", "act2"]


@pytest.fixture
def network() -> Small:
    network = Small().eval()
    network.fc.weight.data *= 4
    return network


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 16, 20)


def test_none_is_the_top_1_class_of_each_image(images: Tensor) -> None:
    images[1] *= -1
    cam = CAM(Constant(), ["layer"])
    result = cam(images)
    logits = Constant()(images)
    assert result.classes.tolist() == [0, 1, 0]
    assert torch.equal(result.maps, cam(images, [0, 1, 0]).maps)
    assert result.logits is not None
    assert result.probabilities is not None
    torch.testing.assert_close(result.logits, logits)
    torch.testing.assert_close(result.probabilities, logits.softmax(1))


def test_one_index_is_for_all_images(network: Small, images: Tensor) -> None:
    one = CAM(network, LAYERS)(images, 2)
    assert one.classes.tolist() == [2, 2, 2]
    assert torch.equal(one.maps, CAM(network, LAYERS)(images, [2, 2, 2]).maps)
    assert torch.equal(one.maps, CAM(network, LAYERS)(images, torch.tensor(2)).maps)


@pytest.mark.parametrize("method", METHODS)
def test_several_classes_equal_single_calls(method: str, network: Small, images: Tensor) -> None:
    cam = CAM(network, LAYERS, method)
    wanted = torch.tensor([[0, 2], [1, 0], [2, 1]])
    result = cam(images, wanted)
    assert result.maps.shape == (3, 2, 16, 20)
    assert result.evidence.shape == (3, 2)
    assert torch.equal(result.classes, wanted)
    assert len(result.notes) == 6
    for k in range(2):
        single = cam(images, wanted[:, k])
        torch.testing.assert_close(result.maps[:, k], single.maps)
        assert torch.equal(result.evidence[:, k], single.evidence)
        assert result.notes[k::2] == single.notes
        for name in LAYERS:
            torch.testing.assert_close(result.layer_maps[name][:, k], single.layer_maps[name])


@pytest.mark.parametrize("score", ["probability", "odds", "sigmoid"])
@pytest.mark.parametrize("second", ["squared", "hutchinson"])
def test_several_classes_of_other_scores(
    score: Any, second: Any, network: Small, images: Tensor
) -> None:
    cam = CAM(network, LAYERS, target=TargetSettings(score, second, "absolute", probes=2))
    result = cam(images, [[0, 2], [1, 0], [2, 1]])
    torch.testing.assert_close(result.maps[:, 1], cam(images, [2, 0, 1]).maps)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (3, "class 3 is out of range: the network has 3 classes, 0 to 2"),
        (-1, "class -1 is out of range"),
        ([0, 1, 99], "class 99 is out of range"),
        ([0, 1], r"shape \[2\].* for 3 images"),
        ([0.0, 1.0, 2.0], "whole numbers"),
        ([True, False, True], "whole numbers"),
        ([[[0]], [[0]], [[0]]], "whole numbers"),
        ([[], [], []], "whole numbers"),
        ([[0, 1], [2], [0]], r"classes is \[\[0, 1\], \[2\], \[0\]\]"),
        ("cat", "classes is 'cat'"),
    ],
)
def test_classes_that_do_not_fit(wrong: Any, message: str, network: Small, images: Tensor) -> None:
    with pytest.raises(SsgcamError, match=message):
        CAM(network, LAYERS)(images, wrong)


class Broken(Small):
    """Gives something that is not a number for one image."""

    bad = float("nan")

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return torch.cat([logits[:1], logits[1:2] * self.bad, logits[2:]])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite(bad: float, images: Tensor) -> None:
    network = Broken()
    network.bad = bad
    with pytest.raises(SsgcamError, match="returned NaN or infinity for image 1 of the batch"):
        CAM(network, LAYERS)(images)


class BrokenInside(Small):
    """The logits are finite, the gradient is not: a square root at zero."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.act2(self.conv2(self.act1(self.conv1(images))))
        return super().forward(images) + (x * 0).sum((1, 2, 3)).sqrt()[:, None]


@pytest.mark.parametrize("method", ["ssg_cam", "grad_cam"])
def test_gradients_that_are_not_finite(method: str, images: Tensor) -> None:
    network = BrokenInside()
    with pytest.raises(SsgcamError, match="'act2@1' gave values that are not finite"):
        CAM(network, ["act2@1"], method)(images)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.rand(2, 3, 4, 4, 4),
        torch.zeros(2, 3, 16, 16, dtype=torch.uint8),
        [1, 2, 3],
        torch.rand(0, 3, 16, 16),
    ],
    ids=["volume", "bytes", "list", "empty"],
)
def test_images_that_do_not_fit(wrong: Any, network: Small) -> None:
    with pytest.raises(SsgcamError, match=r"^images is "):
        CAM(network, LAYERS)(wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "gradcam"}, "no method named 'gradcam'; choose one of ssg_cam, "),
        ({"target": "softmax"}, "target is 'softmax'; choose one of exp, probability"),
        ({"target": 3}, "target is 3; give"),
        ({"output": "relu"}, "output is 'relu'; choose one of softmax, sigmoid"),
        ({"fusion": "max"}, "fusion is 'max'"),
        ({"gamma": 0}, "gamma is 0; it must be from 0.01 to 10"),
        ({"gamma": [1, float("nan")]}, "gamma is nan"),
        ({"gamma": [1]}, "gamma has 1 values for 2 layers"),
        ({"layer_weights": [1, 2, 3]}, "layer_weights has 3 values for 2 layers"),
        ({"ssg": [SSGSettings()]}, "ssg has 1 values for 2 layers"),
        ({"layers": "auto", "layer_weights": [1]}, "need the layers to be named"),
        ({"layers": "auto", "gamma": [1]}, "need the layers to be named"),
        ({"layers": ["act3"]}, "no layer 'act3'; did you mean 'act"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str, network: Small) -> None:
    with pytest.raises(SsgcamError, match=message):
        CAM(network, **{"layers": LAYERS, **settings})


def test_ssgcam_settings_are_checked(network: Small) -> None:
    with pytest.raises(SsgcamError, match="sigma is 2; it must be from 0 to 1"):
        SSGCAM(network, LAYERS, sigma=2)
    with pytest.raises(SsgcamError, match="form is 'other'"):
        SSGCAM(network, LAYERS, form="other")  # type: ignore[arg-type]


def test_ssgcam_is_cam_with_the_settings_spelled_out(network: Small, images: Tensor) -> None:
    spelled = SSGCAM(
        network,
        LAYERS,
        form="gradient",
        sigma=0.05,
        first_exponent=2.0,
        second_exponent=0.5,
        gamma=0.7,
        layer_weights=[1, 2],
    )
    settings = SSGSettings("gradient", 0.05, 2.0, 0.5)
    plain = CAM(network, LAYERS, ssg=settings, gamma=0.7, layer_weights=[1, 2])
    assert torch.equal(spelled(images).maps, plain(images).maps)


def test_the_defaults_of_the_two_classes_agree(network: Small, images: Tensor) -> None:
    assert torch.equal(SSGCAM(network, LAYERS)(images).maps, CAM(network, LAYERS)(images).maps)
    assert torch.equal(
        CAM(network, LAYERS, ssg=SSGSettings())(images).maps, CAM(network, LAYERS)(images).maps
    )


def test_with_plain_settings_it_is_layer_cam(network: Small, images: Tensor) -> None:
    for form in ("taylor", "gradient"):
        plain = SSGCAM(
            network, LAYERS, form=form, sigma=0, first_exponent=1, second_exponent=0, gamma=1
        )
        wanted = CAM(network, LAYERS, "layer_cam")(images)
        torch.testing.assert_close(plain(images).maps, wanted.maps)


def test_settings_for_each_layer(network: Small, images: Tensor) -> None:
    """Each layer by its own settings; a second exponent of one layer does not touch the other."""
    settings = [SSGSettings("taylor", 0, 1, 0), SSGSettings("gradient", 0.3, 1, 1)]
    result = CAM(network, LAYERS, ssg=settings, gamma=[0.5, 1.5], layer_weights=[3, 1])(images, 1)
    alone = [
        CAM(network, [name], ssg=own)(images, 1).layer_maps[name]
        for name, own in zip(LAYERS, settings, strict=True)
    ]
    for name, wanted in zip(LAYERS, alone, strict=True):
        torch.testing.assert_close(result.layer_maps[name], wanted)
    fused = fuse(alone, (16, 20), gammas=[0.5, 1.5], weights=[3, 1])
    torch.testing.assert_close(result.maps, fused)


def test_layer_cam_fusion(network: Small, images: Tensor) -> None:
    result = CAM(network, LAYERS, "layer_cam", fusion="layer_cam")(images, 1)
    raw = list(result.layer_maps.values())
    wanted = fuse(raw, (16, 20), gammas=[1, 1], fusion="layer_cam")
    assert torch.equal(result.maps, wanted)
    assert not torch.equal(result.maps, CAM(network, LAYERS, "layer_cam")(images, 1).maps)


def test_size(network: Small, images: Tensor) -> None:
    assert CAM(network, LAYERS, output_size=(5, 40))(images).maps.shape == (3, 5, 40)


def test_another_image_size_later(network: Small, images: Tensor) -> None:
    """``auto`` is settled by the first images, maps follow the size of each call."""
    cam = SSGCAM(network)
    assert cam(torch.rand(1, 3, 64, 64)).maps.shape == (1, 64, 64)
    assert cam(torch.rand(2, 3, 32, 48)).maps.shape == (2, 32, 48)


def test_sigmoid_outputs(network: Small, images: Tensor) -> None:
    logits = network(images)
    by_hand = CAM(network, LAYERS, output="sigmoid")(images)
    torch.testing.assert_close(by_hand.probabilities, logits.sigmoid())
    loaded = LoadedModel(network, "small", output="sigmoid")
    torch.testing.assert_close(CAM(loaded, LAYERS)(images).probabilities, logits.sigmoid())
    assert torch.equal(CAM(loaded, LAYERS)(images).maps, by_hand.maps)


def test_absolute_sign(network: Small, images: Tensor) -> None:
    settings = TargetSettings("log_probability", sign="absolute")
    result = CAM(network, LAYERS, target=settings)(images, 1)
    assert result.evidence.all()
    other = CAM(network, LAYERS, target="probability")(images, 1)
    assert not torch.equal(result.maps, other.maps)


def margin(logits: Tensor) -> Tensor:
    return logits[:, 0] - logits[:, 1:].logsumexp(1)


def test_finer_cam_takes_no_function(network: Small, images: Tensor) -> None:
    with pytest.raises(SsgcamError, match="subtracts logits"):
        CAM(network, LAYERS, "finer_cam", target=margin)(images)


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].against is None])
def test_a_target_function(method: str, network: Small, images: Tensor) -> None:
    result = CAM(network, LAYERS, method, target=margin)(images)
    assert result.logits is None
    assert result.probabilities is None
    assert result.classes.tolist() == [0, 0, 0]
    assert result.maps.isfinite().all()
    picked = CAM(network, LAYERS, method, target=lambda logits: logits[:, 2])(images)
    if method != "recipro_cam":  # probabilities of a named target
        torch.testing.assert_close(picked.maps, CAM(network, LAYERS, method)(images, 2).maps)
    # log odds are what the softmax scores differentiate
    if method in ("grad_cam", "layer_cam", "hires_cam"):
        named = CAM(network, LAYERS, method, target="odds")(images, 0)
        torch.testing.assert_close(result.maps, named.maps, atol=1e-5, rtol=1e-4)


def test_a_target_function_and_classes(network: Small, images: Tensor) -> None:
    with pytest.raises(SsgcamError, match="classes were given along with a target function"):
        CAM(network, LAYERS, target=margin)(images, 1)


class Segmenter(nn.Module):
    """Scores for each pixel, as a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU())
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": nn.functional.interpolate(self.last(self.features(images)), scale_factor=2)}


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].against is None])
def test_a_segmentation_network(method: str) -> None:
    network, images = Segmenter(), torch.rand(2, 3, 16, 16)
    nn.init.uniform_(network.last.weight)  # not negative: every channel speaks for the class

    def left(output: dict[str, Tensor]) -> Tensor:
        return output["out"][:, 1, :, :8].mean((1, 2))

    result = CAM(network, ["features"], method, target=left)(images)
    assert result.evidence.all()
    if method in ("layer_cam", "hires_cam", "grad_cam_elementwise"):
        assert not result.layer_maps["features"][:, :, 4:].any()  # only the left half is asked for


def live_tensors() -> int:
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def test_nothing_is_kept_between_calls(network: Small, images: Tensor) -> None:
    cams = [CAM(network, LAYERS, method) for method in METHODS]

    def call() -> None:
        for cam in cams:
            cam(images)
            with pytest.raises(SsgcamError):
                cam(images, 99)

    call()
    call()
    gc.collect()
    before = live_tensors()
    gc.disable()  # nothing may wait for the collector of reference cycles
    try:
        call()
        call()
        # the last error's traceback is all that may still be around
        assert live_tensors() <= before + 20
    finally:
        gc.enable()
    gc.collect()
    assert live_tensors() <= before


def test_a_result_holds_no_graph(network: Small, images: Tensor) -> None:
    result = SSGCAM(network, LAYERS)(images)
    tensors = [result.maps, result.classes, result.logits, result.probabilities]
    for tensor in [*tensors, *result.layer_maps.values()]:
        assert tensor is not None
        assert tensor.grad_fn is None


def test_no_device_is_named(network: Small, images: Tensor) -> None:
    """Under another default device, everything still happens where the network is."""
    wanted = SSGCAM(network, LAYERS)(images)
    odds = CAM(network, LAYERS, target=TargetSettings("odds", "hutchinson", probes=2))
    wanted_odds = odds(images, [[0, 1]] * 3)
    with torch.device("meta"):
        assert torch.equal(SSGCAM(network, LAYERS)(images).maps, wanted.maps)
        assert torch.equal(odds(images, [[0, 1]] * 3).maps, wanted_odds.maps)
        for method in METHODS:
            assert CAM(network, LAYERS, method)(images).maps.device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda(network: Small, images: Tensor) -> None:
    for method in METHODS:
        wanted = CAM(network, LAYERS, method)(images, 1)
        found = CAM(network.cuda(), LAYERS, method)(images.cuda(), [1, 1, 1])
        assert found.maps.is_cuda
        torch.testing.assert_close(found.maps.cpu(), wanted.maps, atol=1e-3, rtol=0)
        network.cpu()


def test_the_examples_of_the_documentation() -> None:
    model = Small()
    images = torch.rand(2, 3, 32, 32)
    cam = SSGCAM(
        model,
        layers=["act1", "act2"],
        form="taylor",
        sigma=0.1,
        first_exponent=1.0,
        second_exponent=1.0,
        gamma=0.5,
    )
    result = cam(images, classes=None)
    assert result.maps.shape == (2, 32, 32)
    assert list(result.layer_maps) == ["act1", "act2"]
    assert result.classes.shape == (2,)
    assert result.probabilities is not None
    assert result.probabilities.shape == (2, 3)
    assert CAM(model, ["act2"], method="grad_cam")(images).maps.shape == (2, 32, 32)
    # a method is a pure function of a signal
    signals, _ = cam.signals(images, torch.tensor([0, 1]))
    assert layer_cam(signals["act2"]).shape == (2, 16, 16)
