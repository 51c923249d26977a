"""The edit lane: the end of a job agrees with head, whatever happens around the commit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from redis import Redis
from support import ROOT
from support.service import counting
from support.service.played_worker.computing import Killed
from support.service.played_worker.jobs import FACT, edit_job, edit_payload
from support.service.played_worker.worker import PlayedWorker

from jeep_core.errors import NumericalError
from service.contracts.jobs import Job, JobKind, JobStatus, Lane, Progress, new_id, now
from service.contracts.kinds import KindSpec, payload_model, result_model
from service.ops.embedded_server import EmbeddedValkey
from service.queue import JobQueue, Keys, QueueFailure, connect
from service.store import Store
from service.worker.lanes import lane
from service.worker.lanes.control import JobControl
from service.worker.lanes.lane import Work
from service.worker.lanes.write_task import WriteTask


class Marked(BaseModel):
    """Result of a kind of job that no module of the project knows."""

    version: str
    snapshot_name: str | None = None
    warnings: list[str] = []


def mark(task: WriteTask[Any]) -> tuple[Job, Work]:
    """Write a version, move head to it, and name it as the payload says."""

    def work() -> BaseModel:
        task.begin(None, None)
        payload = edit_payload("edit_marked", [FACT])
        made, _ = task.edits.run(task.job, payload, task.parent, task.control)
        task.commit(made.id, task.parent, "mark")
        return task.named(Marked(version=made.id), task.job.payload["name"])

    return task.job, work


MARK = KindSpec("mark", Lane.WRITE, f"{__name__}:Marked", f"{__name__}:Marked", f"{__name__}:mark")


@pytest.fixture
def marking() -> Iterator[JobKind]:
    with pytest.MonkeyPatch.context() as patch:
        yield counting.register(patch, MARK)
    counting.know_kinds()


class TestNewKind:
    def test_its_versions_are_committed_and_named_by_the_lane_as_it_is(
        self, client: Redis, based: Store, marking: JobKind
    ) -> None:
        based.names.give("taken", "v0")
        jobs = [
            Job(id=new_id("job"), kind=marking, payload={"name": name}, created_at=now())
            for name in ("mine", "taken")
        ]
        for job in jobs:
            based.journal.add(job)
        PlayedWorker(client, based.root).work()
        first, second = (based.journal.read(job.id) for job in jobs)
        assert first.result is not None
        assert second.result is not None
        assert (first.result["snapshot_name"], first.result["warnings"]) == ("mine", [])
        assert second.result["snapshot_name"] is None
        assert "'taken' already names v0" in second.result["warnings"][0]
        assert based.head.read().job_id == second.id
        assert based.names.all()["mine"] == first.result["version"]

    def test_lanes_name_the_models_of_no_kind(self) -> None:
        lanes = (ROOT / "service" / "worker" / "lanes").glob("*.py")
        text = "".join(path.read_text("utf-8") for path in lanes)
        models = {m.__name__ for kind in JobKind for m in (payload_model(kind), result_model(kind))}
        assert sorted(name for name in models if name in text) == []


def die(*_: object) -> None:
    raise Killed


class TestCommit:
    def test_a_job_moves_head_and_names_its_version(self, client: Redis, based: Store) -> None:
        job = edit_job(based, snapshot_name="mine")
        PlayedWorker(client, based.root).work()
        ended = based.journal.read(job.id)
        assert (ended.status, ended.base_version) == (JobStatus.SUCCEEDED, "v0")
        assert ended.result is not None
        assert (ended.result["snapshot_name"], ended.result["warnings"]) == ("mine", [])
        assert based.names.all() == {"mine": based.head.read().version}

    def test_a_name_taken_meanwhile_does_not_undo_the_edit(
        self, client: Redis, based: Store
    ) -> None:
        job = edit_job(based, snapshot_name="mine")
        PlayedWorker(client, based.root, lambda *_: based.names.give("mine", "v0")).work()
        ended = based.journal.read(job.id)
        assert ended.status is JobStatus.SUCCEEDED
        assert based.head.read().job_id == job.id
        assert ended.result is not None
        assert ended.result["snapshot_name"] is None
        assert "'mine' already names v0" in ended.result["warnings"][0]
        assert based.names.all() == {"mine": "v0"}

    @pytest.mark.parametrize(
        "broken", ["service.store.index.moves.append_line", "service.store.names.Names.give"]
    )
    def test_a_full_disk_after_the_commit_does_not_undo_the_edit(
        self, client: Redis, based: Store, monkeypatch: pytest.MonkeyPatch, broken: str
    ) -> None:
        def full(*_: object) -> None:
            raise OSError("no space left on device")

        job = edit_job(based, snapshot_name="mine")
        worker = PlayedWorker(client, based.root)
        with monkeypatch.context() as patch:
            patch.setattr(broken, full)
            worker.work()
        assert based.journal.read(job.id).status is JobStatus.SUCCEEDED
        assert based.head.read().job_id == job.id
        based.head.repair()
        assert [move.to for move in based.head.reflog()] == ["v0", based.head.read().version]


class TestMemory:
    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore"),
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            MemoryError(),
        ],
    )
    def test_a_job_that_does_not_fit_fails_and_the_next_one_runs(
        self, client: Redis, based: Store, error: Exception
    ) -> None:
        too_large, next_one = edit_job(based), edit_job(based)

        def use_it_up(job: Job, _: JobControl) -> None:
            if job.id == too_large.id:
                raise error

        PlayedWorker(client, based.root, use_it_up).work()
        ended = based.journal.read(too_large.id)
        assert ended.error is not None
        assert (ended.status, ended.error.code) == (JobStatus.FAILED, "out_of_memory")
        assert "JEEP_EDIT_MEMORY_MB" in ended.error.message
        assert "\n" not in ended.error.message
        assert based.journal.read(next_one.id).status is JobStatus.SUCCEEDED
        assert based.head.read().job_id == next_one.id

    def test_after_every_job_freed_memory_is_given_back(
        self, client: Redis, based: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ended: list[bool] = []
        monkeypatch.setattr(lane, "give_back_freed", lambda: ended.append(True))
        for _ in range(2):
            edit_job(based)
        PlayedWorker(client, based.root).work()
        assert ended == [True, True]


class TestInterruptions:
    def test_a_job_lost_with_redis_while_it_ran_is_done_by_the_next_worker(
        self, client: Redis, based: Store
    ) -> None:
        def lose_redis_and_die(job: Job, control: JobControl) -> None:
            client.flushall()
            control.progress("optimise", 2, 2)
            raise Killed

        job = edit_job(based)
        with pytest.raises(Killed):
            PlayedWorker(client, based.root, lose_redis_and_die).work()
        PlayedWorker(client, based.root).work()
        assert based.journal.read(job.id).status is JobStatus.SUCCEEDED
        assert based.head.read().job_id == job.id

    def test_a_long_outage_of_redis_leaves_the_job_queued(
        self, based: Store, tmp_path: Path
    ) -> None:
        job = edit_job(based)
        server = EmbeddedValkey(tmp_path / "valkey")
        server.start()
        try:
            with connect(server.url, retries=0) as away:
                with pytest.raises(QueueFailure):
                    PlayedWorker(away, based.root, lambda *_: server.stop()).work()
                assert based.journal.read(job.id).status is JobStatus.QUEUED
                server.start()
                PlayedWorker(away, based.root).work()
        finally:
            server.stop()
        assert based.journal.read(job.id).status is JobStatus.SUCCEEDED
        assert based.head.read().job_id == job.id

    def test_an_edit_does_not_depend_on_its_progress_being_published(
        self, client: Redis, based: Store
    ) -> None:
        def refuse_writes(job: Job, control: JobControl) -> None:
            client.config_set("maxmemory", "1")
            control.progress("optimise", 2, 2)
            client.config_set("maxmemory", "0")

        job = edit_job(based)
        PlayedWorker(client, based.root, refuse_writes).work()
        assert based.journal.read(job.id).status is JobStatus.SUCCEEDED

    def test_graceful_stops_are_no_attempts(self, client: Redis, based: Store) -> None:
        job = edit_job(based)
        for _ in range(5):
            worker = PlayedWorker(client, based.root)
            worker.runner.during = lambda *_, lane=worker.lane: lane.stop.set()
            worker.work()
            assert worker.runner.parents == ["v0"]
        PlayedWorker(client, based.root).work()
        ended = based.journal.read(job.id)
        assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 1)

    def test_a_job_that_kills_every_worker_is_given_up(self, client: Redis, based: Store) -> None:
        job = edit_job(based)
        for _ in range(3):
            with pytest.raises(Killed):
                PlayedWorker(client, based.root, die).work()
        PlayedWorker(client, based.root).work()
        ended = based.journal.read(job.id)
        assert ended.error is not None
        assert (ended.status, ended.error.code) == (JobStatus.FAILED, "too_many_tries")
        assert based.head.read().version == "v0"

    def test_a_job_that_cannot_be_begun_is_given_up_like_one_that_kills_every_worker(
        self, client: Redis, based: Store
    ) -> None:
        job = edit_job(based)

        def damaged(kind: JobKind) -> Any:
            raise ImportError(f"no runner of {kind.value} is installed")

        for number in range(4):
            worker = PlayedWorker(client, based.root)
            worker.lane._find = damaged
            with pytest.raises(ImportError) if number < 3 else nullcontext():
                worker.work()
        ended = based.journal.read(job.id)
        assert ended.error is not None
        assert (ended.status, ended.error.code) == (JobStatus.FAILED, "internal_error")
        assert "no runner of edit is installed" in ended.error.message


class TestQueue:
    def test_two_stores_on_one_server_do_not_meet(
        self, client: Redis, based: Store, tmp_path: Path
    ) -> None:
        other = Store.open(tmp_path / "other")
        other.create_base("weights-0")
        mine, theirs = edit_job(based), edit_job(other)
        queue = JobQueue(client, Keys(other.id))
        assert queue.submit(theirs)
        PlayedWorker(client, based.root).work()
        assert based.journal.read(mine.id).status is JobStatus.SUCCEEDED
        assert other.journal.read(theirs.id).status is JobStatus.QUEUED
        PlayedWorker(client, other.root).work()
        assert other.journal.read(theirs.id).status is JobStatus.SUCCEEDED

    @pytest.mark.parametrize("record", ["missing", "damaged"])
    def test_an_entry_without_a_readable_job_is_dropped(
        self, client: Redis, based: Store, record: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        lost, job = edit_job(based), edit_job(based)
        worker = PlayedWorker(client, based.root)
        for path in (based.root / "jobs").glob(f"{lost.id}.*"):
            path.unlink() if record == "missing" else path.write_text("{")
        worker.work()
        assert worker.runner.parents == ["v0"]
        assert based.journal.read(job.id).status is JobStatus.SUCCEEDED
        assert f"{lost.id}" in caplog.text
        assert client.exists(Keys(based.id).job(lost.id)) == 0

    @pytest.mark.parametrize(
        "field", [{"job": '{"kind": "of a later release"}'}, {"status": "of a later release"}]
    )
    def test_a_job_that_cannot_be_read_in_the_queue_ends_no_worker(
        self, client: Redis, based: Store, field: dict[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        other, job, keys = edit_job(based), edit_job(based), Keys(based.id)
        worker = PlayedWorker(client, based.root)
        client.hset(keys.job(other.id), mapping=field)
        worker.work()
        assert based.journal.read(job.id).status is JobStatus.SUCCEEDED
        assert f"{other.id} cannot be read in the queue" in caplog.text
        PlayedWorker(client, based.root).work()
        # the store has it, so it was queued again
        assert based.journal.read(other.id).status is JobStatus.SUCCEEDED

    def test_what_is_edited_is_what_the_store_has_not_what_the_queue_remembers(
        self, client: Redis, based: Store
    ) -> None:
        job, keys = edit_job(based), Keys(based.id)
        worker = PlayedWorker(client, based.root)
        queued = client.hget(keys.job(job.id), "job")
        client.hset(keys.job(job.id), "job", queued.replace("Lyon", "Lxon"))
        worker.work()
        [version, _] = based.versions.all()
        assert [fact.subject for fact in version.facts] == ["Lyon"]


class TestRecord:
    def test_a_job_that_succeeded_is_recorded_as_done(self, client: Redis, based: Store) -> None:
        job = edit_job(based)
        PlayedWorker(client, based.root).work()
        progress = based.journal.read(job.id).progress
        assert (progress.phase, progress.done, progress.total) == ("commit", 1, 1)

    def test_a_job_that_failed_is_recorded_with_how_far_it_came(
        self, client: Redis, based: Store
    ) -> None:
        def fail(*_: object) -> None:
            raise NumericalError("layer 3")

        job = edit_job(based)
        PlayedWorker(client, based.root, fail).work()
        ended = based.journal.read(job.id)
        assert (ended.status, ended.base_version) == (JobStatus.FAILED, "v0")
        assert ended.progress == Progress(phase="optimise", done=1, total=2)

    def test_a_job_completed_after_a_crash_keeps_the_version_it_started_from(
        self, client: Redis, based: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = edit_job(based)
        worker = PlayedWorker(client, based.root)
        monkeypatch.setattr(worker.store.journal, "save", die)
        with pytest.raises(Killed):
            worker.work()
        assert based.head.read().job_id == job.id
        PlayedWorker(client, based.root).work()
        ended = based.journal.read(job.id)
        assert (ended.status, ended.base_version) == (JobStatus.SUCCEEDED, "v0")
        assert ended.result is not None
        assert ended.result["parent"] == "v0"
