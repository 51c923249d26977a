"""Requests and events between api and worker, on a real Valkey."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from contextlib import aclosing
from pathlib import Path

import pytest
from redis import Redis
from support.service.builders import FENCE, KEYS, MakeJob, ended, live_state, take
from support.service.played_worker.answers import answering

from service.api.reconcile import Reconciler
from service.contracts.jobs import JobStatus, Progress, new_id, now
from service.contracts.schemas import WorkerReply, WorkerRequest
from service.contracts.wire import REPLY_TTL_S
from service.queue import (
    AsyncQueue,
    Heartbeat,
    JobQueue,
    QueueDown,
    QueueFailure,
    RequestQueue,
    RequestTimeout,
    WorkerBeat,
    WorkerGone,
    connect,
    connect_async,
    is_worker_alive,
)
from service.store import Store


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The api looks ten times as often whether the worker is still there."""
    monkeypatch.setattr("service.queue.asking.POLL_MS", 100)


def beat(instance: str = "one") -> WorkerBeat:
    return WorkerBeat(instance=instance, pid=os.getpid(), model="m", started_at=now())


def ask_for(seconds: float) -> WorkerRequest:
    return WorkerRequest(
        id=new_id("req"), kind="generate", deadline=time.time() + seconds, versions=["v0"]
    )


@pytest.mark.anyio
class TestRequests:
    async def test_answers_come_in_order_up_to_the_last_one(
        self, api: AsyncQueue, valkey_url: str
    ) -> None:
        replies = [
            WorkerReply(event="token", data={"text": "Par"}),
            WorkerReply(event="token", data={"text": "is"}),
            WorkerReply(event="result", data={"text": "Paris"}),
        ]
        with answering(valkey_url, KEYS, beat, *replies):
            assert [reply async for reply in api.ask(ask_for(5))] == replies

    async def test_without_a_worker_nothing_is_asked(self, api: AsyncQueue, client: Redis) -> None:
        with pytest.raises(WorkerGone):
            await anext(api.ask(ask_for(5)))
        assert client.xlen(KEYS.requests) == 0

    @pytest.mark.parametrize("taken", [False, True])
    async def test_a_worker_that_dies_while_it_is_asked_is_noticed(
        self, api: AsyncQueue, client: Redis, taken: bool
    ) -> None:
        client.set(KEYS.worker, beat("one").model_dump_json())
        asking = asyncio.ensure_future(anext(api.ask(ask_for(30))))
        await asyncio.sleep(0.1)
        if taken:
            assert len(RequestQueue(client, KEYS, "one").take(0, 8)) == 1
        client.delete(KEYS.worker)
        with pytest.raises(WorkerGone):
            await asyncio.wait_for(asking, 5)

    async def test_what_a_dead_worker_had_taken_its_successor_answers(
        self, api: AsyncQueue, client: Redis
    ) -> None:
        client.set(KEYS.worker, beat("one").model_dump_json())
        asking = asyncio.ensure_future(anext(api.ask(ask_for(30))))
        await asyncio.sleep(0.1)
        [first] = RequestQueue(client, KEYS, "one").take(0, 8)
        client.set(KEYS.worker, beat("two").model_dump_json())
        successor, again = RequestQueue(client, KEYS, "two"), []
        while not again:
            await asyncio.sleep(0.05)
            again = successor.take(0, 8)
        assert again[0].id != first.id
        last = WorkerReply(event="result", data={"text": "Paris"})
        successor.reply_all([(first.id, WorkerReply(event="result")), (again[0].id, last)])
        assert await asyncio.wait_for(asking, 5) == last

    async def test_waiting_ends_at_the_deadline(self, api: AsyncQueue, client: Redis) -> None:
        client.set(KEYS.worker, beat().model_dump_json())
        with pytest.raises(RequestTimeout):
            await anext(api.ask(ask_for(0.2)))

    async def test_a_client_that_leaves_is_reported_to_the_worker(
        self, api: AsyncQueue, client: Redis, valkey_url: str
    ) -> None:
        request = ask_for(30)
        with answering(valkey_url, KEYS, beat, WorkerReply(event="token")):
            async with aclosing(api.ask(request)) as answer:
                await anext(answer)
                assert RequestQueue(client, KEYS).gone([request.id]) == set()
            await asyncio.sleep(0.1)
        assert RequestQueue(client, KEYS).gone([request.id, "req_other"]) == {request.id}

    async def test_a_worker_takes_nothing_that_nobody_waits_for(
        self, api: AsyncQueue, client: Redis
    ) -> None:
        late, gone, wanted = ask_for(-1), ask_for(5), ask_for(5)
        await api.abandon(gone.id)
        for request in (late, gone, wanted):
            client.xadd(KEYS.requests, {"request": request.model_dump_json()})
        assert RequestQueue(client, KEYS).take(0, 8) == [wanted]
        assert client.xlen(KEYS.requests) == 0

    async def test_replies_to_several_requests_are_sent_together(
        self, api: AsyncQueue, client: Redis
    ) -> None:
        client.set(KEYS.worker, beat().model_dump_json())
        first, second = ask_for(5), ask_for(5)
        token, last = WorkerReply(event="token"), WorkerReply(event="result")
        RequestQueue(client, KEYS).reply_all(
            [(first.id, token), (second.id, last), (first.id, last)]
        )
        assert [reply async for reply in api.ask(first)] == [token, last]
        assert [reply async for reply in api.ask(second)] == [last]
        assert 0 < client.ttl(KEYS.reply(first.id)) <= REPLY_TTL_S

    async def test_departed_clients_of_many_requests_are_found_in_one_call(
        self, api: AsyncQueue, client: Redis
    ) -> None:
        ids = [ask_for(5).id for _ in range(4)]
        for request_id in ids[1:3]:
            await api.abandon(request_id)
        queue = RequestQueue(client, KEYS)
        assert queue.gone(ids) == set(ids[1:3])
        assert queue.gone([]) == set()

    async def test_a_request_is_taken_once(self, api: AsyncQueue, client: Redis) -> None:
        requests = [ask_for(5) for _ in range(3)]
        for request in requests:
            client.xadd(KEYS.requests, {"request": request.model_dump_json()})
        queue = RequestQueue(client, KEYS)
        assert [queue.take(0, 2), queue.take(0, 2), queue.take(0, 2)] == [
            requests[:2],
            requests[2:],
            [],
        ]

    async def test_a_heartbeat_tells_that_the_worker_lives_until_it_stops(
        self, api: AsyncQueue, client: Redis
    ) -> None:
        described = beat()
        heart = Heartbeat(client, KEYS, lambda: described)
        heart.start()
        heard = await api.worker_alive()
        assert heard is not None
        assert heard.sent_at is not None
        assert heard.model_copy(update={"sent_at": None}) == described
        assert 0 < client.pttl(KEYS.worker) <= Heartbeat.TTL_MS
        heart.stop()
        assert await api.worker_alive() is None

    async def test_a_heartbeat_outlives_a_full_redis(
        self, api: AsyncQueue, client: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Heartbeat, "PERIOD_S", 0.02)
        heart = Heartbeat(client, KEYS, beat)
        heart.start()
        client.config_set("maxmemory", "1")
        await asyncio.sleep(0.2)
        client.config_set("maxmemory", "0")
        client.delete(KEYS.worker)
        await asyncio.sleep(0.2)
        assert await api.worker_alive() is not None
        heart.stop()


def test_a_heartbeat_outlives_what_a_worker_cannot_say_for_a_while(
    client: Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Heartbeat, "PERIOD_S", 0.001)
    asked, heard_again = [0], threading.Event()

    def describe() -> WorkerBeat:
        asked[0] += 1
        if asked[0] == 2:
            raise FileNotFoundError("the store's folder is away")
        if asked[0] > 2:
            heard_again.set()
        return beat()

    heart = Heartbeat(client, KEYS, describe)
    heart.start()
    assert heard_again.wait(5)
    heart.stop()
    assert "the store's folder is away" in caplog.text


@pytest.mark.anyio
class TestFollowing:
    async def test_events_are_followed_to_the_end(
        self, api: AsyncQueue, queue: JobQueue, make_job: MakeJob
    ) -> None:
        journaled = make_job()
        await api.submit(journaled)

        async def follow() -> list[str]:
            return [e.data.get("status") or e.name async for e in api.events(journaled.id)]

        following = asyncio.ensure_future(follow())
        await asyncio.sleep(0.05)
        job = queue.begin(take(queue), FENCE)
        queue.progress(job.id, Progress(phase="values", done=1, total=2))
        queue.finish(ended(job), FENCE)
        seen = await asyncio.wait_for(following, 5)
        assert seen == ["queued", "running", "progress", "succeeded"]

    async def test_following_resumes_after_an_event(
        self, api: AsyncQueue, queue: JobQueue, make_job: MakeJob
    ) -> None:
        await api.submit(make_job())
        job = queue.begin(take(queue), FENCE)
        queue.finish(ended(job), FENCE)
        everything = [event async for event in api.events(job.id)]
        rest = [event async for event in api.events(job.id, everything[0].id)]
        assert rest == everything[1:]

    async def test_following_from_the_last_event_ends(
        self, api: AsyncQueue, queue: JobQueue, make_job: MakeJob
    ) -> None:
        await api.submit(make_job())
        job = queue.begin(take(queue), FENCE)
        queue.finish(ended(job), FENCE)
        last = [event async for event in api.events(job.id)][-1]
        assert [event async for event in api.events(job.id, last.id)] == []

    async def test_following_a_job_that_redis_does_not_know_ends(self, api: AsyncQueue) -> None:
        assert [event async for event in api.events("job_nobody")] == []

    async def test_the_api_submits_cancels_and_shows_what_the_worker_works_on(
        self, api: AsyncQueue, queue: JobQueue, client: Redis, make_job: MakeJob
    ) -> None:
        job = make_job()
        assert await api.submit(job)
        assert not await api.submit(job)
        queue.begin(take(queue), FENCE)
        assert await api.request_cancel(job) is JobStatus.CANCELLING
        assert queue.cancel_requested(job.id)
        assert await api.live(job.id) == live_state(client, job.id)

    async def test_a_late_cancel_leaves_the_worker_s_record_as_it_is(
        self, api: AsyncQueue, queue: JobQueue, store: Store, make_job: MakeJob
    ) -> None:
        submitted = make_job()
        store.journal.add(submitted)
        queue.submit(submitted)
        done = ended(queue.begin(take(queue), FENCE), JobStatus.CANCELLED)
        store.journal.save(done)
        queue.finish(done, FENCE)
        reconciler = Reconciler(store, api)
        reconciler.catching_up = False
        await reconciler.cancel(submitted)  # as it was read before the worker ended it
        assert store.journal.read(submitted.id) == done

    async def test_a_job_waits_until_an_emptied_queue_has_those_before_it(
        self, api: AsyncQueue, queue: JobQueue, client: Redis, store: Store, make_job: MakeJob
    ) -> None:
        jobs = [make_job() for _ in range(3)]
        reconciler = Reconciler(store, api)
        await reconciler._catch_up()
        reconciler.catching_up = False
        for job in jobs[:2]:
            store.journal.add(job)
            await reconciler.submit(job)
        assert client.xlen(KEYS.jobs) == 2
        client.flushall()
        store.journal.add(jobs[2])
        await reconciler.submit(jobs[2])
        assert (client.xlen(KEYS.jobs), reconciler.catching_up) == (0, True)
        await reconciler._catch_up()
        taken = []
        for _ in jobs:
            taken.append(take(queue))
            queue.finish(ended(queue.begin(taken[-1], FENCE)), FENCE)
        assert [job.id for job in taken] == [job.id for job in jobs]

    async def test_ping_tells_whether_redis_answers(self, api: AsyncQueue, tmp_path: Path) -> None:
        nobody = AsyncQueue(connect_async(f"unix://{tmp_path}/no.sock", retries=0), KEYS)
        assert await api.ping()
        assert not await nobody.ping()
        await nobody.close()

    async def test_a_queue_that_cannot_be_reached_is_down_for_every_call(
        self, tmp_path: Path, make_job: MakeJob
    ) -> None:
        nobody = AsyncQueue(connect_async(f"unix://{tmp_path}/no.sock", retries=0), KEYS)
        job = make_job()
        for call in (
            nobody.worker_alive(),
            nobody.waiting(job.kind.lane),
            nobody.submit(job),
            nobody.request_cancel(job),
            anext(nobody.ask(ask_for(5))),
        ):
            with pytest.raises(QueueDown) as raised:
                await call
            assert raised.value.code == "no_queue"
        await nobody.close()

    async def test_a_followed_stream_says_that_the_queue_is_down(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("service.queue.asynchronous._OUTAGE_S", 0.0)
        nobody = AsyncQueue(connect_async(f"unix://{tmp_path}/no.sock", retries=0), KEYS)
        with pytest.raises(QueueDown):
            await anext(nobody.events("job_1"))
        await nobody.close()

    async def test_a_server_that_does_not_answer_is_down(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("service.queue.asynchronous.ANSWER_S", 0.05)
        queue = AsyncQueue(connect_async(f"unix://{tmp_path}/q.sock", retries=0), KEYS)
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(f"{tmp_path}/q.sock")
            silent.listen()
            with pytest.raises(QueueDown, match="the queue does not answer"):
                await queue.worker_alive()
            await queue.close()

    async def test_a_command_that_is_refused_is_no_outage(
        self, api: AsyncQueue, client: Redis
    ) -> None:
        client.set(KEYS.job("job_1"), "no hash")
        with pytest.raises(QueueFailure, match="WRONGTYPE") as raised:
            await api.live("job_1")
        assert not isinstance(raised.value, QueueDown)
        assert raised.value.code == "internal_error"

    async def test_whoever_leaves_a_stream_leaves_no_reader(
        self, api: AsyncQueue, queue: JobQueue, make_job: MakeJob
    ) -> None:
        job = make_job()
        await api.submit(job)
        async with aclosing(api.events(job.id)) as events:
            assert (await anext(events)).name == "status"
        with pytest.raises(StopAsyncIteration):
            await anext(events)


def test_the_workers_calls_say_that_the_queue_is_down(tmp_path: Path) -> None:
    away = connect(f"unix://{tmp_path}/no.sock", retries=0)
    jobs, requests = JobQueue(away, KEYS), RequestQueue(away, KEYS)
    for call in (
        lambda: jobs.next(0),
        lambda: jobs.progress("job_1", Progress()),
        lambda: jobs.cancel_requested("job_1"),
        lambda: requests.take(0, 1),
        lambda: requests.gone(["req_1"]),
        lambda: Heartbeat(away, KEYS, beat).start(),
        lambda: is_worker_alive(away, KEYS),
    ):
        with pytest.raises(QueueDown):
            call()


def test_a_heartbeat_is_seen(client: Redis) -> None:
    assert not is_worker_alive(client, KEYS)
    heartbeat = Heartbeat(client, KEYS, beat)
    heartbeat.start()
    assert is_worker_alive(client, KEYS)
    heartbeat.stop()
    assert not is_worker_alive(client, KEYS)
