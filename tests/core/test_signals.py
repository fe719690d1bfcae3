"""The derivatives of every target against dense Hessians in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from helpers.derivatives import (
    CLASSES,
    DEFINITIONS,
    Head,
    assert_proportional,
    dense,
    dense_product,
    head,
    signals_of,
    turned_by,
)
from helpers.networks import Smooth
from ssgcam import CAM, TargetSettings
from ssgcam.core.capture import Captured, capture
from ssgcam.core.signals import derivatives, hessian_activation_product
from ssgcam.core.target import Scalar
from ssgcam.errors import SsgcamError


@pytest.mark.parametrize("score", DEFINITIONS)
@pytest.mark.parametrize("second", ["squared", "hutchinson"])
def test_every_score_against_the_dense_hessian(score: Any, second: Any) -> None:
    network, images = head(), torch.randn(3, 3, 5, 5, dtype=torch.float64)
    classes = torch.tensor([0, 3, 4])
    # one probe is exact where only the term k g^2 has a diagonal
    exact = second == "squared" or score in ("exp", "sigmoid")
    settings = TargetSettings(
        score, second, "absolute", top_classes=CLASSES, probes=1 if exact else 800
    )
    first, found = signals_of(network, images, classes, settings)
    found = first**2 if found is None else found
    for index in range(3):

        def value(activation: Tensor, index: int = index) -> Tensor:
            return DEFINITIONS[score](network.head(activation[None])[0], int(classes[index]))

        gradient, diagonal = dense(value, images[index])
        assert_proportional(first[index], gradient)
        if exact:
            assert_proportional(found[index], diagonal)
        else:
            assert turned_by(found[index], diagonal) < 0.03


def test_second_order_is_computed_per_image_whatever_the_batch() -> None:
    network, images = head(), torch.randn(3, 3, 5, 5, dtype=torch.float64)
    classes = torch.tensor([0, 3, 4])
    for second in ("squared", "hutchinson"):
        settings = TargetSettings("probability", second, probes=3)
        _, together = signals_of(network, images, classes, settings)
        _, alone = signals_of(network, images[1:2], classes[1:2], settings)
        assert together is not None
        assert alone is not None
        torch.testing.assert_close(together[1:2], alone)


def test_odds_of_two_classes_are_the_squared_difference() -> None:
    network, images = head(2), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    classes = torch.tensor([0, 1])
    first, second = signals_of(network, images, classes, TargetSettings("odds"))
    captured = capture(network, images, ["layer"])
    g = [
        captured.gradients(captured.output[:, k].sum(), retain_graph=True)["layer"] for k in (0, 1)
    ]
    difference = torch.stack([g[0][0] - g[1][0], g[1][1] - g[0][1]])
    torch.testing.assert_close(first, difference)
    assert second is not None
    for index in range(2):
        assert_proportional(second[index], difference[index] ** 2)


class AddedEverywhere(Head):
    """Adds one and the same function of the layer to every logit."""

    def head(self, x: Tensor) -> Tensor:
        return super().head(x) + 7 * x.relu().mean((1, 2, 3))[:, None]


@pytest.mark.parametrize("score", ["odds", "probability", "log_probability", "exp"])
def test_what_is_added_to_every_logit_does_not_change_the_softmax_scores(score: Any) -> None:
    plain = head()
    added = AddedEverywhere().double().eval()
    added.load_state_dict(plain.state_dict())
    images, classes = torch.randn(2, 3, 5, 5, dtype=torch.float64), torch.tensor([1, 2])
    settings = TargetSettings(score, sign="absolute", top_classes=CLASSES)
    first, second = signals_of(plain, images, classes, settings)
    other_first, other_second = signals_of(added, images, classes, settings)
    if score == "exp":  # the control: exp looks at one logit alone
        assert not torch.allclose(first, other_first)
        return
    torch.testing.assert_close(first, other_first)
    assert second is not None
    assert other_second is not None
    for index in range(2):
        assert_proportional(second[index], other_second[index])


@pytest.mark.parametrize("score", ["odds", "probability", "log_probability"])
def test_top_classes_is_the_network_with_only_those_classes(score: Any) -> None:
    network, images = head(), torch.randn(1, 3, 5, 5, dtype=torch.float64)
    logits = network(images)[0]
    wanted = int(logits.argsort()[1])  # the explained class itself is not a probable one
    kept = [wanted, *[int(k) for k in logits.argsort(descending=True)[:2]]]
    smaller = head(3)
    smaller.load_state_dict(
        {k: v[kept] if k.startswith("fc") else v for k, v in network.state_dict().items()}
    )
    settings = TargetSettings(score, sign="absolute", top_classes=3)
    first, second = signals_of(network, images, torch.tensor([wanted]), settings)
    few_first, few_second = signals_of(smaller, images, torch.tensor([0]), settings)
    torch.testing.assert_close(first, few_first)
    torch.testing.assert_close(second, few_second)
    full = signals_of(
        network, images, torch.tensor([wanted]), TargetSettings(score, sign="absolute")
    )
    assert not torch.allclose(first, full[0])


def test_first_order_alone_is_the_first_of_both() -> None:
    network, images = head(), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    classes = torch.tensor([1, 2])
    for score in DEFINITIONS:
        settings: Any = TargetSettings(score, sign="absolute", top_classes=CLASSES)  # type: ignore[arg-type]
        captured = capture(network, images, ["layer"])
        alone, nothing = derivatives(captured, Scalar(classes, settings), need_second=False)[
            "layer"
        ]
        assert nothing is None
        torch.testing.assert_close(alone, signals_of(network, images, classes, settings)[0])


def test_hutchinson_on_a_smooth_network_nears_the_dense_diagonal() -> None:
    network = Smooth().double().eval()
    images = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    classes = torch.tensor([0, 2])
    stems = network.stem(images).detach()
    for score in ("logit", "exp", "probability"):
        errors = {}
        for probes in (4, 400):
            settings = TargetSettings(score, "hutchinson", top_classes=3, probes=probes)  # type: ignore[arg-type]
            first, second = signals_of(network, images, classes, settings, layer="stem")
            assert second is not None
            errors[probes] = 0.0
            for index in range(2):

                def value(a: Tensor, index: int = index, score: str = score) -> Tensor:
                    z = network.head(a[None])[0]
                    c = int(classes[index])
                    return z[c] if score == "logit" else DEFINITIONS[score](z, c)

                gradient, diagonal = dense(value, stems[index])
                assert_proportional(first[index], gradient)
                errors[probes] += turned_by(second[index], diagonal) / 2
        # Monte Carlo: the error of a direction falls as one over the number of probes
        assert errors[400] < 0.03
        assert errors[400] < 0.1 * errors[4]


class Cubic(nn.Module):
    """A diagonal Hessian: every cell goes through its own cubic."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.weight = nn.Parameter(torch.randn(3, 2, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("kchw,nchw->nk", self.weight, self.layer(x) ** 3)


def test_one_probe_is_exact_for_a_diagonal_hessian() -> None:
    network = Cubic().double()
    a = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    classes = torch.tensor([2, 0])
    settings = TargetSettings("logit", "hutchinson", probes=1)
    first, second = signals_of(network, a, classes, settings)
    weight = network.weight[classes].detach()
    torch.testing.assert_close(first, 3 * weight * a**2)
    assert second is not None
    for index in range(2):
        assert_proportional(second[index], (6 * weight * a)[index])
    # and with the rank-one part of exp, which needs no probes
    first, second = signals_of(network, a, classes, TargetSettings("exp", "hutchinson", probes=1))
    assert second is not None
    for index in range(2):
        assert_proportional(second[index], (9 * weight**2 * a**4 + 6 * weight * a)[index])


def test_probes_and_seed_are_repeatable() -> None:
    network, images = Smooth().eval(), torch.randn(1, 3, 12, 12)
    one = torch.tensor([1])

    def second(seed: int) -> Tensor:
        settings = TargetSettings("exp", "hutchinson", probes=2, seed=seed)
        found = signals_of(network, images, one, settings, layer="stem")[1]
        assert found is not None
        return found

    state = torch.random.get_rng_state()
    assert torch.equal(second(0), second(0))
    assert not torch.equal(second(0), second(1))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_squared_is_the_gauss_newton_part_of_a_smooth_network() -> None:
    network, images = Smooth().eval(), torch.randn(1, 3, 12, 12)
    first, second = signals_of(
        network, images, torch.tensor([1]), TargetSettings("exp"), layer="stem"
    )
    assert second is None  # its square
    assert first.abs().max() > 0


@pytest.mark.parametrize("score", ["logit", "exp"])
def test_hessian_activation_product(score: Any) -> None:
    network = Smooth().double().eval()
    images = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    classes = torch.tensor([0, 2])
    captured = capture(network, images, ["stem", "mix"], double_backward=True)
    settings = TargetSettings(score)
    found = hessian_activation_product(captured, Scalar(classes, settings))
    stems = network.stem(images).detach()
    for index in range(2):

        def value(a: Tensor, index: int = index) -> Tensor:
            z = network.head(a[None])[0, int(classes[index])]
            return z if score == "logit" else torch.exp(z - z.detach())

        torch.testing.assert_close(found["stem"][0][index], jacobian(value, stems[index]))
        torch.testing.assert_close(found["stem"][2][index], dense_product(value, stems[index]))
    assert found["mix"][2].abs().max() > 0


def test_hessian_activation_product_is_zero_behind_relu() -> None:
    network, images = head(), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    captured = capture(network, images, ["layer"], double_backward=True)
    settings = TargetSettings("logit")
    scalar = Scalar(torch.tensor([0, 1]), settings)
    first, _, product = hessian_activation_product(captured, scalar)["layer"]
    assert first.any()
    assert not product.any()


@pytest.mark.parametrize("second", ["squared", "hutchinson"])
def test_the_true_second_derivative_of_a_piecewise_linear_logit_is_refused(second: Any) -> None:
    network, images = head(), torch.randn(1, 3, 5, 5, dtype=torch.float64)
    with pytest.raises(SsgcamError, match="identically zero behind ReLU"):
        signals_of(network, images, torch.tensor([0]), TargetSettings("logit", second))


def test_log_probability_needs_the_magnitude() -> None:
    with pytest.raises(SsgcamError, match=r"never positive.*sign='absolute'"):
        TargetSettings("log_probability")
    network, images = head(), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    settings = TargetSettings("log_probability", sign="absolute")
    _, second = signals_of(network, images, torch.tensor([0, 1]), settings)
    assert second is not None
    assert (second <= 0).all()
    assert (second < 0).any()


def one_channel(logit: float) -> nn.Module:
    """Two sigmoid outputs that are the mean of the picture plus a constant."""
    network = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    network[3].weight.data[:] = 1
    network[3].bias.data[:] = logit
    return network


@pytest.mark.parametrize(("logit", "sign", "evidence"), [
    (-3.0, "positive", True),
    (3.0, "positive", False),
    (3.0, "absolute", True),
    (-3.0, "absolute", True),
])  # fmt: skip
def test_sign_of_a_sigmoid_on_either_side_of_a_half(
    logit: float, sign: Any, evidence: bool
) -> None:
    images = torch.rand(2, 1, 6, 6)
    cam = CAM(
        one_channel(logit), ["0"], target=TargetSettings("sigmoid", sign=sign), output="sigmoid"
    )
    result = cam(images, 1)
    assert result.evidence.tolist() == [evidence] * 2
    assert result.maps.any() == evidence
    for note in result.notes:
        assert ("every second derivative is negative" in note) == (not evidence)
        assert ("sign='absolute'" in note) == (not evidence)
    p = (images.mean((1, 2, 3)) + logit).sigmoid()
    torch.testing.assert_close(result.probabilities, p[:, None].expand(2, 2))


@pytest.mark.parametrize("score", [*DEFINITIONS])
@pytest.mark.parametrize("second", ["squared", "hutchinson"])
def test_tiny_gradients_do_not_underflow(score: Any, second: Any) -> None:
    """In float32 the square of 1e-30 is zero; the maps must not change with the factor."""
    settings = TargetSettings(score, second, "absolute", probes=2)
    images = torch.randn(2, 3, 5, 5)
    maps = []
    for factor in (1.0, 1e-30):
        torch.manual_seed(1)
        network = Scaled(factor).eval()
        result = CAM(network, ["layer"], target=settings)(images, [0, 3])
        assert result.evidence.all()
        assert result.maps.isfinite().all()
        maps.append(result.maps)
    if second == "squared" or score in ("exp", "sigmoid"):
        torch.testing.assert_close(maps[1], maps[0], rtol=1e-3, atol=1e-4)


class Scaled(Head):
    """Gradients multiplied by a factor, the logits' values kept."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        z = super().forward(images)
        return z.detach() + self.factor * (z - z.detach())


@pytest.mark.parametrize("score", [*DEFINITIONS])
@pytest.mark.parametrize("second", ["squared", "hutchinson"])
@pytest.mark.parametrize("offset", [300.0, -300.0])
def test_huge_logits_neither_overflow_nor_vanish(score: Any, second: Any, offset: float) -> None:
    torch.manual_seed(1)
    network, images = Head().eval(), torch.randn(2, 3, 5, 5)
    network.fc.bias.data[1] += offset  # p of class 1 is exactly 1 or 0 in float32
    settings = TargetSettings(score, second, "absolute", probes=2)
    result = CAM(network, ["layer"], target=settings)(images, 1)
    assert result.maps.isfinite().all()
    assert result.evidence.all()


def test_all_negative_is_reported_for_a_sure_class() -> None:
    """d2p = p(1-p)[(1-2p) u^2 - Var_q] is negative for p > 1/2: said, not drawn as zeros."""
    network, images = Head().eval(), torch.randn(1, 3, 5, 5)
    network.fc.bias.data[1] += 300
    result = CAM(network, ["layer"], target="probability")(images, 1)
    assert "every second derivative is negative" in result.notes[0]
    assert not result.evidence[0]


def test_curvature_of_a_score_function() -> None:
    """ShapleyCAM takes the function itself, SSG-CAM its exponential."""
    network = Smooth().double().eval()
    images = torch.randn(1, 3, 12, 12, dtype=torch.float64)
    stem = network.stem(images).detach()[0]

    def function(z: Tensor) -> Tensor:
        return z[:, 0] - z[:, 1]

    def value(a: Tensor) -> Tensor:
        return function(network.head(a[None]))[0]

    captured = capture(network, images, ["stem"], double_backward=True)
    anything = torch.zeros(1, dtype=torch.long)
    scalar = Scalar(anything, TargetSettings("logit"), function)
    *_, product = hessian_activation_product(captured, scalar)["stem"]
    torch.testing.assert_close(product[0], dense_product(value, stem))
    settings = TargetSettings("exp", "hutchinson", probes=400)
    _, second = signals_of(network, images, anything, settings, function, layer="stem")
    _, diagonal = dense(lambda a: torch.exp(value(a) - value(a).detach()), stem)
    assert second is not None
    assert turned_by(second[0], diagonal) < 0.03


def test_captured_gradients_can_be_asked_for_again() -> None:
    network, images = head(), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    captured: Captured = capture(network, images, ["layer"])
    one, two = torch.tensor([0, 1]), torch.tensor([2, 3])
    for score in DEFINITIONS:
        settings: Any = TargetSettings(score, sign="absolute")  # type: ignore[arg-type]
        for classes in (one, two):
            again = derivatives(
                captured, Scalar(classes, settings), need_second=True, retain_graph=True
            )
            torch.testing.assert_close(
                again["layer"], signals_of(network, images, classes, settings)
            )
