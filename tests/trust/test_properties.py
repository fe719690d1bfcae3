"""What must hold for the maps of any network, images and settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers.networks import Small, Smooth, TinyViT
from ssgcam import CAM, SSGSettings, TargetSettings
from ssgcam.core.methods import METHODS

LAYERS = {
    Small: ("conv1", "norm1", "act1", "conv2", "act2"),
    Smooth: ("stem", "mix"),
    TinyViT: ("blocks.0", "blocks.1"),
}
#: Seconds are not limited: the machine may be busy. The examples are the same in every run.
FEW = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
counts = pytest.mark.parametrize("count", [8, pytest.param(300, marks=pytest.mark.long)])


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, list[str], tuple[int, int]]:
    """A network with random weights, some of its layers, and a size of input."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    kind = draw(st.sampled_from([Small, Smooth, TinyViT]))
    size = (8 * draw(st.integers(2, 5)), 8 * draw(st.integers(2, 5)))
    network = TinyViT(*size) if kind is TinyViT else kind()
    names = draw(st.lists(st.sampled_from(LAYERS[kind]), min_size=1, unique=True))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return network.to(dtype).eval(), names, size


@st.composite
def options(draw: st.DrawFn, plain: bool = False) -> dict[str, Any]:
    """Keywords of :class:`ssgcam.CAM` that fit together."""
    method = "ssg_cam" if plain else draw(st.sampled_from(sorted(METHODS)))
    found: dict[str, Any] = {"method": method, "gamma": draw(st.floats(0.1, 2))}
    if method == "ssg_cam":
        first, second = draw(st.sampled_from([(1.0, 0.5), (1.0, 0.0), (0.0, 1.0), (0.3, 2.0)]))
        form = draw(st.sampled_from(["gradient", "sum", "taylor"]))
        found["ssg"] = SSGSettings(
            form=form, sigma=draw(st.floats(0, 0.5)), first_exponent=first, second_exponent=second,
            cancellation=draw(st.floats(0, 1)),
            unsmoothed=draw(st.none() | st.floats(0, 1)) if form == "sum" else None,
        )  # fmt: skip
        names = ["exp"] if plain else ["exp", "odds", "probability", "sigmoid"]
        found["target"] = TargetSettings(
            draw(st.sampled_from(names)), sign=draw(st.sampled_from(["absolute", "positive"]))
        )
        found["fusion"] = draw(st.sampled_from(["layer_cam", "mean", "product"]))
    return found


def inputs(network: nn.Module, size: tuple[int, int], count: int) -> Tensor:
    dtype = next(network.parameters()).dtype
    return torch.randn(count, 3, *size, dtype=dtype)


def close(found: Tensor, expected: Tensor) -> bool:
    """Equal up to rounding, which a low power of a small value enlarges."""
    return bool((found - expected).abs().mean() < 1e-3)


@counts
def test_maps_are_finite_in_range_and_of_the_right_size(count: int) -> None:
    @settings(max_examples=2 * count, **FEW)
    @given(networks(), options(), st.integers(1, 3), st.data())
    def check(case: Any, words: Any, images: int, data: st.DataObject) -> None:
        network, layers, size = case
        classes = data.draw(st.sampled_from([None, 0, [0] * images, [[0, 1]] * images]))
        given_size = data.draw(st.sampled_from([None, (7, 5), (40, 40)]))
        batch = inputs(network, size, images)
        wanted = torch.tensor(classes) if isinstance(classes, list) else classes
        result = CAM(network, layers, output_size=given_size, **words)(batch, wanted)
        shape = (images, 2) if isinstance(wanted, Tensor) and wanted.ndim == 2 else (images,)
        assert result.maps.shape == (*shape, *(given_size or size))
        assert result.maps.isfinite().all()
        assert result.maps.min() >= 0
        assert result.maps.max() <= 1 + 1e-6
        assert torch.equal(result.evidence, result.maps.amax((-2, -1)) > 0)
        for peak in result.maps.amax((-2, -1)).flatten().tolist():
            assert peak == 0 or abs(peak - 1) < 1e-5

    check()


@counts
def test_a_batch_equals_its_images_alone_in_any_order(count: int) -> None:
    @settings(max_examples=count, **FEW)
    @given(networks(), options(), st.permutations([0, 1, 2]))
    def check(case: Any, words: Any, order: list[int]) -> None:
        network, layers, size = case
        cam, batch = CAM(network.double(), layers, **words), inputs(network, size, 3).double()
        maps = cam(batch, 1).maps
        assert close(cam(batch[order], 1).maps, maps[order])
        for index in range(3):
            assert close(cam(batch[index : index + 1], 1).maps, maps[index : index + 1])

    check()


class Changed(nn.Module):
    """The logits times ``factor`` plus ``constant``."""

    def __init__(self, network: nn.Module, factor: float, constant: float) -> None:
        super().__init__()
        self.network, self.factor, self.constant = network, factor, constant

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.factor * self.network(images) + self.constant
        return logits


def both(case: Any, words: Any, factor: float, constant: float) -> tuple[Tensor, Tensor]:
    """The maps of a network, and those of one with changed logits."""
    network, layers, size = case
    batch = inputs(network.double(), size, 2)
    other = Changed(network, factor, constant)
    names = [f"network.{name}" for name in layers]
    return CAM(network, layers, **words)(batch, 1).maps, CAM(other, names, **words)(batch, 1).maps


@counts
def test_a_constant_added_to_all_logits_changes_nothing(count: int) -> None:
    """True of targets that are a softmax or a derivative of one logit; not of the sigmoid."""

    @settings(max_examples=count, **FEW)
    @given(networks(), options(plain=True), st.floats(-30, 30), st.sampled_from(["exp", "odds"]))
    def check(case: Any, words: Any, constant: float, target: Any) -> None:
        words["target"] = TargetSettings(target, sign=words["target"].sign)
        assert close(*both(case, words, 1.0, constant))

    check()


@counts
def test_logits_times_a_factor_give_the_same_map_for_exp_without_contrast(count: int) -> None:
    """With the squared second order: both orders are powers of one gradient."""

    @settings(max_examples=count, **FEW)
    @given(networks(), options(plain=True), st.floats(0.01, 100))
    def check(case: Any, words: Any, factor: float) -> None:
        assert close(*both(case, words, factor, 0.0))

    check()


def test_the_map_of_the_odds_changes_with_the_factor() -> None:
    """The last property is not one of every target."""
    torch.manual_seed(0)
    case = Small().eval(), ["act1", "act2"], (32, 32)
    words = {"method": "ssg_cam", "target": TargetSettings("odds")}
    assert not close(*both(case, words, 20.0, 0.0))
