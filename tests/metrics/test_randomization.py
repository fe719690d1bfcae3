"""Rank correlation against SciPy; the cascade leaves the user's network as it came."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from ssgcam.errors import SsgcamError
from ssgcam.metrics import cascade, constant_maps, rank_correlation


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 4, 1, 1))
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8 * 36, 5)

    def forward(self, x):
        return self.head(self.body(self.stem(x) + self.token).flatten(1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = Small().eval()
    network.stem[1].running_mean.normal_()
    network.stem[1].running_var.uniform_(0.5, 2)
    return network


@pytest.fixture
def images():
    return torch.rand(6, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def activation_sum(images):
    def control(network):
        with torch.no_grad():
            return network.body(network.stem(images) + network.token).sum(1)

    return control


def gradient_map(images):
    def explain(network):
        kept = network.body(network.stem(images) + network.token).detach().requires_grad_()
        logits = network.head(kept.flatten(1))
        (gradient,) = torch.autograd.grad(logits[:, 2].sum(), kept)
        return (gradient * kept).sum(1).detach()

    return explain


def test_rank_correlation_equals_scipy():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 40, 5, 9))
    second += first
    first[:10] = (first[:10] * 2).round()  # ties
    second[5:15] = (second[5:15] > 0.8).astype(float)
    second[20] = -first[20]
    found = rank_correlation(torch.from_numpy(first), torch.from_numpy(second))
    expected = [spearmanr(a.ravel(), b.ravel())[0] for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found[20] == pytest.approx(-1)


@pytest.mark.filterwarnings("ignore")
def test_rank_correlation_is_undefined_as_in_scipy():
    first = torch.rand(3, 7)
    second = first.clone()
    second[0] = 3.0
    second[1, 2] = float("nan")
    found = rank_correlation(first, second)
    assert found.isnan().tolist() == [True, True, False]
    assert np.isnan(spearmanr(first[0], second[0])[0])
    assert np.isnan(spearmanr(first[1], second[1])[0])
    with pytest.raises(SsgcamError, match="can't be correlated"):
        rank_correlation(first, second[:2])


def test_the_cascade_goes_from_the_top_down_and_touches_only_a_copy(network):
    before = copy.deepcopy(network.state_dict())
    random_state = torch.get_rng_state()
    expected = ["head", "body.0", "stem.1", "stem.0", ""]
    owners = {
        "head": ["head.weight", "head.bias"],
        "body.0": ["body.0.weight", "body.0.bias"],
        "stem.1": ["stem.1.bias", "stem.1.weight", "stem.1.running_mean", "stem.1.running_var"],
        "stem.0": ["stem.0.weight", "stem.0.bias"],
        "": ["token"],
    }
    before["stem.1.weight"].add_(0)  # BatchNorm starts at 1 and 0: make it differ from untrained
    with torch.no_grad():
        network.stem[1].weight.mul_(1.7)
        network.stem[1].bias.add_(0.3)
    before = copy.deepcopy(network.state_dict())
    changed: set[str] = set()
    names = []
    for name, stage in cascade(network, seed=4):
        names.append(name)
        changed |= set(owners[name])
        for key, value in stage.state_dict().items():
            if key != "stem.1.num_batches_tracked":
                assert torch.equal(value, before[key]) == (key not in changed), (name, key)
        assert stage.training is False
    assert names == expected
    assert torch.equal(random_state, torch.get_rng_state())
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_random_weights_have_the_stated_distribution():
    layer = nn.Sequential(nn.Conv2d(64, 128, 3), nn.BatchNorm2d(128), nn.Linear(400, 300))
    stages = [copy.deepcopy(s) for _, s in cascade(layer, seed=0)]
    conv, norm, linear = stages[-1]
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert float(linear.weight.detach().std()) == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    assert not conv.bias.any()
    assert norm.weight.eq(1).all()
    assert norm.running_var.eq(1).all()
    again = [s for _, s in cascade(layer, seed=0)][-1]
    other = [s for _, s in cascade(layer, seed=1)][-1]
    assert torch.equal(again[0].weight, conv.weight)
    assert not torch.equal(other[0].weight, conv.weight)


def test_random_weights_above_the_layer_change_a_gradient_map_but_no_activations(network, images):
    explain, control = gradient_map(images), activation_sum(images)
    originals = explain(network), control(network)
    found = []
    for _, randomized in cascade(network, seed=0):
        maps = explain(randomized)
        rho = rank_correlation(originals[0], maps)
        pairs = zip(originals[0], maps, strict=True)
        expected = [spearmanr(a.ravel(), b.ravel())[0] for a, b in pairs]
        np.testing.assert_allclose(rho, expected, atol=1e-9)
        found.append((rho.mean(), rank_correlation(originals[1], control(randomized)).mean()))
    assert found[0][0] < 0.5
    assert found[0][1] == pytest.approx(1)  # 'head' alone lies above the layer
    assert found[-1][1] < 0.9  # random weights below the layer do change it


def test_constant_and_non_finite_maps_are_found():
    maps = torch.rand(5, 3, 3)
    maps[1], maps[2, 0, 0], maps[3, 1, 1] = 0.4, torch.nan, torch.inf
    assert constant_maps(maps).tolist() == [False, True, True, True, False]


def test_bad_input_is_one_sentence():
    with pytest.raises(SsgcamError, match="no weights"):
        next(cascade(nn.ReLU()))
