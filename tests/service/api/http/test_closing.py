"""An api that is told to stop while it answers."""

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
import uvicorn
from sse_starlette.sse import AppStatus
from support.faults.processes import until
from support.service.played_worker.answers import HANG
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import running

from service.api.app import create_app
from service.api.http.limits import Closing
from service.api.http.min_version import at_least
from service.api.http.problems import ApiProblem, unavailable
from service.api.openai.calls import _hold
from service.api.reconcile import Reconciler
from service.serve import ApiServer
from service.settings import Settings
from service.store import Store

EDIT = {"facts": [{"subject": "Lyon", "prompt": "{} lies in", "target_new": "Italy"}]}
ASKED: list[tuple[str, dict[str, Any]]] = [
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
    settings: Settings, worker: PlayedWorker, path: str, body: dict[str, Any], patience_s: int = 1
) -> httpx.Response:
    """The answer to a request of an api that is told to stop once the worker has it."""

    def ask(url: str) -> httpx.Response:
        return httpx.post(url + path, json=body, timeout=20, headers={"Prefer": "wait=20"})

    with ThreadPoolExecutor(1) as pool:
        with running(settings, patience_s=patience_s) as url:
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


@pytest.mark.anyio
async def test_what_waits_ends_at_once_when_told_so() -> None:
    closing = Closing()

    async def waits() -> None:
        async with closing.or_refused():
            await asyncio.Event().wait()

    before = [asyncio.create_task(waits()) for _ in range(2)]
    await asyncio.sleep(0)
    closing.begin()
    closing.at_once()
    found = await asyncio.gather(*before, waits(), return_exceptions=True)
    assert [getattr(one, "code", one) for one in found] == ["stopping"] * 3
    closing.at_once()  # nothing waits, and nothing has to


def test_a_server_that_is_told_twice_waits_for_no_answer(
    settings: Settings,
    worker: PlayedWorker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An answer that does not end by itself is cut off, and the app is closed in order."""
    monkeypatch.setattr("service.api.http.limits.CLOSING_S", 600)
    monkeypatch.setattr("service.serve.REASONS_S", 0)
    monkeypatch.setattr(Closing, "at_once", lambda _: None)
    monkeypatch.setattr(ApiServer, "signals", 2)
    with pytest.raises(httpx.RemoteProtocolError):
        told_to_stop(settings, worker, *ASKED[1], patience_s=600)
    assert "in lifespan" not in caplog.text


def test_what_has_no_reason_to_give_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.serve.REASONS_S", 0)
    server, closing = ApiServer(uvicorn.Config("an app")), Mock()
    server.signals = 2
    asyncio.run(server._hurry(closing))
    closing.at_once.assert_called_once_with()
    assert server.force_exit


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_server_counts_signals_of_both_kinds_alike(
    first: signal.Signals, second: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AppStatus, "should_exit", False)  # is set for all servers of a process
    server = ApiServer(uvicorn.Config("an app"))
    server.should_exit = True  # its worker has ended, say
    server.handle_exit(first, None)
    assert (server.signals, server.force_exit) == (1, False)
    server.handle_exit(second, None)
    assert (server.signals, server.force_exit) == (2, False)
    assert server._captured_signals == [first, second]
    server.force_exit = True  # what is not answered is being cut off
    server.handle_exit(second, None)
    assert server.force_exit, "a third one does not take that back"


@pytest.mark.anyio
async def test_an_app_ends_though_a_cancellation_is_lost(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = []

    async def run(_: Reconciler) -> None:
        for number in range(3):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost.append(number)

    monkeypatch.setattr(Reconciler, "run", run)
    monkeypatch.setattr("service.api.app.CANCEL_AGAIN_S", 0.01)
    app = create_app(settings)
    async with asyncio.timeout(60), app.router.lifespan_context(app):
        await asyncio.sleep(0)  # it begins
    assert lost == [0, 1, 2]


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
