"""A run that is killed at a random moment loses nothing, doubles nothing and leaves no half file."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from helpers.evaluation_cases import LAYERS, blobs, masked_tree
from helpers.kills import check_whole, kill_until
from helpers.segmentation import files_below, photos, recipe_for, small
from helpers.training_sets import TINY, discs
from ssgcam import save_model
from ssgcam.bulk.explain import explain_images
from ssgcam.bulk.segment import segment_images
from ssgcam.data import read_samples
from ssgcam.evaluation import (
    EvaluationSettings,
    MethodsCompared,
    evaluate_segmentation,
    method_of,
    report,
    write_evaluation,
)
from ssgcam.files import write_json
from ssgcam.training import train_classifier

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
counts = pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.long)])


def check_units(out: Path, count: int) -> None:
    """The manifest has each image once."""
    lines = (out / "manifest.jsonl").read_text("utf-8").splitlines()
    units = [json.loads(line)["unit"] for line in lines[1:]]
    assert len(set(units)) == len(units) == count


@counts
@pytest.mark.parametrize("command", ["explain", "segment"])
def test_images(command: str, kills: int, tmp_path: Path) -> None:
    photos(tmp_path / "in", 24)
    model = small()

    def run(out: Path) -> None:
        if command == "segment":
            segment_images(
                tmp_path / "in", model, out, recipe=recipe_for(model), batch_size=4, overlays=True,
                soft=True, export=("coco", "geojson"), review=3, workers=2,
            )  # fmt: skip
        else:
            explain_images([tmp_path / "in"], model, out, batch_size=4, workers=2)

    def check(out: Path) -> None:
        if out.exists():
            check_whole(out)
        run(out)
        check_units(out, 24)
        assert files_below(out) == files_below(tmp_path / "undisturbed")
        assert not list(out.rglob(".*"))

    assert kill_until(kills, run, check, tmp_path, seed=kills) == kills


@counts
def test_evaluations(kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "figure_picture", lambda figure: Image.new("RGB", (1, 1)))
    samples = read_samples(masked_tree(tmp_path / "data", values=(255,) * 3, count=12))
    compared = MethodsCompared((method_of("ssg_cam"), method_of("layer_cam")), LAYERS[1:])
    settings = EvaluationSettings(batch_size=2, resamples=20, examples=1, workers=2)

    def run(out: Path) -> None:
        found = evaluate_segmentation(
            blobs(), samples, compared, settings=replace(settings, out=out), classes=1
        )
        write_evaluation(found, out)

    def check(out: Path) -> None:
        if out.exists():
            check_whole(out)
        run(out)
        for path in (tmp_path / "undisturbed").rglob("*"):
            assert (out / path.name).read_bytes() == path.read_bytes(), path.name
        assert not list(out.rglob(".*"))

    assert kill_until(kills, run, check, tmp_path, seed=kills) == kills


@counts
def test_trainings(kills: int, tmp_path: Path) -> None:
    settings = replace(TINY, model="squeezenet1_1", samples_per_epoch=16, workers=0)

    def run(out: Path) -> None:
        out.mkdir(exist_ok=True)
        checkpoint = out / "net.checkpoint.pth"
        result = train_classifier(
            discs(24), settings, checkpoint=checkpoint, resume=True, progress=False
        )
        save_model(result.model, out / "net.pth")
        write_json(out / "net.json", result.to_json())

    def check(out: Path) -> None:
        if out.exists():
            check_whole(out)
        run(out)
        states = [
            torch.load(f / "net.pth", weights_only=True) for f in (out, tmp_path / "undisturbed")
        ]
        assert states[0]["state"].keys() == states[1]["state"].keys()
        for key, value in states[0]["state"].items():
            assert torch.equal(value, states[1]["state"][key]), key
        assert (out / "net.json").read_text() == (tmp_path / "undisturbed" / "net.json").read_text()

    assert kill_until(kills, run, check, tmp_path, seed=kills) == kills


class Registered(torch.nn.Module):
    """Passes images through, slowly, and leaves the number of its process in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        (self.folder / str(os.getpid())).touch()
        time.sleep(0.05)
        return images


def _through(network: Any, inputs: Any) -> Any:
    return (network.registered(inputs[0]),)


@pytest.mark.long
def test_workers_of_ray(tmp_path: Path) -> None:
    """Twenty workers are killed at random moments of a few runs; each run ends as if none were."""
    ray = pytest.importorskip("ray")
    from ssgcam.bulk.ray_engine import RayEngine

    photos(tmp_path / "in", 80)
    folder = tmp_path / "processes"
    folder.mkdir()
    model = small()
    model.network.register_module("registered", Registered(folder))
    model.network.register_forward_pre_hook(_through)
    options: dict[str, Any] = {"recipe": recipe_for(model), "batch_size": 4}
    segment_images(tmp_path / "in", model, tmp_path / "local", **options)
    rng, kills, stop = random.Random(0), [0], threading.Event()

    def kill() -> None:
        while not stop.wait(rng.uniform(0.2, 2)):
            known = sorted(path for path in folder.iterdir() if path.name != str(os.getpid()))
            alive = [path for path in known if Path("/proc", path.name).exists()]
            if alive and kills[0] < 20:
                chosen = rng.choice(alive)
                chosen.unlink()
                os.kill(int(chosen.name), signal.SIGKILL)
                kills[0] += 1

    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}},
    )  # fmt: skip
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for attempt in range(12):
            out = tmp_path / f"ray{attempt}"
            engine = RayEngine(actors=2, groups=2, retries=20)
            segment_images(tmp_path / "in", model, out, engine=engine, **options)
            check_units(out, 80)
            assert files_below(out) == files_below(tmp_path / "local")
            if kills[0] == 20:
                break
    finally:
        stop.set()
        killer.join()
        ray.shutdown()
    assert kills[0] == 20
