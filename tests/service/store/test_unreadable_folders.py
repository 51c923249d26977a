"""A folder that cannot be listed is not taken for an empty one, nor its files for absent."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.service.builders import add_version

from jeep_core.storage.looking import LOST_AND_FOUND
from service.contracts.jobs import Job, JobStatus
from service.contracts.schemas import Manifest
from service.contracts.schemas.access import Scope
from service.store import Store
from service.store.files import TEMPORARY
from service.store.journal import OPEN, make_folder
from service.store.maintenance.backup import _fsync_folders, back_up, restore
from service.store.maintenance.room import Room
from service.store.maintenance.sweep import _unfinished, sweep_orphans, sweep_own
from service.store.maintenance.usage import usage
from service.store.maintenance.verify import LATER, verify
from service.store.store import FOLDERS
from service.worker.partial_results import of_layout

NUMBERS = [errno.EACCES, errno.EIO]
Shut = Callable[..., None]


@pytest.fixture
def shut(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shut]:
    """Let a folder that ends so be neither listed nor its files looked at.

    What tells nothing of errors does so as of Python 3.14, whichever this one is.
    """

    def closed(end: str, number: int) -> None:
        def check(path: Any) -> None:
            where = Path(path).as_posix()
            if where.endswith(end) or Path(where).parent.as_posix().endswith(end):
                raise OSError(number, os.strerror(number), str(path))

        def failing(method: Any) -> Any:
            def call(path: Any = ".", *args: Any, **more: Any) -> Any:
                if isinstance(path, (str, Path)):
                    check(path)
                return method(path, *args, **more)

            return call

        for name in ("listdir", "scandir"):
            monkeypatch.setattr(os, name, failing(getattr(os, name)))
        monkeypatch.setattr(Path, "stat", failing(Path.stat))
        for name in ("exists", "is_dir", "is_file"):
            monkeypatch.setattr(Path, name, silent(getattr(Path, name), False))
        monkeypatch.setattr(Path, "glob", silent(Path.glob, ()))

    def silent(method: Any, nothing: Any) -> Any:
        def call(path: Path, *args: Any) -> Any:
            try:
                found = method(path, *args)
                return found if isinstance(found, bool) else list(found)
            except OSError:
                return nothing

        return call

    yield closed
    monkeypatch.undo()


def old(path: Path) -> Path:
    """A file that was written two hours ago."""
    path.touch()
    os.utime(path, (time.time() - 7200,) * 2)
    return path


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_tensors_of_drafts_that_cannot_be_listed_stay(
    based: Store, make_job: Callable[..., Job], shut: Shut, number: int
) -> None:
    job = make_job(status=JobStatus.RUNNING)
    based.journal.add(job)
    ref = based.tensors.put("w", "F32", [4], bytes(16))
    draft = based.versions.read("v0").model_copy(
        update={"id": "v9", "job_id": job.id, "tensors": [ref]}
    )
    based.drafts.work_folder(job.id)
    based.drafts.save(Manifest.model_validate(draft))
    store = Store.open(based.root)
    shut(f"{job.id}/drafts", number)
    with pytest.raises(OSError, match=os.strerror(number)):
        sweep_orphans(store)
    assert os.path.lexists(based.tensors.path(ref.sha256))


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_no_mark_is_removed_while_it_is_not_known_whether_its_job_is_there(
    based: Store, make_job: Callable[..., Job], shut: Shut, number: int
) -> None:
    job = make_job()
    based.journal.add(job)
    mark = old(based.root / "jobs" / "open" / f"{job.id}.open")
    cancel = based.root / "jobs" / f"{job.id}.cancel"
    cancel.touch()
    store = Store.open(based.root)
    shut("/jobs", number)
    with pytest.raises(OSError, match=os.strerror(number)):
        sweep_orphans(store)
    with pytest.raises(OSError, match=os.strerror(number)):
        based.journal.save(job)
    assert os.path.lexists(mark)
    assert os.path.lexists(cancel)


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_no_job_is_forgotten(
    based: Store, make_job: Callable[..., Job], shut: Shut, number: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    job = make_job()
    based.journal.add(job)
    assert [one.id for one in based.journal.all()] == [job.id]
    store = Store.open(based.root)
    shut("/jobs", number)
    with pytest.raises(OSError, match=os.strerror(number)):
        list(store.journal.all())
    with pytest.raises(OSError, match=os.strerror(number)):
        make_folder(based.root)
    monkeypatch.undo()
    assert [one.id for one in Store.open(based.root).journal.all()] == [job.id]


@pytest.mark.parametrize("folder", ["reports", "base", "tensors", "reports/job_1"])
@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_a_backup_leaves_no_folder_out(
    based: Store, tmp_path: Path, shut: Shut, folder: str, number: int
) -> None:
    (based.root / "reports" / "job_1").mkdir()
    store = Store.open(based.root)
    shut(f"store/{folder}", number)
    with pytest.raises(OSError, match=os.strerror(number)):
        back_up(store, tmp_path / "backup")
    assert not os.path.lexists(tmp_path / "backup" / "backup.json")


def test_what_belongs_to_the_file_system_is_no_part_of_a_store(
    based: Store, tmp_path: Path, shut: Shut
) -> None:
    """The root of an ext4 disk has a folder that only root may look at."""
    target, copy = tmp_path / "backup", tmp_path / "copy"
    for root in (based.root, target, copy):
        (root / LOST_AND_FOUND).mkdir(parents=True)
    store = Store.open(based.root)
    shut(LOST_AND_FOUND, errno.EACCES)
    back_up(store, target)
    restored = restore(target, copy)
    assert restored.head == "v0"
    assert not [name for name in restored.files if LOST_AND_FOUND in name]
    assert Room(store.root, 1, 0).used() == sum(one.bytes for one in usage(store).values()) > 0


@pytest.mark.parametrize("readable", [True, False])
def test_a_disk_of_its_own_below_a_store_keeps_its_folder(
    based: Store, tmp_path: Path, shut: Shut, readable: bool
) -> None:
    """Whatever part of a store a disk holds: nothing fails, is removed, counted or copied."""
    below = ("", "targets/artefacts", f"jobs/{OPEN}", *FOLDERS)
    folders = [
        based.root / name / LOST_AND_FOUND / deeper for name in below for deeper in ("", "#7")
    ]
    for folder in folders:
        folder.mkdir(parents=True)
        os.utime(folder.parent, (0, 0))
        for name in ("#12345", f".a{TEMPORARY}", "a.safetensors", "job_1.json", "v1.open"):
            old(folder / name)
    store = Store.open(based.root)
    add_version(store, "v0")
    if not readable:
        shut(LOST_AND_FOUND, errno.EACCES)
    sweep_own(store)
    sweep_orphans(store)
    store.exports.retire(0)
    store.artefacts.sweep(())
    assert verify(store).findings == []
    assert back_up(store, tmp_path / "backup").backup.head == "v0"
    restored = restore(tmp_path / "backup", tmp_path / "copy")
    assert not [name for name in restored.files if LOST_AND_FOUND in name]
    assert Room(store.root, 1, 0).used() == sum(one.bytes for one in usage(store).values()) > 0
    assert store.exports.all() == []
    for folder in folders:
        assert os.path.lexists(folder / f".a{TEMPORARY}")


def test_a_restored_folder_that_cannot_be_made_durable_is_told(
    based: Store, tmp_path: Path, shut: Shut
) -> None:
    back_up(based, tmp_path / "backup")
    shut("copy/reports", errno.EIO)
    (tmp_path / "copy").mkdir()
    with pytest.raises(OSError, match="Input/output"):
        _fsync_folders(tmp_path / "copy" / "reports")


def test_a_root_that_cannot_be_listed_is_told(based: Store, shut: Shut) -> None:
    shut("/store", errno.EACCES)
    with pytest.raises(PermissionError):
        list(_unfinished(based))


@pytest.mark.parametrize(
    "folder",
    ["jobs", "keys", "suites", "targets", "reports", "exports", "base", "base/probes"],
)
def test_verify_says_which_folder_it_cannot_look_at(based: Store, shut: Shut, folder: str) -> None:
    add_version(based)
    store = Store.open(based.root)
    shut(f"store/{folder}", errno.EACCES)
    findings = verify(store).findings
    found = {one.path: one for one in findings}
    assert found[folder].what == "cannot be read now: Permission denied"
    assert found[folder].advice == LATER
    assert len(found) == len(findings), "each is named once"


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_verify_finds_what_is_damaged_beside_such_a_folder(
    based: Store, shut: Shut, number: int
) -> None:
    for job_id in ("job_1", "job_2"):
        folder = based.root / "reports" / job_id
        folder.mkdir()
        (folder / "a.json").write_text("{}")
        based.reports.seal(job_id)
    (based.root / "reports" / "job_2" / "a.json").write_text("damaged")
    moments = based.base.folder / "moments"
    (moments / "a-shut-one").mkdir(parents=True)
    (moments / "bad.safetensors").write_text("damaged")
    store = Store.open(based.root)
    shut("reports/job_1", number)
    shut("moments/a-shut-one", number)
    found = {one.path: one.what for one in verify(store).findings}
    now, base = f"cannot be read now: {os.strerror(number)}", moments.relative_to(store.root)
    assert found.pop("reports/job_1") == found.pop(f"{base.as_posix()}/a-shut-one") == now
    assert sorted(found) == [f"{base.as_posix()}/bad.safetensors", "reports/job_2/a.json"]


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_verify_goes_on_where_it_cannot_look_at_tensors(
    based: Store, shut: Shut, number: int
) -> None:
    ref = based.tensors.put("w", "F32", [4], bytes(16))
    add_version(based, tensors=[ref])
    path = based.tensors.path(ref.sha256).relative_to(based.root)
    store = Store.open(based.root)
    shut(path.parent.as_posix(), number)
    [found] = verify(store).findings
    assert (found.path, found.advice) == (path.as_posix(), LATER)
    assert found.what == f"cannot be read now: {os.strerror(number)}"


def test_keys_that_cannot_be_listed_are_not_none(based: Store, shut: Shut) -> None:
    based.keys.create("me", [Scope.READ])
    shut("/keys", errno.EACCES)
    with pytest.raises(PermissionError):
        based.keys.create("me", [Scope.READ])
    with pytest.raises(PermissionError):
        based.keys.all()


def test_what_is_there_of_a_job_is_kept_while_its_layout_cannot_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_layout(tmp_path, 1)
    (tmp_path / "rows").touch()
    stat = Path.stat

    def failing(path: Path, **more: Any) -> os.stat_result:
        if path.name == "layout":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return stat(path, **more)

    # as of Python 3.14, which lets no error of it through
    monkeypatch.setattr(
        Path, "exists", lambda path: os.path.lexists(path) and path.name != "layout"
    )
    monkeypatch.setattr(Path, "stat", failing)
    with pytest.raises(OSError, match="Input/output"):
        of_layout(tmp_path, 1)
    assert os.path.lexists(tmp_path / "rows")
