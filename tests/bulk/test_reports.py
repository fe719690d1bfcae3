"""The HTML reports of ``explain`` and ``segment``."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from helpers.commands import TINY, photo, run
from helpers.segmentation import photos, recipe_for, small
from ssgcam.bulk.segment import segment_images
from ssgcam.fingerprint import Fingerprint
from ssgcam.images import Reading
from ssgcam.models import with_settings


def captions(text: str) -> list[str]:
    return re.findall(r"<figcaption>(.*?)<span>", text)


def test_report_of_explain_lists_failures_maps_and_settings(tmp_path):
    for index in range(3):
        photo(tmp_path / "in" / f"{index}.png", seed=index)
    (tmp_path / "in" / "bad.png").write_bytes(b"not a picture")
    out = tmp_path / "out"
    result = run(
        "explain", tmp_path / "in", "--model", TINY, "--out", out, "--report", out / "r.html"
    )
    assert result.exit_code == 2
    text = (out / "r.html").read_text(encoding="utf-8")
    assert "1 warning" in text
    assert "bad.png&#39; is not an image" in text
    assert captions(text) == ["0.png", "1.png", "2.png"]
    assert "&#34;sigma&#34;" in text
    for entry in json.loads((out / "explain.json").read_text())["photos"]:
        if "maps" in entry:
            (found,) = entry["maps"]
            assert f"{found['name']}, probability {found['probability']:.3f}" in text


def test_report_of_explain_counts_maps_without_evidence(tmp_path):
    path = photo(tmp_path / "a.png")
    model = "helpers.factories:without_evidence"
    run(
        "explain",
        path,
        "--model",
        model,
        "--out",
        tmp_path / "out",
        "--report",
        tmp_path / "out/r.html",
    )
    text = (tmp_path / "out/r.html").read_text(encoding="utf-8")
    assert "maps without evidence for their class: 1 of 1" in text


def test_report_of_segment_shows_the_least_sure_masks_first(tmp_path, recwarn):
    model = small()
    photos(tmp_path / "in", 6)
    (tmp_path / "in" / "bad.png").write_bytes(b"not a picture")
    recipe = recipe_for(model, network=Fingerprint("small", (16, 16), "sha256:0"))
    out = tmp_path / "out"
    segment_images(tmp_path / "in", model, out, recipe=recipe, report=out / "r.html")
    assert any("parameters of this network" in str(each.message) for each in recwarn)
    text = (out / "r.html").read_text(encoding="utf-8")
    warnings = text[text.index('class="warnings"') : text.index("Photos segmented")]
    assert "the parameters of this network" in warnings
    assert "bad.png&#39; is not an image" in warnings
    lines = [json.loads(line) for line in (out / "manifest.jsonl").open()][1:]
    facts = {line["unit"]: line["classes"][0] for line in lines if "classes" in line}
    full = {name for name, one in facts.items() if one["pixels"]}
    assert 0 < len(full) < len(facts)
    shown = captions(text)
    assert sorted(shown) == sorted(facts)
    assert set(shown[: len(full)]) == full
    predicted = [facts[name]["predicted_iou"] for name in shown[: len(full)]]
    assert predicted == sorted(predicted)


def test_pictures_of_a_report_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr("ssgcam.bulk.reports.MOST_PICTURES", 2)
    photos(tmp_path / "in", 4)
    model = small()
    out = tmp_path / "out"
    segment_images(tmp_path / "in", model, out, recipe=recipe_for(model), report=out / "r.html")
    text = (out / "r.html").read_text(encoding="utf-8")
    assert len(captions(text)) == 2
    assert "2 of 4 photos are shown." in text


def test_report_of_masks_without_any_object(tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "in/a.png")
    model = small()
    recipe = recipe_for(model, gate=1.0)
    path = tmp_path / "r.html"
    result = segment_images(tmp_path / "in", model, tmp_path / "out", recipe=recipe, report=path)
    assert result.empty == 1
    assert "empty masks: 1 of 1" in path.read_text(encoding="utf-8")


def test_photos_of_a_report_are_shown_as_the_network_saw_them(tmp_path):
    (tmp_path / "in").mkdir()
    levels = np.full((16, 16), 900, np.uint16)
    levels[:8] = 600
    Image.fromarray(levels).save(tmp_path / "in/a.png")
    model = with_settings(small(), reading=Reading("500,1000"))
    path = tmp_path / "r.html"
    recipe = recipe_for(model, gate=1.0)  # an empty mask leaves the photo as it is
    segment_images(tmp_path / "in", model, tmp_path / "out", recipe=recipe, report=path)
    (data,) = re.findall(r'src="data:image/[a-z]+;base64,([^"]+)"', path.read_text("utf-8"))[:1]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"))
    assert shown[0, 0] == pytest.approx(51, abs=3)
    assert shown[-1, -1] == pytest.approx(204, abs=3)
