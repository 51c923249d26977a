"""Hosts whose clocks differ: how long a request has waited is known by the queue's server alone."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from redis import Redis
from support.service.builders import KEYS, MakeJob

from service.contracts.jobs import Lane, new_id, now
from service.contracts.schemas import WorkerReply, WorkerRequest
from service.queue import AsyncQueue, Heartbeat, JobQueue, RequestQueue, WorkerBeat

AN_HOUR = 3600.0
TIME = time.time


def follower(instance: str) -> WorkerBeat:
    return WorkerBeat(
        instance=instance, pid=os.getpid(), model="m", started_at=now(), role="follower"
    )


@pytest.mark.anyio
@pytest.mark.parametrize("off", [AN_HOUR, -AN_HOUR])
async def test_a_request_is_taken_while_it_is_waited_for(
    api: AsyncQueue, client: Redis, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    Heartbeat(client, KEYS, lambda: follower("one")).beat()
    request = WorkerRequest(id=new_id("ask"), kind="generate", deadline=TIME() + 30)
    asking = asyncio.ensure_future(anext(api.ask(request)))
    await asyncio.sleep(0.1)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(time, "time", lambda: TIME() + off)
        queue = RequestQueue(client, KEYS, "one", writer=False)
        [taken] = queue.take(0, 8)
        left = taken.deadline - time.time()
    assert 20 < left <= 30
    last = WorkerReply(event="result")
    queue.reply(taken.id, last)
    assert await asyncio.wait_for(asking, 5) == last


@pytest.mark.anyio
async def test_one_that_nobody_waits_for_any_more_is_dropped(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = WorkerRequest(id=new_id("ask"), kind="generate", deadline=TIME(), left_s=-1.0)
    client.xadd(KEYS.asks, {"request": request.model_dump_json()})
    monkeypatch.setattr(time, "time", lambda: TIME() - AN_HOUR)
    assert RequestQueue(client, KEYS, "one", writer=False).take(0, 8) == []


@pytest.mark.anyio
async def test_followers_do_not_forget_one_another(
    api: AsyncQueue, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    Heartbeat(client, KEYS, lambda: follower("one")).beat()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(time, "time", lambda: TIME() + AN_HOUR)
        Heartbeat(client, KEYS, lambda: follower("two")).beat()
        found = {one.instance: one.age_s for one in await api.workers()}
    assert found.keys() == {"one", "two"}
    assert all(age is not None and 0 <= age < 60 for age in found.values())


@pytest.mark.anyio
@pytest.mark.parametrize("off", [AN_HOUR, -AN_HOUR])
async def test_how_long_a_job_has_waited_is_known_by_the_server(
    api: AsyncQueue, client: Redis, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    JobQueue(client, KEYS).submit(make_job())
    monkeypatch.setattr(time, "time", lambda: TIME() + off)
    found = await api.waiting(Lane.WRITE)
    assert found.jobs == 1
    assert 0 < found.oldest_seconds < 60
