"""The read lane: what happens to jobs that write no version, with a real queue and store."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import BaseModel
from redis import Redis
from support.service.builders import ended
from support.service.played_worker.computing import Killed
from support.service.played_worker.jobs import cancel, edit_job
from support.service.played_worker.worker import PlayedWorker

from jeep_core.errors import FieldProblem, InvalidHParams
from service.contracts.jobs import Job, JobKind, JobStatus, Progress, new_id, now
from service.queue import Keys
from service.store import Store
from service.store.maintenance.sweep import sweep
from service.worker.failures import Refused
from service.worker.gate import Turn
from service.worker.lanes import control as control_module
from service.worker.lanes import lane as lane_module
from service.worker.lanes.read_lane import Task, runner_of


class Count(BaseModel):
    """The result of the simulated jobs."""

    counted: int


def job_in(store: Store) -> Job:
    """A journaled job of the read lane, as the api makes it."""
    job = Job(id=new_id("job"), kind=JobKind.HYPERNETWORK, payload={"to": 3}, created_at=now())
    store.journal.add(job)
    return job


def count(task: Task) -> Count:
    """Counts to the requested number and saves the count after each step."""
    kept = task.work / "count"
    done = int(kept.read_text()) if kept.exists() else 0
    while done < task.job.payload["to"]:
        task.control.pause()
        done += 1
        kept.write_text(str(done))
        task.control.progress("count", done, task.job.payload["to"])
    return Count(counted=done)


def die(task: Task) -> Count:
    (task.work / "count").write_text("2")
    raise Killed


class TestOutcome:
    def test_a_job_ends_with_its_result_and_head_has_not_moved(
        self, client: Redis, based: Store
    ) -> None:
        job = job_in(based)
        PlayedWorker.reading(client, based.root, count).work()
        done = based.journal.read(job.id)
        assert (done.status, done.result, done.base_version) == ("succeeded", {"counted": 3}, None)
        assert (done.progress.phase, done.progress.done, done.progress.total) == ("count", 3, 3)
        assert based.head.read().version == "v0"

    def test_a_read_job_runs_while_an_edit_is_queued(self, client: Redis, based: Store) -> None:
        edit, job = edit_job(based), job_in(based)
        PlayedWorker.reading(client, based.root, count).work()
        assert based.journal.read(job.id).status is JobStatus.SUCCEEDED
        assert based.journal.read(edit.id).status is JobStatus.QUEUED
        PlayedWorker(client, based.root).work()
        assert based.journal.read(edit.id).status is JobStatus.SUCCEEDED

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (Refused("no_data", "there is nothing to count"), "no_data"),
            (InvalidHParams([FieldProblem("/to", "too_far", "no")]), "invalid_hparams"),
            (ZeroDivisionError("of what"), "internal_error"),
        ],
    )
    def test_an_error_is_the_job_s_own(
        self, client: Redis, based: Store, error: Exception, code: str
    ) -> None:
        def fail(task: Task) -> Count:
            task.control.progress("count", 1, 3)
            raise error

        job = job_in(based)
        PlayedWorker.reading(client, based.root, fail).work()
        done = based.journal.read(job.id)
        assert done.error is not None
        assert (done.status, done.error.code) == (JobStatus.FAILED, code)
        assert (done.progress.done, done.progress.total) == (1, 3)

    def test_a_kind_that_nobody_runs_is_refused(self) -> None:
        with pytest.raises(Refused, match="'edit'"):
            runner_of(JobKind.EDIT)

    def test_files_of_a_job_are_kept_if_it_succeeds(self, client: Redis, based: Store) -> None:
        good, bad = job_in(based), job_in(based)

        def report(task: Task) -> Count:
            (task.reports / "cases.json").write_text("[]")
            (task.work / "part").touch()
            if task.job.id == bad.id:
                raise Refused("no_data", "there is nothing to count")
            return Count(counted=0)

        PlayedWorker.reading(client, based.root, report).work()
        kept = [path.relative_to(based.root / "reports") for path in based.root.rglob("cases.json")]
        assert kept == [Path(good.id) / "cases.json"]
        assert list((based.root / "work").iterdir()) == []


def test_a_job_that_goes_no_further_is_seen(
    client: Redis, based: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, still = [0.0], list[float]()
    monkeypatch.setattr(lane_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def later(seconds: float = 100.0) -> None:
        clock[0] += seconds
        still.append(worker.lane.still_s())

    def slow(task: Task) -> Count:
        later()
        for step in (
            task.control.pause,
            task.control.give_way,
            lambda: task.control.progress("count", 1, 3),
        ):
            later()
            step()
            later()
        return Count(counted=3)

    job = job_in(based)
    worker = PlayedWorker.reading(client, based.root, slow)
    later()
    assert still.pop() == 0, "there is nothing to do"
    worker.work()
    assert based.journal.read(job.id).status is JobStatus.SUCCEEDED
    assert still == [0, 100, 0, 100, 0, 100, 0]
    still.clear()
    later()
    assert still == [0], "the job has ended"


class TestInterruptions:
    def test_a_killed_job_runs_again_first_and_goes_on(self, client: Redis, based: Store) -> None:
        first = job_in(based)
        with pytest.raises(Killed):
            PlayedWorker.reading(client, based.root, die).work()
        second, order = job_in(based), []

        def go_on(task: Task) -> Count:
            order.append((task.job.id, (task.work / "count").exists()))
            return count(task)

        PlayedWorker.reading(client, based.root, go_on).work()
        assert order == [(first.id, True), (second.id, False)]
        assert [based.journal.read(job.id).attempt for job in (first, second)] == [2, 1]
        assert list((based.root / "work").iterdir()) == []

    def test_a_job_that_kills_every_worker_is_given_up(self, client: Redis, based: Store) -> None:
        job = job_in(based)
        for _ in range(3):
            with pytest.raises(Killed):
                PlayedWorker.reading(client, based.root, die).work()
        PlayedWorker.reading(client, based.root, die).work()
        error = based.journal.read(job.id).error
        assert error is not None
        assert error.code == "too_many_tries"

    def test_graceful_stops_are_no_attempts(self, client: Redis, based: Store) -> None:
        job = job_in(based)
        lives: list[PlayedWorker] = []

        def stopped(task: Task) -> Count:
            lives[-1].lane.stop.set()
            return count(task)

        for _ in range(5):
            lives.append(PlayedWorker.reading(client, based.root, stopped))
            lives[-1].work()
            assert based.journal.read(job.id).status is JobStatus.QUEUED
        PlayedWorker.reading(client, based.root, count).work()
        assert based.journal.read(job.id).attempt == 1

    def test_a_job_lost_with_redis_is_done_by_the_next_worker(
        self, client: Redis, based: Store
    ) -> None:
        def lose_redis(task: Task) -> Count:
            client.flushall()
            return die(task)

        job = job_in(based)
        with pytest.raises(Killed):
            PlayedWorker.reading(client, based.root, lose_redis).work()
        PlayedWorker.reading(client, based.root, count).work()
        assert based.journal.read(job.id).result == {"counted": 3}

    def test_a_job_cancelled_on_its_way_leaves_nothing(self, client: Redis, based: Store) -> None:
        def cancelled(task: Task) -> Count:
            (task.reports / "cases.json").touch()
            cancel(client, based, task.job.id)
            return count(task)

        job = job_in(based)
        PlayedWorker.reading(client, based.root, cancelled).work()
        assert based.journal.read(job.id).status is JobStatus.CANCELLED
        assert [*(based.root / "work").iterdir(), *(based.root / "reports").iterdir()] == []

    def test_a_cancel_is_seen_between_matrices(
        self, client: Redis, based: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One forward pass over long texts takes minutes: nothing calls ``pause`` meanwhile."""
        monkeypatch.setattr(control_module, "LOOK_EVERY_S", 0.0)

        def passes(task: Task) -> Count:
            task.control.give_way()
            cancel(client, based, task.job.id)
            task.control.give_way()
            return Count(counted=0)

        job = job_in(based)
        PlayedWorker.reading(client, based.root, passes).work()
        assert based.journal.read(job.id).status is JobStatus.CANCELLED

    def test_a_cancel_is_seen_while_a_job_waits_for_decoding(
        self, client: Redis, based: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(control_module, "LOOK_EVERY_S", 0.0)
        waits: list[float] = []

        def wait(seconds: float) -> None:
            if not waits:
                cancel(client, based, job.id)
            waits.append(seconds)

        def passes(task: Task) -> Count:
            worker.gate.busy()
            task.control.give_way()
            return Count(counted=0)

        job = job_in(based)
        worker = PlayedWorker.reading(client, based.root, passes)
        monkeypatch.setattr(worker.lane._views.base, "devices", (), raising=False)
        # a turn that is followed by an hour of decoding
        worker.gate._reading = Turn(worker.gate._idle, 1 / 3600, slice_s=1.0, wait=wait)
        worker.work()
        assert based.journal.read(job.id).status is JobStatus.CANCELLED
        assert len(waits) == 1

    def test_partial_results_of_ended_jobs_are_swept(self, based: Store) -> None:
        gone, there = job_in(based), job_in(based)
        for job in (gone, there):
            (based.drafts.work_folder(job.id) / "count").touch()
        based.journal.save(ended(gone, JobStatus.CANCELLED))
        sweep(based)
        assert [path.name for path in (based.root / "work").iterdir()] == [there.id]


class TestPriority:
    def test_a_job_waits_while_an_edit_runs(self, client: Redis, based: Store) -> None:
        job, seen = job_in(based), threading.Event()

        def wait(task: Task) -> Count:
            seen.set()
            return count(task)

        worker = PlayedWorker.reading(client, based.root, wait)
        thread = threading.Thread(target=worker.work)
        with worker.gate.writing():
            thread.start()
            assert not seen.wait(0.5), "nothing is computed meanwhile"
            assert based.journal.read(job.id).progress == Progress()
        thread.join(timeout=20)
        assert based.journal.read(job.id).status is JobStatus.SUCCEEDED

    def test_a_job_that_waits_for_an_edit_can_be_cancelled(
        self, client: Redis, based: Store
    ) -> None:
        job = job_in(based)
        worker = PlayedWorker.reading(client, based.root, count)
        with worker.gate.writing():
            thread = threading.Thread(target=worker.work)
            thread.start()
            running = Keys(based.id).job(job.id)
            while client.hget(running, "status") != "running":
                time.sleep(0.01)
            cancel(client, based, job.id)
            thread.join(timeout=20)
            assert based.journal.read(job.id).status is JobStatus.CANCELLED
