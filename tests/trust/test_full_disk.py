"""A full disk and a folder without permission end in one sentence; what was written stays whole."""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from helpers.evaluation_cases import LAYERS, blobs, masked_tree
from helpers.kills import check_whole, in_child
from helpers.segmentation import files_below, photos, recipe_for, small
from helpers.training_sets import TINY, discs
from ssgcam import SsgcamError
from ssgcam.bulk.explain import explain_images
from ssgcam.bulk.segment import segment_images
from ssgcam.data import read_samples
from ssgcam.evaluation import EvaluationSettings, MethodsCompared, evaluate_segmentation, method_of
from ssgcam.training import train_classifier

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="uses Linux's limits and mounts"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        done = False
    if not done:
        pytest.skip("this user can't mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def sentence_of(work: Callable[[], object]) -> str:
    """The one sentence that a call ends with."""
    with pytest.raises(SsgcamError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def segment(folder: Path, out: Path, count: int = 40) -> None:
    if not (folder / "in").exists():
        photos(folder / "in", count)
    model = small()
    segment_images(
        folder / "in", model, out, recipe=recipe_for(model), batch_size=4, soft=True, workers=1
    )


def test_segment_on_a_full_disk_goes_on_where_it_stopped(small_disk: Path, tmp_path: Path) -> None:
    out = small_disk / "out"
    assert "No space left" in sentence_of(lambda: segment(tmp_path, out))
    check_whole(out)
    lines = (out / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    entries = [json.loads(line) for line in lines[1:] if line.endswith(b"\n")]
    assert entries
    assert all((out / name).is_file() for entry in entries for name in entry["outputs"])
    segment(tmp_path, tmp_path / "whole")
    whole = files_below(tmp_path / "whole")
    found = files_below(out)
    assert all(found[name] == whole[name] for name in found if name.endswith(".png"))
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    segment(tmp_path, out)
    assert files_below(out) == whole


def test_explain_on_a_full_disk_goes_on_where_it_stopped(small_disk: Path, tmp_path: Path) -> None:
    photos(tmp_path / "in", 40)
    out = small_disk / "out"
    explain = lambda: explain_images([tmp_path / "in"], small(), out, batch_size=2, workers=1)  # noqa: E731
    assert "No space left" in sentence_of(explain)
    check_whole(out)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    result = explain()
    assert (result.total, result.failures) == (40, ())
    assert 0 < result.before < 40


def test_train_and_evaluate_on_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    file = small_disk / "net.checkpoint.pth"
    said = sentence_of(lambda: train_classifier(discs(24), TINY, checkpoint=file, progress=False))
    assert "can't write" in said
    assert list(small_disk.iterdir()) == []
    gc.collect()  # PyTorch's writer, which still has the deleted file open
    (small_disk / "fill").write_bytes(bytes(shutil.disk_usage(small_disk).free - 8192))
    samples = read_samples(masked_tree(tmp_path / "data", values=(255,) * 3, count=12))
    settings = EvaluationSettings(batch_size=1, resamples=20, out=small_disk / "out")
    compared = MethodsCompared((method_of("ssg_cam"), method_of("layer_cam")), LAYERS[1:])
    work = lambda: evaluate_segmentation(  # noqa: E731
        blobs(), samples, compared, settings=settings, classes=1
    )
    assert "No space left" in sentence_of(work)
    (small_disk / "fill").unlink()
    work()


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """The limit is met by the manifest, in the middle of a line."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            segment(tmp_path, tmp_path / "out")
        except SsgcamError as error:
            if "\n" not in str(error):
                os._exit(7)
        os._exit(8)

    process = in_child(limited)
    process.join()
    assert process.exitcode == 7
    check_whole(tmp_path / "out")
    segment(tmp_path, tmp_path / "out")
    segment(tmp_path, tmp_path / "whole")
    assert files_below(tmp_path / "out") == files_below(tmp_path / "whole")


def test_a_folder_without_permission() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        photos(folder / "in", 2)
        (folder / "locked").mkdir(mode=0o555)

        def as_nobody() -> None:
            with suppress(PermissionError):
                os.setuid(65534)
            try:
                segment(folder, folder / "locked" / "out", 0)
            except SsgcamError as error:
                if "can't write" in str(error) and "Permission denied" in str(error):
                    os._exit(7)
            os._exit(8)

        process = in_child(as_nobody)
        process.join()
        assert process.exitcode == 7
        assert list((folder / "locked").iterdir()) == []
