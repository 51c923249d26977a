"""The disk is full at some write of a job: the job fails with a code or is done, never half."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
from pydantic import BaseModel
from redis import Redis
from support.service.edit_runner import MODEL
from support.service.played_worker.jobs import edit_job, revert_job
from support.service.played_worker.worker import PlayedWorker

from jeep_core.models.loading import load
from service.contracts.jobs import Job, JobKind, JobStatus, new_id, now
from service.settings import Settings
from service.store import Store, StoreError, is_disk_full
from service.store.maintenance.retention import referenced_tensors
from service.store.maintenance.sweep import sweep
from service.store.maintenance.verify import verify
from service.worker.lanes import lane as lane_module
from service.worker.members.publishing import prepare


class Done(BaseModel):
    """The result of a job that does nothing."""


WRITES = 40
"""More durable writes than a job makes, which the last cases see by reaching none of theirs."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "ROOM_S", 0.001)


class FullDisk:
    """Every durable write from number ``first`` on fails, ``count`` times: each ends in fsync."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count, self.calls, self._fsync = first, count, 0, os.fsync

    def __call__(self, descriptor: int) -> None:
        self.calls += 1
        if self.first <= self.calls < self.first + self.count:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._fsync(descriptor)


def assert_whole(store: Store) -> None:
    """Nothing is damaged, and after the next start nothing is left over."""
    store = Store.open(store.root)
    store.head.repair()
    assert verify(store).findings == []
    sweep(store)
    named = {ref.sha256 for ref in referenced_tensors(store)}
    assert {path.stem for path in (store.root / "tensors").glob("*/*")} == named
    for folder in ("staging", "work", "reports"):
        assert list((store.root / folder).iterdir()) == []


def run_on_a_full_disk(
    worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch, first: int, count: int
) -> bool:
    """Work off the queue; whether the disk was full at any moment."""
    disk = FullDisk(first, count)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", disk)
        worker.work()
    return disk.calls >= first


def test_an_edit_ends_whole_wherever_the_disk_is_full(
    client: Redis, based: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = []
    for first in range(1, WRITES):
        job, before = edit_job(based, snapshot_name=f"n{first}"), based.head.read().version
        was_full = run_on_a_full_disk(PlayedWorker(client, based.root), monkeypatch, first, 3)
        ended = based.journal.read(job.id)
        if ended.status is JobStatus.FAILED:
            assert ended.error is not None
            assert (ended.error.code, was_full) == ("disk_full", True)
            assert based.head.read().version == before
        else:
            assert ended.status is JobStatus.SUCCEEDED
            assert based.head.read().job_id == job.id
        assert_whole(based)
        outcomes.append((was_full, ended.status))
        if not was_full:
            break
    assert (True, JobStatus.FAILED) in outcomes
    assert (True, JobStatus.SUCCEEDED) in outcomes
    assert outcomes[-1] == (False, JobStatus.SUCCEEDED)


def test_a_revert_ends_whole_wherever_the_disk_is_full(
    client: Redis, based: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = []
    for first in range(1, WRITES):
        jobs = [edit_job(based) for _ in range(2)]
        PlayedWorker(client, based.root).work()
        before, edit_id = based.head.read().version, jobs[0].payload["edit_id"]
        job = revert_job(based, edit_id)
        was_full = run_on_a_full_disk(PlayedWorker(client, based.root), monkeypatch, first, 1)
        ended = based.journal.read(job.id)
        if ended.status is JobStatus.FAILED:
            assert ended.error is not None
            assert ended.error.code == "disk_full"
            assert based.head.read().version == before
        else:
            assert ended.status is JobStatus.SUCCEEDED
            assert based.head.read().job_id == job.id
        assert_whole(based)
        outcomes.append((was_full, ended.status))
        if not was_full:
            break
    assert (True, JobStatus.FAILED) in outcomes
    assert outcomes[-1] == (False, JobStatus.SUCCEEDED)


def test_a_job_that_others_may_do_begins_when_there_is_room(
    client: Redis, based: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose it is stands in a file, which is written before the job's work can fail."""
    job = Job(id=new_id("job"), kind=JobKind.DRIFT, payload={}, created_at=now())
    based.journal.add(job)
    worker = PlayedWorker.reading(client, based.root, lambda task: Done())
    assert run_on_a_full_disk(worker, monkeypatch, 1, 3)
    ended = based.journal.read(job.id)
    assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 1)
    assert_whole(based)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE, errno.EIO])
def test_a_job_whose_record_cannot_be_read_now_waits(
    client: Redis, based: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It would be dropped if it were damaged."""
    job, worker = edit_job(based), PlayedWorker(client, based.root)
    read, failures = worker.store.journal.read, [OSError(number, os.strerror(number))] * 3

    def hindered(job_id: str) -> Job:
        if failures:
            raise failures.pop()
        return read(job_id)

    monkeypatch.setattr(worker.store.journal, "read", hindered)
    worker.work()
    ended = based.journal.read(job.id)
    assert (ended.status, ended.attempt, failures) == (JobStatus.SUCCEEDED, 1, [])


def test_a_job_that_is_denied_a_file_fails_at_once(
    client: Redis, based: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would stop the service for all other jobs, which may need no such file."""
    jobs, worker = [edit_job(based), edit_job(based)], PlayedWorker(client, based.root)
    prepare = worker.lane._prepare

    def denied(job: Job) -> object:
        if job.id == jobs[0].id:
            path = str(based.root / "versions" / "v7" / "manifest.json")
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        return prepare(job)

    monkeypatch.setattr(worker.lane, "_prepare", denied)
    worker.work()
    first, second = (based.journal.read(job.id) for job in jobs)
    assert first.error is not None
    assert (first.status, first.attempt, first.error.code) == (
        JobStatus.FAILED, 1, "permission_denied",
    )  # fmt: skip
    assert first.error.message.startswith("versions/v7/manifest.json of the store")
    assert second.status == JobStatus.SUCCEEDED


def test_a_job_does_not_begin_without_room(client: Redis, based: Store) -> None:
    worker = PlayedWorker(client, based.root)
    (based.root / "training" / "big").write_bytes(bytes(2**20))
    worker.lane._room = lane_module.Room(based.root, max_mb=1, min_free_mb=0)
    job = edit_job(based)
    worker.queue.requeue_missing(based.journal.unfinished())
    worker.work()
    ended = based.journal.read(job.id)
    assert ended.error is not None
    assert (ended.status, ended.error.code) == (JobStatus.FAILED, "store_full")
    assert "JEEP_MAX_STORE_MB" in ended.error.message
    assert worker.runner.parents == []


def test_a_job_that_cannot_be_journaled_leaves_no_mark(
    based: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(2, 1))
        with pytest.raises(OSError, match="No space"):
            edit_job(based)
    assert [path for path in (based.root / "jobs").rglob("*") if path.is_file()] == []


def test_a_limit_of_the_system_is_told_and_leaves_no_part_of_a_file(based: Store) -> None:
    """A real one, of file sizes, met by the store and by the library that writes moments."""
    code = """
import resource, sys
import numpy
from safetensors.numpy import save_file
from service.store import Store, is_disk_full
store = Store.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for write in (
    lambda: store.tensors.put("w", "U8", [8192], bytes(8192)),
    lambda: save_file({"w": numpy.zeros(8192)}, store.base.moments_folder),
):
    try:
        write()
    except Exception as error:
        print(is_disk_full(error))
"""
    command = [sys.executable, "-c", code, str(based.root)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout == "True\nTrue\n"
    assert list((based.root / "staging").iterdir()) == []


def test_a_worker_starts_on_a_full_disk_that_had_room_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, settings = load(str(MODEL), device="cpu", dtype="float32"), Settings(store=store.root)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(1, sys.maxsize))
        with pytest.raises(OSError, match="No space"):
            prepare(store, base, settings)
    prepare(store, base, settings)
    published = store.base.info()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(1, sys.maxsize))
        prepare(Store.open(store.root), base, settings)
    assert store.base.info() == published
    assert_whole(store)


def test_errors_of_a_full_disk_are_told_from_others() -> None:
    error = StoreError("not written")
    error.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded")
    assert is_disk_full(error)
    assert not is_disk_full(ValueError("os error 2"))
    assert not is_disk_full(FileNotFoundError(errno.ENOENT, "no such file"))
