"""What Python takes in place of a batch of inputs, of an index, or of a map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import factories
from helpers.segmentation import recipe_for, small
from ssgcam import CAM, LoadedModel, SsgcamError, load_model
from ssgcam.report import heat_map, overlay

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
PHOTO = Image.fromarray(PIXELS)
CHANNELS_FIRST = torch.from_numpy(PIXELS).permute(2, 0, 1)
FORMS = {
    "image": PHOTO,
    "array of 8 bits": PIXELS,
    "array in [0, 1]": PIXELS / 255,
    "tensor of 8 bits": CHANNELS_FIRST,
    "tensor in [0, 1]": CHANNELS_FIRST / 255,
    "list of one": [PHOTO],
    "batch of one": PIXELS[None],
}


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model("helpers.factories:tiny")


@pytest.mark.parametrize("form", sorted(FORMS))
def test_one_photo_in_every_form_is_the_same_input(form: str, model: LoadedModel) -> None:
    expected = model.preprocessing([PHOTO])
    torch.testing.assert_close(model.preprocessing(FORMS[form]), expected)


@pytest.mark.parametrize("form", ["array of 8 bits", "image", "list of one"])
def test_cam_takes_photos(form: str, model: LoadedModel) -> None:
    cam = CAM(model)
    expected = cam(model.preprocessing([PHOTO]))
    found = cam(FORMS[form])
    torch.testing.assert_close(found.maps, expected.maps)
    assert found.classes.tolist() == expected.classes.tolist()


def test_layers_of_photos(model: LoadedModel) -> None:
    assert CAM(model).layers(PHOTO) == CAM(model).layers(model.preprocessing([PHOTO]))


def test_photos_become_inputs_in_the_networks_number_format() -> None:
    wide = load_model("helpers.factories:tiny")
    expected = CAM(wide)(PHOTO).maps
    wide.network.double()
    maps = CAM(wide)(PHOTO).maps
    torch.testing.assert_close(maps.float(), expected, rtol=1e-3, atol=1e-4)


def test_cam_takes_one_input_without_its_batch(model: LoadedModel) -> None:
    inputs = model.preprocessing([PHOTO])
    torch.testing.assert_close(CAM(model)(inputs[0]).maps, CAM(model)(inputs).maps)


def test_a_recipe_takes_photos_and_names() -> None:
    model = small()
    bound = recipe_for(model).bind(model)
    expected = bound(model.preprocessing([PHOTO]), 1)
    torch.testing.assert_close(bound(PHOTO, model.class_names[1]).maps, expected.maps)
    assert bound.masks(PHOTO, 1).tolist() == bound.masks_of(expected).tolist()


def test_classes_by_name(model: LoadedModel) -> None:
    inputs = model.preprocessing([PHOTO, PHOTO])
    first, second = model.class_names[:2]
    cam = CAM(model)
    assert cam(inputs, second).classes.tolist() == [1, 1]
    assert cam(inputs, [first, second]).classes.tolist() == [0, 1]
    torch.testing.assert_close(
        cam(inputs, first, against=second).maps, cam(inputs, 0, against=1).maps
    )


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        ([], "there is no photo; give at least one"),
        (None, "a photo is NoneType"),
        ("a.jpg", "'a.jpg' is a path; read the photo with ssgcam.images.read_image"),
        (PIXELS.astype(np.int64) + 100, "it has values from 100 to 355"),
        (PIXELS / 100, "it has values from 0 to 2.55"),
        (PIXELS * np.nan, "it has values from nan to nan"),
        (np.zeros((4, 4, 7), np.uint8), r"a photo is ndarray \[4, 4, 7\]"),
    ],
    ids=["none given", "None", "path", "above 8 bits", "above 1", "NaN", "seven channels"],
)
def test_what_is_no_photo(photo: Any, message: str, model: LoadedModel) -> None:
    with pytest.raises(SsgcamError, match=message):
        CAM(model)(photo)


def test_a_bare_network_has_no_preprocessing_and_no_names() -> None:
    network = factories.tiny().network
    with pytest.raises(SsgcamError, match="give CAM what load_model returned"):
        CAM(network)(PHOTO)
    with pytest.raises(SsgcamError, match="classes is 'cat'; give one index"):
        CAM(network)(torch.rand(1, 3, 32, 32), "cat")


def test_a_name_that_is_no_class(model: LoadedModel) -> None:
    with pytest.raises(SsgcamError, match="class 'no such' is not a class of"):
        CAM(model)(PHOTO, "no such")


def test_pictures_take_maps_and_photos_in_every_form() -> None:
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    expected = np.asarray(overlay(PHOTO, values))
    for photo in (PIXELS, CHANNELS_FIRST, PIXELS / 255):
        for own in (torch.from_numpy(values), torch.from_numpy(values)[None], values[None]):
            assert np.array_equal(np.asarray(overlay(photo, own)), expected)
    scale = np.asarray(heat_map(values, (8, 6)))
    assert np.array_equal(np.asarray(heat_map(torch.from_numpy(values), (8, 6))), scale)
    with pytest.raises(SsgcamError, match=r"a map has the shape \[2, 3, 4\]; give one map"):
        overlay(PHOTO, np.stack([values, values]))


def test_a_result_is_drawn_over_one_photo(model: LoadedModel) -> None:
    result = CAM(model)(PHOTO)
    (drawn,) = result.overlay(PIXELS)
    assert drawn.tobytes() == result.overlay([PHOTO])[0].tobytes()
