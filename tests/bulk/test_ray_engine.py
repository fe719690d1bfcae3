"""The engine on a local Ray cluster with two workers: the same masks, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from helpers.data_trees import refusal
from helpers.segmentation import files_below, photos, recipe_for, small
from ssgcam.bulk.inputs import InputImage
from ssgcam.bulk.segment import segment_images
from ssgcam.bulk.stream import process
from ssgcam.cli.segment import ClusterOptions
from ssgcam.errors import SsgcamError

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

from ssgcam.bulk.ray_engine import RayEngine  # noqa: E402

PATHS = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])


@pytest.fixture(scope="module")
def cluster():
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_worker_niceness", "0")  # else a busy machine leaves the workers no time
    environment = {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    ray.init(
        num_cpus=2,
        num_gpus=1,  # to Ray it is a number; no task here touches one
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        runtime_env={"env_vars": environment},
    )
    yield
    ray.shutdown()
    patch.undo()


class Deadly(torch.nn.Module):
    """Passes images through, and kills its process at the third call: once, or every time."""

    def __init__(self, marker: Path, once: bool) -> None:
        super().__init__()
        self.marker, self.once = marker, once
        self.driver, self.calls = os.getpid(), 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += os.getpid() != self.driver
        if self.calls == 3 and not (self.once and self.marker.exists()):
            with self.marker.open("a") as stream:
                stream.write("killed\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return images


def deadly(marker: Path, once: bool):
    """The small network behind such a module, which changes nothing in what it computes."""
    model = small()
    model.network.register_module("deadly", Deadly(marker, once))
    model.network.register_forward_pre_hook(_through)
    return model


def _through(network, inputs):
    return (network.deadly(inputs[0]),)


@pytest.mark.usefixtures("cluster")
def test_two_workers_give_the_same_files_as_this_process(tmp_path):
    photos(tmp_path / "in", 41)
    (tmp_path / "in" / "007.png").write_bytes(b"not a picture")
    model = small()
    options = {"recipe": recipe_for(model), "batch_size": 4, "overlays": True}
    local = segment_images(tmp_path / "in", model, tmp_path / "local", **options)
    engine = RayEngine(actors=2, groups=2)
    remote = segment_images(tmp_path / "in", model, tmp_path / "ray", engine=engine, **options)
    assert remote == local
    assert len(remote.failures) == 1
    assert files_below(tmp_path / "ray") == files_below(tmp_path / "local")
    again = segment_images(tmp_path / "in", model, tmp_path / "ray", engine=engine, **options)
    assert again.before == 40


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_loses_nothing_and_doubles_nothing(tmp_path):
    photos(tmp_path / "in", 40)
    model = deadly(tmp_path / "marker", once=True)
    options = {"recipe": recipe_for(model), "batch_size": 4}
    segment_images(tmp_path / "in", model, tmp_path / "local", **options)
    assert not (tmp_path / "marker").exists()
    segment_images(
        tmp_path / "in", model, tmp_path / "ray", engine=RayEngine(actors=2, groups=2), **options
    )
    assert (tmp_path / "marker").read_text().count("killed") in (1, 2)  # by both at one instant
    lines = [json.loads(line) for line in (tmp_path / "ray/manifest.jsonl").open()]
    assert sorted(line["unit"] for line in lines if "unit" in line) == [
        f"{index:03}.png" for index in range(40)
    ]
    assert files_below(tmp_path / "ray") == files_below(tmp_path / "local")
    assert not list((tmp_path / "ray").rglob(".*"))


@pytest.mark.usefixtures("cluster")
def test_a_task_that_always_kills_its_worker_ends_the_run_with_one_sentence(tmp_path):
    photos(tmp_path / "in", 12)
    model = deadly(tmp_path / "marker", once=False)
    engine = RayEngine(actors=1, groups=3, retries=1)
    options = {"recipe": recipe_for(model), "batch_size": 4, "engine": engine}
    sentence = refusal(segment_images, tmp_path / "in", model, tmp_path / "ray", **options)
    assert "after 1 retries" in sentence
    assert (tmp_path / "marker").read_text().count("killed") == 2


@dataclass
class Sharing:
    """Notes what Ray gave to its process, and works only while two processes do."""

    out: Path
    batch_size: int = 1

    def to_device(self, device):
        assert device == torch.device("cuda")
        found = ray.get_runtime_context().get_assigned_resources()
        (self.out / f"{os.getpid()}.json").write_text(json.dumps(found))

    def read(self, image):
        return image.name

    def compute(self, images):
        late = time.monotonic() + 100
        while len(list(self.out.glob("*.json"))) < 2:
            if time.monotonic() > late:
                raise SsgcamError("the other process never came")
            time.sleep(0.05)
        return images

    def write(self, image, made):
        return [], {"process": os.getpid()}


@pytest.mark.usefixtures("cluster")
def test_two_workers_share_a_gpu(tmp_path):
    jobs = [
        [InputImage(f"{index}.png", tmp_path / f"{index}.png", str(index))] for index in range(8)
    ]
    engine = ClusterOptions(engine="ray", actors=2, gpus=0.5, cpus=1.0).make(workers=1)
    done = list(engine(jobs, Sharing(tmp_path)))
    assert sorted(each.unit for each in done) == [f"{index}.png" for index in range(8)]
    assert not any(each.error for each in done)
    given = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert [found["GPU"] for found in given] == [0.5, 0.5]
    assert [found["CPU"] for found in given] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "part"),
    [({"actors": 0}, "actors is 0"), ({"gpus": 1.5}, "gpus is 1.5"), ({"gpus": -1.0}, "gpus is -1"),
     ({"cpus": 0.0}, "cpus is 0")],
)  # fmt: skip
def test_bad_settings_get_one_sentence(options, part):
    assert part in refusal(RayEngine, **options)


def test_nothing_to_do_starts_no_cluster(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: pytest.fail("asked for a cluster"))
    assert list(RayEngine()([], None)) == []
    assert list(process([], _Nothing())) == []


class _Nothing:
    batch_size = 1

    def read(self, image: InputImage):
        raise AssertionError


def test_without_ray_a_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    assert "pip install 'ssgcam[ray]'" in refusal(RayEngine)
