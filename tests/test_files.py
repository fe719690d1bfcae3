"""Files written whole or not at all."""

from __future__ import annotations

import os
import threading

from ssgcam.files import remove_unfinished, written_whole


def test_writers_in_threads_leave_permissions_as_the_umask_says(tmp_path):
    def write(index: int) -> None:
        for number in range(40):
            with written_whole(tmp_path / f"{index}-{number}.txt") as temporary:
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
    assert not list(tmp_path.glob(".*"))


def test_temporary_files_of_killed_runs_are_removed_and_no_others(tmp_path):
    kept = [tmp_path / name for name in (".hidden", ".0a.json", "sub/map.npy", "sub/0a.json")]
    (tmp_path / "sub").mkdir()
    for path in kept:
        path.touch()
    for target in (tmp_path / "explain.json", tmp_path / "sub" / "LICENSE"):
        with written_whole(target) as temporary:
            temporary.touch()
        temporary.touch()  # as after a kill
        target.unlink()
    remove_unfinished(tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {*kept}
