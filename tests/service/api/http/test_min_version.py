"""``min_version``: in `/generate` and below `/v1`, waited for, and refused with a reason."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx
import pytest
from support.service.builders import add_version, move
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import running

from service.settings import Settings
from service.store import Store


@pytest.fixture
def quick(settings: Settings, worker: PlayedWorker) -> Iterator[httpx.Client]:
    """An api that waits for a moment; head went from v0 to v1 and back."""
    store = worker.store
    one = add_version(store)
    move(store, one, expected="v0", fence=9)
    move(store, "v0", expected=one, fence=9)
    short = settings.model_copy(update={"min_version_wait_s": 0.2})
    with running(short) as url, httpx.Client(base_url=url, timeout=20) as made:
        yield made


def asked(http: httpx.Client, **body: object) -> httpx.Response:
    return http.post("/generate", json={"prompt": "a", **body})


def test_head_is_at_least_every_version_that_it_was_at(quick: httpx.Client) -> None:
    answer = asked(quick, min_version="v1")
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-model-version"] == "v0"
    assert asked(quick, min_version="base", version=["head", "base", "v1"]).status_code == 200


def test_a_version_that_is_earlier_is_refused(quick: httpx.Client, worker: PlayedWorker) -> None:
    two = add_version(worker.store)
    move(worker.store, two, expected="v0", fence=9)
    answer = asked(quick, min_version=two, version="v1")
    assert (answer.status_code, answer.json()["code"]) == (412, "version_behind")
    assert answer.json()["errors"][0]["pointer"] == "/min_version"
    assert asked(quick, min_version=two).status_code == 200


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_head_that_does_not_come_is_not_waited_for_forever(quick: httpx.Client, path: str) -> None:
    answer = quick.post(path, json={"prompt": "Lyon is", "model": "head", "min_version": "v5"}
                        if "v1" in path else {"prompt": "a", "min_version": "v5"})  # fmt: skip
    assert answer.status_code == 412
    problem = answer.json().get("error") or answer.json()
    assert problem["code"] == "version_behind"
    assert "JEEP_MIN_VERSION_WAIT_S" in problem["message"]


def test_head_is_waited_for(http: httpx.Client, worker: PlayedWorker) -> None:
    store = worker.store
    made = add_version(store)
    later = threading.Timer(0.3, move, (store, made), {"expected": "v0", "fence": 9})
    later.start()
    for path, body in (
        ("/generate", {"prompt": "a"}),
        ("/v1/completions", {"prompt": "Lyon is", "model": "head"}),
    ):
        answer = http.post(path, json={**body, "min_version": made})
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-model-version"] == made


def test_what_is_no_version_is_named(http: httpx.Client, worker: PlayedWorker) -> None:
    answer = asked(http, min_version="none")
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("/min_version", "unknown_version")


def test_the_store_is_the_authority(store: Store, worker: PlayedWorker) -> None:
    assert worker.store.head_log.is_at_least("v0", "v0")
