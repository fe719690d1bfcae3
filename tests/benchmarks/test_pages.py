"""The pages that benchmarks write, from made-up results: a study of hours must not end in a slip."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import ablation_search_report
import parasite_report
import parasite_together
import wbc_report
from malaria_windows import WINDOW
from parasite_fields import CELL, Field
from parasite_offset import MOVED, best_move, moved, peers_of, stain_move
from study import FINAL, command


def confusion(hit: int, missed: int, wrong: int) -> torch.Tensor:
    """Of one image of 100 pixels, rows the truth."""
    return torch.tensor([[[100 - hit - missed - wrong, wrong], [missed, hit]]], dtype=torch.float64)


def square(left: int, top: int) -> torch.Tensor:
    """A mask of 30x30 with a square of 10."""
    mask = torch.zeros(1, 30, 30, dtype=torch.bool)
    mask[:, top : top + 10, left : left + 10] = True
    return mask


def test_command_of_a_page_names_no_folder_of_this_machine(monkeypatch):
    typed = "/here/benchmarks/x.py --data /data --weights runs --net ../w/a.pth --work runs/b --out /tmp"
    told = "python benchmarks/x.py --data DATA --weights runs --net a.pth --work runs/b"
    for way in (typed, typed.replace("--data ", "--data=").replace("--out ", "--out=")):
        monkeypatch.setattr(sys, "argv", way.split())
        assert command() == told


def test_masks_moved_to_where_they_fit():
    truth = square(10, 10).long()
    found = {
        "far": {"masks": square(7, 12), "truth": truth, "moves": {MOVED: (3, 0)}},
        "right": {"masks": square(10, 10), "truth": truth, "moves": {MOVED: (0, 0)}},
    }
    lines = parasite_report.shift_table(found).splitlines()
    far = [f"{100 * step / 30 * WINDOW / CELL:+.0f} %" for step in (3, -2)]
    moves = f"{far[0]} right, +0 % down | {far[0]} right, {far[1]} down"
    # 56 of 144, 80 of 120, 70 of 130
    assert lines[2] == f"| far | 0.39 | 0.67 | 1.00 | 0.54 | {moves} |"
    assert lines[3].startswith("| right | 1.00 | 1.00 | 1.00 | 1.00 | +0 % right, +0 % down |")
    scores = f"{156 / 244:.3f} | {180 / 220:.3f} | 1.000 | {170 / 230:.3f}"
    assert lines[4].startswith(f"| all, pooled | {scores} |")


def test_moved_masks_bring_nothing_in_from_the_other_edge():
    assert moved(square(20, 20), (5, 0)).nonzero().amin(0).tolist() == [0, 20, 25]
    assert moved(square(20, 20), (5, 0)).sum() == 50
    assert not moved(square(20, 20), (0, 10)).any()
    assert best_move(square(7, 12), square(10, 10).long()) == (3, -2)


def test_two_recipes_together_are_cut_by_the_other_fields():
    masks = torch.cat([square(10, 10)] * 4).long()
    groups = ["x_0", "x_1", "y_0", "y_1"]
    clear = masks * 0.5 + 0.4
    dim = clear.clone()
    dim[0] = masks[0] * 0.2 + 0.1  # no cut that the others choose finds anything here
    one, other = (
        dict.fromkeys(groups, clear) | {"x_0": dim},
        dict.fromkeys(groups, clear.roll(3, 2)),
    )
    level = parasite_together.level_of({"one": one, "other": other}, masks, groups, torch.ones(4))
    assert [level.value("one", field) for field in groups] == [0, 1, 1, 1]
    assert level.value("other") == pytest.approx(70 / 130)
    assert level.value("other, moved") == 1
    mean = parasite_together.together([dim, 4 * clear])
    assert mean[0, 15, 15] == 1
    assert mean[0, 0, 0] == pytest.approx((1 / 3 + 4 / 9) / 2)


def test_moves_are_learned_from_other_fields_of_the_same_laboratory():
    groups = ["mpidb_00", "mpidb_01", "radboud_00", "mpidb_01", "mpidb_00"]
    assert peers_of("mpidb_00", groups).tolist() == [1, 3]
    assert peers_of("radboud_00", groups).tolist() == []


def test_stain_beside_its_outline():
    pixels = np.full((90, 90, 3), 200, dtype=np.uint8)
    pixels[40:50, 43:53, 0] = 50
    mask = np.zeros((90, 90), dtype=np.uint8)
    mask[41:51, 40:50] = 1
    move, before, after = stain_move(Field("radboud_00", pixels, mask))
    assert move == (3, -1)
    assert before < 0.7 < 0.999 < after


def test_page_of_parasites(tmp_path):
    kinds = {"LayerCAM, layer1": "single", "SSG-CAM, layer1": "ssg", "Otsu on color": "no network"}
    kinds |= {MOVED: "moved", "LayerCAM, moved": "moved"}
    kinds |= {"LayerCAM, mean of all layers": "mean", FINAL: "recipe"}
    windows = {
        field: {
            "parts": {name: confusion(10 + place, 10, 0) for place, name in enumerate(kinds)},
            "kinds": kinds, "notes": {"Otsu on color": "upper"}, "layers": ["layer1"],
            "chosen": "Recipe, as it is", "masks": square(7, 12), "truth": square(10, 10).long(),
            "moves": {MOVED: (3, -2)},
        }
        for field in ("mpidb_00", "radboud_00")
    }  # fmt: skip
    cuts = {FINAL: (0.5, 0.1, 0.0), "Color: red": (0.2, 0.1, 0.0), "Color: blue": (0.4, 0.1, 0.0)}
    cuts |= {"Color in windows called infected: red": (0.1, 0.1, 0.5)}
    cuts |= {"LayerCAM, layer1": (0.3, 0.1, 0.0), "SSG-CAM, layer1": (0.3, 0.1, 0.0)}
    fields = {
        field: {
            "parts": {name: confusion(20 + k, 5, 5) for k, name in enumerate(cuts)},
            "cuts": cuts,
        }
        for field in windows
    }
    trained = {
        "fields": ["mpidb_00"],
        "start": 0,
        "seed": 2,
        "test": {"n": 9, "recalls": [0.875, 0.5]},
    }
    (tmp_path / "net_fold0_start0_seed0.json").write_text(json.dumps(trained))
    results = {"net, adapted": {"windows": windows, "fields": fields}}
    networks = {"net, adapted": [tmp_path / "net_fold0_start0_seed0.pth"]}
    parasite_report.write_report(
        results, list(windows), networks, tmp_path, "What was done.", "page"
    )
    text = (tmp_path / "page.md").read_text()
    recipe, shifted = ("0.615 [0.615, 0.615]", "0.565 [0.565, 0.565]")  # 16 of 26, 13 of 23
    line = f"| net, adapted | foreground IoU | 0.6238 | {recipe} | missed | {shifted} | missed |"
    assert line in text
    assert (
        f"| {MOVED} | moved as well | LayerCAM, moved | -0.018 [-0.018, -0.018] |" in text
    )  # 14 of 24
    assert "| mpidb_00 | 0 | 2 | 9 | 0.50 | 0.88 |" in text
    line = "| Color threshold from the other fields | no network | 0.688 "
    assert line in text  # blue: 22 of 32
    rows = json.loads((tmp_path / "page.json").read_text())
    assert {row["layers"] for row in rows} == {"windows with a parasite", "whole fields"}
    assert (tmp_path / "page.png").stat().st_size > 0


def test_page_of_white_cells():
    kinds = {FINAL: "recipe", wbc_report.PLAIN: "recipe", "LayerCAM, a": "single", "Mean": "mean"}
    kinds |= {wbc_report.BEST_LAYER: "ssg", "Centered disc": "no network"}
    one = {
        "parts": {name: confusion(20 - place, 5, 5) for place, name in enumerate(kinds)},
        "kinds": kinds, "notes": {"Centered disc": "radius 3"}, "layers": ["a"], "views": 4,
        "refined": True,
    }  # fmt: skip
    mask = torch.zeros(1, 8, 8, dtype=torch.long)
    mask[:, 2:6, 2:6] = 1
    fold = {
        "crops": ["crop"], "regions": {FINAL: torch.eye(3)[None]}, "truth": mask,
        "masks": dict.fromkeys(wbc_report.TARGETS, mask.bool()),
        **dict.fromkeys(wbc_report.TARGETS, one),
    }  # fmt: skip
    rows, text = wbc_report.regions_section([fold], 0)
    assert f"| {FINAL} | 1.000 [1.000, 1.000] | 1.000 | 1.000 | 1.000 |" in text[1]
    for target in wbc_report.TARGETS:
        more, section = wbc_report.target_section([fold], target, 0)
        rows += more
        assert f"| {FINAL} | recipe | 0.667 [0.667, 0.667] |" in section[1]  # 20 of 30
    assert "leads LayerCAM, a (+0.0" in wbc_report.verdict(rows)
    assert wbc_report.draw([fold], rows).axes


@pytest.mark.parametrize("seeds", [1, 2])
def test_page_of_the_search_s_ablation(seeds):
    sizes = [
        {"images": n, "recipe": 0.7 + k / 10, "ssg": 0.6, "layer_cam": 0.5, "seconds": 2.0}
        for n in (5, 10) for k in range(seeds)
    ]  # fmt: skip
    optimizers = [
        {"optimizer": name, "calibration": 0.8, "held_out": 0.7, "evaluations": 9, "seconds": 1.0,
         "curve": [0.5, 0.8]}
        for name in ("ours", "random") for _ in range(seeds)
    ]  # fmt: skip
    rows, text = ablation_search_report.report(sizes, optimizers, "net", 7, "About.")
    assert ("| 5 | 1 | 0.700 |" if seeds == 1 else "| 5 | 2 | 0.750 (0.700 to 0.800) |") in text
    assert {row.n for row in rows} == {7}
    assert len(ablation_search_report.drawn(sizes, optimizers, 4).axes) == 2
