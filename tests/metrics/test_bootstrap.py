"""The bootstrap against a plain loop over resamples and items."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssgcam.errors import SsgcamError
from ssgcam.metrics import (
    bootstrap_interval,
    foreground_iou,
    identity,
    ratio,
    resample_counts,
)


def draws(groups, samples, seed):
    return resample_counts(groups, samples, torch.Generator().manual_seed(seed))


def plain(items, names, statistic, counts):
    """One number for each row of counts: repeat each group's items as often as it was drawn."""
    order = list(dict.fromkeys(names))
    numbers = []
    for row in counts.tolist():
        drawn = []
        for name, times in zip(order, row, strict=True):
            members = [item for item, owner in zip(items, names, strict=True) if owner == name]
            drawn += members * int(times)
        numbers.append(statistic(drawn))
    return np.array(numbers)


def pooled_iou(matrices):
    total = np.sum(matrices, 0)
    return total[1, 1] / (total.sum() - total[0, 0])


@pytest.fixture
def matrices():
    rng = np.random.default_rng(0)
    return rng.integers(0, 40, (25, 2, 2)), [f"patient {k}" for k in rng.integers(0, 7, 25)]


@pytest.mark.parametrize("grouped", [True, False])
def test_interval_of_a_pooled_iou_equals_the_loop(matrices, grouped):
    items, names = matrices
    names = names if grouped else list(range(25))
    found = bootstrap_interval(
        torch.from_numpy(items),
        foreground_iou,
        seed=3,
        groups=names if grouped else None,
        samples=300,
        level=0.9,
    )
    counts = draws(len(set(names)), 300, 3)
    numbers = plain(list(items), names, pooled_iou, counts)
    assert found.value == pytest.approx(pooled_iou(items))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(numbers, [0.05, 0.95])))
    assert (found.n, found.groups, found.samples, found.undefined) == (25, len(set(names)), 300, 0)


def test_the_mean_of_groups_of_unequal_size_is_over_items(matrices):
    items, names = matrices
    values = items[:, 0, 0].astype(float)
    found = bootstrap_interval(
        torch.from_numpy(values), identity, seed=8, groups=names, samples=200
    )
    numbers = plain(list(values), names, np.mean, draws(len(set(names)), 200, 8))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(numbers, [0.025, 0.975])))


def test_paired_difference_uses_the_same_resamples(matrices):
    items, names = matrices
    other = np.roll(items, 1, 0) + 3
    found = bootstrap_interval(
        torch.from_numpy(items), foreground_iou, seed=5, rival=torch.from_numpy(other),
        groups=names, samples=200,
    )  # fmt: skip
    counts = draws(len(set(names)), 200, 5)
    pairs = list(zip(items, other, strict=True))

    def difference(drawn):
        return pooled_iou([a for a, _ in drawn]) - pooled_iou([b for _, b in drawn])

    numbers = plain(pairs, names, difference, counts)
    assert found.value == pytest.approx(pooled_iou(items) - pooled_iou(other))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(numbers, [0.025, 0.975])))


def test_a_small_steady_lead_shows_only_when_paired():
    rng = np.random.default_rng(1)
    base = torch.from_numpy(rng.normal(size=200))
    better = base + 0.05 + 0.01 * torch.from_numpy(rng.normal(size=200))
    alone = [bootstrap_interval(x, identity, seed=0) for x in (base, better)]
    assert alone[0].high > alone[1].low  # they overlap
    assert bootstrap_interval(better, identity, seed=0, rival=base).low > 0
    same = bootstrap_interval(base, identity, seed=0, rival=base)
    assert (same.low, same.high) == (0, 0)


def test_rows_of_sums_count_as_their_items():
    generator = torch.Generator().manual_seed(1)
    values, counts = torch.rand(30, 2, generator=generator), torch.tensor([5, 10, 15])
    groups = torch.arange(3).repeat_interleave(counts)
    sums = torch.zeros(3, 2).index_add_(0, groups, values)
    expected = bootstrap_interval(values, ratio, seed=0, groups=groups.tolist(), samples=50)
    found = bootstrap_interval(sums, ratio, seed=0, counts=counts, samples=50)
    assert (found.value, found.low, found.high) == pytest.approx(
        (expected.value, expected.low, expected.high), abs=1e-6
    )


def test_counts_are_uniform_draws_with_replacement():
    counts = draws(6, 4000, 0)
    assert counts.sum(1).eq(6).all()
    assert counts.mean(0).sub(1).abs().max() < 0.06
    assert counts.var(0).sub(5 / 6).abs().max() < 0.08  # multinomial: n p (1 - p)
    assert torch.equal(counts, draws(6, 4000, 0))
    assert not torch.equal(counts, draws(6, 4000, 1))


def test_blocks_do_not_change_the_draws():
    values = torch.rand(30, 3_000_000 // 30)  # wide parts: few resamples fit into a block
    wide = bootstrap_interval(values, lambda m: m[..., 0].double(), seed=2, samples=97)
    narrow = bootstrap_interval(values[:, 0], identity, seed=2, samples=97)
    assert (wide.low, wide.high) == pytest.approx((narrow.low, narrow.high))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for seed in range(200):
        sample = torch.from_numpy(rng.exponential(size=60))
        interval = bootstrap_interval(sample, identity, seed=seed, samples=400, level=0.9)
        covered += interval.low <= 1.0 <= interval.high
    assert 0.82 <= covered / 200 <= 0.95


def test_groups_widen_the_interval_of_items_that_resemble_each_other():
    rng = np.random.default_rng(3)
    fields = np.repeat(np.arange(10), 20)
    values = torch.from_numpy(rng.normal(size=10)[fields] + 0.1 * rng.normal(size=200))
    items = bootstrap_interval(values, identity, seed=0)
    groups = bootstrap_interval(values, identity, seed=0, groups=fields.tolist())
    assert groups.high - groups.low > 3 * (items.high - items.low)
    assert groups.value == items.value == pytest.approx(float(values.mean()))


def test_undefined_resamples_are_counted_and_left_out():
    parts = torch.tensor([[0.5, 1.0], [0.0, 0.0], [0.0, 0.0]])
    interval = bootstrap_interval(parts, ratio, seed=0, samples=500)
    without = (draws(3, 500, 0)[:, 0] == 0).sum()
    assert interval.undefined == int(without) > 0
    assert (interval.low, interval.high) == (0.5, 0.5)


def test_bad_input_is_one_sentence():
    parts = torch.rand(4, 2)
    with pytest.raises(SsgcamError, match="nothing to resample"):
        bootstrap_interval(parts[:0], ratio, seed=0)
    with pytest.raises(SsgcamError, match="4 items but 3 groups"):
        bootstrap_interval(parts, ratio, seed=0, groups=[1, 2, 3])
    with pytest.raises(SsgcamError, match="can't be paired"):
        bootstrap_interval(parts, ratio, seed=0, rival=parts[:3])
    with pytest.raises(SsgcamError, match="level"):
        bootstrap_interval(parts, ratio, seed=0, level=95)
    with pytest.raises(SsgcamError, match="one number for each row"):
        bootstrap_interval(parts, identity, seed=0)
    with pytest.raises(SsgcamError, match="not defined on any resample"):
        bootstrap_interval(torch.zeros(4, 2), ratio, seed=0)
