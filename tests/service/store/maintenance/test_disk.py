"""``jeep store check-disk``: a sound disk passes; what a disk does wrong is named."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.store import Store, files
from service.store.errors import StoreBusy
from service.store.maintenance import disk
from service.store.maintenance.disk import check_disk, hold

SYNCS, RENAMES, LINKS, APPENDS, LOCKS, MAPS, INDEX = (name for name, *_ in disk._CHECKS)


def problem(name: str, folder: Path) -> str:
    """What one check says of the folder."""
    [attempt] = [one for one in disk._CHECKS if one[0] == name]
    return disk._tried(*attempt, folder).problem or ""


def test_a_local_disk_is_sound_and_nothing_stays_behind(tmp_path: Path) -> None:
    found = check_disk(tmp_path)
    assert found.sound, found.checks
    assert not found.between_machines
    assert len(found.checks) == 7
    assert found.kind != "unknown"
    assert found.free > 0
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(disk.fcntl, "flock", no_locks)
    assert problem(LOCKS, tmp_path) == "[Errno 37] No locks available"


def test_locks_that_exclude_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.fcntl, "flock", lambda *_: None)
    assert "given to another" in problem(LOCKS, tmp_path)


def test_locks_that_outlive_their_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise BlockingIOError

    monkeypatch.setattr(disk, "DEAD_S", 0.05)
    monkeypatch.setattr(disk.fcntl, "flock", never)
    assert "killed process" in problem(LOCKS, tmp_path)


def test_renames_under_an_open_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "replace", lambda path, data: path.write_bytes(data))
    assert "another file's bytes" in problem(RENAMES, tmp_path)


def test_folders_that_cannot_be_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Path) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(files, "fsync_folder", refused)
    assert problem(RENAMES, tmp_path) == problem(LINKS, tmp_path) == "[Errno 22] Invalid argument"
    assert problem(SYNCS, tmp_path).startswith("fsync of a folder fails ([Errno 22] Invalid argu")


def test_files_that_cannot_be_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refused)
    first, *_ = check_disk(tmp_path).checks
    assert first.name == SYNCS
    assert first.problem is not None
    assert first.problem.startswith("fsync of a file fails ([Errno 5] Input/output error)")


def test_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(os, "link", refused)
    assert "not permitted" in problem(LINKS, tmp_path)


def test_lost_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # writing where the file ended when it was opened, as a client of NFS does for O_APPEND
    program = disk._APPENDING.replace("'ab'", "'wb'")
    monkeypatch.setattr(disk, "_APPENDING", program)
    assert "of 400 lines" in problem(APPENDS, tmp_path)


def test_no_write_ahead_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sqlite3.connect
    monkeypatch.setattr(disk.sqlite3, "connect", lambda _: real(":memory:"))
    assert "'memory'" in problem(INDEX, tmp_path)


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check_disk(tmp_path / "missing")


def test_another_machine_that_holds(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom service.store.maintenance import disk\n"
        "with disk.hold(Path(sys.argv[1])) as beat:\n"
        "  beat(); print('held', flush=True)\n"
        "  while True: beat(); time.sleep(disk.BEAT_S)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        found = check_disk(tmp_path)
        with pytest.raises(StoreBusy), hold(tmp_path):
            pass
        assert check_disk(tmp_path).between_machines, "the one that was refused ended the other"
        process.kill()
    assert found.between_machines
    assert len(found.checks) == 9
    assert found.sound, found.checks


def test_locks_and_files_that_do_not_reach_other_machines(tmp_path: Path) -> None:
    (tmp_path / disk.HELD).touch()  # seen, but nobody's lock
    (tmp_path / disk.BEAT).write_text(json.dumps(time.time() - 3))
    *_, lock, seen = check_disk(tmp_path).checks
    assert lock.problem is not None
    assert "without nolock" in lock.problem
    assert seen.problem is not None
    assert "actimeo=0" in seen.problem


def test_holding_ends_without_a_trace(tmp_path: Path) -> None:
    with hold(tmp_path) as beat:
        beat()
        assert {one.name for one in tmp_path.iterdir()} == {disk.HELD, disk.BEAT}
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_holder_left_is_no_lock_and_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / disk.HELD).touch()
    (tmp_path / disk.BEAT).write_text(json.dumps(time.time() - 2 * disk.LEFT_S))
    found = check_disk(tmp_path)
    assert (found.sound, found.between_machines) == (True, False)
    assert Store.open(tmp_path).id


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = CliRunner().invoke(app, ["store", "check-disk", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "one writer at a time" in shown.output
    assert "nothing was tried" in shown.output
    missing = CliRunner().invoke(app, ["store", "check-disk", str(tmp_path / "missing")])
    assert missing.exit_code == 2
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    failed = CliRunner().invoke(app, ["store", "check-disk", str(tmp_path), "--json"])
    assert failed.exit_code == 1
    record = json.loads(failed.output)
    assert record["sound"] is False
    assert [one["name"] for one in record["checks"] if one["problem"]] == [LOCKS]


def test_command_that_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        assert (tmp_path / disk.BEAT).exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    shown = CliRunner().invoke(app, ["store", "check-disk", str(tmp_path), "--hold"])
    assert shown.exit_code == 0, shown.output
    assert list(tmp_path.iterdir()) == []
