"""``ssgcam inspect`` writes the network card."""

import json

import pytest

from helpers.commands import run
from helpers.evaluation_cases import masked_tree

SMALL = ["--methods", "ssg_cam,grad_cam", "--layers", "act2", "--mosaics", 2, "--stages", 1]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return masked_tree(tmp_path_factory.mktemp("inspect") / "set", values=(255, 255, 255))


def test_a_card_is_written_and_recommends(root, tmp_path):
    model = ["--model", "helpers.evaluation_cases:blobs"]
    found = run(
        "inspect", root / "images", "--masks", root / "masks", *model, *SMALL, "--out", tmp_path
    )
    assert found.exit_code == 0, found.output
    assert "To see where the object is: " in found.output
    content = json.loads((tmp_path / "card.json").read_text())
    assert {line["method"] for line in content["lines"]} == {"SSG-CAM", "Grad-CAM"}
    assert "localization" in content["lines"][0]["scores"]
    assert (tmp_path / "card.html").stat().st_size < 5e6


def test_a_missing_folder_is_one_sentence(tmp_path):
    found = run("inspect", tmp_path / "none", "--model", "helpers.evaluation_cases:blobs", *SMALL)
    assert found.exit_code == 2
    assert "check the path" in found.output
    assert "Traceback" not in found.output
