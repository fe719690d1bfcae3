"""The sum form of SSG-CAM against a plain loop, and its two limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models as tv

from helpers.networks import Small
from ssgcam import CAM, SSGCAM, SSGSettings, TargetSettings
from ssgcam.cli.options import MethodOptions
from ssgcam.core.methods import METHODS, grad_cam_elementwise, hires_cam, ssg_cam
from ssgcam.core.signals import Signal
from ssgcam.core.smoothing import gaussian_matrix


def signal(second: bool = False) -> Signal:
    generator = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn(3, 4, 6, 5, generator=generator, dtype=torch.float64)

    return Signal(noise(), noise(), noise() if second else None)


def scaled(maps: Tensor) -> Tensor:
    return maps / maps.amax((1, 2), keepdim=True)


def loop(signal: Signal, settings: SSGSettings) -> Tensor:
    """``e^(a u) [S e]^(a (1 - u)) [S sum_c relu(second) A^2]^b``, one image and channel at a time.

    ``e = relu(P - lambda N)``.
    """
    a, g = signal.activation, signal.first
    assert g is not None
    second = g**2 if signal.second is None else signal.second
    count, channels, height, width = a.shape
    cells = settings.sigma * min(height, width)
    rows, columns = torch.eye(height).double(), torch.eye(width).double()
    if cells > 0:
        rows = gaussian_matrix(height, cells, torch.float64)
        columns = gaussian_matrix(width, cells, torch.float64)
    maps = torch.zeros(count, height, width, dtype=torch.float64)
    for n in range(count):
        positive, negative, strength = torch.zeros(3, height, width, dtype=torch.float64)
        for c in range(channels):
            term = g[n, c] * a[n, c]
            positive += term.clamp(min=0)
            negative += (-term).clamp(min=0)
            strength += second[n, c].clamp(min=0) * a[n, c] ** 2
        agreement = (positive - settings.cancellation * negative).clamp(min=0)
        unsmoothed = (settings.unsmoothed or 0) * settings.first_exponent
        maps[n] = (rows @ agreement @ columns.T) ** (settings.first_exponent - unsmoothed)
        maps[n] *= agreement**unsmoothed
        maps[n] *= (rows @ strength @ columns.T) ** settings.second_exponent
    return maps


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize(("a", "b"), [(1, 0), (0, 1), (1, 0.5), (2, 0.3)])
@pytest.mark.parametrize("cancellation", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("sigma", [0.0, 0.13])
@pytest.mark.parametrize("unsmoothed", [None, 0.3, 1.0])
def test_sum_form_against_a_loop(
    unsmoothed: float | None, sigma: float, cancellation: float, a: float, b: float, second: bool
) -> None:
    settings = SSGSettings("sum", sigma, a, b, cancellation, unsmoothed)
    found = ssg_cam(signal(second), settings)
    torch.testing.assert_close(scaled(found), scaled(loop(signal(second), settings)))


def test_sum_form_contains_hires_cam_and_elementwise_grad_cam() -> None:
    for cancellation, method in ((1.0, hires_cam), (0.0, grad_cam_elementwise)):
        found = ssg_cam(signal(), SSGSettings("sum", 0, 1, 0, cancellation))
        torch.testing.assert_close(scaled(found), scaled(method(signal())))


@pytest.mark.parametrize(("gradient", "activation"), [(1e-30, 1e-5), (1e25, 1e25), (1e-20, 1e30)])
def test_factors_of_a_layer_cancel_in_float32(gradient: float, activation: float) -> None:
    plain, settings = signal(), SSGSettings("sum", 0.1, 1, 0.5)
    assert plain.first is not None
    extreme = Signal(plain.activation.float() * activation, plain.first.float() * gradient)
    found = ssg_cam(extreme, settings).double()
    torch.testing.assert_close(scaled(found), scaled(ssg_cam(plain, settings)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("discriminate", SSGSettings("sum", 0.08, 1.5, 0.25, 1)),
        ("localize", SSGSettings("sum", 0.06, 1, 0, 0, 0)),
    ],
)
def test_presets_are_named_settings(preset: str, settings: SSGSettings) -> None:
    network, images = Small().eval(), torch.rand(2, 3, 24, 24)
    layers = ["act1", "act2"]
    named = CAM(network, layers, preset)(images, 1)
    gamma = METHODS[preset].gamma
    torch.testing.assert_close(
        named.maps, CAM(network, layers, ssg=settings, gamma=gamma)(images, 1).maps
    )


@pytest.mark.parametrize("target", ["exp", "odds", "probability", "sigmoid"])
@pytest.mark.parametrize("second", ["squared", "hutchinson"])
def test_second_order_of_any_target(target: Any, second: Any) -> None:
    network, images = Small().eval().double(), torch.rand(2, 3, 24, 24, dtype=torch.float64)
    settings = TargetSettings(target, second, sign="absolute", probes=2)
    ssg = SSGSettings("sum", 0.1, 1, 0.5)
    cam = CAM(network, ["act1"], ssg=ssg, target=settings)
    signals, _ = cam.signals(images, torch.tensor([1, 2]))
    wanted = loop(signals["act1"], ssg)
    torch.testing.assert_close(
        scaled(cam(images, [1, 2]).layer_maps["act1"]), scaled(wanted).float(), atol=1e-5, rtol=0
    )


def test_fused_layers_leave_a_third_of_the_first_order_unsmoothed() -> None:
    network, images = Small().eval(), torch.rand(2, 3, 24, 24)
    layers = ["act1", "act2"]
    given = {share: CAM(network, layers, ssg=SSGSettings(unsmoothed=share)) for share in (0, 1 / 3)}
    found = CAM(network, layers)(images, 1)
    torch.testing.assert_close(found.maps, given[1 / 3](images, 1).maps)
    assert not torch.allclose(found.maps, given[0](images, 1).maps, atol=0.01)
    for layer in layers:
        alone = CAM(network, [layer])(images, 1)
        torch.testing.assert_close(
            scaled(alone.layer_maps[layer]), scaled(given[0](images, 1).layer_maps[layer])
        )


def test_a_given_unsmoothed_share_is_used_by_ssgcam_and_the_command() -> None:
    network, images = Small().eval(), torch.rand(2, 3, 24, 24)
    settings = SSGSettings(unsmoothed=0.7)
    assert MethodOptions(unsmoothed=0.7).ssg == settings
    for layers in (["act1"], ["act1", "act2"]):
        expected = CAM(network, layers, ssg=settings)(images, 1).maps
        found = SSGCAM(network, layers, unsmoothed=0.7)(images, 1).maps
        torch.testing.assert_close(found, expected)
        assert not torch.allclose(found, CAM(network, layers)(images, 1).maps, atol=0.01)


def test_settings_for_each_layer_smooth_all_by_default() -> None:
    network, images = Small().eval(), torch.rand(2, 3, 24, 24)
    layers = ["act1", "act2"]
    each = CAM(network, layers, ssg=[SSGSettings(), SSGSettings()])(images, 1)
    none = CAM(network, layers, ssg=SSGSettings(unsmoothed=0))(images, 1)
    torch.testing.assert_close(each.maps, none.maps)


def test_ranges_are_checked() -> None:
    with np.testing.assert_raises_regex(ValueError, "cancellation is 1.5"):
        SSGSettings("sum", cancellation=1.5)
    with np.testing.assert_raises_regex(ValueError, "unsmoothed is -0.1"):
        SSGSettings("sum", unsmoothed=-0.1)
    with np.testing.assert_raises_regex(ValueError, "only the sum form has it"):
        SSGSettings("taylor", unsmoothed=0.5)


def test_cancellation_separates_classes_in_the_last_layer() -> None:
    """Two classes with opposite weights: without cancellation their maps are the same."""
    torch.manual_seed(0)
    network = tv.resnet18(num_classes=2).eval()
    network.fc = nn.Linear(512, 2)
    images = torch.randn(1, 3, 96, 96)
    classes = torch.tensor([[0, 1]])
    kept = {}
    for cancellation in (0.0, 1.0):
        cam = SSGCAM(
            network, ["layer4"], form="sum", sigma=0, first_exponent=1, second_exponent=0.5,
            cancellation=cancellation,
        )  # fmt: skip
        one, two = cam(images, classes).maps[0].flatten(1)
        kept[cancellation] = float(torch.corrcoef(torch.stack([one, two]))[0, 1])
    assert kept[1.0] < kept[0.0] - 0.2
