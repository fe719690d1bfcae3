"""What the studies compute and write, on made-up results."""

from __future__ import annotations

import sys

import pytest
import torch

from common import RECIPE, command, evenly, fold_tables, row, write_page
from ssgcam.metrics import bootstrap_interval
from tiles import Photo, split


def confusion(hit: int, missed: int, wrong: int) -> torch.Tensor:
    """The confusion matrix of one image of 100 pixels; rows are the truth."""
    return torch.tensor([[[100 - hit - missed - wrong, wrong], [missed, hit]]], dtype=torch.float64)


def test_command_of_a_page_names_no_folder_of_this_machine(monkeypatch):
    typed = "/here/benchmarks/x.py study --data /data --work ../w/runs --fold 1 --out /tmp/out"
    for way in (typed, typed.replace("--data ", "--data=").replace("--out ", "--out=")):
        monkeypatch.setattr(sys, "argv", way.split())
        assert command() == "python benchmarks/x.py study --data DATA --work runs --fold 1"


def test_folds_are_pooled_and_compared_with_the_best_of_each_kind():
    def fold(hits: list[tuple[int, int]], group: str) -> dict[str, object]:
        names = (RECIPE, "LayerCAM, a", "LayerCAM, b")
        parts = {
            name: torch.cat([confusion(own, 20 - own, 0) for own in column])
            for name, column in zip(names, (*zip(*hits, strict=True), [5, 5]), strict=True)
        }
        kinds = {RECIPE: "recipe", "LayerCAM, a": "single", "LayerCAM, b": "single"}
        return {
            "parts": parts,
            "kinds": kinds,
            "groups": [group, group],
            "layers": ["a"],
            "final": "Recipe, plain",
        }

    rows, sections = fold_tables(
        "net", [fold([(20, 10), (10, 10)], "x"), fold([(15, 10), (15, 5)], "y")]
    )
    scores = {each.method: each.value for each in rows}
    assert scores[RECIPE] == pytest.approx(60 / 80)
    assert scores["LayerCAM, a"] == pytest.approx(35 / 80)
    assert scores[f"{RECIPE} - LayerCAM, a"] == pytest.approx(25 / 80)
    assert f"{RECIPE} - LayerCAM, b" not in scores
    assert sections[0] == "## net: 4 test images of 2 groups, 2 fold(s)"


def test_page_and_rows_are_written(tmp_path):
    interval = bootstrap_interval(torch.ones(4, 1), lambda means: means[:, 0], seed=0)
    write_page(
        "study", ["# Title", "text"], [row("net", "method", "layer", "metric", interval)], tmp_path
    )
    assert (tmp_path / "study.md").read_text() == "# Title\n\ntext\n"
    header, line = (tmp_path / "study.csv").read_text().splitlines()
    assert header == "network,method,layers,metric,value,low,high,n,seed"
    assert line == "net,method,layer,metric,1.0,1.0,1.0,4,0"


def test_tiles_are_split_without_sharing_and_each_is_tested_once(tmp_path):
    kinds = ("blowhole", "break", "crack", "fray", "free", "uneven")
    photos = [
        Photo(tmp_path / f"{kind}{tile}{shot}.jpg", kind, f"{kind} {tile}")
        for kind in kinds
        for tile in range(12)
        for shot in range(2)
    ]
    tested = []
    for fold in range(3):
        parts = split(photos, fold)
        tiles = [{photo.tile for photo in part} for part in parts]
        assert sum(map(len, tiles)) == len(set.union(*tiles)) == 72
        assert all({photo.kind for photo in part} == set(kinds) for part in parts)
        tested += sorted(tiles[2])
    assert sorted(tested) == sorted({photo.tile for photo in photos})


def test_items_are_chosen_evenly_over_their_groups():
    items = [("a", k) for k in range(10)] + [("b", k) for k in range(3)] + [("c", 0)]
    chosen = evenly(items, lambda item: item[0], 7, seed=1)
    assert sorted(group for group, _ in chosen) == ["a", "a", "a", "b", "b", "b", "c"]
    assert len(set(chosen)) == 7
    assert evenly(items, lambda item: item[0], 7, seed=1) == chosen
    assert len(evenly(items, lambda item: item[0], 100, seed=1)) == len(items)
