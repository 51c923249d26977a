"""An api that is told to stop while it answers."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from support.faults.processes import until
from support.service.played_worker.answers import HANG
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import running

from service.api.http.limits import Closing
from service.api.http.min_version import at_least
from service.api.http.problems import ApiProblem, unavailable
from service.api.openai.calls import _hold
from service.settings import Settings
from service.store import Store

EDIT = {"facts": [{"subject": "Lyon", "prompt": "{} lies in", "target_new": "Italy"}]}
ASKED = [
    ("/generate", {"prompt": "hang"}),
    ("/generate", {"prompt": "linger", "stream": True}),
    ("/v1/completions", {"model": "base", "prompt": [HANG]}),
    ("/v1/completions", {"model": "base", "prompt": [HANG], "stream": True}),
]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever waits is ended 0.2 s after the api is told to stop, before the server ends it."""
    monkeypatch.setattr("service.api.http.limits.CLOSING_S", 1.2)


def told_to_stop(
    settings: Settings, worker: PlayedWorker, path: str, body: dict[str, Any]
) -> httpx.Response:
    """The answer to a request of an api that is told to stop once the worker has it."""

    def ask(url: str) -> httpx.Response:
        return httpx.post(url + path, json=body, timeout=20, headers={"Prefer": "wait=20"})

    with ThreadPoolExecutor(1) as pool:
        with running(settings) as url:
            answer = pool.submit(ask, url)
            until(lambda: worker.asked or worker.store.journal.count_open(), "it is asked")
        return answer.result()


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(("path", "body"), ASKED)
def test_answers_end_with_a_reason(
    settings: Settings, worker: PlayedWorker, path: str, body: dict[str, Any]
) -> None:
    answer = told_to_stop(settings, worker, path, body)
    streamed = body.get("stream", False)
    assert answer.status_code == (200 if streamed else 503)
    assert '"stopping"' in answer.text
    assert "ask again" in answer.text


@pytest.mark.usefixtures("soon")
def test_an_edit_that_is_waited_for_is_answered_as_it_is(
    settings: Settings, worker: PlayedWorker
) -> None:
    worker.go.clear()
    answer = told_to_stop(settings, worker, "/edits", EDIT)
    assert answer.status_code == 202
    assert answer.json()["status"] in ("queued", "running")
    worker.go.set()


def of_one_that_ends(store: Store) -> Any:
    """The state of an api without a worker that has to end now; nothing else ends a wait."""

    async def nobody() -> None:
        raise unavailable("no_worker", "no worker is running now")

    closing = Closing()
    closing.begin()
    settings = Settings(min_version_wait_s=600)
    return SimpleNamespace(
        closing=closing, settings=settings, store=store, require_any_worker=nobody
    )


@pytest.mark.anyio
async def test_what_has_not_come_to_a_worker_ends_with_the_reason_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.http.limits.CLOSING_S", 1)
    state = of_one_that_ends(store)
    with pytest.raises(ApiProblem) as held:
        await _hold(state)
    with pytest.raises(ApiProblem) as waited:
        await at_least(state, ["head"], "v999", store.names.resolve)
    assert [held.value.code, waited.value.code] == ["stopping"] * 2


@pytest.mark.anyio
async def test_an_end_that_has_begun_does_not_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    closing = Closing()
    monkeypatch.setattr("service.api.http.limits.CLOSING_S", 1)
    closing.begin()
    monkeypatch.setattr("service.api.http.limits.CLOSING_S", 600)

    async def waits() -> None:
        async with closing.or_refused():
            try:
                await asyncio.Event().wait()
            finally:
                closing.begin()  # what has expired could not be given another time

    with pytest.raises(ApiProblem, match="told to stop"):
        await waits()
