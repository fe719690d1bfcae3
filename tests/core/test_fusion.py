"""The one pipeline against a plain loop in float64: resize, scale, gamma, fuse, scale, threshold."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from ssgcam.core.fusion import fuse, prepare, resize, scale, threshold
from ssgcam.errors import SsgcamError


def axis_weights(cells: int, size: int) -> Tensor:
    """Triangle filter between pixel centers, widened along with shrinking: ``[size, cells]``."""
    ratio = cells / size
    width = max(ratio, 1.0)
    weights = torch.zeros(size, cells, dtype=torch.float64)
    for i, j in product(range(size), range(cells)):
        center = (i + 0.5) * ratio - 0.5
        weights[i, j] = max(0.0, 1 - abs(j - center) / width)
    return weights / weights.sum(1, keepdim=True)


def resized(layer_map: Tensor, size: tuple[int, int]) -> Tensor:
    rows = axis_weights(layer_map.shape[-2], size[0])
    columns = axis_weights(layer_map.shape[-1], size[1])
    return rows @ layer_map @ columns.T


def piped(
    layer_maps: list[Tensor],
    size: tuple[int, int],
    gammas: list[float],
    weights: list[float],
    fusion: str = "mean",
) -> Tensor:
    """The pipeline as it is written down, image by image."""
    count = len(layer_maps[0])
    out = torch.zeros(count, *size, dtype=torch.float64)
    for n in range(count):
        parts = []
        for layer_map, gamma in zip(layer_maps, gammas, strict=True):
            part = resized(layer_map[n], size)
            peak = part.max()
            parts.append((part / peak if peak > 0 else part) ** gamma)
        if fusion == "mean":
            total = sum(weights)
            fused = sum(part * weight / total for part, weight in zip(parts, weights, strict=True))
        elif fusion == "product":
            fused = parts[0] * parts[1] * parts[2]
        else:
            *shallow, last = parts
            fused = torch.stack([*(torch.tanh(2 * part) for part in shallow), last]).amax(0)
        assert isinstance(fused, Tensor)
        out[n] = fused / fused.max() if fused.max() > 0 else fused
    return out


def layer_maps() -> list[Tensor]:
    return [torch.rand(3, *size, dtype=torch.float64) ** 3 for size in ((4, 6), (9, 5), (20, 30))]


@pytest.mark.parametrize("size", [(13, 17), (8, 12), (4, 6), (3, 40)])
def test_resize_against_a_loop(size: tuple[int, int]) -> None:
    """Bilinear where it grows; antialiased, along both axes, as soon as one of them shrinks."""
    for layer_map in layer_maps():
        torch.testing.assert_close(
            resize(layer_map, size), resized(layer_map, size), atol=1e-7, rtol=0
        )


def test_resize_to_the_same_size_changes_nothing() -> None:
    layer_map = torch.rand(2, 5, 7)
    assert resize(layer_map, (5, 7)) is layer_map


def test_shrinking_looks_at_every_cell() -> None:
    """Without antialiasing a point between the samples is lost."""
    layer_map = torch.zeros(1, 32, 32)
    layer_map[0, 5, 5] = 1
    assert resize(layer_map, (4, 4)).sum() > 0
    plain = torch.nn.functional.interpolate(layer_map[None], (4, 4), mode="bilinear")
    assert plain.sum() == 0


@pytest.mark.parametrize("fusion", ["mean", "layer_cam", "product"])
@pytest.mark.parametrize("gammas", [[1.0, 1.0, 1.0], [0.5, 2.0, 0.3]])
def test_fuse_against_a_loop(gammas: list[float], fusion: Any) -> None:
    maps = layer_maps()
    maps[1][2] = 0
    if fusion == "product":
        maps[1] = torch.rand(3, 9, 5, dtype=torch.float64)  # a zero map would make all zero
    weights = [0.5, 3.0, 0.0] if fusion == "mean" else [1.0, 1.0, 1.0]
    given = weights if fusion == "mean" else None
    found = fuse(maps, (12, 15), gammas=gammas, weights=given, fusion=fusion)
    torch.testing.assert_close(
        found, piped(maps, (12, 15), gammas, weights, fusion), atol=1e-7, rtol=0
    )
    torch.testing.assert_close(found.amax((1, 2)), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("size", [(12, 15), (9, 11), (4, 6), (5, 4), (2, 3), (3, 9), (64, 64)])
@pytest.mark.parametrize("weights", [None, [0.5, 3.0, 0.0, 1.0, 0.2]])
def test_layers_of_one_resolution_against_a_loop(
    size: tuple[int, int], weights: list[float] | None
) -> None:
    torch.manual_seed(0)
    maps = [torch.rand(3, *sides, dtype=torch.float64) ** 4 for sides in ((4, 5), (2, 3)) * 2]
    maps.append(torch.rand(3, 4, 5, dtype=torch.float64) * 1e-300)
    maps[0][2] = 0
    maps[2][1] = 0
    found = fuse(maps, size, gammas=[1.0] * 5, weights=weights)
    expected = piped(maps, size, [1.0] * 5, weights or [1.0] * 5, "mean")
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("sides", [(6,), (3,), (6, 3), (3, 6, 40), (3, 3, 6, 6)])
def test_the_layers_own_maps_are_not_written_to(sides: tuple[int, ...]) -> None:
    layer_maps = [3 * torch.rand(2, side, side, dtype=torch.float64) for side in sides]
    before = [each.clone() for each in layer_maps]
    fuse(layer_maps, (6, 6), gammas=[1.0] * len(sides))
    assert all(torch.equal(a, b) for a, b in zip(layer_maps, before, strict=True))


def test_gamma_comes_before_the_fusion() -> None:
    """After it, it would only rename the threshold: the order of the pixels would stay."""
    maps = [torch.tensor([[[1.0, 0.5, 0.0]]]), torch.tensor([[[0.0, 0.4, 1.0]]])]
    plain = fuse(maps, (1, 3), gammas=[1, 1])[0, 0]
    bent = fuse(maps, (1, 3), gammas=[0.25, 1])[0, 0]
    assert plain[0] > plain[1]
    assert bent[0] < bent[1]
    torch.testing.assert_close(bent * (0.5**0.25 + 0.4), torch.tensor([1.0, 0.5**0.25 + 0.4, 1.0]))


def test_gamma_comes_after_resizing_and_scaling() -> None:
    layer_map = torch.tensor([[[0.0, 8.0]]])
    torch.testing.assert_close(
        prepare(layer_map, (1, 4), 0.5)[0, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]).sqrt()
    )


def test_weights_are_divided_by_their_sum_and_a_zero_weight_leaves_a_layer_out() -> None:
    maps = layer_maps()
    gammas = [0.5, 0.5, 0.5]
    by_ten = fuse(maps, (9, 9), gammas=gammas, weights=[10, 20, 30])
    torch.testing.assert_close(by_ten, fuse(maps, (9, 9), gammas=gammas, weights=[1, 2, 3]))
    alone = fuse(maps[:1], (9, 9), gammas=[0.5])
    torch.testing.assert_close(fuse(maps, (9, 9), gammas=gammas, weights=[4, 0, 0]), alone)
    equal = fuse(maps, (9, 9), gammas=gammas, weights=[2, 2, 2])
    torch.testing.assert_close(fuse(maps, (9, 9), gammas=gammas), equal)


def test_a_map_without_evidence_stays_zero() -> None:
    zero = torch.zeros(2, 4, 4)
    one = torch.rand(2, 6, 6)
    one[1] = 0
    assert not scale(zero).any()
    for gamma in (0.5, 1.0, 3.0):
        found = fuse([zero, one], (8, 8), gammas=[gamma, gamma])
        assert found[0].amax() == 1  # the other layer speaks for itself
        assert not found[1].any()
    assert not threshold(fuse([zero], (8, 8), gammas=[1]), 0.0).any()


@pytest.mark.parametrize("factor", [1e-35, 1e30])
def test_factors_of_a_layer_cancel(factor: float) -> None:
    maps = [layer_map.float() for layer_map in layer_maps()]
    wanted = fuse(maps, (9, 9), gammas=[0.5, 1, 2])
    scaled = fuse([m * factor for m in maps], (9, 9), gammas=[0.5, 1, 2])
    torch.testing.assert_close(scaled, wanted, atol=1e-5, rtol=0)


def test_layer_cam_takes_the_largest() -> None:
    """LayerCAM, equations 8 and 9: shallow maps through tanh(2 x), the last as it is."""
    shallow, deep = torch.tensor([[[1.0, 0.2]]]), torch.tensor([[[0.1, 1.0]]])
    found = fuse([shallow, deep], (1, 2), gammas=[1, 1], fusion="layer_cam")
    torch.testing.assert_close(found, torch.tensor([[[math.tanh(2.0), 1.0]]]))


def test_threshold() -> None:
    maps = torch.tensor([[[0.0, 0.2, 0.5, 1.0]], [[0.0, 0.0, 0.0, 0.0]]])
    assert threshold(maps, 0.5).tolist() == [[[False, False, True, True]], [[False] * 4]]
    assert threshold(maps, 0.0).tolist() == [[[False, True, True, True]], [[False] * 4]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": [1.0, -1.0]}, "none negative"),
        ({"weights": [0.0, 0.0]}, "not all zero"),
        ({"weights": [float("nan"), 1.0]}, "weights are"),
        ({"weights": [1.0]}, "give one for each"),
        ({"fusion": "max"}, "fusion is 'max'; choose one of mean, layer_cam"),
        ({"fusion": "layer_cam", "weights": [1.0, 2.0]}, "takes no layer weights"),
    ],
)
def test_bad_settings_are_one_sentence(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SsgcamError, match=message):
        fuse(layer_maps()[:2], (4, 4), gammas=[1, 1], **settings)


def test_nothing_to_fuse() -> None:
    with pytest.raises(SsgcamError, match="no layer to fuse"):
        fuse([], (4, 4), gammas=[])
