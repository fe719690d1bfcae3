"""What a result holds, and what it says where there is no evidence."""

from __future__ import annotations

from io import BytesIO

import pytest
import torch
from PIL import Image
from torch import Tensor

from helpers.networks import Constant, Small
from ssgcam import CAM, LoadedModel, SsgcamError, SSGSettings
from ssgcam.core.fusion import fuse
from ssgcam.core.methods import METHODS, ssg_cam
from ssgcam.report import overlay

LAYERS = ["act1", "act2"]


@pytest.fixture
def network() -> Small:
    network = Small().eval()
    network.fc.weight.data *= 4
    return network


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 16, 20)


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_from_0_to_1_at_input_size(method: str, network: Small, images: Tensor) -> None:
    result = CAM(network, LAYERS, method)(images, 1)
    assert result.maps.shape == (3, 16, 20)
    assert result.maps.dtype == torch.float32
    assert not result.maps.requires_grad
    assert result.maps.min() >= 0
    for index in range(3):
        assert result.maps[index].max() == float(result.evidence[index])
        assert (result.notes[index] == "") or "no evidence in layer" in result.notes[index]
    for name, (height, width) in zip(LAYERS, ((16, 20), (8, 10)), strict=True):
        assert result.layer_maps[name].shape == (3, height, width)
        assert result.layer_maps[name].dtype == torch.float32
        assert (result.layer_maps[name] >= 0).all()
    assert result.maps.any()


def test_the_whole_is_the_sum_of_its_parts(network: Small, images: Tensor) -> None:
    """Signals, method and pipeline, called by hand, give the very maps."""
    settings = SSGSettings("taylor", 0.2, 1.5, 0.5)
    cam = CAM(
        network, LAYERS, ssg=settings, gamma=[0.5, 2], layer_weights=[1, 3], output_size=(12, 9)
    )
    classes = torch.tensor([0, 1, 2])
    signals, output = cam.signals(images, classes)
    maps = {name: ssg_cam(signal, settings) for name, signal in signals.items()}
    by_hand = fuse(list(maps.values()), (12, 9), gammas=[0.5, 2], weights=[1, 3])
    result = cam(images, classes)
    assert torch.equal(result.maps, by_hand)
    assert torch.equal(result.maps, cam.fuse(result.layer_maps, (12, 9)))
    torch.testing.assert_close(output.detach(), network(images))


def test_an_image_does_not_depend_on_its_batch(network: Small, images: Tensor) -> None:
    for method in METHODS:
        cam = CAM(network, LAYERS, method)
        whole = cam(images, 1)
        for index in range(3):
            alone = cam(images[index : index + 1], 1)
            torch.testing.assert_close(alone.maps[0], whole.maps[index], atol=1e-5, rtol=1e-4)


def test_results_are_frozen(network: Small, images: Tensor) -> None:
    result = CAM(network, LAYERS)(images)
    with pytest.raises(AttributeError):
        result.maps = torch.zeros(1)  # type: ignore[misc]


@pytest.mark.parametrize("method", ["ssg_cam", "grad_cam", "layer_cam", "grad_cam_plus_plus"])
def test_no_evidence_is_zeros_and_a_note(method: str) -> None:
    images = torch.rand(3, 3, 8, 8)
    result = CAM(Constant(), ["layer"], method)(images, [0, 1, 2])
    assert result.evidence.tolist() == [True, False, False]
    assert result.maps[0].max() == 1
    assert not result.maps[1:].any()
    assert result.notes[0] == ""
    assert result.notes[1] == "no evidence in layer 'layer': nothing in it speaks for the class"
    assert (
        result.notes[2] == "no evidence in layer 'layer': the class score does not change with it"
    )


def test_notes_of_several_classes_are_image_by_image() -> None:
    result = CAM(Constant(), ["layer"])(torch.rand(2, 3, 8, 8), [[0, 1, 2], [2, 0, 0]])
    said = [note.rpartition(": ")[2] for note in result.notes]
    nothing, unmoved = (
        "nothing in it speaks for the class",
        "the class score does not change with it",
    )
    assert said == ["", nothing, unmoved, unmoved, "", ""]
    assert result.evidence.tolist() == [[True, False, False], [False, True, True]]


class Half(Small):
    """Evidence for every class in act2, against every class in act1."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.act1(self.conv1(images))
        y = self.act2(self.conv2(x.detach()))
        return (y.mean((1, 2, 3)) - x.mean((1, 2, 3)))[:, None].expand(-1, 3)


def test_a_note_for_each_layer_without_evidence(images: Tensor) -> None:
    result = CAM(Half(), LAYERS)(images, 0)
    assert result.evidence.all()
    assert all(note.startswith("no evidence in layer 'act1'") for note in result.notes)
    assert not any("act2" in note for note in result.notes)
    assert result.maps.amax() == 1
    assert not result.layer_maps["act1"].any()


def test_pictures_have_the_photos_sizes_and_the_maps_order(network: Small, images: Tensor) -> None:
    result = CAM(network, LAYERS)(images, torch.tensor([[0, 1]] * 3))
    photos = [Image.new("RGB", (30 + 10 * k, 40), "gray") for k in range(3)]
    pictures = result.overlay(photos)
    assert [picture.size for picture in pictures] == [(30, 40)] * 2 + [(40, 40)] * 2 + [
        (50, 40)
    ] * 2
    expected = overlay(photos[1], result.maps[1, 0].numpy())
    assert pictures[2].tobytes() == expected.tobytes()
    assert [picture.size for picture in result.overlay()] == [(20, 16)] * 6
    assert result.titles()[2].startswith("class 0 ")
    with pytest.raises(SsgcamError, match="2 photos for 3 images"):
        result.overlay(photos[:2])


def test_a_result_prints_one_short_line(network: Small, images: Tensor) -> None:
    result = CAM(network, LAYERS)(images, [0, 2, 1])
    assert repr(result) == "Result(3 images, classes [0, 2, 1], map 16 x 20, layers act1, act2)"
    many = CAM(network, ["act2", "act1", "norm1", "conv1"])(images[[0, 1, 2, 0]], 1)
    assert repr(many) == (
        "Result(4 images, classes [1, 1, 1, ...], map 16 x 20, layers act2, act1, norm1, ...)"
    )
    several = CAM(network, ["act2"], output_size=(8, 8))(images[:1], [[0, 1]])
    assert repr(several) == "Result(1 image, classes [[0, 1]], map 8 x 8, layers act2)"


def test_class_probabilities_are_those_of_the_explained_classes(
    network: Small, images: Tensor
) -> None:
    shares = network(images).softmax(1).tolist()
    for classes in (torch.tensor([2, 0, 1]), torch.tensor([[0, 1], [2, 1], [1, 0]])):
        columns = [[c] if isinstance(c, int) else c for c in classes.tolist()]
        expected = torch.tensor([[shares[n][c] for c in row] for n, row in enumerate(columns)])
        result = CAM(network, ["act2"])(images, classes)
        torch.testing.assert_close(result.class_probabilities, expected.view(classes.shape))
    result = CAM(network, ["act2"], target=lambda logits: logits[:, 0])(images)
    assert result.titles() == ["class 0"] * 3
    with pytest.raises(SsgcamError, match="no class probabilities"):
        _ = result.class_probabilities


def test_a_result_shows_itself(network: Small, images: Tensor) -> None:
    loaded = LoadedModel(network, "small", class_names=("cat", "<dog>"))
    result = CAM(loaded, LAYERS)(images[:2], 1)
    figure = result.plot()
    assert [axes.get_title().split()[0] for axes in figure.axes] == ["<dog>"] * 2
    shown = Image.open(BytesIO(figure._repr_png_()))  # what a notebook asks for
    assert shown.size == tuple(figure.bbox.size.astype(int))
    assert len({*shown.convert("RGB").getdata()}) > 2
    html = result._repr_html_()
    assert html.count("<img") == 2
    assert "&lt;dog&gt;" in html
    assert "<dog>" not in html
