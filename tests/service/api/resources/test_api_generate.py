"""Generation over the real queue, with a scripted worker."""

import json
import time

import httpx
import pytest
from httpx_sse import connect_sse
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import running

from service.settings import Settings
from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}
BODY = {"facts": [FACT], "snapshot_name": "good"}


def test_every_prompt_is_answered_by_every_version(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    assert http.post("/edits", json=BODY, headers={"Prefer": "wait=20"}).status_code == 200
    body = {"prompts": ["a", "b"], "version": ["base", "good"], "seed": 2**63 - 1, "temperature": 1}
    answer = http.post("/generate", json=body)
    assert answer.status_code == 200
    assert answer.headers["x-model-version"] == "v0, v1"
    results = [(r["prompt"], r["version"]) for r in answer.json()["results"]]
    assert results == [("a", "v0"), ("a", "v1"), ("b", "v0"), ("b", "v1")]
    [request] = worker.asked
    assert request.versions == ["v0", "v1"]
    assert request.body["seed"] == 2**63 - 1


def test_head_answers_if_no_version_is_named(http: httpx.Client, worker: PlayedWorker) -> None:
    answer = http.post("/generate", json={"prompt": "a"})
    assert answer.headers["x-model-version"] == "v0"
    assert answer.json()["results"][0]["text"] == "v0 says a"


def test_a_stream_sends_tokens_and_the_result(http: httpx.Client, worker: PlayedWorker) -> None:
    body = {"prompt": "a", "stream": True}
    with connect_sse(http, "POST", "/generate", json=body) as source:
        assert source.response.headers["x-model-version"] == "v0"
        events = [(e.event, json.loads(e.data)) for e in source.iter_sse()]
    assert [name for name, _ in events] == ["token"] * 4 + ["result"]
    assert events[0][1]["text"] == " "
    assert events[-1][1]["results"][0]["text"] == "v0 says a"


def test_a_stream_that_breaks_off_ends_with_an_error(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    with connect_sse(http, "POST", "/generate", json={"prompt": "break", "stream": True}) as source:
        events = [(e.event, json.loads(e.data)) for e in source.iter_sse()]
        request_id = source.response.headers["x-request-id"]
    name, problem = events[-1]
    assert (name, problem["status"], problem["code"]) == ("error", 500, "boom")
    assert problem["request_id"] == request_id


def test_an_error_of_the_worker_becomes_the_answer(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    answer = http.post("/generate", json={"prompt": "fail"})
    assert (answer.status_code, answer.json()["code"]) == (503, "out_of_memory")
    assert answer.headers["retry-after"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_worker_hears_that_the_client_has_gone(
    stream: bool, http: httpx.Client, worker: PlayedWorker
) -> None:
    with (
        pytest.raises(httpx.ReadTimeout),
        http.stream(
            "POST", "/generate", json={"prompt": "hang", "stream": stream}, timeout=0.5
        ) as answer,
    ):
        answer.read()
    deadline = time.monotonic() + 3
    while not worker.abandoned:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert worker.abandoned == [worker.asked[0].id]


def test_a_generation_without_an_answer_times_out(settings: Settings, worker: PlayedWorker) -> None:
    impatient = settings.model_copy(update={"generate_timeout_s": 0.5})
    with running(impatient) as url, httpx.Client(base_url=url, timeout=20) as http:
        answer = http.post("/generate", json={"prompt": "hang"})
    assert (answer.status_code, answer.json()["code"]) == (504, "worker_timeout")


def test_a_generation_without_a_worker_is_refused(http: httpx.Client, model: Store) -> None:
    start = time.monotonic()
    for path, body in (("/generate", {"prompt": "a"}), ("/rollback/base", {})):
        answer = http.post(path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (503, "no_worker")
        assert answer.headers["retry-after"]
    assert time.monotonic() - start < 2


def test_every_prompt_that_cannot_be_answered_is_named(http: httpx.Client, model: Store) -> None:
    """Before any is run, so that a client can leave them out and ask again."""
    prompts = ["Lyon is", "", "word " * 300 + "is", "a ", "Nice is"]
    body = {"prompts": prompts, "candidates": ["France", "Peru"]}
    answer = http.post("/generate", json=body)
    assert answer.status_code == 422
    problem = answer.json()
    found = [(e["pointer"], e["code"]) for e in problem["errors"]]
    assert sorted(found) == [
        ("/candidates/0", "merges_with_prompt"),
        ("/candidates/1", "merges_with_prompt"),
        ("/prompts/1", "empty"),
        ("/prompts/2", "too_long"),
    ]
    told = {e["pointer"]: e["message"] for e in problem["errors"]}
    assert "/prompts/3" in told["/candidates/0"]


def test_more_new_tokens_than_fit_after_any_prompt_are_the_fault(
    http: httpx.Client, model: Store
) -> None:
    answer = http.post("/generate", json={"prompt": "Lyon", "max_new_tokens": 400})
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("/max_new_tokens", "too_long")
    assert error["message"].startswith("400 tokens; with a prompt of one token, at most ")
    long = {"prompt": "Lyon", "candidates": ["Peru", "Japan " * 400]}
    [error] = http.post("/generate", json=long).json()["errors"]
    assert (error["pointer"], error["code"]) == ("/candidates/1", "too_long")
