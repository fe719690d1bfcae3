"""The streaming engine, its manifest and its windows, without any network."""

from __future__ import annotations

import gc
import json
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.data_trees import photo, refusal
from ssgcam.bulk.jobs import Job, Jobs
from ssgcam.bulk.manifest import Done, Manifest, only_run
from ssgcam.bulk.naming import name_jobs
from ssgcam.bulk.stream import SCRATCH, run, work_off
from ssgcam.bulk.windows import Windows, tent
from ssgcam.errors import SsgcamError
from ssgcam.files import write_text, written_whole
from ssgcam.images import images_of


@dataclass
class Upper:
    """A task on text files: writes them in capitals, and keeps a record of what was called."""

    out: Path
    at_once: int = 3
    batches: list[list[str]] = field(default_factory=list)
    inside: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, device):
        pass

    def read(self, job):
        if not job.path.exists():
            raise SsgcamError(f"there is no file '{job.path}'; check the path")
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        return job.path.read_text()

    def compute(self, images: Sequence[str]):
        if "poison" in images:
            raise SsgcamError("it is poison")
        self.batches.append(list(images))
        return [image.upper() for image in images]

    def write(self, job, made):
        with self.lock:
            self.inside -= 1
        name = str(Path(job.name).with_suffix(".out"))
        write_text(self.out / name, made)
        return [name], {"length": len(made)}


def texts(folder: Path, contents: Sequence[str]) -> list[Job]:
    folder.mkdir(exist_ok=True)
    for index, content in enumerate(contents):
        (folder / f"{index:02}.txt").write_text(content)
    return [Job(f"{index:02}.txt", folder / f"{index:02}.txt") for index in range(len(contents))]


def words(count: int) -> list[str]:
    return [f"word{index}" for index in range(count)]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def manifest(out: Path, **settings) -> Manifest:
    return Manifest(out / "manifest.jsonl", settings)


def computed(task: Upper) -> list[str]:
    return [content for batch in task.batches for content in batch]


# --- the engine


def test_every_image_is_done_once_and_in_order(tmp_path, out):
    jobs = texts(tmp_path / "in", words(11))
    task = Upper(out)
    outcome = run(jobs, task, manifest(out))
    assert (outcome.total, outcome.before, outcome.failures) == (11, 0, ())
    assert task.batches == [words(11)[i : i + 3] for i in range(0, 11, 3)]
    for index, job in enumerate(jobs):
        assert (out / f"{index:02}.out").read_text() == f"WORD{index}"
        assert job.name == list(manifest(out).lines())[index]["image"]
    assert {path.name for path in out.iterdir()} == {
        "manifest.jsonl", *(f"{index:02}.out" for index in range(11)),
    }  # fmt: skip


def test_images_are_read_while_the_network_works_and_written_while_it_goes_on(tmp_path, out):
    second_read, first_written = threading.Event(), threading.Event()

    class Waiting(Upper):
        def read(self, job):
            if job.name == "01.txt":
                second_read.set()
            return super().read(job)

        def compute(self, images):
            if "word0" in images:
                assert second_read.wait(20), "the second image waited for the first's result"
            if "word7" in images:
                assert first_written.wait(20), "the first result waited for the last image"
            return super().compute(images)

        def write(self, job, made):
            first_written.set()
            return super().write(job, made)

    outcome = run(texts(tmp_path / "in", words(8)), Waiting(out, at_once=1), manifest(out))
    assert not outcome.failures


@pytest.mark.parametrize("slow", ["read", "compute", "write"])
def test_what_waits_is_bounded(tmp_path, out, slow):
    class Slow(Upper):
        pass

    def slowly(self, *args):
        time.sleep(0.002)
        return getattr(Upper, slow)(self, *args)

    setattr(Slow, slow, slowly)
    few, many = Slow(out), Slow(out)
    run(texts(tmp_path / "few", words(30)), few, manifest(out))
    run(texts(tmp_path / "many", words(120)), many, manifest(out), engine=work_off)
    bound = 5 * many.at_once + 2  # two batches before, one inside, two behind, one at each door
    assert many.most <= bound
    assert few.most <= bound


def test_a_bad_image_does_not_stop_or_change_the_others(tmp_path, out):
    contents = words(9)
    contents[4] = "poison"
    jobs = texts(tmp_path / "in", contents)
    (tmp_path / "in" / "07.txt").unlink()
    task, seen = Upper(out), []
    outcome = run(jobs, task, manifest(out), each=lambda *what: seen.append(what))
    poisoned, missing = outcome.failures
    assert [job for job, _ in seen] == jobs
    assert [done.error for _, done in seen if done.error] == [poisoned.reason, missing.reason]
    assert poisoned.path == jobs[4].path
    assert poisoned.reason == f"'{jobs[4].path}': it is poison"
    assert missing.reason == f"there is no file '{jobs[7].path}'; check the path"
    assert computed(task) == [contents[i] for i in (0, 1, 2, 3, 5, 6, 8)]
    written = {path.name for path in out.glob("*.out")}
    assert written == {f"{i:02}.out" for i in (0, 1, 2, 3, 5, 6, 8)}
    lines = {line["image"]: line for line in manifest(out).lines()}
    assert len(lines) == 9
    assert lines["04.txt"]["error"] == poisoned.reason
    assert lines["07.txt"]["stamp"] is None
    assert lines["08.txt"]["length"] == 5


def test_a_disk_that_can_not_be_written_ends_the_run_with_one_sentence(tmp_path, out):
    class Full(Upper):
        def write(self, job, made):
            if job.name == "05.txt":
                raise SsgcamError("can't write 'x' (No space left on device)")
            return super().write(job, made)

    jobs = texts(tmp_path / "in", words(30))
    assert "No space left" in refusal(run, jobs, Full(out), manifest(out))
    done = [line["image"] for line in manifest(out).lines()]
    assert done == [job.name for job in jobs[:5]]


def test_too_little_memory_names_the_batch_size(tmp_path, out):
    class Large(Upper):
        def compute(self, images):
            raise torch.OutOfMemoryError

    sentence = refusal(run, texts(tmp_path / "in", words(5)), Large(out), manifest(out))
    assert "3 images" in sentence
    assert "--batch-size" in sentence


# --- going on


def stopped_after(jobs, task, record: Manifest, count: int) -> None:
    """As if the process were killed when ``count`` lines are written."""
    groups = record.unfinished(Jobs(jobs), task.at_once)
    with record:
        for number, done in enumerate(work_off(groups, task), 1):
            record.add(done)
            if number == count:
                return


def test_a_run_goes_on_where_it_was_cut_off(tmp_path, out):
    jobs = texts(tmp_path / "in", words(11))
    stopped_after(jobs, Upper(out), manifest(out), 7)
    with (out / "manifest.jsonl").open("a") as stream:
        stream.write('{"image": "07.txt", "settings": "')  # the line that was being written
    (out / SCRATCH).mkdir()
    (out / SCRATCH / ".half.out").write_text("hal")
    task = Upper(out)
    outcome = run(jobs, task, manifest(out))
    # 6 was done, but the others of its batch were not: that batch is done again as it was
    assert computed(task) == words(11)[6:]
    assert outcome.before == 6
    assert {path.name for path in out.iterdir()} == {
        "manifest.jsonl", *(f"{i:02}.out" for i in range(11)),
    }  # fmt: skip
    assert sorted(line["image"] for line in manifest(out).lines()) == [job.name for job in jobs]
    run(jobs, task := Upper(out), manifest(out))
    assert not task.batches


def test_what_has_changed_is_done_again(tmp_path, out):
    jobs = texts(tmp_path / "in", words(9))
    run(jobs, Upper(out), manifest(out, threshold=0.5))
    run(jobs, task := Upper(out), manifest(out, threshold=0.6))
    assert computed(task) == words(9)
    (out / "08.out").unlink()
    jobs[0].path.write_text("other")
    run(jobs, task := Upper(out), manifest(out, threshold=0.6))
    assert computed(task) == ["other", *words(3)[1:], *words(9)[6:]]  # their batches
    assert (out / "00.out").read_text() == "OTHER"
    assert len(list(manifest(out).lines())) == 9


def test_a_failed_image_gets_another_try_alone(tmp_path, out):
    contents = words(6)
    contents[1] = "poison"
    jobs = texts(tmp_path / "in", contents)
    run(jobs, Upper(out), manifest(out))
    run(jobs, task := Upper(out), manifest(out))
    assert not task.batches
    assert [line["image"] for line in manifest(out).lines() if "error" in line] == ["01.txt"]
    jobs[1].path.write_text("cured!")
    run(jobs, task := Upper(out), manifest(out))
    assert computed(task) == ["word0", "cured!", "word2"]
    assert not any("error" in line for line in manifest(out).lines())


def test_images_of_another_run_keep_their_lines(tmp_path, out):
    run(texts(tmp_path / "one", words(2)), Upper(out), manifest(out))
    other = [Job("x.txt", texts(tmp_path / "two", ["x"])[0].path)]
    run(other, Upper(out), manifest(out, changed=True))
    assert [line["image"] for line in manifest(out).lines()] == ["00.txt", "01.txt", "x.txt"]


def test_a_damaged_manifest_is_refused(tmp_path, out):
    jobs = texts(tmp_path / "in", words(3))
    write_text(out / "manifest.jsonl", '{"image": "00.txt"}\nnonsense\n{"image": "02.txt"}\n')
    sentence = refusal(run, jobs, Upper(out), manifest(out))
    assert "line 2" in sentence
    assert "start anew" in sentence


def test_two_runs_do_not_write_to_one_folder(tmp_path, out):
    jobs, task = texts(tmp_path / "in", words(3)), Upper(out)
    with only_run(out):
        assert "another run is writing" in refusal(run, jobs, task, manifest(out))
    assert not task.batches
    assert run(jobs, task, manifest(out)).total == 3


def test_a_line_is_on_disk_when_it_is_added(out):
    with manifest(out) as record:
        record.add(Done("é.jpg", (3, 4), ("é.png",), {"n": 1}))
        (line,) = (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    expected = {"image": "é.jpg", "stamp": [3, 4], "outputs": ["é.png"], "n": 1}
    assert {key: json.loads(line)[key] for key in expected} == expected


def test_writers_in_threads_leave_permissions_as_the_umask_says(tmp_path):
    def write(index: int) -> None:
        for number in range(40):
            with written_whole(tmp_path / f"{index}-{number}.txt", tmp_path / "s") as temporary:
                temporary.write_text("x")

    threads = [threading.Thread(target=write, args=(index,)) for index in range(4)]
    before = os.umask(0o027)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.glob("*.txt")}
    assert modes == {0o640}
    assert not list((tmp_path / "s").iterdir())


# --- names


def names_of(patterns, out=Path("elsewhere")):
    jobs, failures = name_jobs(patterns, out)
    return [job.name for job in jobs], [failure.reason for failure in failures]


def test_names_are_paths_below_what_was_named(tmp_path, monkeypatch):
    for name in ("in/b.png", "in/sub/a.jpg", "in/sub/b.jpg", "other/c.jpg"):
        photo(tmp_path / name)
    assert names_of([tmp_path / "in"]) == (["b.png", "sub/a.jpg", "sub/b.jpg"], [])
    assert names_of([tmp_path / "in" / "*" / "*.jpg"]) == (["sub/a.jpg", "sub/b.jpg"], [])
    single = [tmp_path / "in/sub/a.jpg", tmp_path / "other/c.jpg"]
    assert names_of(single) == (["in/sub/a.jpg", "other/c.jpg"], [])
    assert names_of([tmp_path / "in", tmp_path / "in/sub"])[0] == [
        "b.png", "sub/a.jpg", "sub/b.jpg",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path / "in")
    assert names_of(["b.png", "../other/c.jpg"])[0] == ["in/b.png", "other/c.jpg"]
    assert names_of(["."])[0] == ["b.png", "sub/a.jpg", "sub/b.jpg"]


def test_two_images_never_share_an_output(tmp_path):
    photo(tmp_path / "a.jpg")
    photo(tmp_path / "a.png")
    names, reasons = names_of([tmp_path])
    assert names == ["a.jpg"]
    assert len(reasons) == 1
    assert "a.png' is left out" in reasons[0]


def test_outputs_are_not_inputs(tmp_path):
    photo(tmp_path / "a.jpg")
    photo(tmp_path / "masks" / "a.png")
    assert names_of([tmp_path], tmp_path / "masks") == (["a.jpg"], [])
    assert "output folder" in refusal(name_jobs, [tmp_path / "masks"], tmp_path / "masks")
    assert "no image is given" in refusal(name_jobs, [], tmp_path)


def plainly_named(patterns: Sequence[Path], out: Path):
    """The same as ``name_jobs`` with every image in memory."""
    files = [
        p.parent for p in patterns if not (p.is_dir() or "*" in p.name or "*" in p.parent.name)
    ]
    kept, stems, names, unnamed = set(), set(), [], set()
    for pattern in patterns:
        root = pattern
        while "*" in str(root):
            root = root.parent
        if root.is_file():
            root = Path(os.path.commonpath(files))
        for path in sorted(path for path, _ in images_of(pattern)):
            real, name = path.resolve(), path.relative_to(root)
            if real in kept or out in path.parents:
                continue
            if name.with_suffix("") in stems:
                unnamed.add(real)
            else:
                kept.add(real)
                stems.add(name.with_suffix(""))
                names.append(name.as_posix())
    return names, unnamed - kept


TREE = [
    "a.b.jpg", "a.b.png", "a.b/x.jpg", "a.b/y/z.jpg", "a.jpg", "a.jpg.png", "a-c/x.png", "a/.x.png",
    "a/n.txt", "a/x.jpg", "a/x.png", "b.png", "B.PNG", "c/folder.jpg/x.png", ".hidden/x.png",
    "masks/a.png", "ä.jpg",
]  # fmt: skip


@pytest.mark.parametrize(
    "patterns", ["", "a,", ",a", "*/x.*", "a*,", "b.png,a/x.png,", "a/x.jpg,a/x.png", "**/*.png"]
)
def test_naming_equals_a_plain_loop_in_memory(tmp_path, patterns):
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "0-link.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "z-folder").symlink_to(tmp_path / "a")
    given, out = [tmp_path / pattern for pattern in patterns.split(",")], tmp_path / "masks"
    jobs, failures = name_jobs(given, out)
    names, unnamed = plainly_named(given, out)
    assert [job.name for job in jobs] == names
    assert {failure.path.resolve() for failure in failures} == unnamed
    assert all(jobs.get(job.name) == job for job in jobs)


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_not_utf_8_is_a_name(tmp_path, out):
    path = tmp_path / os.fsdecode(b"gr\xfc\xdfe.png")
    path.write_text("word")
    jobs, _ = name_jobs([tmp_path], out)
    run(jobs, Upper(out), manifest(out))
    assert (out / path.with_suffix(".out").name).read_text() == "WORD"
    assert run(name_jobs([tmp_path], out)[0], Upper(out), manifest(out)).before == 1


# --- memory


def test_no_list_of_the_images_is_in_memory(tmp_path, out):
    """In all containers together there is less than an entry for each image, from first to last."""

    class Counting(Upper):
        batches = property(lambda self: [], lambda self, _: None)
        entries = 0

        def write(self, job, made):
            if job.path.stem == "last":
                gc.collect()
                kinds = {dict, list, set, tuple, deque}
                self.entries = sum(len(o) for o in gc.get_objects() if type(o) in kinds)
            return [], {}

    def entries(count: int) -> int:
        folder = tmp_path / str(count)
        folder.mkdir(exist_ok=True)
        for name in [*range(count), "last"]:
            (folder / f"{name}.png").write_text("word")
        task = Counting(out / str(count))
        jobs, _ = name_jobs([folder], out)
        run(jobs, task, manifest(task.out))
        return task.entries

    def again(count: int) -> int:
        """A run that finds all but the last image done."""
        (tmp_path / str(count) / "last.png").write_text("changed")
        return entries(count)

    for of in (entries, again):
        assert of(800) - of(100) < 350


# --- windows


@pytest.mark.parametrize(
    ("height", "width", "side", "overlap"),
    [(40, 50, 16, 0.5), (16, 16, 16, 0.5), (9, 50, 16, 0.0), (41, 33, 16, 0.9), (33, 17, 8, 0.3)],
)
def test_the_average_over_windows_equals_a_plain_loop(height, width, side, overlap):
    windows = Windows(side, overlap)
    boxes = list(windows.boxes(height, width))
    rng = np.random.default_rng(0)
    values = [rng.random((bottom - top, right - left)) for left, top, right, bottom in boxes]
    average = windows.average(height, width)
    for box, value in zip(boxes, values, strict=True):
        average.add(box, torch.tensor(value, dtype=torch.float32))

    expected = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            total = weights = 0.0
            for (left, top, right, bottom), value in zip(boxes, values, strict=True):
                if left <= x < right and top <= y < bottom:
                    weight = min(x - left + 1, right - x) * min(y - top + 1, bottom - y)
                    total += weight * value[y - top, x - left]
                    weights += weight
            expected[y, x] = total / weights
    np.testing.assert_allclose(average.finished().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 31, 100])
def test_windows_cover_everything_and_overlap_as_asked(length, overlap):
    boxes = list(Windows(8, overlap).boxes(1, length))
    starts = [left for left, _, _, _ in boxes]
    ends = [right for _, _, right, _ in boxes]
    assert starts[0] == 0
    assert ends[-1] == length
    assert {right - left for left, _, right, _ in boxes} == {min(8, length)}
    for end, start in zip(ends, starts[1:], strict=False):
        assert end - start >= int(8 * overlap)


def test_a_constant_stays_the_same_constant():
    windows = Windows(10, 0.4)
    average = windows.average(37, 23)
    for box in windows.boxes(37, 23):
        average.add(box, torch.full((10, 10), 0.7))
    assert torch.allclose(average.finished(), torch.tensor(0.7))
    assert tent(4).tolist() == [1, 2, 2, 1]


@pytest.mark.parametrize(("side", "overlap"), [(0, 0.5), (7, 0.5), (64, -0.1), (64, 1.0)])
def test_bad_windows_are_refused(side, overlap):
    refusal(Windows, side, overlap)
