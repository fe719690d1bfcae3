"""Which maps are scored: those of CAM, from one forward and one backward pass."""

import pytest
import torch

from helpers.evaluation_cases import LAYERS, SIDE, noise
from helpers.networks import state_of
from ssgcam import CAM, SsgcamError, SSGSettings, TargetSettings
from ssgcam.core import fusion as pipeline
from ssgcam.core.methods import METHODS
from ssgcam.evaluation import Competition, Contender, Entrants, Entry
from ssgcam.evaluation.result import ALL_FUSED

EVERY = tuple(Contender(name) for name in METHODS)


def explain(*given):
    return Competition(noise(), Entrants(layers=LAYERS))(*given)


def images(count=3):
    return torch.rand(count, 3, SIDE, SIDE)


@pytest.mark.parametrize("contender", EVERY, ids=[c.method for c in EVERY])
def test_maps_are_those_of_cam(contender):
    model, batch = noise(), images()
    found = Competition(model, Entrants(EVERY, LAYERS))(batch)
    cam = CAM(model, LAYERS, contender.method)
    expected = cam(batch)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.classes[:, 0], expected.classes)
    fused = found.maps[Entry(contender.title, ALL_FUSED)]
    torch.testing.assert_close(fused[:, 0], expected.maps)
    for name in LAYERS:
        single = found.maps[Entry(contender.title, name)][:, 0]
        assert single.shape == expected.layer_maps[name].shape
        torch.testing.assert_close(
            single, pipeline.scale(expected.layer_maps[name]).pow(contender.power)
        )


def test_fast_is_that_of_cam():
    model, batch = noise(), images()
    contenders = (Contender("layer_cam"), Contender("score_cam"))
    found = Competition(model, Entrants(contenders, LAYERS), fast=True)(batch)
    for contender in contenders:
        cam = CAM(model, LAYERS, contender.method, fast=True)
        torch.testing.assert_close(
            found.maps[Entry(contender.title, ALL_FUSED)][:, 0], cam(batch).maps
        )


def test_one_forward_and_one_backward_for_all_methods_and_layers(monkeypatch):
    model = noise()
    alone = ("score_cam", "recipro_cam", "shapley_cam", "finer_cam")
    shared = tuple(c for c in EVERY if c.method not in alone)
    competition = Competition(
        model, Entrants((*shared, Contender.parse("ssg_cam:gradient")), LAYERS)
    )
    calls = []
    model.network.register_forward_hook(lambda *_: calls.append("forward"))
    grad = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *a, **k: calls.append("backward") or grad(*a, **k)
    )
    competition(images())
    assert calls == ["forward", "backward"]


def test_no_backward_where_no_method_needs_it(monkeypatch):
    competition = Competition(noise(), Entrants((Contender("eigen_cam"),), LAYERS))
    monkeypatch.setattr(torch.autograd, "grad", None)
    assert competition(images()).maps


def test_several_classes_from_one_forward():
    model, batch = noise(), images()
    competition = Competition(model, Entrants(layers=LAYERS))
    calls = []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    both = competition(batch, torch.tensor([[0, 2], [1, 0], [2, 1]]))
    assert len(calls) == 1
    for k, classes in enumerate(([0, 1, 2], [2, 0, 1])):
        alone = competition(batch, torch.tensor(classes)[:, None])
        for entry, maps in alone.maps.items():
            torch.testing.assert_close(both.maps[entry][:, k], maps[:, 0])


@pytest.mark.parametrize(
    "score",
    [
        TargetSettings("odds"),
        TargetSettings("log_probability", sign="absolute"),
        TargetSettings(second="hutchinson", probes=3),
    ],
)
def test_other_scores(score):
    model, batch = noise(), images()
    ssg = SSGSettings("gradient", 0.2, 0.5, 1.0)
    contenders = (Contender(ssg=ssg, gamma=0.7), Contender("layer_cam"))
    found = Competition(model, Entrants(contenders, LAYERS, score=score))(batch)
    ours = CAM(model, LAYERS, ssg=ssg, gamma=0.7, target=score)(batch)
    torch.testing.assert_close(
        found.maps[Entry("SSG-CAM (gradient form)", ALL_FUSED)][:, 0], ours.maps
    )
    layer_cam = CAM(model, LAYERS, "layer_cam", target=score)(batch)
    torch.testing.assert_close(found.maps[Entry("LayerCAM", ALL_FUSED)][:, 0], layer_cam.maps)


@pytest.mark.parametrize("method", ["shapley_cam", "score_cam"])
@pytest.mark.parametrize("score", [None, TargetSettings("odds")])
def test_methods_with_passes_of_their_own_take_the_score_as_well(method, score):
    model, batch = noise(), images()
    found = Competition(model, Entrants((Contender(method),), LAYERS, score=score))(batch)
    alone = CAM(model, LAYERS, method, target=score)(batch)
    torch.testing.assert_close(
        found.maps[Entry(METHODS[method].title, ALL_FUSED)][:, 0], alone.maps
    )
    other = CAM(model, LAYERS, method, target="odds" if score is None else None)(batch)
    assert not torch.allclose(alone.maps, other.maps)  # the score matters


def test_which_entries():
    model = noise()
    one = (Contender(),)

    def lines(**who):
        return [entry.layers for entry in Competition(model, Entrants(one, **who)).entries]

    assert lines(layers=LAYERS) == [*LAYERS, ALL_FUSED]
    assert lines(layers=LAYERS, each=False) == [ALL_FUSED]
    assert lines(layers=LAYERS, fused=False) == LAYERS
    assert lines(layers=["act2"]) == ["act2"]
    assert lines(layers=["act2"], each=False) == ["act2"]
    assert lines(layers="auto") == ["act2"]


def test_the_network_stays_as_it_is():
    model = noise()
    model.network.train()
    before = state_of(model.network)
    Competition(model, Entrants(EVERY, LAYERS))(images())
    assert state_of(model.network) == before


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: Contender("grad_camm"), "no method named 'grad_camm'"),
        (lambda: Contender.parse("layer_cam:taylor"), "only ssg_cam has"),
        (lambda: Contender.parse("ssg_cam:round"), "form is 'round'"),
        (lambda: Entrants((Contender(), Contender())), "named twice"),
        (lambda: Entrants(()), "no method was given"),
        (lambda: Competition(noise(), Entrants(layers=["act9"])), "no layer 'act9'"),
        (lambda: explain(images(), torch.tensor([[3]] * 3)), "class 3"),
        (lambda: explain(images() * torch.nan), "NaN"),
    ],
)  # fmt: skip
def test_refusals(act, words):
    with pytest.raises(SsgcamError, match=words):
        act()
