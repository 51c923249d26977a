"""Jobs on a real Valkey: in order, whole steps, nothing lost."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from redis import Redis
from support.service.builders import (
    FENCE,
    KEYS,
    MakeJob,
    ended,
    events,
    live_state,
    request_cancel,
    take,
)

from service.contracts import wire
from service.contracts.jobs import JobError, JobKind, JobStatus, Lane, Progress
from service.ops.embedded_server import EmbeddedValkey
from service.queue import JobGone, JobQueue, LeaseLost, connect
from service.store import Store


class TestOrder:
    def test_an_empty_queue_gives_nothing(self, queue: JobQueue) -> None:
        assert queue.next(0) is None
        assert queue.next(20) is None

    def test_jobs_come_in_the_order_of_their_submission(
        self, queue: JobQueue, make_job: MakeJob
    ) -> None:
        jobs = [make_job() for _ in range(3)]
        for job in jobs:
            queue.submit(job)
        taken = []
        while queue.next(0) is not None:
            job = queue.begin(take(queue), FENCE)
            taken.append(job.id)
            queue.finish(ended(job), FENCE)
        assert taken == [job.id for job in jobs]

    def test_the_worker_gets_the_job_as_it_was_submitted(
        self, queue: JobQueue, make_job: MakeJob
    ) -> None:
        job = make_job(payload={"facts": ["São Tomé"]})
        queue.submit(job)
        assert take(queue) == job

    def test_a_known_job_is_not_queued_again(self, queue: JobQueue, make_job: MakeJob) -> None:
        job = make_job()
        assert queue.submit(job)
        assert not queue.submit(job)
        queue.finish(ended(queue.begin(take(queue), FENCE)), FENCE)
        assert not queue.submit(job)
        assert queue.next(0) is None

    def test_what_a_dead_worker_had_taken_comes_before_newer_jobs(
        self, queue: JobQueue, valkey_url: str, make_job: MakeJob
    ) -> None:
        first, second = make_job(), make_job()
        queue.submit(first)
        queue.submit(second)
        queue.begin(take(queue), FENCE)  # and dies
        with connect(valkey_url) as client:
            new_worker = JobQueue(client, KEYS)
            again = take(new_worker)
            assert (again.id, again.status, again.attempt) == (first.id, JobStatus.RUNNING, 1)
            new_worker.finish(ended(new_worker.begin(again, FENCE)), FENCE)
            assert take(new_worker).id == second.id

    def test_waiting_ends_when_a_job_arrives(
        self, queue: JobQueue, valkey_url: str, make_job: MakeJob
    ) -> None:
        job = make_job()
        with connect(valkey_url) as client:
            later = threading.Timer(0.1, JobQueue(client, KEYS).submit, [job])
            later.start()
            queued = queue.next(5000)
            later.join()
        assert queued is not None
        assert queued.job.id == job.id

    def test_the_lanes_do_not_wait_for_one_another(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        reads = JobQueue(client, KEYS, Lane.READ)
        edit, training = make_job(), make_job(kind=JobKind.HYPERNETWORK)
        assert queue.requeue_missing([edit, training]) == [edit.id, training.id]
        begun = [q.begin(take(q), FENCE) for q in (queue, reads)]
        assert [job.id for job in begun] == [edit.id, training.id]
        for q, job in zip((queue, reads), begun, strict=True):
            q.finish(ended(job), FENCE)
            assert q.next(0) is None

    def test_a_queued_job_of_the_read_lane_is_cancelled(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        training = make_job(kind=JobKind.HYPERNETWORK)
        queue.submit(training)
        assert request_cancel(client, training.id, Lane.READ) is JobStatus.CANCELLED
        assert client.xlen(KEYS.reads) == 0

    def test_an_entry_without_a_job_is_passed_over(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        lost, job = make_job(), make_job()
        queue.submit(lost)
        queue.submit(job)
        client.delete(KEYS.job(lost.id))
        assert take(queue).id == job.id
        assert client.xlen(KEYS.jobs) == 1


class TestBegin:
    def test_begin_marks_the_job_as_running(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        queue.submit(make_job())
        job = queue.begin(take(queue).model_copy(update={"base_version": "v3"}), FENCE)
        live = live_state(client, job.id)
        assert live is not None
        assert (job.status, job.attempt, job.started_at) == ("running", 1, live.started_at)
        assert (live.status, live.attempt, live.base_version) == ("running", 1, "v3")

    def test_attempts_are_counted_over_crashes(self, queue: JobQueue, make_job: MakeJob) -> None:
        queue.submit(make_job())
        attempts = [queue.begin(take(queue), FENCE).attempt for _ in range(3)]
        assert attempts == [1, 2, 3]

    def test_attempts_are_counted_over_a_loss_of_redis(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        queue.submit(make_job())
        job = queue.begin(take(queue), FENCE)
        client.flushall()
        queue.requeue_missing([job])
        assert queue.begin(take(queue), FENCE).attempt == 2

    def test_a_stale_fence_cannot_begin(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        queue.submit(make_job())
        client.set(KEYS.fence, FENCE + 1)
        with pytest.raises(LeaseLost):
            queue.begin(take(queue), FENCE)
        assert take(queue).attempt == 0

    def test_a_job_lost_with_redis_cannot_begin(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        queue.submit(make_job())
        job = take(queue)
        client.flushall()
        with pytest.raises(JobGone):
            queue.begin(job, FENCE)
        assert live_state(client, job.id) is None


class TestGiveBack:
    def test_an_attempt_given_back_does_not_count(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        queue.submit(make_job())
        for _ in range(3):
            job = queue.begin(take(queue).model_copy(update={"base_version": "v3"}), FENCE)
            queue.progress(job.id, Progress(phase="optimise"))
            queue.give_back(job, FENCE)
        again = take(queue)
        assert (again.status, again.attempt, again.base_version) == ("queued", 0, None)
        assert (again.started_at, again.progress) == (None, Progress())
        assert [e.data.get("status") for e in events(client, job)][-2:] == [None, "queued"]

    def test_a_cancel_stays(self, queue: JobQueue, client: Redis, make_job: MakeJob) -> None:
        queue.submit(make_job())
        job = queue.begin(take(queue), FENCE)
        request_cancel(client, job.id)
        queue.give_back(job, FENCE)
        assert queue.begin(take(queue), FENCE).status is JobStatus.CANCELLING

    def test_only_the_last_attempt_can_be_given_back(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        queue.submit(make_job())
        job = queue.begin(take(queue), FENCE)
        JobQueue(client, KEYS).begin(take(queue), FENCE)  # by the next worker
        queue.give_back(job, FENCE)
        queue.give_back(job, FENCE)
        assert take(queue).attempt == 2

    def test_a_stale_fence_gives_nothing_back(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        queue.submit(make_job())
        job = queue.begin(take(queue), FENCE)
        client.set(KEYS.fence, FENCE + 1)
        queue.give_back(job, FENCE)
        assert take(queue).attempt == 1


class TestFinish:
    def test_finish_ends_the_job_in_one_step(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        queue.submit(make_job())
        job = queue.begin(take(queue), FENCE)
        queue.finish(ended(job), FENCE)
        live = live_state(client, job.id)
        assert live is not None
        assert live.status is JobStatus.SUCCEEDED
        assert events(client, job)[-1].data["status"] == "succeeded"
        assert client.xlen(KEYS.jobs) == 0
        assert client.xpending(KEYS.jobs, wire.GROUP)["pending"] == 0
        assert 0 < client.ttl(KEYS.job(job.id)) <= wire.FINISHED_TTL_S
        assert 0 < client.ttl(KEYS.events(job.id)) <= wire.FINISHED_TTL_S

    def test_finish_with_a_stale_fence_changes_nothing(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        queue.submit(make_job())
        job = queue.begin(take(queue), FENCE)
        before = (events(client, job), client.hgetall(KEYS.job(job.id)))
        client.set(KEYS.fence, FENCE + 1)
        with pytest.raises(LeaseLost):
            queue.finish(ended(job), FENCE)
        assert (events(client, job), client.hgetall(KEYS.job(job.id))) == before
        assert take(queue).id == job.id

    def test_another_owner_of_the_lease_makes_a_fence_stale(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        queue.submit(make_job())
        job = queue.begin(take(queue), 7)
        client.set(KEYS.lease, "3 elsewhere")  # its Redis had lost the counter
        with pytest.raises(LeaseLost):
            queue.finish(ended(job), 7)

    def test_finishing_twice_tells_it_once(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        queue.submit(make_job())
        job = queue.begin(take(queue), FENCE)
        queue.finish(ended(job), FENCE)
        queue.finish(ended(job), FENCE)
        assert [e.is_last for e in events(client, job)].count(True) == 1

    def test_a_job_without_an_end_cannot_finish(self, queue: JobQueue, make_job: MakeJob) -> None:
        queue.submit(make_job())
        job = queue.begin(take(queue), FENCE)
        with pytest.raises(ValueError, match="running"):
            queue.finish(job, FENCE)

    def test_the_last_event_tells_the_plain_values_of_the_result_and_the_error(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        queue.submit(make_job())
        job = ended(queue.begin(take(queue), FENCE), JobStatus.FAILED)
        job.result = {"version": "v1", "efficacy": 0.5, "facts": [{"subject": "Rome"}]}
        job.error = JobError(code="guard", message="too low")
        queue.finish(job, FENCE)
        data = events(client, job)[-1].data
        assert data["result"] == {"version": "v1", "efficacy": 0.5}
        assert data["error"] == {"code": "guard", "message": "too low", "errors": []}


class TestCancel:
    def test_a_queued_job_ends_at_once(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        job, other = make_job(), make_job()
        queue.submit(job)
        queue.submit(other)
        assert request_cancel(client, job.id) is JobStatus.CANCELLED
        assert events(client, job)[-1].is_last
        assert take(queue).id == other.id

    def test_a_job_that_was_taken_and_not_begun_can_no_longer_begin(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        queue.submit(make_job())
        job = take(queue)
        assert request_cancel(client, job.id) is JobStatus.CANCELLED
        with pytest.raises(JobGone):
            queue.begin(job, FENCE)
        assert queue.next(0) is None

    def test_a_running_job_is_told(self, queue: JobQueue, client: Redis, make_job: MakeJob) -> None:
        queue.submit(make_job())
        job = queue.begin(take(queue), FENCE)
        assert not queue.cancel_requested(job.id)
        assert request_cancel(client, job.id) is JobStatus.CANCELLING
        assert queue.cancel_requested(job.id)
        assert events(client, job)[-1].data["status"] == "cancelling"
        queue.finish(ended(job, JobStatus.CANCELLED), FENCE)
        assert request_cancel(client, job.id) is JobStatus.CANCELLED

    def test_a_cancelled_job_begun_again_after_a_crash_is_still_cancelling(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        queue.submit(make_job())
        request_cancel(client, queue.begin(take(queue), FENCE).id)
        assert queue.begin(take(queue), FENCE).status is JobStatus.CANCELLING

    def test_a_finished_job_stays_as_it_ended(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        queue.submit(make_job())
        job = queue.begin(take(queue), FENCE)
        queue.finish(ended(job), FENCE)
        assert request_cancel(client, job.id) is JobStatus.SUCCEEDED

    def test_an_unknown_job_is_reported(self, queue: JobQueue, client: Redis) -> None:
        assert request_cancel(client, "job_nobody") is None


class TestRequeue:
    def test_journaled_jobs_that_redis_does_not_know_are_queued_in_order(
        self, queue: JobQueue, client: Redis, store: Store, make_job: MakeJob
    ) -> None:
        jobs = [make_job(id=f"job_{n}") for n in range(4)]
        for job in jobs:
            store.journal.add(job)
        store.journal.save(ended(jobs[1]))
        queue.submit(jobs[0])
        assert queue.requeue_missing(store.journal.unfinished()) == ["job_2", "job_3"]
        assert queue.requeue_missing(store.journal.unfinished()) == []
        assert client.xlen(KEYS.jobs) == 3

    def test_progress_of_a_job_lost_with_redis_does_not_keep_it_from_being_queued_again(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        queue.submit(make_job())
        job = queue.begin(take(queue), FENCE)
        client.flushall()
        queue.progress(job.id, Progress(phase="optimise", done=3, total=5))
        assert client.keys() == []
        assert queue.submit(job)
        assert take(queue).id == job.id

    def test_a_remnant_of_a_job_is_overwritten(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        job = make_job()
        client.hset(KEYS.job(job.id), "progress", Progress(phase="optimise").model_dump_json())
        assert queue.submit(job)
        assert take(queue).progress == Progress()

    def test_a_restart_of_redis_keeps_jobs_and_order(
        self, tmp_path: Path, make_job: MakeJob
    ) -> None:
        first, second = make_job(), make_job()
        with EmbeddedValkey(tmp_path) as server, connect(server.url) as client:
            JobQueue(client, KEYS).submit(first)
            JobQueue(client, KEYS).submit(second)
            JobQueue(client, KEYS).begin(take(JobQueue(client, KEYS)), FENCE)
        with EmbeddedValkey(tmp_path) as server, connect(server.url) as client:
            again = take(JobQueue(client, KEYS))
            assert (again.id, again.attempt) == (first.id, 1)
            assert live_state(client, second.id) is not None

    def test_a_waiting_worker_outlives_a_restart_of_redis(
        self, tmp_path: Path, make_job: MakeJob
    ) -> None:
        job = make_job()
        server = EmbeddedValkey(tmp_path)
        server.start()
        with connect(server.url) as client:
            queue = JobQueue(client, KEYS)
            found: list[object] = []
            waiting = threading.Thread(target=lambda: found.append(queue.next(8000)))
            waiting.start()
            time.sleep(0.2)
            server.stop()
            server.start()
            queue.submit(job)
            waiting.join(timeout=10)
        server.stop()
        assert [getattr(queued, "job", None) for queued in found] == [job]


class TestLive:
    def test_progress_reaches_hash_and_events(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        queue.submit(make_job())
        job = queue.begin(take(queue), FENCE)
        progress = Progress(phase="values", done=3, total=25, eta_seconds=1.5)
        queue.progress(job.id, progress)
        live = live_state(client, job.id)
        assert live is not None
        assert live.progress == progress
        last = events(client, job)[-1]
        assert (last.name, Progress.model_validate(last.data)) == ("progress", progress)

    def test_the_live_state_is_laid_over_the_stores_record(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        journaled = make_job(payload={"a": 1})
        queue.submit(journaled)
        queue.begin(take(queue), FENCE)
        live = live_state(client, journaled.id)
        assert live is not None
        shown = live.over(journaled)
        assert (shown.status, shown.attempt, shown.payload) == (JobStatus.RUNNING, 1, {"a": 1})

    def test_what_has_ended_in_the_store_has_ended(
        self, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        """The worker saves the end before it tells Redis."""
        job = make_job()
        queue.submit(job)
        live = live_state(client, job.id)
        assert live is not None
        assert live.over(ended(job)).status is JobStatus.SUCCEEDED

    def test_an_unknown_job_has_no_live_state(self, queue: JobQueue, client: Redis) -> None:
        assert live_state(client, "job_nobody") is None
