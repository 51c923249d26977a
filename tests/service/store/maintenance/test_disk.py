"""``jeep store check-disk``: a sound disk passes; what a disk does wrong is named."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
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


@contextmanager
def held_by_another(folder: Path) -> Iterator[None]:
    """A process holds a lock in a folder, as another machine would."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom service.store.maintenance import disk\n"
        "with disk.hold(Path(sys.argv[1])) as beat:\n"
        "  beat(); print('held', flush=True)\n"
        "  while True: beat(); time.sleep(disk.BEAT_S)\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.kill()


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another machine writes is looked at three times only."""
    monkeypatch.setattr(disk, "LOOKS", 3)


@pytest.mark.usefixtures("briefly")
def test_another_machine_that_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with held_by_another(tmp_path):
        monkeypatch.setattr(disk, "kind_of", lambda folder: "ext4")
        found = check_disk(tmp_path)
        with pytest.raises(StoreBusy), hold(tmp_path):
            pass
        monkeypatch.setattr(disk, "kind_of", lambda folder: "nfs4")
        network = check_disk(tmp_path)
    assert found.between_machines
    assert len(found.checks) == 12
    assert found.sound, found.checks
    assert network.between_machines, "the one that was refused ended the other"
    assert not network.sound
    [one_host] = [check.problem for check in network.checks if check.problem]
    assert one_host.startswith("nfs4: the store's index and locks need a disk of this machine")
    assert "JEEP_STORE_URL" in one_host


@pytest.mark.usefixtures("briefly")
def test_what_does_not_reach_other_machines(tmp_path: Path) -> None:
    (tmp_path / disk.HELD).touch()  # seen, but nobody's lock
    then = time.time() - 3
    (tmp_path / disk.BEAT).write_text(json.dumps(then))
    (tmp_path / disk.LOG).write_bytes(b"holds 0 " + b"a" * disk.LINE + b"\n")
    with closing(disk._held_index(tmp_path)) as index, index:
        index.execute("UPDATE beats SET at = ?", (then,))
    *_, lock, seen, appended, row, _ = check_disk(tmp_path).checks
    problems = [one.problem or "" for one in (lock, seen, appended, row)]
    said = ["without nolock", "actimeo=0", "appends was not seen", "a row that another machine"]
    assert [word in problem for word, problem in zip(said, problems, strict=True)] == [True] * 4


@pytest.mark.usefixtures("briefly")
@pytest.mark.parametrize("lost", [b"", b"holds 1 aaaholds 2 aaa\n"])
def test_lines_of_two_machines_that_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bytes
) -> None:
    """A client of NFS appends where it saw the end last."""
    line = b" " + b"a" * disk.LINE + b"\n"
    log = tmp_path / disk.LOG
    log.write_bytes(b"holds 0" + line)

    def other(_: float) -> None:
        with log.open("ab") as file:
            file.write(lost + b"holds 3" + line)

    monkeypatch.setattr(time, "sleep", other)
    assert "lines were lost or broken" in (disk._appended_by_others(tmp_path) or "")


def test_another_machine_that_makes_nothing_else(tmp_path: Path) -> None:
    (tmp_path / disk.LOG).touch()
    assert disk._appended_by_others(tmp_path) == "what another machine appends is not there"
    assert disk._index_of_others(tmp_path) == "another machine's index is not there"


def test_file_systems_of_several_machines_are_known_by_their_names() -> None:
    for kind in ("nfs", "nfs4", "cifs", "smb3", "ceph", "fuse.sshfs", "fuse.glusterfs", "9p"):
        assert disk.is_of_machines(kind), kind
    for kind in ("ext4", "xfs", "btrfs", "overlay", "tmpfs", "zfs", "fuseblk", "unknown"):
        assert not disk.is_of_machines(kind), kind


def test_holding_ends_without_a_trace(tmp_path: Path) -> None:
    with hold(tmp_path) as beat:
        beat()
        index = {disk.INDEX, f"{disk.INDEX}-wal", f"{disk.INDEX}-shm"}
        names = {one.name for one in tmp_path.iterdir()}
        assert names == {disk.HELD, disk.BEAT, disk.LOG} | index
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


def test_command_on_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "kind_of", lambda folder: "nfs4")
    shown = CliRunner().invoke(app, ["store", "check-disk", str(tmp_path)])
    assert shown.exit_code == 0, "one host can use it alone"
    assert f"nfs4 is a network file system: {disk.ONE_HOST}" in shown.output


def test_command_that_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        assert (tmp_path / disk.BEAT).exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    shown = CliRunner().invoke(app, ["store", "check-disk", str(tmp_path), "--hold"])
    assert shown.exit_code == 0, shown.output
    assert list(tmp_path.iterdir()) == []
