"""A backup of a store in use is whole, and a store made from it is the same."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.service.builders import MakeJob, add_version, ended, move
from typer.testing import CliRunner

from jeep_core.storage.records import sealed
from service.cli import app
from service.contracts.jobs import Job, JobStatus
from service.store import CorruptFile, NotAStore, Store, StoreBusy
from service.store.head import HeadPointer
from service.store.maintenance.backup import UNFINISHED, BackupError, back_up, restore
from service.store.maintenance.sweep import sweep


def commit(store: Store, value: int, job: Job | None = None) -> str:
    """A new version with a tensor of its own, made head."""
    ref = store.tensors.put("w", "U8", [1000], bytes([value]) * 1000)
    parent = store.head.read().version
    job_id = job and job.id
    version = add_version(store, parent, tensors=[ref], weights_sha256=str(value), job_id=job_id)
    move(store, version, expected=parent, job_id=job_id)
    return version


@pytest.fixture
def edited(based: Store, make_job: MakeJob) -> Store:
    """A store with an edit, its job, a name, and data of the base model."""
    job = make_job()
    based.journal.add(job)
    based.names.give("first", commit(based, 1, job))
    based.journal.save(ended(job))
    based.base.keep_prefixes(["of the base"])
    return based


def content(root: Path) -> dict[str, bytes]:
    """What a store holds, less its id, its queue and its locks."""
    own = {"id.json", "locks", "valkey", "staging", "index"}
    files = (path for path in root.rglob("*") if path.is_file())
    relative = {path.relative_to(root): path for path in files}
    return {
        str(name): path.read_bytes() for name, path in relative.items() if name.parts[0] not in own
    }


def tensor_path(store: Store) -> Path:
    return store.tensors.path(store.versions.read(store.head.read().version).tensors[0].sha256)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


class TestBackUpAndRestore:
    def test_a_restored_store_holds_the_same(self, edited: Store, tmp_path: Path) -> None:
        back_up(edited, tmp_path / "backup")
        backup = restore(tmp_path / "backup", tmp_path / "elsewhere")
        assert content(tmp_path / "elsewhere") == content(edited.root)
        restored = Store.open(tmp_path / "elsewhere")
        assert backup.head == restored.head.read().version == restored.names.resolve("first")
        assert backup.weights_sha256 == "1"

    def test_a_restored_store_may_share_the_queue_server_of_the_old_one(
        self, edited: Store, tmp_path: Path
    ) -> None:
        back_up(edited, tmp_path / "backup")
        restore(tmp_path / "backup", tmp_path / "elsewhere")
        assert Store.open(tmp_path / "elsewhere").id != edited.id

    def test_jobs_that_had_not_ended_are_open_again(
        self, edited: Store, make_job: MakeJob, tmp_path: Path
    ) -> None:
        waiting = make_job()
        edited.journal.add(waiting)
        back_up(edited, tmp_path / "backup")
        restore(tmp_path / "backup", tmp_path / "elsewhere")
        assert Store.open(tmp_path / "elsewhere").journal.unfinished() == [waiting]

    def test_queue_locks_and_unfinished_files_are_not_copied(
        self, edited: Store, tmp_path: Path
    ) -> None:
        (edited.valkey_folder() / "appendonly.aof").touch()
        (edited.root / "jobs" / ".job.json.0123.tmp").touch()
        back_up(edited, tmp_path / "backup")
        folders = {path.name for path in (tmp_path / "backup" / "files").iterdir()}
        assert folders.isdisjoint({"valkey", "locks", "staging", "id.json", "index"})
        assert not [*(tmp_path / "backup").rglob("*.tmp")]


class TestTheSameFolderAgain:
    def test_only_what_is_new_is_copied(self, edited: Store, tmp_path: Path) -> None:
        first = back_up(edited, tmp_path / "backup")
        kept = tmp_path / "backup" / "files" / tensor_path(edited).relative_to(edited.root)
        inode = kept.stat().st_ino
        commit(edited, 2)
        second = back_up(edited, tmp_path / "backup")
        assert kept.stat().st_ino == inode
        assert first.backup.head == "v1"
        assert second.backup.head == "v2"
        restore(tmp_path / "backup", tmp_path / "elsewhere")
        assert content(tmp_path / "elsewhere") == content(edited.root)

    def test_files_the_store_no_longer_has_are_removed(self, edited: Store, tmp_path: Path) -> None:
        stray = edited.tensors.put("stray", "U8", [3], b"abc")
        back_up(edited, tmp_path / "backup")
        sweep(edited)
        back_up(edited, tmp_path / "backup")
        assert not [*(tmp_path / "backup").rglob(f"{stray.sha256}*")]

    def test_a_run_that_was_killed_changes_nothing(
        self, edited: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        back_up(edited, tmp_path / "backup")
        before = content(edited.root)
        commit(edited, 2)
        monkeypatch.setattr(os, "utime", _killed)
        with pytest.raises(KeyboardInterrupt):
            back_up(edited, tmp_path / "backup")
        monkeypatch.undo()
        restore(tmp_path / "backup", tmp_path / "elsewhere")
        assert content(tmp_path / "elsewhere") == before
        assert back_up(edited, tmp_path / "backup").backup.head == "v2"


def _killed(*args: object, **keywords: object) -> None:
    raise KeyboardInterrupt


class TestWhileItIsUsed:
    def test_every_backup_is_of_one_moment(
        self, based: Store, make_job: MakeJob, tmp_path: Path
    ) -> None:
        done = threading.Event()
        worker = threading.Thread(target=_work, args=(based, make_job, done))
        worker.start()
        backups = [tmp_path / f"backup-{n}" for n in range(6)]
        try:
            for backup in backups:
                back_up(Store.open(based.root), backup)
        finally:
            done.set()
            worker.join()
        for backup in backups:
            restore(backup, tmp_path / f"{backup.name}-restored")
            _check_whole(Store.open(tmp_path / f"{backup.name}-restored"))

    def test_a_job_that_was_accepted_meanwhile_is_there_with_its_version(
        self, edited: Store, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        late = make_job()

        copied = Store.open(edited.root)
        held = copied.locked

        def commit_first(*names: str) -> object:
            edited.journal.add(late)
            commit(edited, 7, late)
            return held(*names)

        monkeypatch.setattr(copied, "locked", commit_first)
        back_up(copied, tmp_path / "backup")
        restore(tmp_path / "backup", tmp_path / "elsewhere")
        restored = Store.open(tmp_path / "elsewhere")
        assert restored.versions.read(restored.head.read().version).job_id == late.id
        assert [job.id for job in restored.journal.unfinished()] == [late.id]

    def test_a_job_that_ends_once_head_is_copied_is_in_no_part_of_the_backup(
        self, edited: Store, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        late = make_job()

        copied = Store.open(edited.root)
        held = copied.locked

        @contextmanager
        def commit_after(*names: str) -> Iterator[None]:
            with held(*names):
                yield
            monkeypatch.undo()
            edited.journal.add(late)
            commit(edited, 7, late)
            edited.journal.save(ended(late))

        monkeypatch.setattr(copied, "locked", commit_after)
        assert back_up(copied, tmp_path / "backup").backup.head == "v1"
        restore(tmp_path / "backup", tmp_path / "elsewhere")
        restored = Store.open(tmp_path / "elsewhere")
        _check_whole(restored)
        assert late.id not in {job.id for job in restored.journal.all([JobStatus.SUCCEEDED])}


def _work(store: Store, make_job: MakeJob, done: threading.Event) -> None:
    value = 0
    while not done.is_set():
        job = make_job()
        store.journal.add(job)
        value = value % 250 + 1
        store.names.give(f"after-{job.id}", commit(store, value, job))
        store.journal.save(ended(job))


def _check_whole(store: Store) -> None:
    """Head's whole chain is readable, and every job that succeeded has its version."""
    versions = store.versions.lineage(store.head.read().version)
    for version in versions:
        for ref in version.tensors:
            store.tensors.read(ref)
        if version.job_id is not None:
            store.journal.read(version.job_id)
    assert store.head.reflog()[-1] == store.head.read().move
    committed = {version.job_id for version in versions}
    assert {job.id for job in store.journal.all([JobStatus.SUCCEEDED])} <= committed
    assert {*store.names.all().values()} <= {version.id for version in versions}


class TestRefusals:
    @pytest.fixture
    def backup(self, edited: Store, tmp_path: Path) -> Path:
        back_up(edited, tmp_path / "backup")
        return tmp_path / "backup"

    def test_a_changed_file_is_found_when_it_is_restored(
        self, backup: Path, tmp_path: Path
    ) -> None:
        damage(next((backup / "files" / "base").rglob("*.json")))
        with pytest.raises(CorruptFile, match=r"prefixes\.json"):
            restore(backup, tmp_path / "elsewhere")

    def test_a_half_restored_folder_is_no_store_and_can_be_restored_again(
        self, edited: Store, backup: Path, tmp_path: Path
    ) -> None:
        file = next((backup / "files" / "base").rglob("*.json"))
        whole = file.read_bytes()
        damage(file)
        with pytest.raises(CorruptFile):
            restore(backup, tmp_path / "elsewhere")
        with pytest.raises(NotAStore, match=UNFINISHED):
            Store.open(tmp_path / "elsewhere")
        file.write_bytes(whole)
        restore(backup, tmp_path / "elsewhere")
        assert content(tmp_path / "elsewhere") == content(edited.root)

    def test_a_damaged_tensor_of_an_old_version_is_left_out_and_named(
        self, edited: Store, tmp_path: Path
    ) -> None:
        old = tensor_path(edited)
        commit(edited, 2)
        damage(old)
        backup = back_up(edited, tmp_path / "backup").backup
        assert backup.damaged == [old.relative_to(edited.root).as_posix()]

    def test_a_damaged_head_is_no_backup(self, edited: Store, tmp_path: Path) -> None:
        damage(tensor_path(edited))
        with pytest.raises(BackupError, match="v1"):
            back_up(edited, tmp_path / "backup")
        with pytest.raises(BackupError, match="no finished backup"):
            restore(tmp_path / "backup", tmp_path / "elsewhere")

    def test_a_folder_with_something_else_is_refused_both_ways(
        self, edited: Store, backup: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.tex").touch()
        with pytest.raises(BackupError, match=r"thesis\.tex"):
            back_up(edited, tmp_path / "full")
        with pytest.raises(BackupError, match=r"thesis\.tex"):
            restore(backup, tmp_path / "full")

    def test_another_stores_backup_and_the_store_itself_are_refused(
        self, edited: Store, backup: Path, tmp_path: Path
    ) -> None:
        other = Store.open(tmp_path / "other")
        other.create_base("weights-0")
        with pytest.raises(BackupError, match="another store"):
            back_up(other, backup)
        with pytest.raises(BackupError, match="lies in the store"):
            back_up(edited, edited.root / "backup")

    def test_two_backups_into_one_folder_are_refused(
        self, edited: Store, backup: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        at_work, go_on = threading.Event(), threading.Event()
        original = HeadPointer.read

        def slow(store: HeadPointer) -> object:
            at_work.set()
            assert go_on.wait(20)
            return original(store)

        monkeypatch.setattr(HeadPointer, "read", slow)
        thread = threading.Thread(target=back_up, args=(edited, backup))
        thread.start()
        assert at_work.wait(20)
        with pytest.raises(StoreBusy, match="another backup"):
            back_up(edited, backup)
        go_on.set()
        thread.join()

    @pytest.mark.parametrize("name", ["../../outside", "/etc/outside"])
    def test_a_list_cannot_name_files_outside(
        self, backup: Path, tmp_path: Path, name: str
    ) -> None:
        listed = json.loads((backup / "backup.json").read_text())
        listed["files"][name] = {"sha256": "0", "size": 0, "mtime_ns": 0}
        (backup / "backup.json").write_bytes(sealed(json.dumps(listed).encode()))
        with pytest.raises(BackupError, match="outside"):
            restore(backup, tmp_path / "elsewhere")


def test_backup_and_restore_commands_report_what_they_did(edited: Store, tmp_path: Path) -> None:
    run: Callable[..., str] = lambda *words: CliRunner().invoke(app, [*map(str, words)]).output  # noqa: E731
    folder = tmp_path / "backup"
    assert "head v1" in run("backup", folder, "--store", edited.root)
    assert "head v1" in run("restore", folder, "--store", tmp_path / "elsewhere")
    assert "not empty" in run("restore", folder, "--store", tmp_path / "elsewhere")
    assert "no store" in run("backup", folder, "--store", tmp_path)
