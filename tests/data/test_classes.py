"""How the classes of a data set find the outputs of a network."""

from pathlib import Path

import pytest

from helpers.data_trees import refusal
from ssgcam.data import Sample, SampleSet
from ssgcam.data.classes import match_classes


def labeled_set(class_names, labels):
    samples = tuple(Sample(str(label), Path(str(label)), (label,)) for label in labels)
    return SampleSet(samples, tuple(class_names), Path("set"), "classes")


def test_classes_are_matched_by_name_whatever_the_case():
    samples = labeled_set(["Cat", "dog", "fox"], [0, 1])
    assert match_classes(samples, ["dog", "bird", "cat"], 3) == {0: 2, 1: 0}


def test_names_take_precedence_over_equal_numbers_of_classes():
    assert match_classes(labeled_set(["b", "a"], [0, 1]), ["a", "b"], 2) == {0: 1, 1: 0}


@pytest.mark.parametrize(
    ("set_names", "network_names"),
    [
        (["0", "1"], ["healthy", "infected", "debris"]),
        (["1", "2"], ["healthy", "infected"]),
        (["healthy", "infected"], []),
        (["negative", "positive"], ["healthy", "infected"]),
    ],
    ids=["numbers", "numbers from 1", "network without names", "as many of both"],
)
def test_classes_are_matched_by_index(set_names, network_names):
    samples = labeled_set(set_names, [1, 0, 1])
    assert match_classes(samples, network_names, 3) == {0: 0, 1: 1}


def test_only_classes_that_occur_are_matched():
    samples = labeled_set(["cat", "unicorn"], [0])
    assert match_classes(samples, ["dog", "cat", "fox"], 3) == {0: 1}
    assert match_classes(labeled_set(["unicorn"], []), ["dog", "cat"], 2) == {}


def test_unknown_and_ambiguous_names_are_refused():
    message = refusal(match_classes, labeled_set(["cat", "unicorn"], [0, 1]), ["dog"] * 3, 3, "net")
    assert "'cat' is not a class of 'net'" in message
    message = refusal(match_classes, labeled_set(["cat", "7"], [0, 1]), ["dog", "cat", "fox"], 3)
    assert "'7'" in message
    twice = ["crane", "crane", "tench"]
    assert "twice" in refusal(match_classes, labeled_set(["tench", "crane"], [0, 1]), twice, 3)
    assert match_classes(labeled_set(twice, [0, 1, 2]), twice, 3) == {0: 0, 1: 1, 2: 2}


def test_objects_without_a_class_are_not_matched_by_index():
    samples = labeled_set(["object"], [0])
    for names in ([], ["cell"]):
        assert "'object'" in refusal(match_classes, samples, names, 1)
    assert match_classes(samples, ["background", "object"], 2) == {0: 1}


def test_an_index_out_of_range_is_refused():
    samples = labeled_set(["0", "1", "2"], [2])
    message = refusal(match_classes, samples, [], 2, "net")
    assert "class 2 ('2')" in message
    assert "'net' has 2 classes" in message
    assert match_classes(samples, []) == {2: 2}
