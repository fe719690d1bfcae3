"""After a call, and after one that fails, the network and the process are as they were."""

from __future__ import annotations

import gc
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from helpers.networks import Small, Smooth, TinyViT
from helpers.state import STAGES, failing, made_untidy, resident_megabytes, unchanged
from ssgcam import CAM, SSGCAM, LoadedModel, Preprocessing
from ssgcam.bulk.explain import ExplainTask
from ssgcam.core.methods import METHODS

#: Networks that need a certain input size, or more than the 64 pixels of the others.
SIDES = {"inception_v3": 96, "maxvit_t": 224, "alexnet": 80}
MOST_PARAMETERS = 150e6
TIMM = (
    "beit_base_patch16_224", "cait_xxs24_224", "coat_lite_tiny", "convmixer_768_32",
    "convnextv2_atto", "cspresnet50", "deit_tiny_patch16_224", "dla34", "dpn68",
    "edgenext_xx_small", "efficientformer_l1", "eva02_tiny_patch14_224", "ghostnet_100",
    "hrnet_w18_small", "inception_resnet_v2", "levit_128s", "mixer_b16_224", "mobilevit_xxs",
    "nfnet_f0", "poolformer_s12", "pvt_v2_b0", "repvgg_a0", "res2net50_26w_4s", "resnetv2_50",
    "rexnet_100", "seresnet18", "swinv2_tiny_window8_256", "tinynet_e", "tresnet_m",
    "vit_tiny_patch16_224", "xception41",
)  # fmt: skip
QUICK = ("densenet121", "inception_v3", "mobilenet_v3_small", "resnet18", "swin_t", "vit_b_32")


def built(name: str) -> tuple[nn.Module, Tensor]:
    """A torchvision network with random weights, and two images of its size."""
    side = SIDES.get(name, 64)
    options: dict[str, object] = {"image_size": 56 if name == "vit_h_14" else 64}
    if not name.startswith("vit"):
        options = {}
    if name in ("inception_v3", "googlenet"):
        options |= {"init_weights": False, "aux_logits": True}
    network = models.get_model(name, weights=None, num_classes=7, **options)
    return network, torch.rand(2, 3, *[int(options.get("image_size", side))] * 2)  # type: ignore[call-overload]


def check_every_stage(network: nn.Module, images: Tensor) -> None:
    """One call that succeeds, which must give maps, and one that fails at each stage."""
    made_untidy(network)
    with unchanged(network):
        result = SSGCAM(network)(images, classes=1)
        assert result.maps.shape == (2, *images.shape[-2:])
        assert torch.isfinite(result.maps).all()
        for stage in STAGES:
            failing(stage, network, images, SSGCAM)


@pytest.mark.parametrize("name", QUICK[2:3])
def test_a_torchvision_network_is_unchanged(name: str) -> None:
    check_every_stage(*built(name))


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(models.list_models(module=models)))
def test_every_torchvision_network_is_unchanged(name: str) -> None:
    weights = models.get_model_weights(name)
    if next(iter(weights)).meta["num_params"] > MOST_PARAMETERS:
        pytest.skip("more than 150 million parameters")
    check_every_stage(*built(name))


@pytest.mark.long
@pytest.mark.parametrize("name", TIMM)
def test_a_timm_network_is_unchanged(name: str) -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model(name, pretrained=False, num_classes=7)
    check_every_stage(network, torch.rand(2, *network.pretrained_cfg["input_size"]))


@pytest.mark.parametrize("make", [Small, Smooth, partial(TinyViT, 32, 32)])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_leaves_the_network_unchanged(method: str, make: type[nn.Module]) -> None:
    network, images = made_untidy(make()), torch.rand(2, 3, 32, 32)
    layer = {"Small": "act2", "Smooth": "stem", "TinyViT": "blocks.0"}[type(network).__name__]
    with unchanged(network):
        CAM(network, [layer], method)(images)
        for stage in STAGES:
            if stage == "backward" and METHODS[method].needs in ("activation", "forward"):
                continue
            if stage in ("backward", "target") and METHODS[method].against is not None:
                continue  # it compares logits, and takes no target function
            if stage == "target" and METHODS[method].needs == "activation":
                continue
            failing(stage, network, images, partial(CAM, layers=[layer], method=method))


def test_a_keyboard_interrupt_leaves_the_network_unchanged() -> None:
    network = made_untidy(Small())

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    hook, images = network.conv2.register_forward_hook(interrupt), torch.rand(1, 3, 32, 32)
    with unchanged(network), pytest.raises(KeyboardInterrupt):
        SSGCAM(network)(images)
    hook.remove()
    assert SSGCAM(network)(images).maps.isfinite().all()


def test_two_explainers_of_one_network_do_not_disturb_each_other() -> None:
    network, images = Small().eval(), torch.rand(2, 3, 32, 32)
    first, second = SSGCAM(network, ["act1"]), CAM(network, ["act2"], "layer_cam")
    alone = first(images).maps, second(images).maps
    with unchanged(network):
        both = first(images).maps, second(images).maps, first(images).maps
    assert torch.equal(both[0], alone[0])
    assert torch.equal(both[1], alone[1])
    assert torch.equal(both[2], alone[0])


def test_an_explainer_may_be_used_inside_another_one() -> None:
    network, images = made_untidy(Small()), torch.rand(2, 3, 32, 32)
    inner = CAM(network, ["act2"], "layer_cam")
    expected = inner(images, 0).maps
    found = []

    def target(logits: Tensor) -> Tensor:
        found.append(inner(images, 0).maps)
        return logits[:, 0]

    with unchanged(network):
        outer = SSGCAM(network, ["act1"], target=target)(images).maps
    assert torch.equal(found[0], expected)
    plain = SSGCAM(network, ["act1"], target=lambda logits: logits[:, 0])(images).maps
    assert torch.equal(outer, plain)


@pytest.mark.parametrize("against", [None, 0])
def test_the_most_probable_classes_are_those_of_eval_mode(
    against: int | None, tmp_path: Path
) -> None:
    network, pixels = made_untidy(Small()), [torch.rand(3, 32, 32) for _ in range(3)]
    model = LoadedModel(network, "small", Preprocessing((32, 32)))
    cam = CAM(model, ["act2"])
    task = ExplainTask(model, cam, tmp_path, against=against, top=2)
    expected = cam(model.preprocessing.normalize(torch.stack(pixels)), 0).logits.clone()
    if against is not None:
        expected[:, against] = -torch.inf
    with unchanged(network):
        found = task.compute(pixels)
    classes = [[one.about["class"] for one in of_photo] for of_photo in found]
    assert classes == expected.topk(2).indices.tolist()


def test_use_in_several_threads_is_documented_as_not_supported() -> None:
    assert "Not thread-safe" in str(CAM.__doc__)


def growth(explain: CAM, images: Tensor, calls: int) -> float:
    """Megabytes that the process grows by between call 100 and the last one."""
    start = 0.0
    for call in range(calls):
        explain(images, classes=call % 3)
        if call in (100, calls - 1):
            gc.collect()
            start, before = resident_megabytes(), start
    return start - before


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
def test_five_hundred_calls_do_not_grow_the_memory() -> None:
    network = Small()
    assert growth(SSGCAM(network, ["act1", "act2"]), torch.rand(2, 3, 48, 48), 500) < 20


@linux
@pytest.mark.long
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("squeezenet1_1", "shapley_cam"),
        ("resnet18", "recipro_cam"),
        ("resnet18", "ssg_cam"),
        ("vit_b_32", "ssg_cam"),
    ],
)
def test_five_hundred_calls_of_a_real_network_do_not_grow_the_memory(
    name: str, method: str, fast: bool
) -> None:
    network, images = built(name)
    assert growth(CAM(network, method=method, fast=fast), images[:1], 500) < 20
