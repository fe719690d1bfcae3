"""Which maps are scored: those of CAM, from one forward and one backward pass."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.evaluation_cases import LAYERS, NAMES, SIDE, noise
from helpers.networks import state_of
from ssgcam import CAM, LoadedModel, Preprocessing, SsgcamError, SSGSettings, TargetSettings
from ssgcam.cli.evaluate import DEFAULT_METHODS as DEFAULT_NAMES
from ssgcam.core import fusion as pipeline
from ssgcam.core.methods import METHODS
from ssgcam.data import SampleSet
from ssgcam.evaluation import DEFAULT_METHODS, MapSource, MethodsCompared, method_of
from ssgcam.evaluation.maps import ALL_FUSED, Explainer, parse_method
from ssgcam.evaluation.run import Run

EVERY = tuple(method_of(name) for name in METHODS)


def explain(*given):
    return Explainer(noise(), MethodsCompared(layers=LAYERS))(*given)


def images(count=3):
    return torch.rand(count, 3, SIDE, SIDE)


@pytest.mark.parametrize("method", EVERY, ids=[method.name for method in EVERY])
def test_maps_are_those_of_cam(method):
    model, batch = noise(), images()
    found = Explainer(model, MethodsCompared(EVERY, LAYERS))(batch)
    cam = CAM(model, LAYERS, method.name)
    expected = cam(batch)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.classes[:, 0], expected.classes)
    fused = found.maps[MapSource(method.title, ALL_FUSED)]
    torch.testing.assert_close(fused[:, 0], expected.maps)
    for name in LAYERS:
        single = found.maps[MapSource(method.title, name)][:, 0]
        alone = CAM(model, [name], method.name)(batch).layer_maps[name]
        assert single.shape == alone.shape
        torch.testing.assert_close(single, pipeline.scale(alone).pow(method.gamma))


def test_fast_is_that_of_cam():
    model, batch = noise(), images()
    methods = (method_of("layer_cam"), method_of("score_cam"))
    found = Explainer(model, MethodsCompared(methods, LAYERS), fast=True)(batch)
    for method in methods:
        cam = CAM(model, LAYERS, method.name, fast=True)
        torch.testing.assert_close(
            found.maps[MapSource(method.title, ALL_FUSED)][:, 0], cam(batch).maps
        )


def test_one_forward_and_one_backward_for_all_methods_and_layers(monkeypatch):
    model = noise()
    separate = ("score_cam", "recipro_cam", "shapley_cam", "finer_cam")
    shared = tuple(method for method in EVERY if method.name not in separate)
    explainer = Explainer(
        model, MethodsCompared((*shared, parse_method("ssg_cam:gradient")), LAYERS)
    )
    calls = []
    model.network.register_forward_hook(lambda *_: calls.append("forward"))
    grad = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *a, **k: calls.append("backward") or grad(*a, **k)
    )
    explainer(images())
    assert calls == ["forward", "backward"]


def test_no_backward_pass_if_no_method_needs_it(monkeypatch):
    explainer = Explainer(noise(), MethodsCompared((method_of("eigen_cam"),), LAYERS))
    monkeypatch.setattr(torch.autograd, "grad", None)
    assert explainer(images()).maps


def test_several_classes_from_one_forward():
    model, batch = noise(), images()
    methods = (method_of("ssg_cam"), method_of("layer_cam"))
    explainer = Explainer(model, MethodsCompared(methods, LAYERS))
    calls = []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    both = explainer(batch, torch.tensor([[0, 2], [1, 0], [2, 1]]))
    assert len(calls) == 1
    for k, classes in enumerate(([0, 1, 2], [2, 0, 1])):
        alone = explainer(batch, torch.tensor(classes)[:, None])
        for source, maps in alone.maps.items():
            torch.testing.assert_close(both.maps[source][:, k], maps[:, 0])


def test_minus_one_stands_for_the_top_class():
    batch, wanted = images(), torch.tensor([[-1], [2], [-1]])
    top = explain(batch).classes
    assert torch.equal(explain(batch, wanted).classes, torch.where(wanted < 0, top, wanted))


@pytest.mark.parametrize(
    "target",
    [
        TargetSettings("odds"),
        TargetSettings("log_probability", sign="absolute"),
        TargetSettings(second="hutchinson", probes=3),
    ],
)
def test_maps_of_other_targets_are_those_of_cam(target):
    model, batch = noise(), images()
    ssg = SSGSettings("gradient", 0.2, 0.5, 1.0)
    methods = (replace(method_of("ssg_cam", ssg), gamma=0.7), method_of("layer_cam"))
    found = Explainer(model, MethodsCompared(methods, LAYERS, target=target))(batch)
    ours = CAM(model, LAYERS, ssg=ssg, gamma=0.7, target=target)(batch)
    torch.testing.assert_close(
        found.maps[MapSource("SSG-CAM (gradient form)", ALL_FUSED)][:, 0], ours.maps
    )
    layer_cam = CAM(model, LAYERS, "layer_cam", target=target)(batch)
    torch.testing.assert_close(found.maps[MapSource("LayerCAM", ALL_FUSED)][:, 0], layer_cam.maps)


@pytest.mark.parametrize("method", ["shapley_cam", "score_cam"])
@pytest.mark.parametrize("target", [None, TargetSettings("odds")])
def test_methods_with_separate_passes_use_the_target_as_well(method, target):
    model, batch = noise(), images()
    found = Explainer(model, MethodsCompared((method_of(method),), LAYERS, target=target))(batch)
    alone = CAM(model, LAYERS, method, target=target)(batch)
    torch.testing.assert_close(
        found.maps[MapSource(METHODS[method].title, ALL_FUSED)][:, 0], alone.maps
    )
    other = CAM(model, LAYERS, method, target="odds" if target is None else None)(batch)
    assert not torch.allclose(alone.maps, other.maps)  # the target matters


@pytest.mark.parametrize("method", ["layer_cam", "finer_cam", "discriminate"])
@pytest.mark.parametrize("against", ["rest", "similar"])
def test_the_same_contrast_is_used_for_all_methods(method, against):
    model, batch = noise(), images()
    compared = MethodsCompared((method_of(method),), LAYERS, against=against)
    found = Explainer(model, compared)(batch)
    expected = CAM(model, LAYERS, method)(batch, against=against)
    torch.testing.assert_close(
        found.maps[MapSource(METHODS[method].title, ALL_FUSED)][:, 0], expected.maps
    )


def test_the_default_methods_are_all_that_need_first_or_squared_gradients():
    names = [method.name for method in DEFAULT_METHODS]
    assert names == DEFAULT_NAMES.split(",")
    assert {METHODS[name].needs for name in names} == {"first", "second"}
    left_out = set(METHODS) - set(names)
    others = {"shapley_cam", "eigen_cam", "score_cam", "recipro_cam", "activation_sum"}
    assert left_out == {*others, "discriminate"}  # the default of ssg_cam


def test_sources_are_methods_times_layers_and_all_layers_fused():
    model = noise()
    one = (method_of("ssg_cam"),)

    def places(**options):
        sources = Explainer(model, MethodsCompared(one, **options)).sources
        return [source.layers for source in sources]

    assert places(layers=LAYERS) == [*LAYERS, ALL_FUSED]
    assert places(layers=LAYERS, each=False) == [ALL_FUSED]
    assert places(layers=LAYERS, fused=False) == LAYERS
    assert places(layers=["act2"]) == ["act2"]
    assert places(layers=["act2"], each=False) == ["act2"]


@pytest.mark.parametrize("channels", [1, 4])
def test_automatic_layers_take_any_number_of_channels(channels):
    network = nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).eval()  # fmt: skip
    grays = (0.5,) * channels
    model = LoadedModel(network, "own", Preprocessing((SIDE, SIDE), grays, grays), NAMES)
    samples = SampleSet((), NAMES, Path(), "")
    run = Run("localization", model, samples, MethodsCompared((method_of("ssg_cam"),)), None)
    assert run.explainer.layers == ["3"]


def test_automatic_layers_are_the_last_of_each_resolution():
    compared = MethodsCompared((method_of("ssg_cam"),), layers="auto")
    run = Run("localization", noise(), SampleSet((), NAMES, Path(), ""), compared, None)
    assert [source.layers for source in run.sources] == ["act2"]


def test_the_network_is_not_changed():
    model = noise()
    model.network.train()
    before = state_of(model.network)
    Explainer(model, MethodsCompared(EVERY, LAYERS))(images())
    assert state_of(model.network) == before


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: method_of("grad_camm"), "no method named 'grad_camm'"),
        (lambda: parse_method("layer_cam:taylor"), "only ssg_cam has"),
        (lambda: parse_method("ssg_cam:round"), "form is 'round'"),
        (lambda: MethodsCompared((method_of("ssg_cam"), method_of("ssg_cam"))), "named twice"),
        (lambda: MethodsCompared(()), "no method was given"),
        (lambda: MethodsCompared(against="all"), "against is 'all'"),
        (lambda: Explainer(noise(), MethodsCompared(layers=["act9"])), "no layer 'act9'"),
        (lambda: explain(images(), torch.tensor([[3]] * 3)), "class 3"),
        (lambda: explain(images() * torch.nan), "NaN"),
    ],
)  # fmt: skip
def test_wrong_names_and_inputs_are_refused(act, words):
    with pytest.raises(SsgcamError, match=words):
        act()
