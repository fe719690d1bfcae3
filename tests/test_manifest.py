"""The manifest: entries, settings and crash safety."""

from __future__ import annotations

import json

import pytest

from helpers.data_trees import refusal
from ssgcam.manifest import Entry, Manifest, checksum, file_stamp

FIRST = Entry("a", [3, 4], ("a.png",), {"size": [2, 1]})
HEADER = json.dumps({"settings": {}, "checksum": checksum({"settings": {}})}) + "\n"
SECOND = Entry("b", None, error="'b' is not an image")


def written(path, settings, *entries):
    manifest = Manifest(path, settings)
    with manifest.opened(keep=lambda entry: True):
        for entry in entries:
            manifest.add(entry)
    return manifest


def test_entries_are_read_as_they_were_added(tmp_path):
    settings = {"sides": (2, 3), "by class": {10: "x", 9: "y"}, "nan": float("nan")}
    path = tmp_path / "new" / "m.jsonl"
    written(path, settings, FIRST)
    manifest = written(path, settings, SECOND)
    assert list(manifest.entries()) == [FIRST, SECOND]
    assert json.loads(path.read_text().splitlines()[0])["settings"]["sides"] == [2, 3]


def test_entry_is_on_disk_when_it_is_added(tmp_path):
    manifest = Manifest(tmp_path / "m.jsonl", {})
    with manifest.opened(keep=lambda entry: True):
        manifest.add(Entry("é.jpg", [3, 4], ("é.png",), {"n": 1}))
        line = manifest.path.read_text(encoding="utf-8").splitlines()[1]
    expected = {"unit": "é.jpg", "input": [3, 4], "outputs": ["é.png"], "n": 1}
    assert json.loads(line) == expected | {"checksum": checksum(expected)}


def test_other_settings_start_anew(tmp_path):
    written(tmp_path / "m.jsonl", {"threshold": 0.1}, FIRST)
    other = Manifest(tmp_path / "m.jsonl", {"threshold": 0.2})
    assert not list(other.entries())
    written(tmp_path / "m.jsonl", {"threshold": 0.2}, SECOND)
    assert list(other.entries()) == [SECOND]
    assert len(other.path.read_text().splitlines()) == 2


@pytest.mark.parametrize("cut", [2, 10, 40])
def test_incomplete_last_line_is_ignored(tmp_path, cut):
    manifest = written(tmp_path / "m.jsonl", {}, FIRST, FIRST)
    manifest.path.write_bytes(manifest.path.read_bytes()[:-cut])
    assert list(manifest.entries()) == [FIRST]
    written(manifest.path, {}, SECOND)
    assert list(manifest.entries()) == [FIRST, SECOND]


def test_incomplete_header_is_an_empty_manifest(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"setti')
    assert not list(Manifest(tmp_path / "m.jsonl", {}).entries())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[1]\n", 1),
        ('{"unit": "a"}\n', 1),
        ("[" * 100_000 + "\n", 1),
        ('{"settings": {}}\n', 1),
        ('{"settings": {}, "checksum": 7}\n', 1),
        (f"{HEADER}7\n", 2),
        (HEADER + '{"unit": "a", "input": 1}\n', 2),
        (HEADER + '{"unit": "a", "input": 1, "checksum": 7}\n', 2),
    ],
    ids=lambda value: str(value)[:40],
)
def test_damaged_line_is_named(tmp_path, text, line):
    (tmp_path / "m.jsonl").write_text(text)
    assert f"line {line} of" in refusal(list, Manifest(tmp_path / "m.jsonl", {}).entries())


def test_entries_that_are_not_kept_are_removed(tmp_path):
    manifest = written(tmp_path / "m.jsonl", {}, FIRST, SECOND)
    with manifest.opened(keep=lambda entry: not entry.error):
        assert list(manifest.entries()) == [FIRST]


def test_entry_is_current_while_input_and_outputs_are_unchanged(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "a.png").write_text("2")
    manifest = written(tmp_path / "m.jsonl", {}, Entry("a", file_stamp(tmp_path / "a"), ("a.png",)))
    (entry,) = manifest.entries()
    assert manifest.is_current(entry, file_stamp(tmp_path / "a"))
    assert not manifest.is_current(entry, [1, 2])
    (tmp_path / "a.png").unlink()
    assert not manifest.is_current(entry, file_stamp(tmp_path / "a"))
    (tmp_path / "a").unlink()
    assert file_stamp(tmp_path / "a") is None


def test_folder_in_the_place_of_the_file_gets_one_sentence(tmp_path):
    (tmp_path / "m.jsonl").mkdir()
    assert "can't be read" in refusal(list, Manifest(tmp_path / "m.jsonl", {}).entries())
