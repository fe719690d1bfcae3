"""A map without evidence says so, and the same seed gives the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.commands import photo, run
from helpers.networks import Constant, Small
from helpers.search_sets import short_search
from helpers.segmentation import files_below, photos, recipe_for, small
from helpers.training_sets import TINY, discs
from ssgcam import CAM, SSGCAM, SsgcamError, TargetSettings
from ssgcam.bulk.segment import segment_images
from ssgcam.core.methods import METHODS
from ssgcam.training import train_classifier

GRADIENT_METHODS = sorted(
    name for name in METHODS if METHODS[name].needs in ("curvature", "first", "second")
)


class Sum(nn.Module):
    """Class 0 rises with every pixel, class 1 falls with it, class 2 does not depend on them."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.layer, self.gain = nn.Identity(), gain

    def forward(self, images: Tensor) -> Tensor:
        bright = self.gain * self.layer(images).mean((1, 2, 3))
        return torch.stack([bright, -bright, 0 * bright], 1)


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_a_class_that_does_not_depend_on_the_layer_has_no_evidence(method: str) -> None:
    if METHODS[method].against is not None:
        pytest.skip("a contrast depends on the other classes")
    result = CAM(Constant(), ["layer"], method)(torch.rand(2, 3, 8, 8), 2)
    if not result.evidence.any():
        assert all("no evidence in layer 'layer'" in note for note in result.notes)
        assert not result.maps.any()
    else:  # the contrast of a default target: class 2 against the others
        assert result.maps.isfinite().all()


def test_evidence_against_a_class_is_not_shown_as_evidence_for_it() -> None:
    cam = CAM(Sum(), ["layer"], "layer_cam")
    result = cam(torch.rand(2, 3, 8, 8), torch.tensor([[0, 1], [0, 1]]))
    assert result.evidence.tolist() == [[True, False], [True, False]]
    assert [bool(note) for note in result.notes] == [False, True, False, True]


def test_a_black_image_has_no_evidence() -> None:
    result = CAM(Sum(), ["layer"], "layer_cam")(torch.zeros(1, 3, 8, 8), 0)
    assert not result.evidence.any()
    assert "nothing in it speaks for the class" in result.notes[0]


@pytest.mark.parametrize("target", ["log_probability", "odds", "probability", "sigmoid"])
@pytest.mark.parametrize("gain", [200.0, 1e4])
def test_a_saturated_target_gives_a_map_or_says_that_it_has_none(target: str, gain: float) -> None:
    settings = TargetSettings(target, sign="absolute")  # type: ignore[arg-type]
    result = SSGCAM(Sum(gain), ["layer"], target=settings)(torch.rand(2, 3, 8, 8) + 0.1, 0)
    assert result.maps.isfinite().all()
    for evidence, note in zip(result.evidence.tolist(), result.notes, strict=True):
        assert evidence != bool(note)


def test_a_dead_layer_says_so() -> None:
    network = Small().eval()
    with torch.no_grad():
        network.conv2.weight.zero_()
        network.conv2.bias.fill_(-1)  # the ReLU behind it gives zeros for every image
    result = SSGCAM(network, ["act2"])(torch.rand(2, 3, 16, 16), 0)
    assert not result.evidence.any()
    assert all("no evidence in layer 'act2'" in note for note in result.notes)


def test_a_logit_without_curvature_is_refused() -> None:
    with pytest.raises(SsgcamError, match="identically zero"):
        SSGCAM(Small(), ["act2"], target="logit")(torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    images = torch.rand(2, 3, 16, 16)
    images[1, 0, 3, 3] = value
    with pytest.raises(SsgcamError, match="NaN or infinity for image 1"):
        SSGCAM(Small().eval(), ["act2"])(images)


def test_the_picture_of_a_map_without_evidence_says_so(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.png")
    words = ("--model", "helpers.factories:without_evidence", "--out", tmp_path / "out")
    done = run("explain", picture, *words)
    assert "no evidence" in done.output


def test_maps_are_the_same_to_the_last_bit() -> None:
    images = torch.rand(3, 3, 32, 32)
    for target in (TargetSettings(), TargetSettings("odds", second="hutchinson", probes=4, seed=5)):
        maps = []
        for call in range(3):
            torch.manual_seed(call)  # the user's own generator must not matter
            torch.manual_seed(0)
            network = Small().eval()
            torch.manual_seed(call)
            maps.append(SSGCAM(network, ["act1", "act2"], target=target)(images, 1).maps)
        assert torch.equal(maps[0], maps[1])
        assert torch.equal(maps[0], maps[2])


def test_another_seed_of_the_probes_gives_another_map() -> None:
    network, images = Small(activation=nn.GELU).eval(), torch.rand(2, 3, 32, 32)
    maps = [
        SSGCAM(
            network,
            ["act1"],
            target=TargetSettings("odds", second="hutchinson", probes=1, seed=seed),
        )(images, 1).maps
        for seed in (1, 2)
    ]
    assert not torch.equal(*maps)


def test_masks_are_the_same_with_any_number_of_workers(tmp_path: Path) -> None:
    photos(tmp_path / "in", 9)
    model = small()
    for workers in (1, 3):
        segment_images(
            tmp_path / "in", model, tmp_path / str(workers), recipe=recipe_for(model),
            batch_size=2, workers=workers,
        )  # fmt: skip
    assert files_below(tmp_path / "1") == files_below(tmp_path / "3")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_search_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    texts = []
    for call in range(2):
        torch.manual_seed(call)
        short_search().recipe.save(tmp_path / "recipe.json")
        texts.append((tmp_path / "recipe.json").read_text())
    assert texts[0] == texts[1]


def test_a_training_is_the_same_to_the_last_bit() -> None:
    settings = replace(TINY, model="squeezenet1_1", epochs=1, samples_per_epoch=16, workers=0)
    states = []
    for call in range(2):
        torch.manual_seed(call)
        trained = train_classifier(discs(24), settings, progress=False)
        states.append(trained.model.network.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
