"""Finer-CAM, RefineCAM, smoothed HiResCAM and ReciproCAM against their definitions and grad-cam."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as tv

from helpers.networks import Small, state_of
from ssgcam import CAM
from ssgcam.core.fusion import resize, scale
from ssgcam.core.smoothing import smooth


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return tv.resnet18(num_classes=10).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_finer_cam_is_that_of_grad_cam(network: nn.Module, images: Tensor) -> None:
    library = pytest.importorskip("pytorch_grad_cam")
    with library.FinerCAM(network, [network.get_submodule("layer3")]) as theirs:
        wanted = theirs(images, target_idx=4)
    found = CAM(network, ["layer3"], "finer_cam")(images, 4)
    wanted = torch.from_numpy(np.asarray(wanted))
    for one, other in zip(found.maps, wanted, strict=True):
        assert spearmanr(one.flatten(), other.flatten()).statistic > 0.99  # it resizes by OpenCV


def test_finer_cam_against_a_loop(network: nn.Module, images: Tensor) -> None:
    def function(logits: Tensor) -> Tensor:
        values = []
        for z in logits:
            values_of = z.tolist()
            order = sorted(
                (k for k in range(10) if k != 4), key=lambda k: abs(values_of[k] - values_of[4])
            )
            p = z.softmax(0)
            near = order[:3]
            total = sum(p[k] * (z[4] - z[k]) for k in near)
            values.append(total / sum(p[k] for k in near))
        return torch.stack(values)

    found = CAM(network, ["layer3"], "finer_cam")(images, 4)
    wanted = CAM(network, ["layer3"], "grad_cam", target=function)(images)
    torch.testing.assert_close(found.maps, wanted.maps, atol=1e-4, rtol=0)


def test_refine_cam_is_the_product_of_grad_cam_plus_plus(
    network: nn.Module, images: Tensor
) -> None:
    layers = ["layer2", "layer3", "layer4"]
    found = CAM(network, layers, "refine_cam")(images, [3, 7]).maps
    maps = CAM(network, layers, "grad_cam_plus_plus")(images, [3, 7]).layer_maps
    product = torch.ones(2, 64, 64)
    for layer in layers:
        product = product * scale(resize(maps[layer], (64, 64)))
    torch.testing.assert_close(found, scale(product))


def test_refine_cam_is_near_that_of_grad_cam(network: nn.Module, images: Tensor) -> None:
    """It subtracts each layer's minimum, which is zero where some cell speaks against the class."""
    library = pytest.importorskip("pytorch_grad_cam")
    layers = ["layer2", "layer3"]
    modules = [network.get_submodule(layer) for layer in layers]
    targets = [library.utils.model_targets.ClassifierOutputTarget(c) for c in (3, 7)]
    wanted = library.RefineCAM(network, modules)(images, targets)
    found = CAM(network, layers, "refine_cam")(images, [3, 7]).maps
    for one, other in zip(found, wanted, strict=True):
        assert spearmanr(one.flatten(), other.flatten()).statistic > 0.95


def test_smoothed_hires_cam_smooths_the_signed_sum(network: nn.Module, images: Tensor) -> None:
    cam = CAM(network, ["layer2"], "smoothed_hires_cam")
    signal = cam.signals(images, torch.tensor([3, 7]))[0]["layer2"]
    assert signal.first is not None
    wanted = smooth((signal.first * signal.activation).sum(1), 0.08).clamp_min(0)
    torch.testing.assert_close(cam(images, [3, 7]).layer_maps["layer2"], wanted)


class AfterLayer(nn.Module):
    """The part of :class:`Small` after ``act2``."""

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__()
        self.network, self.layer = network, layer

    def forward(self, value: Tensor) -> Tensor:
        handle = self.network.get_submodule(self.layer).register_forward_hook(
            lambda module, inputs, output: value
        )
        with handle:
            output: Tensor = self.network(torch.zeros(1, 3, 20, 20))
        return output


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
@pytest.mark.parametrize("layer", ["act1", "act2"])
def test_recipro_cam_against_a_loop(layer: str, batch_size: int) -> None:
    torch.manual_seed(0)
    small, images = Small().train(), torch.rand(2, 3, 20, 20)
    before = state_of(small)
    found = CAM(small, [layer], "recipro_cam", batch_size=batch_size)(images, [1, 2])
    assert state_of(small) == before
    small.eval()
    kept: list[Tensor] = []
    with small.get_submodule(layer).register_forward_hook(lambda m, i, o: kept.append(o.detach())):
        small(images)
    rest = AfterLayer(small, layer)
    height, width = kept[0].shape[-2:]
    for n, c in enumerate([1, 2]):
        wanted = torch.zeros(height, width)
        for i in range(height):
            for j in range(width):
                alone = torch.zeros_like(kept[0][n : n + 1])
                alone[..., i, j] = kept[0][n, :, i, j]
                with torch.no_grad():
                    wanted[i, j] = rest(alone).softmax(1)[0, c]
        torch.testing.assert_close(
            found.layer_maps[layer][n], wanted - wanted.min(), atol=1e-6, rtol=0
        )


class CountsImages(Small):
    """A network that takes the number of images from its input, as EfficientNet-Lite does."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.act2(self.conv2(self.act1(self.norm1(self.conv1(images)))))
        x = F.adaptive_max_pool2d(x, 2).mean((2, 3)) + x.mean((2, 3))
        return self.fc(self.drop(x.view(len(images), -1)))


def test_recipro_cam_of_a_network_that_counts_its_images() -> None:
    torch.manual_seed(0)
    network, images = CountsImages().eval(), torch.rand(2, 3, 20, 20)
    plain = Small().eval()
    plain.load_state_dict(network.state_dict())
    found = CAM(network, ["act2"], "recipro_cam", batch_size=7)(images, [1, 2])
    wanted = CAM(plain, ["act2"], "recipro_cam", batch_size=7)(images, [1, 2])
    torch.testing.assert_close(found.layer_maps["act2"], wanted.layer_maps["act2"])
    assert found.maps.max() > 0


def test_recipro_cam_of_tokens_keeps_the_class_token() -> None:
    torch.manual_seed(0)
    network: Any = tv.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(network.heads.head.weight)
    images = torch.randn(1, 3, 32, 32)
    layer = "encoder.layers.encoder_layer_0"
    found = CAM(network, [layer], "recipro_cam")(images, 3).layer_maps[layer][0]
    values = torch.zeros(16)
    for cell in range(16):

        def keep(module: Any, inputs: Any, output: Tensor, cell: int = cell) -> Tensor:
            mask = torch.zeros(1, 17, 1)
            mask[0, 0] = mask[0, 1 + cell] = 1
            return output * mask

        with network.get_submodule(layer).register_forward_hook(keep), torch.no_grad():
            values[cell] = network(images).softmax(1)[0, 3]
    torch.testing.assert_close(found, (values - values.min()).view(4, 4), atol=1e-6, rtol=0)
