"""ROAD against grad-cam's implementation and a dense linear system."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer, ROADCombined
from torch import nn

from ssgcam.errors import SsgcamError
from ssgcam.metrics import linear_imputation, road_parts, road_score

SIDE = (12, 15)


@pytest.fixture
def images():
    return torch.rand(5, 3, *SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)).eval()
    layers(torch.rand(1, 3, *SIDE))
    with torch.no_grad():
        layers[-1].weight *= 8
    return layers


def dense_imputation(image, missing):
    """Every missing pixel is the weighted mean of its neighbors, as one dense system."""
    height, width = missing.shape
    places = [(y, x) for y in range(height) for x in range(width) if missing[y, x]]
    system, known = np.zeros((len(places), len(places))), np.zeros((len(places), len(image)))
    for row, (y, x) in enumerate(places):
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                other = (y + dy, x + dx)
                inside = 0 <= other[0] < height and 0 <= other[1] < width
                if (dy or dx) and inside:
                    weight = 1 / 12 if dy and dx else 1 / 6
                    system[row, row] += weight
                    if missing[other]:
                        system[row, places.index(other)] -= weight
                    else:
                        known[row] += weight * image[:, other[0], other[1]]
    result = image.copy()
    for place, value in zip(places, np.linalg.solve(system, known), strict=True):
        result[:, place[0], place[1]] = value
    return result


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_imputation_equals_a_dense_system_and_grad_cam(images, share):
    missing = torch.rand(5, *SIDE, generator=torch.Generator().manual_seed(2)) < share
    found = linear_imputation(images, missing, noise=0)
    for index, (image, gone) in enumerate(zip(images, missing, strict=True)):
        dense = dense_imputation(image.double().numpy(), gone.numpy())
        np.testing.assert_allclose(found[index], dense, atol=1e-6)
        peer = NoisyLinearImputer(noise=0)(image, (~gone).float())
        torch.testing.assert_close(found[index], peer, atol=1e-5, rtol=0)
        assert torch.equal(found[index][:, ~gone], image[:, ~gone])


def test_noise_has_the_stated_size_and_is_the_same_in_any_batch():
    images, missing = torch.zeros(2, 3, 40, 40), torch.ones(2, 40, 40, dtype=torch.bool)
    missing[:, 0, 0] = False
    found = linear_imputation(images, missing, noise=0.05, seed=3)
    assert float(found[:, :, missing[0]].std()) == pytest.approx(0.05, rel=0.05)
    assert torch.equal(found[1:], linear_imputation(images[1:], missing[1:], noise=0.05, seed=3))
    assert not torch.equal(found, linear_imputation(images, missing, noise=0.05, seed=4))


def test_road_equals_grad_cam_within_its_noise(images, network):
    classes = torch.tensor([0, 1, 2, 3, 0])

    def probabilities(batch):
        return network(batch).softmax(1)

    leaf = images.clone().requires_grad_()
    logits = network(leaf)[torch.arange(5), classes].sum()
    maps = (leaf * torch.autograd.grad(logits, leaf)[0]).sum(1).detach()

    parts = road_parts(probabilities, images, maps, classes)
    assert parts.shape == (5, 2, 9)
    targets = [lambda output, label=label: output[label] for label in classes.tolist()]
    torch.manual_seed(0)
    peer = ROADCombined()(images, maps.numpy(), targets, nn.Sequential(network, nn.Softmax(1)))
    np.testing.assert_allclose(road_score(parts), peer, atol=0.01)
    assert peer.min() > 0.03
    assert float(road_score(parts.mean(0))) == pytest.approx(float(peer.mean()), abs=0.01)


def test_the_decisive_square_scores_above_its_complement():
    images = torch.zeros(4, 3, 16, 16)
    images[:, :, 4:8, 4:8] = 1
    square = images[:, 0]

    def probabilities(batch):
        bright = batch.flatten(1).amax(1).clamp(0, 1)
        return torch.stack([bright, 1 - bright], 1)

    def score(maps):
        parts = road_parts(probabilities, images, maps, torch.zeros(4), areas=(0.1, 0.2))
        return float(road_score(parts.mean(0)))

    assert score(square) > 0.3
    assert score(1 - square) < -0.3


def test_bad_input_is_one_sentence(images):
    with pytest.raises(SsgcamError, match="don't fit"):
        linear_imputation(images, torch.ones(5, 3, 3) > 0)
    with pytest.raises(SsgcamError, match="all pixels of an image are missing"):
        linear_imputation(images, torch.ones(5, *SIDE) > 0)
    with pytest.raises(SsgcamError, match="shares of the image"):
        road_parts(lambda x: x, images, images[:, 0], torch.zeros(5), areas=())
