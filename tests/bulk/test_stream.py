"""The streaming engine, without any network."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from helpers.data_trees import refusal
from helpers.stream_tasks import Upper, computed, manifest, texts, words
from helpers.threads import failure_leaves_no_thread
from ssgcam.bulk.inputs import InputImage
from ssgcam.bulk.stream import process, run, unfinished
from ssgcam.errors import SsgcamError
from ssgcam.files import write_text, written_whole
from ssgcam.manifest import locked


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_every_image_is_processed_once_and_in_order(tmp_path, out):
    images = texts(tmp_path / "in", words(11))
    task = Upper(out)
    outcome = run(images, task, manifest(out))
    assert (outcome.total, outcome.before, outcome.failures) == (11, 0, ())
    assert task.batches == [words(11)[i : i + 3] for i in range(0, 11, 3)]
    for index, image in enumerate(images):
        assert (out / f"{index:02}.out").read_text() == f"WORD{index}"
        assert image.name == list(manifest(out).entries())[index].unit
    assert {path.name for path in out.iterdir()} == {
        "manifest.jsonl", *(f"{index:02}.out" for index in range(11)),
    }  # fmt: skip


def test_reading_computing_and_writing_overlap(tmp_path, out):
    second_read, first_written = threading.Event(), threading.Event()

    class Waiting(Upper):
        def read(self, image):
            if image.name == "01.txt":
                second_read.set()
            return super().read(image)

        def compute(self, images):
            if "word0" in images:
                assert second_read.wait(20), "the second image waited for the first's result"
            if "word7" in images:
                assert first_written.wait(20), "the first result waited for the last image"
            return super().compute(images)

        def write(self, image, made):
            first_written.set()
            return super().write(image, made)

    outcome = run(texts(tmp_path / "in", words(8)), Waiting(out, batch_size=1), manifest(out))
    assert not outcome.failures


@pytest.mark.parametrize("slow", ["read", "compute", "write"])
def test_number_of_images_in_memory_is_bounded(tmp_path, out, slow):
    class Slow(Upper):
        pass

    def slowly(self, *args):
        time.sleep(0.002)
        return getattr(Upper, slow)(self, *args)

    setattr(Slow, slow, slowly)
    few, many = Slow(out), Slow(out)
    run(texts(tmp_path / "few", words(30)), few, manifest(out))
    run(texts(tmp_path / "many", words(120)), many, manifest(out), engine=process)
    bound = 5 * many.batch_size + 2  # two batches before, one inside, two behind, one at each end
    assert many.most <= bound
    assert few.most <= bound


def test_bad_image_does_not_stop_the_others(tmp_path, out):
    contents = words(9)
    contents[4] = "poison"
    images = texts(tmp_path / "in", contents)
    (tmp_path / "in" / "07.txt").unlink()
    task, seen = Upper(out), []
    outcome = run(images, task, manifest(out), on_done=lambda *what: seen.append(what))
    poisoned, missing = outcome.failures
    assert [image for image, _ in seen] == images
    assert [entry.error for _, entry in seen if entry.error] == [poisoned.reason, missing.reason]
    assert poisoned.path == images[4].path
    assert poisoned.reason == f"'{images[4].path}': it is poison"
    assert missing.reason == f"there is no file '{images[7].path}'; check the path"
    assert computed(task) == [contents[i] for i in (0, 1, 2, 3, 5, 6, 8)]
    written = {path.name for path in out.glob("*.out")}
    assert written == {f"{i:02}.out" for i in (0, 1, 2, 3, 5, 6, 8)}
    lines = {entry.unit: entry for entry in manifest(out).entries()}
    assert len(lines) == 9
    assert lines["04.txt"].error == poisoned.reason
    assert lines["07.txt"].input is None
    assert lines["08.txt"].facts == {"length": 5}


def test_unwritable_output_ends_the_run_with_one_sentence(tmp_path, out):
    class Full(Upper):
        def write(self, image, made):
            if image.name == "05.txt":
                raise SsgcamError("can't write 'x' (No space left on device)")
            return super().write(image, made)

    images = texts(tmp_path / "in", words(30))
    assert "No space left" in refusal(run, images, Full(out), manifest(out))
    done = [entry.unit for entry in manifest(out).entries()]
    assert done == [image.name for image in images[:5]]


def test_out_of_memory_error_names_the_batch_size(tmp_path, out):
    class Large(Upper):
        def compute(self, images):
            raise torch.OutOfMemoryError

    sentence = refusal(run, texts(tmp_path / "in", words(5)), Large(out), manifest(out))
    assert "3 images" in sentence
    assert "--batch-size" in sentence


def test_no_thread_outlives_a_failed_run(tmp_path, out):
    class Failing(Upper):
        def compute(self, images):
            raise torch.OutOfMemoryError

    def failing(image, entry):
        raise SsgcamError("stop here")

    images = texts(tmp_path / "in", words(20))
    failure_leaves_no_thread(SsgcamError, run, images, Failing(out), manifest(out))
    options = {"on_done": failing}
    failure_leaves_no_thread(SsgcamError, run, images, Upper(out), manifest(out), **options)


# --- resuming


def stopped_after(images, task, record, count: int) -> None:
    """As if the process were killed when ``count`` lines are written."""
    with record.opened(keep=lambda entry: True):
        for number, entry in enumerate(process(unfinished(images, record, 3), task), 1):
            record.add(entry)
            if number == count:
                return


def test_killed_run_continues_with_whole_batches(tmp_path, out):
    images = texts(tmp_path / "in", words(11))
    stopped_after(images, Upper(out), manifest(out), 7)
    with (out / "manifest.jsonl").open("a") as stream:
        stream.write('{"unit": "07.txt", "input": "')  # the line that was being written
    with written_whole(out / "07.out") as temporary:
        temporary.touch()
    temporary.write_text("hal")  # the file that was being written
    (out / "07.out").unlink()
    task = Upper(out)
    outcome = run(images, task, manifest(out))
    # image 6 was finished, but not its whole batch, which is processed again
    assert computed(task) == words(11)[6:]
    assert outcome.before == 6
    assert {path.name for path in out.iterdir()} == {
        "manifest.jsonl", *(f"{i:02}.out" for i in range(11)),
    }  # fmt: skip
    assert sorted(entry.unit for entry in manifest(out).entries()) == [
        image.name for image in images
    ]
    run(images, task := Upper(out), manifest(out))
    assert not task.batches


def test_changed_settings_images_and_missing_outputs_are_processed_again(tmp_path, out):
    images = texts(tmp_path / "in", words(9))
    run(images, Upper(out), manifest(out, threshold=0.5))
    run(images, task := Upper(out), manifest(out, threshold=0.6))
    assert computed(task) == words(9)
    (out / "08.out").unlink()
    images[0].path.write_text("other")
    run(images, task := Upper(out), manifest(out, threshold=0.6))
    assert computed(task) == ["other", *words(3)[1:], *words(9)[6:]]  # their batches
    assert (out / "00.out").read_text() == "OTHER"
    assert len(list(manifest(out, threshold=0.6).entries())) == 9


def test_failed_image_alone_is_tried_again(tmp_path, out):
    contents = words(6)
    contents[1] = "poison"
    images = texts(tmp_path / "in", contents)
    run(images, Upper(out), manifest(out))
    run(images, task := Upper(out), manifest(out))
    assert not task.batches
    assert [entry.unit for entry in manifest(out).entries() if entry.error] == ["01.txt"]
    images[1].path.write_text("cured!")
    run(images, task := Upper(out), manifest(out))
    assert computed(task) == ["word0", "cured!", "word2"]
    assert not any(entry.error for entry in manifest(out).entries())


def test_entries_of_images_of_another_run_are_kept(tmp_path, out):
    run(texts(tmp_path / "one", words(2)), Upper(out), manifest(out))
    other = [InputImage("x.txt", texts(tmp_path / "two", ["x"])[0].path, "x")]
    run(other, Upper(out), manifest(out))
    assert [entry.unit for entry in manifest(out).entries()] == ["00.txt", "01.txt", "x.txt"]


def test_damaged_manifest_is_refused(tmp_path, out):
    images = texts(tmp_path / "in", words(3))
    run(images, Upper(out), manifest(out))
    header, *rest = (out / "manifest.jsonl").read_text().splitlines()
    write_text(out / "manifest.jsonl", "\n".join([header, "nonsense", *rest, ""]))
    sentence = refusal(run, images, Upper(out), manifest(out))
    assert "line 2" in sentence
    assert "start anew" in sentence


def test_two_runs_cannot_write_to_one_folder(tmp_path, out):
    images, task = texts(tmp_path / "in", words(3)), Upper(out)
    with locked(out):
        assert "another run is writing" in refusal(run, images, task, manifest(out))
    assert not task.batches
    assert run(images, task, manifest(out)).total == 3
