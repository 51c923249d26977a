"""``/workers``: every worker that lives, with its role, head, load and last heartbeat."""

from __future__ import annotations

import httpx
import pytest
from redis import Redis
from support.service.builders import add_version, move
from support.service.played_worker.worker import PlayedWorker

from service.client import Client
from service.contracts.jobs import now
from service.contracts.schemas.worker import Fetching
from service.queue import Heartbeat, WorkerBeat, connect
from service.settings import Settings

MAP = "0-39@cuda:0,40-79@cuda:1"


@pytest.fixture
def redis(settings: Settings) -> Redis:
    return connect(str(settings.redis_url))


def follower(**more: object) -> WorkerBeat:
    known = {"instance": "f1", "pid": 7, "model": "m", "started_at": now(), "role": "follower"}
    return WorkerBeat.model_validate(
        {**known, "head": "v0", "host": "here", "load": 3, "device": MAP, **more}
    )


def test_the_writer_and_its_followers_are_listed(
    client: Client, worker: PlayedWorker, redis: Redis
) -> None:
    heart = Heartbeat(redis, worker.keys, follower, lambda: "# HELP jeep_rollbacks x\n")
    heart.beat()
    writer, other = client.workers()
    assert (writer.role, writer.behind) == ("writer", False)
    assert (other.role, other.pid, other.host, other.load) == ("follower", 7, "here", 3)
    assert other.device == MAP
    assert other.heartbeat_age_s < 60
    made = add_version(worker.store)
    move(worker.store, made, expected="v0", fence=9)
    assert [one.behind for one in client.workers()] == [True, True]
    heart.stop()
    assert [one.role for one in client.workers()] == ["writer"]


def test_a_follower_alone_answers_and_changes_nothing(
    http: httpx.Client, model: object, store: object, redis: Redis, settings: Settings
) -> None:
    from service.queue import Keys
    from service.store import Store

    heart = Heartbeat(redis, Keys(Store.open(settings.store).id), follower)
    heart.beat()
    refused = http.post("/rollback/base", json={})
    assert (refused.status_code, refused.json()["code"]) == (503, "no_worker")
    short = http.post("/generate", json={"prompt": "a", "max_new_tokens": 1})
    assert short.json()["code"] in ("worker_timeout", "no_worker"), "it was asked"
    assert http.get("/readyz").status_code == 503
    heart.stop()


def test_metrics_name_every_worker(http: httpx.Client, worker: PlayedWorker, redis: Redis) -> None:
    heart = Heartbeat(redis, worker.keys, follower)
    heart.beat()
    page = http.get("/metrics").text
    assert 'jeep_worker_load{process="api",role="follower",worker="f1"} 3.0' in page
    heart.stop()


def test_of_one_that_fetches_it_is_said_how_it_fares(
    http: httpx.Client, client: Client, worker: PlayedWorker, redis: Redis
) -> None:
    found = Fetching(away_s=42.0, trouble="no answer", cached_bytes=77)
    heart = Heartbeat(redis, worker.keys, lambda: follower(fetching=found, jobs=False))
    heart.beat()
    writer, other = client.workers()
    assert (writer.fetching, other.fetching) == (None, found)
    page = http.get("/metrics").text
    labels = 'process="api",role="follower",worker="f1"'
    assert f"jeep_worker_api_away_seconds{{{labels}}} 42.0" in page
    assert f"jeep_worker_cached_bytes{{{labels}}} 77.0" in page
    assert "ready, api away for 42" in http.get("/console/state/live").text
    heart.stop()


def test_the_console_shows_them(http: httpx.Client, worker: PlayedWorker, redis: Redis) -> None:
    heart = Heartbeat(redis, worker.keys, lambda: follower(state="draining", takes=False))
    heart.beat()
    page = http.get("/console/state/live").text
    assert "process 7 on here" in page
    assert "draining" in page
    heart.stop()
