"""Perturbation measures against one image and one step at a time, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from ssgcam.errors import SsgcamError
from ssgcam.metrics import (
    BlurDrop,
    DropIncrease,
    InsertionDeletion,
    Perturber,
    area_under_curve,
    blur_drops,
    blur_sweep,
    curve_counts,
    curve_sweep,
    drop_and_increase,
    fit_maps,
    gaussian_blur,
    images_at_once,
    insertion_deletion,
    masked_drops,
    moved_ranks,
    pixel_counts,
    pixel_ranks,
)

SIDE = (12, 15)


class Network:
    """A small network that writes down the batches it was given."""

    def __init__(self, seed=0, classes=4):
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(24, classes),
        ).double()  # fmt: skip
        with torch.no_grad():  # answers that differ between images
            logits = self.layers(torch.rand(50, 3, *SIDE).double())
            self.layers[-1].bias -= logits.mean(0)
            for parameter in self.layers[-1].parameters():
                parameter *= 2 / logits.std(0).mean()
        self.batches = []

    def __call__(self, images):
        self.batches.append(len(images))
        return self.layers(images.double()).softmax(1)

    def one(self, image):
        with torch.no_grad():
            return self.layers(torch.as_tensor(image)[None].double()).softmax(1)[0].numpy()


@pytest.fixture
def network():
    return Network()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(7, 3, *SIDE, generator=generator)
    maps = torch.rand(7, *SIDE, generator=generator).double()
    maps[1] = 0
    maps[2] = (maps[2] - 0.7).clamp(min=0)  # mostly flat
    return images, maps


def plain_order(scores, seed):
    """Pixels from the highest down; equals in the order of one shuffled list."""
    shuffled = torch.randperm(scores.size, generator=torch.Generator().manual_seed(seed)).tolist()
    place = {pixel: index for index, pixel in enumerate(shuffled)}
    return sorted(range(scores.size), key=lambda p: (-scores.flat[p], place[p]))


def plain_blur(image, share):
    sigma = share * min(image.shape[-2:])
    settings = {"sigma": sigma, "mode": "constant", "truncate": 50}
    weight = ndimage.gaussian_filter(np.ones(image.shape[-2:]), **settings)
    return np.stack([ndimage.gaussian_filter(c, **settings) / weight for c in image])


def replaced(inside, outside, pixels):
    result = outside.copy().reshape(len(outside), -1)
    for pixel in pixels:
        result[:, pixel] = inside.reshape(len(inside), -1)[:, pixel]
    return result.reshape(outside.shape)


def test_ranks_order_by_value_then_by_the_seed(batch):
    _, maps = batch
    ranks = pixel_ranks(maps, seed=5)
    for scores, rank in zip(maps.numpy(), ranks, strict=True):
        expected = plain_order(scores, 5)
        assert rank.flatten().argsort().tolist() == expected


def test_ties_are_not_broken_by_position():
    ranks = pixel_ranks(torch.zeros(200, 10, 10)[:1], seed=0)[0]
    for other in range(1, 50):
        ranks = ranks + pixel_ranks(torch.zeros(1, 10, 10), seed=other)[0]
    rows = ranks.double().mean(1) / 50
    assert rows.min() > 43  # 49.5 expected everywhere; index order gives 4.5 to 94.5
    assert rows.max() < 56
    assert not torch.equal(
        pixel_ranks(torch.zeros(1, 9, 9), 0), pixel_ranks(torch.zeros(1, 9, 9), 1)
    )


def test_the_control_has_equal_area_and_the_same_shape():
    y, x = torch.meshgrid(torch.arange(20), torch.arange(30), indexing="ij")
    blob = torch.exp(-((y - 6.0) ** 2 + (x - 11.0) ** 2) / 30)
    ranks = pixel_ranks(blob.repeat(400, 1, 1), seed=0)
    moved = moved_ranks(ranks, seed=0)
    assert torch.equal(moved.flatten(1).sort(1).values, ranks.flatten(1).sort(1).values)
    for k in (1, 30, 200):
        regions = moved < k
        assert regions.flatten(1).sum(1).eq(k).all()
        outline = (regions != regions.roll(1, 1)).sum() + (regions != regions.roll(1, 2)).sum()
        own = ranks < k
        expected = (own != own.roll(1, 1)).sum() + (own != own.roll(1, 2)).sum()
        assert outline == expected  # on the torus no edge is made or lost
    cover = (moved < 60).double().mean(0)  # every pixel is as likely as any other
    assert abs(float(cover.mean()) - 0.1) < 1e-9
    assert cover.min() > 0.03
    assert cover.max() < 0.17
    assert (moved == moved[:1]).all(0).sum() < 600


def test_the_control_is_mirrored_half_of_the_time_on_each_axis():
    grid = torch.arange(9 * 11).view(1, 9, 11).expand(600, 9, 11)
    moved = moved_ranks(grid, seed=0)
    rows, columns = moved // 11, moved % 11
    down = ((rows[:, 1, 0] - rows[:, 0, 0]) % 9 == 1).double()
    right = ((columns[:, 0, 1] - columns[:, 0, 0]) % 11 == 1).double()
    for forward in (down, right, (down == right).double()):
        assert 0.43 < float(forward.mean()) < 0.57


def test_an_image_gets_the_same_control_in_any_batch(batch):
    ranks = pixel_ranks(batch[1], seed=0)
    together = moved_ranks(ranks, seed=9)
    apart = torch.cat([moved_ranks(ranks[:3], 9), moved_ranks(ranks[3:], 9, first=3)])
    assert torch.equal(together, apart)
    assert not torch.equal(together, moved_ranks(ranks, seed=8))


def test_blur_equals_scipy(batch):
    images = batch[0].double()
    for share in (0.05, 0.3):
        expected = np.stack([plain_blur(image, share) for image in images.numpy()])
        np.testing.assert_allclose(gaussian_blur(images, share), expected, atol=1e-10)


def test_blur_drop_equals_one_image_at_a_time(network, batch):
    images, maps = batch
    labels = network(images).argmax(1)
    labels[5:] = (labels[5:] + 1) % 4
    shares = (0.06, 0.25, 1.0)  # 10.8, 45 and 180 pixels
    metric = BlurDrop(network, shares, sigma=0.2, batch_size=5, seed=3)
    metric.update(images[:4], maps[:4], labels[:4])
    metric.update(images[4:], maps[4:], labels[4:])
    result = metric.compute()
    control = moved_ranks(pixel_ranks(maps, 3), 3)
    acc, prob = [], []
    for index, (image, scores, label) in enumerate(
        zip(images.double().numpy(), maps.numpy(), labels.tolist(), strict=True)
    ):
        blurred = plain_blur(image, 0.2)
        orders = [plain_order(scores, 3), control[index].flatten().argsort().tolist()]
        rows = [[network.one(image)] * len(shares)]
        rows += [
            [network.one(replaced(blurred, image, order[: max(1, round(s * 180))])) for s in shares]
            for order in orders
        ]
        rows = np.array(rows)
        acc.append(rows.argmax(-1) == label)
        prob.append(rows[..., label])
    acc, prob = np.mean(acc, 0), np.mean(prob, 0)
    assert result.n == 7
    assert result.accuracy == pytest.approx(acc[0, 0])
    assert result.probability == pytest.approx(prob[0, 0])
    np.testing.assert_allclose(result.accuracy_drop, acc[0] - acc[1], atol=1e-6)
    np.testing.assert_allclose(result.control_accuracy_drop, acc[0] - acc[2], atol=1e-6)
    np.testing.assert_allclose(result.probability_drop, prob[0] - prob[1], atol=1e-6)
    np.testing.assert_allclose(result.control_probability_drop, prob[0] - prob[2], atol=1e-6)
    assert result.probability_drop[2] == pytest.approx(result.control_probability_drop[2])
    assert np.abs(result.accuracy_drop).max() > 0
    assert result.parts.shape == (7, 2, 2, 3)


def test_blurring_the_evidence_costs_more_than_blurring_elsewhere():
    # The class is decided by the contrast inside a square; the map is that square.
    generator = torch.Generator().manual_seed(0)
    images = torch.full((40, 3, 32, 32), 0.5)
    maps = torch.zeros(40, 32, 32)
    for image, m, at in zip(images, maps, range(40), strict=True):
        y, x = (at * 7) % 24, (at * 5) % 24
        image[:, y : y + 8, x : x + 8] = torch.rand(8, 8, generator=generator).round()
        m[y : y + 8, x : x + 8] = 1

    def probabilities(batch):
        contrast = batch.flatten(1).var(1) * 200 - 2
        return torch.stack([torch.sigmoid(contrast), torch.sigmoid(-contrast)], 1)

    labels = torch.zeros(40).long()
    intact, drops = blur_drops(probabilities, images, maps, labels, shares=(64 / 1024,), sigma=0.3)
    assert intact[:, 0].all()
    highlight, control = drops.mean(0)[:, 0, 0].tolist()
    assert highlight == 1
    assert control < 0.5


def test_batches_are_packed_across_images_and_steps(network, batch):
    images, maps = batch
    classes = torch.zeros(7).long()
    insertion_deletion(network, images, maps, classes=classes, pixels_per_step=30, batch_size=16)
    between = [16, 16, 3]  # 5 steps of 7 images
    # insertion starts from the blurred and ends at the intact images, deletion ends at all zeros
    assert network.batches == [7, 7, *between, 1, *between]
    apart = Network()
    blur_drops(apart, images, maps, classes, shares=(0.1, 0.2, 1.0), batch_size=64)
    assert apart.batches == [7, 7, 14, 14]


def test_what_no_map_changes_is_asked_once_for_all_maps(network, batch):
    images, maps = batch
    classes = torch.zeros(7).long()
    perturber = Perturber(network, images, gaussian_blur(images, 0.1), seed=4, batch_size=50)
    for scores in (maps, 1 - maps):
        ranks = perturber.ranks(scores)
        _, drops = blur_sweep(perturber, ranks, classes, pixel_counts((0.3,), 180))
        curves = curve_sweep(perturber, ranks, classes, curve_counts(180, 90))
        parts = masked_drops(perturber, scores, classes)
        options = {"sigma": 0.1, "seed": 4}
        expected = blur_drops(Network(), images, scores, classes, shares=(0.3,), **options)[1]
        torch.testing.assert_close(drops, expected)
        expected, _ = insertion_deletion(
            Network(), images, scores, classes=classes, pixels_per_step=90, **options
        )
        torch.testing.assert_close(curves, expected)
        expected = drop_and_increase(Network(), images, scores, classes)
        torch.testing.assert_close(parts, expected)
    assert network.batches == [7, 7, 7, 7, 7, 1, 7, 7] + [7] * 5
    assert sorted(network.batches) == [1] + [7] * (2 + 2 * 5)


@pytest.mark.parametrize(
    ("side", "device", "pixels", "expected"),
    [
        (224, "cpu", None, 5),
        (64, "cpu", None, 64),
        (1000, "cpu", None, 1),
        (224, "meta", None, 83),
        (10, "cpu", 1000, 10),
        (100, "cpu", 1, 1),
    ],
)
def test_how_many_images_make_a_pass(side, device, pixels, expected):
    assert images_at_once(side, side, torch.device(device), pixels) == expected


def test_a_pass_is_chosen_by_the_images_size(batch):
    network = Network()
    images = torch.rand(3, 3, 224, 224)
    insertion_deletion(
        network, images, images[:, 0], classes=torch.zeros(3), pixels_per_step=224 * 56
    )
    assert network.batches == [3, 3, 5, 4, 1, 5, 4]


def test_batch_size_does_not_change_the_answer(network, batch):
    images, maps = batch
    answers = [
        insertion_deletion(network, images, maps, pixels_per_step=7, batch_size=size)[0]
        for size in (1, 13, 1000)
    ]
    for other in answers[1:]:
        torch.testing.assert_close(answers[0], other)


@pytest.mark.parametrize("step", [1, 7, 60, 500])
def test_insertion_and_deletion_equal_one_image_and_one_step(network, batch, step):
    images, maps = batch
    inputs = (images - 0.4) / 0.2
    metric = InsertionDeletion(network, pixels_per_step=step, sigma=0.1, batch_size=32, seed=2)
    metric.update(inputs[:5], maps[:5])
    metric.update(inputs[5:], maps[5:])
    result = metric.compute()
    points = sorted({*range(0, 180, step), 180})
    assert result.shares.tolist() == [p / 180 for p in points]
    for index, (image, scores) in enumerate(
        zip(inputs.double().numpy(), maps.numpy(), strict=True)
    ):
        order, blurred = plain_order(scores, 2), plain_blur(image, 0.1)
        top = network.one(image).argmax()
        curves = [
            [network.one(replaced(image, blurred, order[:k]))[top] for k in points],
            [network.one(replaced(0 * image, image, order[:k]))[top] for k in points],
        ]
        for which, curve in enumerate(curves):
            area = sum(
                (b - a) / 180 * (u + v) / 2
                for a, b, u, v in zip(points, points[1:], curve, curve[1:], strict=False)
            )
            assert float(result.parts[index, which]) == pytest.approx(area, abs=1e-6)
    insertion, deletion = result.parts.mean(0).tolist()
    assert (result.insertion, result.deletion) == (insertion, deletion)
    assert result.insertion_curve[-1] == pytest.approx(float(result.deletion_curve[0]), abs=1e-6)


def test_given_classes_and_the_default_step(network, batch):
    images, maps = batch
    curves, shares = insertion_deletion(
        network, images, maps, classes=torch.full((7,), 3), batch_size=50
    )
    assert len(shares) == SIDE[0] + 1  # one row's worth of pixels for each step
    for curve, image in zip(curves, images, strict=True):
        assert float(curve[1, 0]) == pytest.approx(network.one(image)[3], abs=1e-6)
    assert (
        area_under_curve(torch.ones(2, 5), torch.tensor([0, 0.1, 0.2, 0.7, 1.0])).tolist()
        == [pytest.approx(1)] * 2
    )


def test_average_drop_and_increase_equal_one_image_at_a_time(network, batch):
    images, maps = batch
    inputs = (images - 0.4) / 0.2
    metric = DropIncrease(network, batch_size=3)
    metric.update(inputs[:2], maps[:2])
    metric.update(inputs[2:], maps[2:])
    result = metric.compute()
    drops, increases = [], []
    for image, scores in zip(inputs.double().numpy(), maps.numpy(), strict=True):
        before = network.one(image)
        weight = scores / scores.max() if scores.max() > 0 else scores
        after = network.one(image * weight)[before.argmax()]
        drops.append(max(0, before.max() - after) / before.max())
        increases.append(after > before.max())
    np.testing.assert_allclose(result.parts[:, 0], drops, atol=1e-5)
    assert 0 < np.mean(drops) < 1
    assert (result.average_drop, result.increase) == pytest.approx(
        (np.mean(drops), np.mean(increases)), abs=1e-5
    )


def test_increase_and_a_probability_of_zero():
    def probabilities(x):  # the darker, the surer
        sure = (1 - x.flatten(1).mean(1)).clamp(0, 1)
        return torch.stack([sure, 1 - sure], 1)

    inputs, maps = torch.tensor([0.8, 1.0])[:, None, None, None].expand(2, 3, 4, 4), torch.eye(4)
    rows = drop_and_increase(probabilities, inputs, maps[None].expand(2, 4, 4), torch.zeros(2))
    assert rows.tolist() == [[0, 1], [0, 1]]
    rows = drop_and_increase(probabilities, inputs, maps[None].expand(2, 4, 4), torch.ones(2))
    torch.testing.assert_close(rows, torch.tensor([[0.75, 0], [0.75, 0]]))


def test_maps_of_another_size_and_maps_without_evidence():
    maps = torch.rand(2, 4, 4)
    maps[1, 0, 0] = math.inf
    fitted = fit_maps(maps, 8, 8)
    assert fitted.shape == (2, 8, 8)
    assert fitted[0].std() > 0
    assert not fitted[1].any()


def test_bad_input_is_one_sentence(network, batch):
    images, maps = batch
    labels = torch.zeros(7).long()
    with pytest.raises(SsgcamError, match="before normalization"):
        blur_drops(network, images * 3 - 1, maps, labels)
    with pytest.raises(SsgcamError, match="shares of the image"):
        blur_drops(network, images, maps, labels, shares=(5.0,))
    with pytest.raises(SsgcamError, match="sigma"):
        blur_drops(network, images, maps, labels, sigma=0.0)
    with pytest.raises(SsgcamError, match="7 images but 6 labels"):
        blur_drops(network, images, maps, labels[1:])
    with pytest.raises(SsgcamError, match="6 maps but 7 images"):
        blur_drops(network, images, maps[1:], labels)
    with pytest.raises(SsgcamError, match="softmax"):
        blur_drops(lambda x: network.layers(x.double()), images, maps, labels)
    with pytest.raises(SsgcamError, match=r"return \[B, classes\]"):
        blur_drops(lambda x: x, images, maps, labels)
    with pytest.raises(SsgcamError, match="don't fit the 4 classes"):
        blur_drops(network, images, maps, labels + 4)
    with pytest.raises(SsgcamError, match="at least 1"):
        insertion_deletion(network, images, maps, pixels_per_step=0)
    with pytest.raises(SsgcamError, match="batch size"):
        insertion_deletion(network, images, maps, batch_size=0)
    with pytest.raises(SsgcamError, match="relu"):
        drop_and_increase(network, images, -maps)
    metric = InsertionDeletion(network, pixels_per_step=50)
    metric.update(images, maps)
    with pytest.raises(SsgcamError, match="size changed"):
        metric.update(images[..., :9], maps)
