"""Requests refused because they exceed a limit, and when to try again."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import running

from service.contracts.schemas.access import Scope
from service.queue import Keys, connect_async
from service.queue.buckets import TokenBuckets
from service.settings import Settings
from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}
Serve = Callable[..., Any]


@pytest.fixture
def serve(settings: Settings) -> Serve:
    """An api with some settings of its own: a client that may wait long."""

    @contextmanager
    def serving(**changes: object) -> Iterator[httpx.Client]:
        with (
            running(settings.model_copy(update=changes)) as url,
            httpx.Client(base_url=url, timeout=20) as http,
        ):
            yield http

    return serving


def assert_busy(answer: httpx.Response, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (429, code)
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_key_has_its_own_rate(serve: Serve, model: Store) -> None:
    key, token = model.keys.create("one", [Scope.READ])
    _, other = model.keys.create("two", [Scope.READ])
    with serve(auth="keys", rate_per_minute=6, rate_burst=3) as http:
        mine = {"Authorization": f"Bearer {token}"}
        statuses = [http.get("/jobs", headers=mine).status_code for _ in range(3)]
        assert statuses == [200, 200, 200]
        refused = http.get("/jobs", headers=mine)
        assert_busy(refused, "too_many_requests")
        assert 5 <= int(refused.headers["retry-after"]) <= 10
        assert key.id in refused.json()["detail"]
        assert http.get("/jobs", headers={"Authorization": f"Bearer {other}"}).status_code == 200
        assert http.get("/livez", headers=mine).status_code == 200


def test_rates_are_not_limited_without_a_queue(settings: Settings, store: Store) -> None:
    _, token = store.keys.create("one", [Scope.READ])
    changes = {"auth": "keys", "rate_burst": 1, "redis_url": "redis://127.0.0.1:1/0"}
    headers = {"Authorization": f"Bearer {token}"}
    with (
        running(settings.model_copy(update=changes)) as url,
        httpx.Client(base_url=url, timeout=20, headers=headers) as http,
    ):
        assert [http.get("/jobs").status_code for _ in range(3)] == [200, 200, 200]


@pytest.fixture
async def buckets(valkey: str, settings: Settings) -> Any:
    client: AsyncRedis = connect_async(valkey)
    yield lambda rate, size: TokenBuckets(client, Keys("store"), rate, size)
    await client.aclose()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_a_bucket_fills_with_time_up_to_its_size(buckets: Any, valkey: str) -> None:
    slow = buckets(0.1, 2)
    waits = [await slow.wait_for("a") for _ in range(3)]
    assert waits[:2] == [0.0, 0.0]
    assert 9 < waits[2] <= 10
    redis = Redis.from_url(valkey, decode_responses=True)
    name = Keys("store").bucket("a")
    at = float(str(redis.hget(name, "at")))
    redis.hset(name, "at", at - 10)  # ten seconds pass
    assert [await slow.wait_for("a") == 0 for _ in range(2)] == [True, False]
    redis.hset(name, "at", at - 10_000)
    assert [await slow.wait_for("a") == 0 for _ in range(3)] == [True, True, False]
    redis.hset(name, "at", time.time() + 10_000)  # the clock was set back
    assert math.isfinite(await slow.wait_for("a"))
    assert redis.ttl(name) > 0
    redis.close()


def test_a_full_queue_refuses_jobs(serve: Serve, worker: PlayedWorker) -> None:
    worker.go.clear()
    with serve(max_queue=2) as http:
        first = http.post("/edits", json={"facts": [FACT]}, headers={"Idempotency-Key": "a"})
        assert http.post("/edits", json={"facts": [FACT]}).status_code == 202
        full = http.post("/edits", json={"facts": [FACT]}, headers={"Idempotency-Key": "b"})
        assert_busy(full, "queue_full")
        again = http.post("/edits", json={"facts": [FACT]}, headers={"Idempotency-Key": "a"})
        assert again.json()["id"] == first.json()["id"], "a repeated request finds its job"
        assert http.post("/edits?dry_run=true", json={"facts": [FACT]}).status_code == 200
        worker.go.set()
        while worker.store.journal.count_open():
            time.sleep(0.02)
        retried = http.post("/edits", json={"facts": [FACT]}, headers={"Idempotency-Key": "b"})
        assert retried.status_code == 202


LATER = [
    ("/evaluations", {"suite": "atlas-zsre"}),
    ("/probes", {}),
    ("/snapshots/base/export", {"format": "merged"}),
    ("/hypernetworks", {"editor": "mend"}),
]


@pytest.mark.parametrize(("path", "body"), LATER)
def test_every_kind_of_job_counts_towards_the_queue(
    path: str, body: dict[str, Any], serve: Serve, worker: PlayedWorker
) -> None:
    with serve(max_queue=1) as http:
        assert http.post(path, json=body).status_code == 202
        assert_busy(http.post(path, json=body), "queue_full")
        assert_busy(http.post("/edits", json={"facts": [FACT]}), "queue_full")
    assert worker.store.journal.count_open() == 1


def test_a_revert_counts_towards_the_queue(serve: Serve, worker: PlayedWorker) -> None:
    with serve(max_queue=1) as http:
        wait = {"Prefer": "wait=20"}
        edit = http.post("/edits", json={"facts": [FACT]}, headers=wait).json()["edit_id"]
        worker.go.clear()
        key = {"Idempotency-Key": "a"}
        first = http.post(f"/edits/{edit}/revert", headers=key)
        assert first.status_code == 202
        assert_busy(http.post(f"/edits/{edit}/revert"), "queue_full")
        again = http.post(f"/edits/{edit}/revert", headers=key)
        assert again.json()["id"] == first.json()["id"], "a repeated request finds its job"
        worker.go.set()


def test_too_many_open_streams_are_refused(serve: Serve, worker: PlayedWorker) -> None:
    worker.go.clear()
    with serve(max_streams=2) as http, ExitStack() as stack:
        job = http.post("/edits", json={"facts": [FACT]}).json()["id"]
        streams = [stack.enter_context(http.stream("GET", f"/jobs/{job}/events")) for _ in range(2)]
        assert [stream.status_code for stream in streams] == [200, 200]
        assert_busy(http.get(f"/jobs/{job}/events"), "too_many_streams")
        assert_busy(
            http.post("/generate", json={"prompt": "a", "stream": True}), "too_many_streams"
        )
        hurried = http.post("/edits", json={"facts": [FACT]}, headers={"Prefer": "wait=300"})
        assert hurried.status_code == 202
        assert "preference-applied" not in hurried.headers
        streams[0].close()
        deadline = time.monotonic() + 10
        while http.get("/jobs").status_code == 200:
            answer = http.post("/generate", json={"prompt": "a", "stream": True})
            if answer.status_code == 200:
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        worker.go.set()


def test_a_key_cannot_take_all_streams(serve: Serve, worker: PlayedWorker) -> None:
    worker.go.clear()
    everything = [Scope.READ, Scope.GENERATE, Scope.EDIT]
    one, two = (
        {"Authorization": f"Bearer {worker.store.keys.create(name, everything)[1]}"}
        for name in ("one", "two")
    )
    with serve(auth="keys", max_streams=4) as http, ExitStack() as stack:
        job = http.post("/edits", json={"facts": [FACT]}, headers=one).json()["id"]
        events = f"/jobs/{job}/events"
        for _ in range(3):
            stack.enter_context(http.stream("GET", events, headers=one))
        assert_busy(http.get(events, headers=one), "too_many_streams")
        other = stack.enter_context(http.stream("GET", events, headers=two))
        assert other.status_code == 200
        worker.go.set()


def test_a_store_that_is_full_takes_no_edits(serve: Serve, worker: PlayedWorker) -> None:
    with serve(max_store_mb=1) as http:
        (worker.store.root / "base" / "ballast").write_bytes(bytes(2**21))
        full = http.post("/edits", json={"facts": [FACT]})
        assert (full.status_code, full.json()["code"]) == (507, "store_full")
        assert http.post("/generate", json={"prompt": "a"}).status_code == 200
        assert http.post("/rollback/base").status_code == 200
    with serve(min_free_mb=10**9) as http:
        for path, body in (("/edits", {"facts": [FACT]}), *LATER, ("/suites?name=mine", FACT)):
            full = http.post(path, json=body)
            assert (full.status_code, full.json()["code"]) == (507, "disk_full"), path
    assert worker.store.journal.count_open() == 0


LONG = "a" * 101


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/generate", {"prompt": LONG}, "/prompt"),
        ("/generate", {"prompts": ["a", LONG]}, "/prompts/1"),
        ("/generate", {"prompt": "a", "candidates": [LONG]}, "/candidates/0"),
        ("/generate", {"prompt": "a", "stop": [LONG]}, "/stop/0"),
        ("/edits", {"facts": [{**FACT, "target_new": LONG}]}, "/facts/0/target_new"),
        ("/probes", {"facts": [*[FACT] * 8, {**FACT, "subject": LONG}]}, "/facts/8/subject"),
        ("/edits", {"facts": [FACT, {**FACT, "subject": LONG}]}, "/facts/1/subject"),
        (
            "/edits",
            {"facts": [{**FACT, "paraphrase_prompts": ["a", LONG]}]},
            "/facts/0/paraphrase_prompts",
        ),
        (
            "/edits",
            {"facts": [{**FACT, "neighborhood_prompts": ["a"] * 300}]},
            "/facts/0/neighborhood_prompts",
        ),
    ],
)
def test_texts_that_are_too_long_are_refused_unread(
    path: str, body: dict[str, Any], pointer: str, serve: Serve, model: Store
) -> None:
    with serve(max_text_chars=100) as http:
        answer = http.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (413, "over_limit")
    assert answer.json()["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"prompt": "a", "max_new_tokens": 6}, "/max_new_tokens"),
        ({"prompt": "a", "max_new_tokens": 5000}, "/max_new_tokens"),  # more than the model has
        ({"prompts": ["a", "b", "c", "d"]}, "/prompts"),
        ({"prompts": ["a", "b"], "version": ["base", "head"], "candidates": []}, None),
        ({"prompt": "a", "candidates": ["x"] * 4}, "/candidates"),
        ({"prompts": ["a", "one two three four five six"], "max_new_tokens": 1}, "/prompts/1"),
    ],
)
def test_a_generation_over_a_limit_is_too_large(
    body: dict[str, Any], pointer: str | None, serve: Serve, model: Store
) -> None:
    with serve(max_new_tokens=5, max_prompts=3, max_prompt_tokens=5) as http:
        answer = http.post("/generate", json=body)
    assert (answer.status_code, answer.json()["code"]) == (413, "over_limit")
    assert answer.json()["errors"][0]["pointer"] == (pointer or "/prompts")


def test_a_mistake_is_reported_before_a_limit(serve: Serve, model: Store) -> None:
    with serve(max_new_tokens=5) as http:
        answer = http.post("/generate", json={"prompt": "", "max_new_tokens": 6})
    assert answer.status_code == 422
    codes = {error["pointer"]: error["code"] for error in answer.json()["errors"]}
    assert codes == {"/max_new_tokens": "over_limit", "/prompt": "empty"}
