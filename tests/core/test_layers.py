"""Target layers: the defaults for each family, names, and what a layer's tensor means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as tv
from torchvision.models.vgg import cfgs, make_layers

from helpers.networks import Small, TinyViT
from ssgcam import CAM, SSGCAM
from ssgcam.core.layers import auto_layers, list_layers, resolve
from ssgcam.core.layouts import TensorLayout, layout_of
from ssgcam.errors import SsgcamError


def vgg16(batch_norm: bool) -> nn.Module:
    """Torchvision's, with a small classifier and an eighth of the channels."""
    plan: Any = [size if size == "M" else int(size) // 8 for size in cfgs["D"]]
    head = [nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(64 * 49, 10)]
    return nn.Sequential(make_layers(plan, batch_norm), *head)


def lite0() -> nn.Module:
    lite = pytest.importorskip("efficientnet_lite_pytorch")
    network: nn.Module = lite.EfficientNet.from_name("efficientnet-lite0")
    return network


def timm_network(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        network: nn.Module = pytest.importorskip("timm").create_model(name, **settings)
        return network

    return build


def swin(**settings: Any) -> nn.Module:
    return tv.SwinTransformer([4, 4], 24, [1, 1, 2, 1], [2, 2, 4, 4], [4, 4], **settings)


def swin_v2() -> nn.Module:
    parts = tv.swin_transformer
    return swin(block=parts.SwinTransformerBlockV2, downsample_layer=parts.PatchMergingV2)


def vit() -> nn.Module:
    network = tv.VisionTransformer(64, 16, 3, 2, 24, 48)
    nn.init.normal_(network.heads.head.weight)  # zeros otherwise
    return network


def mixer(block: str, **settings: Any) -> nn.Module:
    parts = pytest.importorskip("timm.models.mlp_mixer")
    kind = getattr(parts, block)
    network: nn.Module = parts.MlpMixer(3, 64, patch_size=16, num_blocks=2, embed_dim=64,
                                        block_layer=kind, **settings)  # fmt: skip
    nn.init.normal_(network.head.weight)  # zeros otherwise
    return network


def reg_tokens() -> Callable[[], nn.Module]:
    return timm_network(
        "vit_tiny_patch16_224",
        img_size=64,
        reg_tokens=4,
        class_token=False,
        global_pool="avg",
        depth=2,
    )


DEFAULTS: list[tuple[str, Callable[[], nn.Module], list[str]]] = [
    ("resnet34", tv.resnet34, ["layer1", "layer2", "layer3", "layer4"]),
    ("resnet50", tv.resnet50, ["layer1", "layer2", "layer3", "layer4"]),
    ("vgg16", lambda: vgg16(False), ["0.15", "0.22", "0.29"]),
    ("vgg16_bn", lambda: vgg16(True), ["0.22", "0.32", "0.42"]),
    (
        "densenet121",
        tv.densenet121,
        [*(f"features.transition{i}.relu" for i in (1, 2, 3)), "features"],
    ),
    ("efficientnet_lite0", lite0, ["_blocks.2", "_blocks.4", "_blocks.10", "_swish@2"]),
    ("efficientnet_b0", tv.efficientnet_b0, [*(f"features.{i}" for i in (2, 3, 5)), "features"]),
    (
        "mobilenet_v3_large",
        tv.mobilenet_v3_large,
        [*(f"features.{i}" for i in (3, 6, 12)), "features"],
    ),
    ("squeezenet1_1", tv.squeezenet1_1, ["features.4", "features.7", "classifier.2"]),
    ("shufflenet", tv.shufflenet_v2_x0_5, ["maxpool", "stage2", "stage3", "conv5"]),
    ("convnext", tv.convnext_tiny, [*(f"features.{i}.0" for i in (2, 4, 6)), "features"]),
    (
        "timm convnext",
        timm_network("convnext_atto", depths=(1, 1, 1, 1)),
        ["stages.0", "stages.1", "stages.2", "stages"],
    ),
    ("swin", swin, ["features.1", "features.3", "features.5", "permute"]),
    ("swin v2", swin_v2, ["features.1", "features.3", "features.5", "permute"]),
    ("timm vit", timm_network("vit_tiny_patch16_224", img_size=64, depth=3), ["blocks.2.norm1"]),
    # 64 channels could be a grid of 8x8 tokens
    ("timm mixer", lambda: mixer("MixerBlock"), ["norm"]),
    ("timm resmlp", lambda: mixer("ResBlock", mlp_ratio=4), ["norm"]),
    (
        "timm distilled",
        timm_network("deit_tiny_distilled_patch16_224", img_size=64, depth=3),
        ["blocks.2.norm1"],
    ),
    ("timm registers, average", reg_tokens(), ["norm"]),
    ("torchvision vit", vit, ["encoder.layers.encoder_layer_2.ln_1"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("build", "wanted"), [row[1:] for row in DEFAULTS], ids=[row[0] for row in DEFAULTS]
)
def test_auto(build: Callable[[], nn.Module], wanted: list[str]) -> None:
    network, images = build().eval(), torch.rand(2, 3, 64, 64)
    listed = [info for info in list_layers(network, images[:1]) if info.default]
    assert [info.name for info in listed] == wanted
    resolutions = [(info.layout.height, info.layout.width) for info in listed]
    assert len(set(resolutions)) == len(resolutions)
    # at most a quarter of the input's side, and not a single cell
    assert all(2 <= height <= 16 and 2 <= width <= 16 for height, width in resolutions)
    # every one of them can be explained without a word about its layout
    result = CAM(network, method="localize")(images)
    assert list(result.layer_maps) == wanted
    assert result.evidence.all(), result.notes
    for info in listed:
        assert result.layer_maps[info.name].shape == (2, info.layout.height, info.layout.width)


def test_auto_takes_the_coarsest_where_all_are_finer_than_a_quarter() -> None:
    infos = list_layers(Small(), torch.rand(1, 3, 32, 32))
    assert [info.name for info in infos if info.default] == ["act2"]


def test_auto_without_a_map_says_so() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    with pytest.raises(
        SsgcamError, match=r"no layer with a spatial extent.*name the target layers"
    ):
        auto_layers(network, torch.rand(1, 3, 4, 4))


def test_the_list_of_layers() -> None:
    network = tv.resnet18()
    infos = {info.name: info for info in list_layers(network, torch.rand(1, 3, 64, 96))}
    layer3 = infos["layer3"]
    assert (layer3.kind, layer3.channels, layer3.layout.height, layer3.layout.width) == (
        "Sequential",
        256,
        4,
        6,
    )
    assert layer3.default
    assert not layer3.signed
    assert layer3.why == "last of 4x6, after an activation function"
    assert infos["layer3.0.bn2"].signed
    # one name for each tensor: the block gives the tensor of its in-place ReLU
    assert "layer3.1" not in infos
    # what has no spatial extent is not listed
    assert not {"fc", "avgpool", "flatten"} & set(infos)


class NoPath(nn.Module):
    """A branch that the output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.ReLU())
        self.idle = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.fc = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        self.idle(x)
        logits: Tensor = self.fc(x.amax((2, 3)))
        return logits


def test_layers_that_do_not_matter_are_no_default() -> None:
    infos = {info.name: info for info in list_layers(NoPath(), torch.rand(1, 3, 32, 32))}
    assert infos["idle"].why == "no path to the output"
    assert infos["stem"].default
    assert not infos["idle"].default


def test_weights_of_zero_do_not_hide_a_path() -> None:
    network = NoPath()
    network.fc.weight.data.zero_()
    assert auto_layers(network, torch.rand(1, 3, 32, 32)) == ["stem"]


# names


def test_names_and_modules_are_resolved() -> None:
    network = tv.resnet18()
    names = resolve(network, ["layer1", network.layer4, "layer1", "layer3.0.relu@2", "fc:in"])
    assert names == ["layer1", "layer4", "layer3.0.relu@2", "fc:in"]


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("layer5", "'layer4'"),
        ("layer4.2", "'layer4.1'"),
        ("layr3", "'layer3'"),
        ("Layer4", "layer4"),
    ],
)
def test_names_that_do_not_exist_get_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(SsgcamError, match=f"no layer '{wrong}'; did you mean .*{nearest}"):
        resolve(tv.resnet18(), [wrong])


@pytest.mark.parametrize("wrong", ["layer5@2", "layer5:in", "@2", ":in", "zzzzzzzz"])
def test_other_spellings_that_do_not_exist(wrong: str) -> None:
    with pytest.raises(SsgcamError, match=f"no layer '{wrong}'"):
        CAM(tv.resnet18(), [wrong])


def test_no_layer_at_all() -> None:
    with pytest.raises(SsgcamError, match=r"no target layer given.*layers='auto'"):
        CAM(Small(), [])


def test_one_name_is_enough() -> None:
    result = CAM(Small(), "act1")(torch.rand(1, 3, 12, 12))
    assert list(result.layer_maps) == ["act1"]


# what a tensor means


@pytest.mark.parametrize(
    ("shape", "image", "wanted"),
    [
        ((2, 7, 5, 5), (64, 64), TensorLayout("channels_first", 5, 5)),
        ((2, 5, 5, 9), (64, 64), TensorLayout("channels_last", 5, 5)),
        ((2, 64, 4, 6), (64, 96), TensorLayout("channels_first", 4, 6)),
        ((2, 4, 6, 64), (64, 96), TensorLayout("channels_last", 4, 6)),
        ((2, 13, 20, 8), (100, 160), TensorLayout("channels_last", 13, 20)),
        ((2, 8, 13, 20), (100, 160), TensorLayout("channels_first", 13, 20)),
        ((2, 512, 7, 7), (224, 230), TensorLayout("channels_first", 7, 7)),
        ((2, 7, 3, 19), (64, 64), TensorLayout("channels_first", 3, 19)),  # neither fits
        ((2, 197, 8), (224, 224), TensorLayout("tokens", 14, 14, 1)),
        ((2, 196, 8), (224, 224), TensorLayout("tokens", 14, 14, 0)),
        ((2, 198, 8), (224, 224), TensorLayout("tokens", 14, 14, 2)),
        ((2, 201, 8), (224, 224), TensorLayout("tokens", 14, 14, 5)),
        ((2, 20, 8), (64, 64), TensorLayout("tokens", 4, 4, 4)),
        ((2, 33, 8), (64, 128), TensorLayout("tokens", 4, 8, 1)),
        ((2, 25, 8), (64, 96), TensorLayout("tokens", 4, 6, 1)),
        ((2, 15, 8), (48, 64), TensorLayout("tokens", 3, 4, 3)),
        ((2, 50, 8), (230, 230), TensorLayout("tokens", 7, 7, 1)),  # 32 px patches, a rest of 6 px
        ((2, 65, 8), (230, 230), TensorLayout("tokens", 8, 8, 1)),  # the same, padded
    ],
)
def test_layouts(shape: tuple[int, ...], image: tuple[int, int], wanted: TensorLayout) -> None:
    assert layout_of(torch.zeros(shape), image, "layer") == wanted


def test_maps_of_each_layout() -> None:
    values = torch.rand(2, 3, 4, 6)
    first = layout_of(values, (64, 96), "layer")
    assert torch.equal(first.maps(values), values)
    last = values.permute(0, 2, 3, 1).contiguous()
    assert torch.equal(layout_of(last, (64, 96), "layer").maps(last), values)
    tokens = torch.cat([torch.rand(2, 2, 3), values.flatten(2).mT], 1)
    assert torch.equal(layout_of(tokens, (64, 96), "layer").maps(tokens), values)


@pytest.mark.parametrize("shape", [(2, 8, 1, 1), (2, 1, 1, 8), (2, 1, 8), (2, 8)])
def test_no_spatial_extent_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SsgcamError, match=r"no spatial extent; choose an earlier layer.*'pool:in'"):
        layout_of(torch.zeros(shape), (64, 64), "pool")


def test_a_pooled_layer_is_refused_and_its_input_is_not() -> None:
    network, images = tv.resnet18(), torch.rand(1, 3, 64, 64)
    with pytest.raises(SsgcamError, match=r"'avgpool' gives \[1, 512, 1, 1\].*'avgpool:in'"):
        CAM(network, ["avgpool"])(images)
    by_input = CAM(network, ["avgpool:in"])(images)
    torch.testing.assert_close(by_input.maps, CAM(network, ["layer4"])(images).maps)


def test_volumes_are_refused() -> None:
    with pytest.raises(SsgcamError, match=r"gives a volume \[2, 8, 4, 4, 4\].*slice by slice"):
        layout_of(torch.zeros(2, 8, 4, 4, 4), (64, 64), "conv3d")
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.LazyLinear(2))
    network(torch.zeros(1, 1, 5, 5, 5))
    with pytest.raises(SsgcamError, match="slice by slice"):
        CAM(network, ["0"])(torch.zeros(1, 1, 5, 5, 5))


# maps of transformers: a token that is brightened lights up where it is


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_tokens_of_a_picture_that_is_not_square(prefix: int) -> None:
    network = TinyViT(24, 40, prefix=prefix + (prefix == 0), blocks=1)
    layer = "blocks.0.norm1" if prefix else "embed"
    images = torch.rand(2, 3, 24, 40)
    result = SSGCAM(network, [layer], sigma=0)(images)
    assert result.layer_maps[layer].shape == (2, 3, 5)
    assert result.maps.shape == (2, 24, 40)


class PatchSum(nn.Module):
    """Tokens whose class score is the sum over patches: the map is the patches' brightness."""

    def __init__(self, prefix: int, last: bool) -> None:
        super().__init__()
        self.prefix = prefix
        self.last = last
        self.layer = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        patches = nn.functional.avg_pool2d(images, 8).permute(0, 2, 3, 1)  # [N, h, w, 3]
        if self.last:
            x = self.layer(patches)
            return x.sum((1, 2))
        tokens = patches.flatten(1, 2)
        extra = torch.full((len(images), self.prefix, 3), 100.0)
        return self.layer(torch.cat([extra, tokens], 1))[:, self.prefix :].sum(1)


@pytest.mark.parametrize(("prefix", "last"), [(0, False), (1, False), (4, False), (0, True)])
def test_maps_are_where_the_tokens_are(prefix: int, last: bool) -> None:
    network = PatchSum(prefix, last)
    images = torch.zeros(1, 3, 24, 40)
    images[:, 1, 8:16, 24:32] = 1  # patch (1, 3)
    wanted = torch.zeros(1, 3, 5)
    wanted[0, 1, 3] = 1
    for method in ("grad_cam_elementwise", "layer_cam", "hires_cam", "grad_cam", "eigen_cam"):
        found = CAM(network, ["layer"], method)(images, 1).layer_maps["layer"]
        torch.testing.assert_close(found / found.max(), wanted)
    found = SSGCAM(network, ["layer"], sigma=0)(images, 1).layer_maps["layer"]
    torch.testing.assert_close(found / found.max(), wanted)
