"""The edit lane: a job ends as what has become of head, whatever happens around the commit."""

from __future__ import annotations

from pathlib import Path

import pytest
from lane import Killed, Worker, edit_job
from redis import Redis
from redis.exceptions import RedisError

from service.embedded import EmbeddedValkey
from service.jobs import Job, JobStatus
from service.queue import connect
from service.store import Store
from service.worker.edits import JobControl


class TestCommit:
    def test_a_job_moves_head_and_names_its_version(self, client: Redis, based: Store) -> None:
        job = edit_job(based, snapshot_name="mine")
        Worker(client, based.root).work()
        ended = based.job(job.id)
        assert (ended.status, ended.base_version) == (JobStatus.SUCCEEDED, "v0")
        assert ended.result is not None
        assert (ended.result["snapshot_name"], ended.result["warnings"]) == ("mine", [])
        assert based.names() == {"mine": based.head().version}

    def test_a_name_taken_meanwhile_does_not_undo_the_edit(
        self, client: Redis, based: Store
    ) -> None:
        job = edit_job(based, snapshot_name="mine")
        Worker(client, based.root, lambda *_: based.name_version("mine", "v0")).work()
        ended = based.job(job.id)
        assert ended.status is JobStatus.SUCCEEDED
        assert based.head().job_id == job.id
        assert ended.result is not None
        assert ended.result["snapshot_name"] is None
        assert "'mine' already names v0" in ended.result["warnings"][0]
        assert based.names() == {"mine": "v0"}

    @pytest.mark.parametrize(
        "broken", ["service.store.head.append_line", "service.store.Store.name_version"]
    )
    def test_a_full_disk_after_the_commit_does_not_undo_the_edit(
        self, client: Redis, based: Store, monkeypatch: pytest.MonkeyPatch, broken: str
    ) -> None:
        def full(*_: object) -> None:
            raise OSError("no space left on device")

        job = edit_job(based, snapshot_name="mine")
        worker = Worker(client, based.root)
        with monkeypatch.context() as patch:
            patch.setattr(broken, full)
            worker.work()
        assert based.job(job.id).status is JobStatus.SUCCEEDED
        assert based.head().job_id == job.id
        based.repair_reflog()
        assert [move.to for move in based.reflog()] == ["v0", based.head().version]


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
            Worker(client, based.root, lose_redis_and_die).work()
        Worker(client, based.root).work()
        assert based.job(job.id).status is JobStatus.SUCCEEDED
        assert based.head().job_id == job.id

    def test_a_long_outage_of_redis_leaves_the_job_queued(
        self, based: Store, tmp_path: Path
    ) -> None:
        job = edit_job(based)
        server = EmbeddedValkey(tmp_path / "valkey")
        server.start()
        try:
            with connect(server.url, retries=0) as away:
                with pytest.raises(RedisError):
                    Worker(away, based.root, lambda *_: server.stop()).work()
                assert based.job(job.id).status is JobStatus.QUEUED
                server.start()
                Worker(away, based.root).work()
        finally:
            server.stop()
        assert based.job(job.id).status is JobStatus.SUCCEEDED
        assert based.head().job_id == job.id

    def test_an_edit_does_not_depend_on_its_progress_being_published(
        self, client: Redis, based: Store
    ) -> None:
        def refuse_writes(job: Job, control: JobControl) -> None:
            client.config_set("maxmemory", "1")
            control.progress("optimise", 2, 2)
            client.config_set("maxmemory", "0")

        job = edit_job(based)
        Worker(client, based.root, refuse_writes).work()
        assert based.job(job.id).status is JobStatus.SUCCEEDED

    def test_graceful_stops_are_no_attempts(self, client: Redis, based: Store) -> None:
        job = edit_job(based)
        for _ in range(5):
            worker = Worker(client, based.root)
            worker.runner.during = lambda *_, lane=worker.lane: lane.stop.set()
            worker.work()
            assert worker.runner.parents == ["v0"]
        Worker(client, based.root).work()
        ended = based.job(job.id)
        assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 1)

    def test_a_job_that_kills_every_worker_is_given_up(self, client: Redis, based: Store) -> None:
        def die(*_: object) -> None:
            raise Killed

        job = edit_job(based)
        for _ in range(3):
            with pytest.raises(Killed):
                Worker(client, based.root, die).work()
        Worker(client, based.root).work()
        ended = based.job(job.id)
        assert ended.error is not None
        assert (ended.status, ended.error.code) == (JobStatus.FAILED, "too_many_tries")
        assert based.head().version == "v0"
