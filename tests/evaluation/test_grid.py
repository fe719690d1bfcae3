"""The grid pointing game: its numbers are those of a loop over mosaics that CAM explains."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers.data_trees import refusal
from helpers.evaluation_cases import NAMES, blobs, boxed_tree, stacked
from helpers.networks import state_of
from ssgcam import CAM, LoadedModel, Preprocessing
from ssgcam.core import fusion
from ssgcam.data import read_samples
from ssgcam.evaluation import EvaluationSettings, MethodsCompared, evaluate_grid, method_of
from ssgcam.evaluation.maps import ALL_FUSED
from ssgcam.metrics import choose_mosaics

SETTINGS = EvaluationSettings(batch_size=8, resamples=30, seed=3)
LAYERS = ["act", "act2"]
COMPARED = MethodsCompared((method_of("layer_cam"), method_of("hires_cam")), LAYERS)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return read_samples(boxed_tree(tmp_path_factory.mktemp("boxes") / "set", size=(64, 64)))


def unlabeled(samples):
    return replace(samples, samples=tuple(replace(s, labels=()) for s in samples))


@pytest.mark.parametrize("place", [*LAYERS, ALL_FUSED])
def test_shares_equal_a_loop_over_the_mosaics(samples, place):
    model, samples = blobs(), unlabeled(samples)
    before = state_of(model.network)
    found = evaluate_grid(model, samples, COMPARED, mosaics=5, confidence=0, settings=SETTINGS)
    assert state_of(model.network) == before
    inputs, _ = stacked(model, samples)  # the preprocessing only scales to [0, 1]
    labels = model.network(inputs).argmax(1).tolist()
    masses, tops = [], []
    for mosaic in choose_mosaics(labels, 2, 5, seed=3):
        (cell,) = mosaic.asked  # three classes, fewer than cells
        a, b, c, d = inputs[list(mosaic.photos)]
        image = torch.cat([torch.cat([a, b], 2), torch.cat([c, d], 2)], 1)[None]
        result = CAM(model, LAYERS, "layer_cam")(image, labels[mosaic.photos[cell]])
        maps = result.maps
        if place != ALL_FUSED:
            maps = fusion.resize(fusion.scale(result.layer_maps[place]), (64, 64))
        row, column = divmod(cell, 2)
        own = maps[0, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        masses.append(float(own.sum() / maps.sum()) if maps.sum() > 0 else 0.0)
        limit = maps.flatten().sort(descending=True).values[409]
        tops.append(float((own >= limit).sum() / (maps >= limit).sum()) if maps.sum() > 0 else 0.0)
    mass = found.score("LayerCAM", place, "mass in the cell")
    assert mass.value == pytest.approx(sum(masses) / 5, abs=1e-5)
    assert (mass.n, mass.groups) == (5, 5)
    assert mass.low <= mass.value <= mass.high
    top = found.score("LayerCAM", place, "top 10 % in the cell").value
    assert top == pytest.approx(sum(tops) / 5, abs=0.02)  # ties at the limit


def test_maps_of_a_network_that_detects_blobs_lie_in_the_right_cell(samples):
    compared = MethodsCompared((method_of("layer_cam"), method_of("activation_sum")), ["act"])
    options = {"mosaics": 6, "confidence": 0.4, "settings": SETTINGS}
    found = evaluate_grid(blobs(), samples, compared, **options)
    assert found.score("LayerCAM", "act", "mass in the cell").value > 0.9
    assert (
        found.score("LayerCAM", "act", "top 10 % in the cell").value > 0.6
    )  # with pixels beside small blobs
    assert found.score("Sum of activations", "act", "mass in the cell").value < 0.5
    assert found.facts["mosaics"] == "2 x 2 photos, one class asked for; chance is 0.250"
    assert len(found.examples) == 4
    assert found.examples[0][0].image.size == (64, 64)
    larger = evaluate_grid(blobs(), samples, compared, rows=3, **options)
    assert larger.facts["mosaics"].endswith("chance is 0.111")


def test_all_classes_are_asked_for_if_there_are_enough(samples):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    plain = Preprocessing((32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    model = LoadedModel(network.eval(), "eight", plain)
    labels = (3, 1, 4, 5, 3, 1, 4)
    bias = 50 * torch.eye(8)
    inputs, _ = stacked(model, samples)

    class Fixed(nn.Module):
        """Gives each photo its label, and a mosaic any class."""

        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            logits = self.network(images)
            for photo, label in zip(inputs, labels, strict=True):
                known = [
                    image.shape == photo.shape and torch.equal(image, photo) for image in images
                ]
                logits = logits + torch.tensor(known)[:, None] * bias[label]
            return logits

    compared = MethodsCompared((method_of("layer_cam"),), ["network.1"])
    fixed = replace(model, network=Fixed())
    found = evaluate_grid(fixed, unlabeled(samples), compared, mosaics=4, settings=SETTINGS)
    assert "all classes asked for" in found.facts["mosaics"]
    assert found.facts["images"] == "4 mosaics of 7 photos of 4 classes"
    assert found.facts["photos"] == "classified with a probability of at least 0.9"


def test_photos_must_be_classified_as_their_label_with_the_stated_probability(samples):
    compared = MethodsCompared((method_of("layer_cam"),), ["act"])
    wrong = replace(samples, class_names=("blue", "red", "green"))

    def message(samples, **options):
        return refusal(evaluate_grid, blobs(), samples, compared, settings=SETTINGS, **options)

    assert "at least 2 classes, not 0" in message(wrong, confidence=0.0)
    assert "at least 2 classes, not 0" in message(samples, confidence=0.999)
    several = replace(samples, samples=tuple(replace(s, labels=(0, 1)) for s in samples))
    assert "no image of" in message(several)
    assert "rows is 4" in message(samples, rows=4)
    assert "confidence 1" in message(samples, confidence=1.0)
    assert "0 mosaics" in message(samples, confidence=0.0, mosaics=0)


def test_a_network_with_a_fixed_input_size_is_refused(samples):
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1800, 3))
    plain = Preprocessing((32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    model = LoadedModel(network.eval(), "fixed", plain, NAMES)
    compared = MethodsCompared((method_of("layer_cam"),), ["1"])
    said = refusal(evaluate_grid, model, samples, compared, settings=SETTINGS)
    assert "a network that takes 64 x 64 pixels" in said


def test_mosaics_resume_after_a_kill(samples, tmp_path):
    compared = MethodsCompared((method_of("layer_cam"),), ["act"])
    options = {"mosaics": 5, "confidence": 0.4}
    settings = replace(SETTINGS, out=tmp_path, examples=0)
    expected = evaluate_grid(blobs(), samples, compared, settings=settings, **options)
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / ".grid").iterdir()}
    assert len(kept) == 3  # batches of 8 // 4 mosaics
    last = max(kept)
    last.unlink()
    again = evaluate_grid(blobs(), samples, compared, settings=settings, **options)
    assert again.scores == expected.scores
    found = {file: file.stat().st_mtime_ns for file in (tmp_path / ".grid").iterdir()}
    assert found.keys() == kept.keys()
    assert [file for file in found if found[file] != kept[file]] == [last]
