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
    area_under_curve,
    blur_drops,
    curve_counts,
    drop_and_increase,
    fit_maps,
    gaussian_blur,
    images_at_once,
    insertion_deletion,
    moved_ranks,
    pixel_ranks,
    replaced_answers,
    top_pixels,
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


def test_blur_drops_equal_one_image_at_a_time(network, batch):
    images, maps = batch
    labels = network(images).argmax(1)
    labels[5:] = (labels[5:] + 1) % 4
    areas = (0.06, 0.25, 1.0)  # 10.8, 45 and 180 pixels
    blurred = gaussian_blur(images, 0.2)
    options = {"areas": areas, "batch_size": 5, "seed": 3}
    parts = torch.cat(
        [
            blur_drops(network, images[:4], blurred[:4], maps[:4], labels[:4], **options),
            blur_drops(network, images[4:], blurred[4:], maps[4:], labels[4:], first=4, **options),
        ]
    )
    control = moved_ranks(pixel_ranks(maps, 3), 3)
    expected = []
    for index, (image, scores, label) in enumerate(
        zip(images.double().numpy(), maps.numpy(), labels.tolist(), strict=True)
    ):
        smooth = plain_blur(image, 0.2)
        orders = [plain_order(scores, 3), control[index].flatten().argsort().tolist()]
        intact = network.one(image)
        answers = np.array(
            [
                [
                    network.one(replaced(smooth, image, order[: max(1, round(s * 180))]))
                    for s in areas
                ]
                for order in orders
            ]
        )
        right = float(intact.argmax() == label) - (answers.argmax(-1) == label)
        expected.append(np.stack([right, intact[label] - answers[..., label]], 1))
    assert parts.shape == (7, 2, 2, 3)
    np.testing.assert_allclose(parts, np.array(expected), atol=1e-6)
    assert parts[:, 0, 0].any()
    torch.testing.assert_close(parts[:, 0, :, 2], parts[:, 1, :, 2])  # the whole image


def test_blurring_the_decisive_square_costs_more_than_blurring_elsewhere():
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

    labels, blurred = torch.zeros(40).long(), gaussian_blur(images, 0.3)
    drops = blur_drops(probabilities, images, blurred, maps, labels, areas=(64 / 1024,))
    highest, control = drops.mean(0)[:, 0, 0].tolist()
    assert highest == 1
    assert control < 0.5


def test_batches_hold_several_images_and_areas(network, batch):
    images, maps = batch
    ranks, counts = pixel_ranks(maps, 0), torch.tensor([0, 30, 60, 180])
    classes = torch.arange(7) % 4
    answers = replaced_answers(network, 0 * images, images, ranks, counts, classes, batch_size=16)
    assert network.batches == [16, 12]
    for place, plain in ((0, images), (3, 0 * images)):
        expected = network(plain).float()
        own = expected[torch.arange(7), classes]
        torch.testing.assert_close(answers[:, 1, place], own)
        assert answers[:, 0, place].tolist() == (expected.argmax(1) == classes).tolist()


def test_top_pixels_equal_the_ranks(batch):
    maps = torch.cat([batch[1], batch[1].round(decimals=1)])
    for count in (1, 18, 90, 180):
        assert torch.equal(top_pixels(maps, count, seed=5), pixel_ranks(maps, seed=5) < count)


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


def test_the_default_batch_fits_the_image_size():
    network = Network()
    images = torch.rand(3, 3, 224, 224)
    counts = torch.tensor([10, 20, 30])
    ranks = pixel_ranks(images[:, 0], 0)
    replaced_answers(network, 0 * images, images, ranks, counts, torch.zeros(3))
    assert network.batches == [5, 4]


def test_batch_size_does_not_change_the_answer(network, batch):
    images, maps = batch
    inputs = network, images, gaussian_blur(images, 0.1), maps, torch.zeros(7)
    answers = [
        insertion_deletion(*inputs, counts=curve_counts(180, 7), batch_size=size)
        for size in (1, 13, 1000)
    ]
    for other in answers[1:]:
        torch.testing.assert_close(answers[0], other)


@pytest.mark.parametrize("step", [1, 7, 60, 500])
def test_insertion_and_deletion_equal_one_image_and_one_step(network, batch, step):
    images, maps = batch
    inputs = (images - 0.4) / 0.2
    smooth, classes = gaussian_blur(inputs, 0.1), network(inputs).argmax(1)
    counts = curve_counts(180, step)
    curves = insertion_deletion(
        network, inputs, smooth, maps, classes, counts=counts, batch_size=32, seed=2
    )
    areas = area_under_curve(curves, counts.double() / 180)
    points = sorted({*range(0, 180, step), 180})
    assert counts.tolist() == points
    for index, (image, scores) in enumerate(
        zip(inputs.double().numpy(), maps.numpy(), strict=True)
    ):
        order, blurred = plain_order(scores, 2), plain_blur(image, 0.1)
        top = network.one(image).argmax()
        expected = [
            [network.one(replaced(image, blurred, order[:k]))[top] for k in points],
            [network.one(replaced(0 * image, image, order[:k]))[top] for k in points],
        ]
        np.testing.assert_allclose(curves[index], expected, atol=1e-6)
        for which, curve in enumerate(expected):
            area = sum(
                (b - a) / 180 * (u + v) / 2
                for a, b, u, v in zip(points, points[1:], curve, curve[1:], strict=False)
            )
            assert float(areas[index, which]) == pytest.approx(area, abs=1e-6)


def test_area_under_a_constant_curve_is_its_value():
    shares = torch.tensor([0, 0.1, 0.2, 0.7, 1.0])
    torch.testing.assert_close(area_under_curve(torch.ones(2, 5), shares), torch.ones(2).double())


def test_average_drop_and_increase_equal_one_image_at_a_time(network, batch):
    images, maps = batch
    inputs = (images - 0.4) / 0.2
    parts = drop_and_increase(network, inputs, maps, network(inputs).argmax(1), batch_size=3)
    drops, increases = [], []
    for image, scores in zip(inputs.double().numpy(), maps.numpy(), strict=True):
        before = network.one(image)
        weight = scores / scores.max() if scores.max() > 0 else scores
        after = network.one(image * weight)[before.argmax()]
        drops.append(max(0, before.max() - after) / before.max())
        increases.append(after > before.max())
    np.testing.assert_allclose(parts, np.stack([drops, increases], 1), atol=1e-5)
    assert 0 < np.mean(drops) < 1


def test_increase_and_a_probability_of_zero():
    def probabilities(x):  # the darker, the surer
        sure = (1 - x.flatten(1).mean(1)).clamp(0, 1)
        return torch.stack([sure, 1 - sure], 1)

    inputs, maps = torch.tensor([0.8, 1.0])[:, None, None, None].expand(2, 3, 4, 4), torch.eye(4)
    rows = drop_and_increase(probabilities, inputs, maps[None].expand(2, 4, 4), torch.zeros(2))
    assert rows.tolist() == [[0, 1], [0, 1]]
    rows = drop_and_increase(probabilities, inputs, maps[None].expand(2, 4, 4), torch.ones(2))
    torch.testing.assert_close(rows, torch.tensor([[0.75, 0], [0.75, 0]]))


def test_maps_are_resized_and_non_finite_maps_become_zeros():
    maps = torch.rand(2, 4, 4)
    maps[1, 0, 0] = math.inf
    fitted = fit_maps(maps, 8, 8)
    assert fitted.shape == (2, 8, 8)
    assert fitted[0].std() > 0
    assert not fitted[1].any()


def test_bad_input_is_one_sentence(network, batch):
    images, maps = batch
    blurred, labels = gaussian_blur(images, 0.1), torch.zeros(7).long()
    counts = curve_counts(180, 90)
    with pytest.raises(SsgcamError, match="shares of the image"):
        blur_drops(network, images, blurred, maps, labels, areas=(5.0,))
    with pytest.raises(SsgcamError, match="sigma"):
        gaussian_blur(images, 0.0)
    with pytest.raises(SsgcamError, match="7 images but 6 classes"):
        blur_drops(network, images, blurred, maps, labels[1:])
    with pytest.raises(SsgcamError, match="6 maps but 7 images"):
        insertion_deletion(network, images, blurred, maps[1:], labels, counts=counts)
    with pytest.raises(SsgcamError, match="softmax"):
        blur_drops(lambda x: network.layers(x.double()), images, blurred, maps, labels)
    with pytest.raises(SsgcamError, match=r"return \[B, classes\]"):
        blur_drops(lambda x: x, images, blurred, maps, labels)
    with pytest.raises(SsgcamError, match="don't fit the 4 classes"):
        blur_drops(network, images, blurred, maps, labels + 4)
    with pytest.raises(SsgcamError, match="at least 1"):
        curve_counts(180, 0)
    with pytest.raises(SsgcamError, match="at least 1"):
        images_at_once(8, 8, torch.device("cpu"), 0)
    with pytest.raises(SsgcamError, match="batch size"):
        insertion_deletion(network, images, blurred, maps, labels, counts=counts, batch_size=0)
    with pytest.raises(SsgcamError, match="relu"):
        drop_and_increase(network, images, -maps, labels)
