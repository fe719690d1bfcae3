"""Which images are unlike the calibration images, and in what."""

from __future__ import annotations

import pytest
import torch

from ssgcam.result import Result
from ssgcam.shift import FALSE_ALARMS, Statistic, image_statistics, summarize, unusual


def normal(count: int, seed: int, shift: float = 0.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "activations of a": 5 + torch.randn(count, 20, generator=generator).double(),
        "mask area": shift + 0.1 * torch.randn(count, 1, generator=generator).double(),
    }


def five_digits(values: torch.Tensor) -> torch.Tensor:
    rounded = [float(f"{value:.4e}") for value in values.tolist()]
    return torch.tensor(rounded, dtype=torch.float64)


def test_the_statistics_of_an_image() -> None:
    images = torch.rand(3, 3, 8, 8)
    maps, masks = torch.rand(3, 6, 6), torch.rand(3, 6, 6) > 0.5
    classes, probabilities = torch.tensor([1, 0, 1]), torch.rand(3, 2)
    evidence, pooled = torch.ones(3, dtype=torch.bool), {"a": torch.rand(3, 5)}
    result = Result(maps, {}, classes, None, probabilities, evidence, (), images, pooled=pooled)
    found = image_statistics(result, masks)
    assert {name: list(values.shape) for name, values in found.items()} == {
        "activations of a": [3, 5],
        "class probability": [3, 1],
        "map mass": [3, 1],
        "mask area": [3, 1],
        "picture intensity": [3, 6],
        "picture sharpness": [3, 3],
    }
    log_odds = float((probabilities[1, 0] / (1 - probabilities[1, 0])).log())
    assert float(found["class probability"][1]) == pytest.approx(log_odds, rel=1e-5)
    assert float(found["mask area"][1]) == pytest.approx(int(masks[1].sum()) / 36)
    assert float(found["picture intensity"][2, 0]) == pytest.approx(float(images[2, 0].mean()))
    pixels = images[0, 0]
    first = float((pixels[1:] - pixels[:-1]).abs().mean())
    first += float((pixels[:, 1:] - pixels[:, :-1]).abs().mean())
    second = float((pixels[2:] - 2 * pixels[1:-1] + pixels[:-2]).abs().mean())
    second += float((pixels[:, 2:] - 2 * pixels[:, 1:-1] + pixels[:, :-2]).abs().mean())
    assert float(found["picture sharpness"][0, 0]) == pytest.approx(second / first, rel=1e-5)


def test_distance_is_the_root_mean_square_of_robust_z_scores() -> None:
    one = Statistic("x", (1.0, 2.0), (0.5, 4.0), 1.0)
    values = torch.tensor([[2.0, 2.0], [1.0, 14.0]], dtype=torch.float64)
    expected = [((2 / 1) ** 2 / 2) ** 0.5, (3**2 / 2) ** 0.5]
    assert one.distance(values).tolist() == pytest.approx(expected)


def test_center_and_scale_are_those_of_a_normal_distribution_despite_outliers() -> None:
    values = 3 + 2 * torch.randn(999, 1, generator=torch.Generator().manual_seed(0)).double()
    values[:50] = 1e4
    (found,) = summarize({"x": values[::3]})
    assert found.center[0] == pytest.approx(3, abs=0.4)
    assert found.scale[0] == pytest.approx(2, abs=0.4)


@pytest.mark.parametrize("count", [2, 10, 40])
def test_few_calibration_images_are_flagged_when_each_is_left_out(count: int) -> None:
    values = normal(count, 1)
    statistics = summarize(values)
    flagged = 0
    largest = []
    for n in range(count):
        others = {name: torch.cat([v[:n], v[n + 1 :]]) for name, v in values.items()}
        left_out = {name: v[n : n + 1] for name, v in values.items()}
        ratios = []
        for one in statistics:
            # center and scale of the others, as a recipe keeps them, and the limit of all
            center = others[one.name].median(0).values
            mad = (others[one.name] - center).abs()
            scale = 1.4826 * mad.median(0).values
            scale = torch.where(scale > 0, scale, mad.mean(0))
            scale = scale.clamp_min(1e-3 * float(others[one.name].abs().median()))
            center, scale = five_digits(center), five_digits(scale)
            z = (left_out[one.name] - center) / scale
            ratios.append(float(z.square().mean().sqrt()) / one.limit)
        largest.append(max(ratios))
        flagged += max(ratios) > 1 + 1e-9
    assert flagged / count <= FALSE_ALARMS == 0.05
    assert sum(ratio >= 1 - 1e-9 for ratio in largest) >= 1  # a smaller limit would flag one more


def test_new_images_are_flagged_in_what_they_differ() -> None:
    statistics = summarize(normal(60, 0))
    same, other = normal(200, 5), normal(200, 6, shift=2.0)
    assert sum(map(bool, unusual(statistics, same))) / 200 < 0.15
    assert all(names[0] == "mask area" for names in unusual(statistics, other))


def test_a_constant_statistic_flags_another_value_alone() -> None:
    statistics = summarize({"x": torch.full((8, 1), 0.5).double()})
    found = unusual(statistics, {"x": torch.tensor([[0.5], [0.9]]).double()})
    assert found == [[], ["x"]]


@pytest.mark.parametrize("value", [13.815509557963773, 1 / 3, -123456.789])
def test_a_constant_of_many_digits_is_not_flagged(value: float) -> None:
    """As of a network that is sure of every image: its log odds are those of 1 - 1e-6."""
    same = torch.full((8, 2), value, dtype=torch.float64)
    assert unusual(summarize({"x": same}), {"x": same[:1]}) == [[]]
    statistics = summarize({"x": same} | normal(8, 2))
    found = unusual(statistics, {"x": same} | normal(8, 3, shift=2.0))
    assert all("mask area" in names and "x" not in names for names in found)
    assert unusual(statistics[:1], {"x": same * 1.01}) == [["x"]] * 8


def test_without_statistics_nothing_is_flagged() -> None:
    assert unusual((), normal(3, 0)) == [[], [], []]
