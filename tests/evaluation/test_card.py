"""The network card repeats the numbers of the evaluations, and recommends what they say."""

import csv
import json

import pytest
import torch

from helpers.evaluation_cases import blobs, boxed_tree, masked_tree, noise
from ssgcam.data import read_photos, read_samples
from ssgcam.errors import SsgcamError
from ssgcam.evaluation import EvaluationSettings, MethodsCompared, evaluate_perturbation, method_of
from ssgcam.evaluation.card import NetworkCard, evaluate_card, write_card

SETTINGS = EvaluationSettings(batch_size=4, resamples=20)
METHODS = ("ssg_cam", "grad_cam", "activation_sum")


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    return masked_tree(tmp_path_factory.mktemp("card") / "set")


@pytest.fixture(scope="module")
def card(masked):
    samples = read_samples(masked, class_names=("red", "green", "blue"))
    return evaluate_card(
        blobs(), samples, METHODS, ["act", "act2"], mosaics=3, stages=2, settings=SETTINGS
    )


def test_every_layer_and_method_has_a_line_with_all_scores(card):
    titles = {(line.method, line.layer) for line in card.lines}
    assert len(titles) == len(card.lines) == 6
    for line in card.lines[:4]:  # the control has no verdict and no sensitivity
        assert {"class specificity", "class sensitivity", "blur", "localization"} <= {*line.scores}
        assert line.milliseconds > 0


def test_scores_are_those_of_the_evaluation(masked):
    samples = read_photos(masked / "images")
    card = evaluate_card(
        noise(), samples, ["grad_cam"], ["act2"], mosaics=2, stages=1, settings=SETTINGS
    )
    compared = MethodsCompared((method_of("grad_cam"),), ["act2"])
    found = evaluate_perturbation(
        noise(), samples, compared, measures=("blur",), areas=(0.2,), settings=SETTINGS
    )
    assert card.lines[0].scores["blur"] == found.score("Grad-CAM", "act2", "probability drop")


def test_a_map_without_class_fails_and_is_not_recommended(card):
    failed = [line for line in card.lines if not line.passes]
    assert {line.method for line in failed} >= {"Sum of activations"}
    where, why, avoid = card.recommendation()
    assert "localization" in where
    assert "class specificity" in why
    for line in failed:
        assert line.method in avoid
        assert f"{line.title} (" not in where + why


def line(passes, value, layer):
    from ssgcam.evaluation.card import CardLine
    from ssgcam.evaluation.scores import Score

    score = Score(
        "M", layer, "probability drop", value, value - 0.1, value + 0.1, 9, 9, "higher", True
    )
    return CardLine("M", layer, {"blur": score}, passes, 1.0)


def test_the_best_line_that_passes_is_recommended():
    card = NetworkCard("net", (line(False, 0.9, "a"), line(True, 0.5, "b"), line(True, 0.2, "c")))
    where, why, avoid = card.recommendation()
    assert where == "To see where the object is: M on b (blur 0.50, 0.40 to 0.60)."
    assert "nothing that was measured" in why
    assert avoid == "Do not use: M on a (fails the sanity check)."


def test_the_recommendation_counts_other_passing_lines_in_its_interval():
    lines = (
        line(True, 0.5, "a"),
        line(True, 0.45, "b"),
        line(False, 0.48, "c"),
        line(True, 0.2, "d"),
    )
    where, _, _ = NetworkCard("net", lines).recommendation()
    assert where.endswith(
        "(blur 0.50, 0.40 to 0.60, which holds 1 of 2 other rows that may be as good)."
    )


def test_photos_without_labels_and_masks_are_explained_for_their_top_class(tmp_path):
    root = boxed_tree(tmp_path / "set", count=4)
    card = evaluate_card(
        blobs(), read_photos(root / "images"), ["grad_cam"], ["act2"], mosaics=2, stages=1,
        settings=SETTINGS,
    )  # fmt: skip
    assert "localization" not in card.columns()
    assert any("give masks to measure localization" in note for note in card.notes)
    assert card.lines[0].value("class specificity") > 0.5


def test_mosaics_are_made_of_the_most_certain_photos_that_suffice(tmp_path):
    root = boxed_tree(tmp_path / "set", count=6)
    model = blobs()
    samples = read_photos(root / "images")
    options = {"layers": ["act2"], "mosaics": 2, "stages": 1, "settings": SETTINGS}
    with torch.no_grad():
        model.network.fc.weight.mul_(1e-3)  # now no class has a probability of one half
    card = evaluate_card(model, samples, ["grad_cam"], **options)
    assert "class specificity" in card.columns()
    said = [note for note in card.notes if note.startswith("Too few photos reach")]
    assert said == [
        "Too few photos reach a probability of 0.9, so mosaics are made of those that reach 0."
    ]
    with torch.no_grad():
        model.network.fc.weight.mul_(1e6)
    card = evaluate_card(model, samples, ["grad_cam"], **options)
    assert not [note for note in card.notes if note.startswith("Too few photos reach")]


def test_one_photo_has_no_mosaic_but_a_card(tmp_path):
    root = boxed_tree(tmp_path / "set", count=1)
    card = evaluate_card(
        blobs(), read_photos(root / "images"), ["grad_cam"], ["act2"], stages=1, settings=SETTINGS
    )
    assert any("'grid' is left out" in note for note in card.notes)
    assert card.recommendation()[1].startswith("To ask why this class")


def test_labels_and_masks_may_lie_anywhere(masked, tmp_path):
    table = tmp_path / "classes.csv"
    names = ["red", "green", "blue"]
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["image", "label"], *([f"{k}.png", names[k % 3]] for k in range(6))]
        )
    labeled = read_photos(masked / "images", table)
    assert [labeled.class_names[sample.labels[0]] for sample in labeled] == names * 2
    both = read_photos(masked / "images", table, masked / "masks")
    assert len(both) == 5  # image 1 shows no object
    assert all(sample.mask for sample in both)


def test_labels_of_photos_without_an_object_are_refused(masked, tmp_path):
    table = tmp_path / "classes.csv"
    table.write_text("image,label\n1.png,red\n")
    samples = read_photos(masked / "images", table, masked / "masks")
    with pytest.raises(SsgcamError, match="with labels and masks, a photo needs both"):
        evaluate_card(blobs(), samples, ["grad_cam"], ["act2"], settings=SETTINGS)


def test_files(card, tmp_path):
    written = write_card(card, tmp_path / "card")
    assert [path.name for path in written] == ["card.html", "card.json", "layers.png"]
    content = json.loads((tmp_path / "card" / "card.json").read_text())
    assert len(content["lines"]) == 6
    text = (tmp_path / "card" / "card.html").read_text()
    for sentence in card.recommendation():
        assert sentence.replace("'", "&#39;") in text
