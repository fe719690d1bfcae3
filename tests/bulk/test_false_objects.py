"""Gate, threshold and smallest object from photos without the object, by the windows of ``segment``."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.networks import Bright
from ssgcam.bulk.false_objects import choose_window_rule, object_sizes, scores_by_gate
from ssgcam.bulk.segment import segment_images
from ssgcam.bulk.segmenter import MaskRule, Segmenter
from ssgcam.bulk.windows import Windows
from ssgcam.core.settings import SSGSettings
from ssgcam.errors import SsgcamError
from ssgcam.fingerprint import Fingerprint, parameter_hash
from ssgcam.models import LoadedModel
from ssgcam.preprocessing import Preprocessing
from ssgcam.recipe import Recipe, RecipeLayer, WindowRule

WINDOWS = Windows(24, 0.5)
GATES, THRESHOLDS = (0.0, 0.6, 0.9), (0.1, 0.3, 0.5)


def model() -> LoadedModel:
    plain = Preprocessing((24, 24), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return LoadedModel(Bright().eval(), "bright", plain, ("other", "bright"))


def recipe(loaded: LoadedModel) -> Recipe:
    layer = RecipeLayer("act", 1.0, SSGSettings("gradient", 0.0, 1.0, 0.0), 1.0, (2, 24, 24))
    made_for = Fingerprint("bright", (24, 24), parameter_hash(loaded.network))
    return Recipe((layer,), 0.5, 0.0, made_for, (24, 24), classes=(1,))


def photo(specks: int, seed: int = 0) -> Image.Image:
    """Gray noise with bright specks of 2x2 pixels and one of 4x4."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(60, 120, (48, 60, 3), dtype=np.uint8)
    for k in range(specks):
        y, x = 5 + 20 * (k // 3), 6 + 18 * (k % 3)
        side = 4 if k == 0 else 2
        pixels[y : y + side, x : x + side] = 255
    return Image.fromarray(pixels)


def test_scores_for_each_gate_are_those_of_segment() -> None:
    loaded = model()
    explainer = recipe(loaded).bind(loaded)
    image = photo(3)
    free = Segmenter(loaded, MaskRule((1,), gate=0.0, windows=WINDOWS), explainer, images_at_once=3)
    found = scores_by_gate(free, image, GATES)
    differ = set()
    for gate, score in zip(GATES, found, strict=True):
        segmenter = replace(free, rule=MaskRule((1,), gate=gate, windows=WINDOWS))
        (one,) = segmenter.in_windows(image).values()
        expected = torch.zeros(48, 60) if one.scores is None else one.scores
        torch.testing.assert_close(score, expected)
        differ.add(float(score.sum()))
    assert len(differ) > 1


def test_object_sizes_are_those_of_connected_pixels() -> None:
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[0, :3] = mask[2:4, 2:4] = True
    mask[4, 4] = True  # touches a corner alone
    assert sorted(object_sizes(mask)) == [1, 3, 4]
    assert object_sizes(torch.zeros(4, 4, dtype=torch.bool)) == []


def paths(folder: Path, specks: list[int]) -> list[Path]:
    found = []
    for k, count in enumerate(specks):
        found.append(folder / f"{k}.png")
        photo(count, seed=k).save(found[-1])
    return found


@pytest.mark.parametrize("allowed", [0.0, 0.5, 3.0])
def test_the_best_rule_within_the_limit_equals_a_search_over_all(
    tmp_path: Path, allowed: float
) -> None:
    loaded = model()
    own, photos = recipe(loaded), paths(tmp_path, [3, 0, 5, 1])
    values = 0.9, 0.8, 0.7, 0.85, 0.75, 0.6, 0.2, 0.3, 0.1
    scores = dict(zip(product(GATES, THRESHOLDS), values, strict=True))
    found = choose_window_rule(loaded, own, photos, WINDOWS, scores, 0.03, allowed=allowed)
    largest = int(0.03 * 24 * 24)

    def rate(gate: float, threshold: float, least: int) -> float:
        rule = MaskRule((1,), threshold=threshold, gate=gate, windows=WINDOWS, min_object=least)
        segmenter = Segmenter(loaded, rule, own.bind(loaded))
        count = 0
        for path in photos:
            image = Image.open(path).convert("RGB")
            size = image.height, image.width
            made = segmenter.full_scores(segmenter.in_windows(image), size)
            mask = segmenter.mask(made, size).numpy()
            count += cv2.connectedComponents((mask > 0).astype(np.uint8), connectivity=4)[0] - 1
        return count / len(photos)

    assert rate(found.gate, found.threshold, found.smallest_object) == found.false_objects
    allowing = [
        (score, -least)
        for (gate, threshold), score in scores.items()
        for least in (1, 3, largest)
        if rate(gate, threshold, least) <= allowed
    ]
    if allowing:
        assert found.false_objects <= allowed
        assert scores[found.gate, found.threshold] == max(allowing)[0]
    else:
        assert found.false_objects > allowed
    if found.smallest_object > 1 and found.false_objects <= allowed:
        assert rate(found.gate, found.threshold, found.smallest_object - 1) > allowed
    assert (found.side, found.overlap, found.photos, found.allowed) == (24, 0.5, 4, allowed)


def test_bad_calls(tmp_path: Path) -> None:
    loaded = model()
    rest = (WINDOWS, dict.fromkeys(product(GATES, THRESHOLDS), 0.0), 0.1)
    with pytest.raises(SsgcamError, match="no photos without the object"):
        choose_window_rule(loaded, recipe(loaded), [], *rest)
    several = replace(recipe(loaded), classes=(0, 1))
    with pytest.raises(SsgcamError, match="need one class"):
        choose_window_rule(loaded, several, paths(tmp_path, [1]), *rest)


def masks_in(folder: Path) -> list[np.ndarray]:
    return [np.array(Image.open(folder / f"{k}.png")) for k in range(2)]


def test_segment_uses_the_rule_of_its_windows(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    loaded = model()
    photos = paths(tmp_path, [3, 2])
    rule = WindowRule(24, 0.5, gate=0.0, threshold=0.05, smallest_object=9, photos=2, allowed=0.1,
                      false_objects=0.0)  # fmt: skip
    with_rule = replace(recipe(loaded), window_rule=rule)
    done = segment_images(photos, loaded, tmp_path / "a", recipe=with_rule, window=24)
    assert (done.gate, done.threshold) == (0.0, 0.05)
    assert not recwarn
    by_hand = segment_images(
        photos, loaded, tmp_path / "b", recipe=with_rule, window=24, gate=0.0, threshold=0.05,
        min_object=9,
    )  # fmt: skip
    assert (by_hand.gate, by_hand.threshold) == (0.0, 0.05)
    all_objects = segment_images(
        photos, loaded, tmp_path / "c", recipe=with_rule, window=24, min_object=1
    )
    assert (all_objects.gate, all_objects.threshold) == (0.0, 0.05)
    for own, other in zip(masks_in(tmp_path / "a"), masks_in(tmp_path / "b"), strict=True):
        assert np.array_equal(own, other)
    sizes = [object_sizes(torch.from_numpy(each == 1)) for each in masks_in(tmp_path / "a")]
    assert min(size for own in sizes for size in own) >= 9
    assert sum(map(np.sum, masks_in(tmp_path / "c"))) > sum(map(np.sum, masks_in(tmp_path / "a")))


@pytest.mark.parametrize(("side", "reason"), [(None, "has none"), (30, "windows of 30 pixels")])
def test_segment_warns_where_nothing_limits_false_objects(
    tmp_path: Path, side: int | None, reason: str
) -> None:
    loaded = model()
    own = recipe(loaded)
    if side is not None:
        own = replace(own, window_rule=WindowRule(side, 0.5, 0.6, 0.3, 9, 2, 0.1, 0.0))
    with pytest.warns(UserWarning, match="expect false objects") as caught:
        done = segment_images(paths(tmp_path, [1]), loaded, tmp_path / "out", recipe=own, window=24)
    assert reason in str(caught[0].message)
    assert (done.gate, done.threshold) == (own.gate, own.threshold)
