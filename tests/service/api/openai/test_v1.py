"""/v1 over the real queue with a played worker: swaps, restarts, refusals, streams that break."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount
from support.service.played_worker.answers import BREAK, FAIL, HANG
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import running

from service.api import create_app
from service.api.openai import calls
from service.contracts.schemas.access import Scope
from service.queue import Keys, WorkerBeat
from service.queue import connect as connect_to
from service.settings import Settings
from service.store import Store

Connect = Callable[..., openai.OpenAI]
FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}


@pytest.fixture
def connect(url: str) -> Iterator[Connect]:
    """Makes clients, and closes their connections after the test."""
    with ExitStack() as stack:

        def made(key: str = "none", address: str = f"{url}/v1", retries: int = 0) -> openai.OpenAI:
            client = openai.OpenAI(api_key=key, base_url=address, max_retries=retries)
            return stack.enter_context(client)

        yield made


def body(first: int = 300, **more: Any) -> dict[str, Any]:
    return {"model": "head", "prompt": [first, 301], **more}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "HOLD_S", 0.3)


def test_requests_that_meet_a_swap_are_answered(http: httpx.Client, worker: PlayedWorker) -> None:
    """Edits and rollbacks come and go; every answer says one version, in body and header."""
    answers: list[httpx.Response] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answers.append(http.post("/v1/completions", json=body()))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        made = http.post("/edits", json={"facts": [FACT]}, headers={"Prefer": "wait=20"})
        assert made.json()["status"] == "succeeded"
        assert http.post("/rollback/base").status_code == 200
    stop.set()
    for thread in threads:
        thread.join()
    assert {one.status_code for one in answers} == {200}
    versions = {one.json()["model_version"] for one in answers}
    assert all(o.json()["model_version"] == o.headers["x-model-version"] for o in answers)
    assert "v0" in versions
    assert versions <= {"v0", "v1", "v2", "v3"}


def test_requests_wait_for_a_worker_that_starts_again(
    http: httpx.Client, settings: Settings, model: Store
) -> None:
    found: list[httpx.Response] = []
    thread = threading.Thread(
        target=lambda: found.append(http.post("/v1/completions", json=body()))
    )
    thread.start()
    time.sleep(0.5)
    assert not found
    with PlayedWorker.of_api(settings):
        thread.join(10)
    assert [one.status_code for one in found] == [200]


@pytest.fixture
def dying(
    settings: Settings, model: Store, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], None]]:
    """A worker that is dead and still counts as alive; the call ends that, which is soon seen."""
    monkeypatch.setattr("service.queue.asking.POLL_MS", 100)
    client, keys = connect_to(str(settings.redis_url)), Keys(model.id)
    beat = WorkerBeat(instance="dead", pid=1, model="atlas-gptj", started_at=datetime.now(UTC))
    client.set(keys.worker, beat.model_dump_json())
    yield lambda: client.delete(keys.worker)
    client.close()


@pytest.mark.parametrize("stream", [False, True])
def test_requests_that_a_dying_worker_takes_are_answered_by_the_next(
    stream: bool, http: httpx.Client, settings: Settings, dying: Callable[[], None]
) -> None:
    found: list[httpx.Response] = []
    asked, began = body(stream=stream), time.time()
    thread = threading.Thread(target=lambda: found.append(http.post("/v1/completions", json=asked)))
    thread.start()
    time.sleep(0.5)
    dying()
    time.sleep(0.5)
    assert not found, "it waits for the next worker"
    with PlayedWorker.of_api(settings) as worker:
        thread.join(10)
        [taken] = [one for one in worker.asked if one.kind == "complete"]
    assert [one.status_code for one in found] == [200]
    assert found[0].text.count("[DONE]") == stream
    assert "error" not in found[0].text
    again = began + 0.9 + settings.generate_timeout_s
    assert taken.deadline >= again, "it has as long as the dead one had, a second later"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("stream", [False, True])
def test_requests_of_a_dying_worker_without_a_successor_are_refused(
    stream: bool, http: httpx.Client, dying: Callable[[], None]
) -> None:
    threading.Timer(0.4, dying).start()
    answer = http.post("/v1/completions", json=body(stream=stream))
    assert answer.status_code == (200 if stream else 503)
    assert "no_worker" in answer.text


@pytest.mark.usefixtures("impatient")
def test_without_a_worker_they_are_refused_after_a_while(
    http: httpx.Client, model: Store, connect: Connect
) -> None:
    with pytest.raises(openai.InternalServerError) as refused:
        connect().completions.create(model="head", prompt="The")
    assert refused.value.status_code == 503
    assert refused.value.code == "no_worker"
    assert refused.value.response.headers["retry-after"]
    assert "no worker is running now" in str(refused.value)


def test_before_any_worker_there_is_no_model(http: httpx.Client, store: Store) -> None:
    answer = http.post("/v1/completions", json=body())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_model")


def test_the_client_tries_again(
    http: httpx.Client, worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    """A 503 of the worker is tried again after what the answer says."""
    monkeypatch.setitem(__import__("service.contracts.codes", fromlist=["x"]).RETRY_AFTER, 503, 0)
    with pytest.raises(openai.InternalServerError):
        connect(retries=1).completions.create(model="head", prompt=[FAIL, 301])
    assert [one.kind for one in worker.asked] == ["complete", "complete"]


@pytest.mark.parametrize("first", [BREAK, FAIL])
def test_a_stream_that_fails_raises_in_the_client(
    first: int, http: httpx.Client, worker: PlayedWorker, connect: Connect
) -> None:
    client, texts = connect(), []
    with pytest.raises(openai.APIError) as broken:  # noqa: PT012 - the loop raises
        for chunk in client.completions.create(model="head", prompt=[first, 301], stream=True):
            texts.append(chunk.choices[0].text)
    assert texts == (["x", "x"] if first == BREAK else [])
    assert broken.value.code == ("boom" if first == BREAK else "out_of_memory")
    assert str(broken.value) == ("broke off" if first == BREAK else "too much")


def test_a_stream_ends_with_done_and_no_event_has_a_name(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    good = http.post("/v1/completions", json=body(stream=True)).text
    assert good.split()[-1] == "[DONE]"
    bad = http.post("/v1/completions", json=body(BREAK, stream=True)).text
    assert "[DONE]" not in bad
    assert "event:" not in good + bad
    assert '"error"' in bad


@pytest.mark.parametrize("stream", [False, True])
def test_the_worker_hears_that_the_client_has_gone(
    stream: bool, http: httpx.Client, worker: PlayedWorker
) -> None:
    with (
        pytest.raises(httpx.ReadTimeout),
        http.stream("POST", "/v1/completions", json=body(HANG, stream=stream), timeout=0.5) as a,
    ):
        a.read()
    deadline = time.monotonic() + 10
    while not worker.abandoned:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_worker_is_asked_for_what_the_request_says(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    given = {
        "model": "head", "prompt": [[300, 5], [7]], "temperature": 0, "max_tokens": 1,
        "logprobs": 1, "seed": 1234, "echo": True, "stop": ["\n\n", "<|endoftext|>"],
    }  # fmt: skip
    assert http.post("/v1/completions", json=given).status_code == 200
    asked = worker.asked[-1].body
    assert asked["prompts"] == [[300, 5], [7]]
    assert (asked["top"], asked["prompt_top"], asked["seed"]) == (1, 1, 1234)
    assert (asked["stop"], asked["stop_ids"]) == (["\n\n"], [0]), "an end shows in no text"
    http.post("/v1/completions", json={"model": "head", "prompt": "Lyon is"})
    asked = worker.asked[-1].body
    assert (asked["temperature"], asked["max_new_tokens"]) == (1.0, 16)
    assert asked["prompt_top"] is None


def test_a_model_without_a_chat_template_says_so(
    http: httpx.Client, worker: PlayedWorker, connect: Connect
) -> None:
    messages: Any = [{"role": "user", "content": "a"}]
    with pytest.raises(openai.BadRequestError) as refused:
        connect().chat.completions.create(model="head", messages=messages)
    assert refused.value.code == "no_chat_template"
    assert "give prompts as plain texts" in str(refused.value)
    assert http.get("/tokenizer_info").json()["chat_template"] is None


def test_keys_are_asked_for_as_everywhere(
    settings: Settings, model: Store, connect: Connect
) -> None:
    _, good = model.keys.create("good", [Scope.GENERATE])
    _, weak = model.keys.create("weak", [Scope.READ])
    given = settings.model_copy(update={"auth": "keys"})
    with running(given) as guarded, httpx.Client(base_url=guarded) as http:
        assert [one.id for one in connect(good, f"{guarded}/v1").models.list()][:2] == [
            "head",
            "base",
        ]
        with pytest.raises(openai.PermissionDeniedError) as refused:
            connect(weak, f"{guarded}/v1").models.list()
        assert refused.value.code == "insufficient_scope"
        assert refused.value.type == "permission_error"
        with pytest.raises(openai.AuthenticationError) as unknown:
            connect(address=f"{guarded}/v1").models.list()
        assert unknown.value.code == "invalid_key"
        bare = http.get("/v1/nothing")
        assert (bare.status_code, bare.json()["error"]["code"]) == (401, "no_key")
        assert bare.headers["www-authenticate"].startswith("Bearer")
        assert bare.headers["content-type"] == "application/json"
        assert bare.json()["error"]["request_id"] == bare.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("GET", "/v1/completions", 405), ("POST", "/v1", 404)],
)
def test_what_is_not_there_is_an_error_of_the_same_shape(
    method: str, path: str, status: int, http: httpx.Client, model: Store
) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}


def test_bodies_are_bounded_and_must_be_json(
    http: httpx.Client, settings: Settings, model: Store
) -> None:
    large = http.post("/v1/completions", content=b"x" * (settings.max_body_bytes + 1))
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
    broken = http.post("/v1/completions", content=b"{")
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "malformed_json")
    form = http.post("/v1/completions", data={"model": "head"})
    assert (form.status_code, form.json()["error"]["param"]) == (400, "Content-Type")


def test_an_unforeseen_error_has_the_same_shape(
    http: httpx.Client, model: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("service.api.openai.models._root", fail)
    answer = http.get("/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert http.get("/livez").status_code == 200


def test_a_problem_elsewhere_has_a_message(
    http: httpx.Client, model: Store, connect: Connect, settings: Settings
) -> None:
    """All that openai's client shows of it."""
    seen: set[int] = set()
    for path in ("/jobs/job_1", "/nothing", "/snapshots/v9", "/snapshots?limit=x"):
        problem = http.get(path).json()
        assert problem["message"] == problem["detail"] != ""
    large = b"x" * (settings.max_body_bytes + 1)
    for answer in (
        http.delete("/jobs"),
        http.get("/readyz"),
        http.post("/edits", content=large),
        http.post("/edits", content=b"{"),
        http.post("/generate", data={"prompts": "x"}),
        http.post("/generate", json={"prompts": ["x"]}),
        http.get(
            "/jobs", headers={"Origin": "https://example.org", "Sec-Fetch-Site": "cross-site"}
        ),
    ):
        if answer.is_error:
            assert answer.json()["message"] == answer.json()["detail"] != ""
            seen.add(answer.status_code)
    assert {405, 413, 400, 415, 503} <= seen
    with pytest.raises(openai.NotFoundError, match="GET /models: not found"):
        connect(address=str(http.base_url)).models.list()


def test_no_middleware_ends_a_broken_stream_cleanly(settings: Settings) -> None:
    """Starlette's `BaseHTTPMiddleware` does, so that a client takes half an answer for a whole."""
    app = create_app(settings)
    [mounted] = [one.app for one in app.routes if isinstance(one, Mount) and one.path == "/v1"]
    assert isinstance(mounted, FastAPI)
    for one in (*app.user_middleware, *mounted.user_middleware):
        assert isinstance(one.cls, type)
        assert not issubclass(one.cls, BaseHTTPMiddleware)


def test_without_keys_an_empty_one_is_fine(http: httpx.Client, model: Store) -> None:
    """As lm-eval sends it where it has none."""
    assert http.get("/v1/models", headers={"Authorization": "Bearer"}).status_code == 200


def test_what_will_fail_again_is_not_tried_again(http: httpx.Client, model: Store) -> None:
    assert http.post("/snapshots", json={"name": "mine"}).status_code == 201
    model.versions.write(model.versions.read("v0").model_copy(update={"id": "v1", "parent": "v0"}))
    taken = http.post("/snapshots", json={"name": "mine", "version": "v1"})
    assert (taken.status_code, taken.headers["x-should-retry"]) == (409, "false")
    assert "x-should-retry" not in http.get("/jobs/job_1").headers


def test_names_and_versions_are_listed(http: httpx.Client, model: Store) -> None:
    assert http.post("/snapshots", json={"name": "mine"}).status_code == 201
    found = {one["id"]: one["version"] for one in http.get("/v1/models").json()["data"]}
    assert found == {"head": "v0", "base": "v0", "mine": "v0", "v0": "v0"}
    assert http.get("/v1/models/mine").json()["version"] == "v0"
