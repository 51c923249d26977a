"""A new kind of job: its module and one registry entry are all that the service needs."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import httpx
import pytest
from redis import Redis
from support.service import counting
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import running

from service.api import app
from service.client import Client
from service.contracts.jobs import JobKind, JobStatus, Progress
from service.queue import Keys, connect
from service.settings import Settings
from service.store import Store


@pytest.fixture
def kind() -> Iterator[JobKind]:
    with pytest.MonkeyPatch.context() as patch:
        yield counting.register(patch, counting.COUNTING)
    counting.know_kinds()


@pytest.fixture
def redis(settings: Settings) -> Iterator[Redis]:
    client = connect(str(settings.redis_url))
    yield client
    client.close()


@pytest.fixture
def http(
    settings: Settings, store: Store, kind: JobKind, monkeypatch: pytest.MonkeyPatch
) -> Iterator[httpx.Client]:
    """An api with one more resource, over a store that a worker has begun."""
    store.create_base("weights-0")
    resource = ModuleType("counts")
    resource.router = counting.resource(kind)  # type: ignore[attr-defined]
    monkeypatch.setattr(app, "ROUTES", (*app.ROUTES, resource))
    with running(settings) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


def test_it_is_queued_run_followed_and_shown(
    http: httpx.Client, redis: Redis, store: Store
) -> None:
    answer = http.post("/counts", json={"to": 3}, headers={"Idempotency-Key": "mine"})
    assert answer.status_code == 202
    job = answer.json()
    assert (job["kind"], job["status"]) == ("counting", "queued")
    count_id = "count_" + job["id"].removeprefix("job_")
    assert answer.headers["location"] == f"/counts/{count_id}"
    assert job["resource_id"] == count_id
    again = http.post("/counts", json={"to": 3}, headers={"Idempotency-Key": "mine"})
    assert (again.json()["id"], again.headers["idempotency-replayed"]) == (job["id"], "true")
    assert redis.xlen(Keys(store.id).reads) == 1

    PlayedWorker.reading(redis, store.root).work()

    shown = http.get(f"/counts/{count_id}").json()
    assert (shown["status"], shown["to"], shown["job_id"]) == ("succeeded", 3, job["id"])
    assert shown["result"] == {"counted": 3, "files": ["numbers-1.txt"]}
    assert http.get(f"/counts/{count_id}/files/numbers-1.txt").text == "1 2 3"
    [listed] = http.get("/counts").json()["data"]
    assert (listed["id"], listed["status"]) == (count_id, "succeeded")
    assert http.get(f"/jobs/{job['id']}").json()["result"] == shown["result"]
    with Client(str(http.base_url)) as client:
        seen: list[tuple[JobStatus, Progress]] = []
        ended = client.wait(job["id"], lambda status, progress: seen.append((status, progress)))
        assert (ended.kind, ended.status) == ("counting", JobStatus.SUCCEEDED)
        assert ended.resource_id == count_id
        assert [one.resource_id for one in client.jobs()] == [count_id]
        assert [status for status, _ in seen][:: len(seen) - 1] == ["queued", "succeeded"]
        assert seen[-1][1].phase == "count"


def test_its_errors_cancels_and_unknown_names_are_those_of_every_kind(
    http: httpx.Client, redis: Redis, store: Store
) -> None:
    bad = http.post("/counts", json={"to": -1}).json()
    unwanted = http.post("/counts", json={"to": 2}).json()
    cancelled = http.post(f"/jobs/{unwanted['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    PlayedWorker.reading(redis, store.root).work()
    count_id = "count_" + bad["id"].removeprefix("job_")
    shown = http.get(f"/counts/{count_id}").json()
    assert (shown["status"], shown["error"]["code"]) == ("failed", "no_cases")
    early = http.get(f"/counts/{count_id}/files/numbers-1.txt")
    assert (early.status_code, early.json()["code"]) == (409, "no_result")
    assert "the counting is failed" in early.json()["detail"]
    for name in (bad["id"], bad["id"].removeprefix("job_"), "count_nothing"):
        missing = http.get(f"/counts/{name}")
        assert (missing.status_code, missing.json()["code"]) == (404, "unknown_counting")
    assert http.get("/counts?after=eval_1").status_code == 422


def test_it_is_described(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()
    assert described["components"]["schemas"]["CountRequest"]["required"] == ["to"]
    operation = described["paths"]["/counts"]["post"]
    assert operation["security"] == [{"ApiKey": ["edit"]}]
    assert "counting" in described["components"]["schemas"]["JobKind"]["enum"]


def test_only_files_that_its_entry_names_are_sent(
    http: httpx.Client, redis: Redis, store: Store
) -> None:
    job = http.post("/counts", json={"to": 1}).json()
    PlayedWorker.reading(redis, store.root).work()
    count_id = "count_" + job["id"].removeprefix("job_")
    refused = http.get(f"/counts/{count_id}/files/hashes.json")
    assert (store.root / "reports" / job["id"] / "hashes.json").exists()
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_file")


def test_the_registry_is_as_before_the_test() -> None:
    assert "counting" not in [kind.value for kind in JobKind]
    with pytest.raises(ValueError, match="counting"):
        JobKind("counting")
