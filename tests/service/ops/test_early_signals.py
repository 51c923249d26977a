"""Signals that come before uvicorn has handlers of its own."""

from __future__ import annotations

import signal
from pathlib import Path
from unittest.mock import Mock

import pytest
import uvicorn
from sse_starlette.sse import AppStatus

from service import serve
from service.ops.stop_signals import Signals
from service.serve import ApiServer
from service.settings import Settings


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of an api whose server runs nothing."""
    monkeypatch.setattr(serve, "server_config", lambda *_, **__: uvicorn.Config("an app"))
    monkeypatch.setattr(AppStatus, "should_exit", False)  # is set for all servers of a process
    return Settings(store=tmp_path / "store", redis_url="redis://127.0.0.1:1/0", port=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_api_that_is_told_to_stop_while_it_starts_ends_in_order(
    api: Settings, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, said = Mock(), list[str]()
    monkeypatch.setattr(ApiServer, "run", run)
    monkeypatch.setattr(serve, "_announce_access", lambda *_: signal.raise_signal(number))
    before = signal.getsignal(number)
    assert serve.serve_api(api, said.append) == 0
    assert said[-1] == "stopped while starting"
    run.assert_not_called()
    assert signal.getsignal(number) is before


def test_a_signal_between_both_handlers_stops_the_server_and_is_counted(
    api: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One before uvicorn has handlers and one after it are two: no answer is waited for then."""
    states = []

    def run(server: ApiServer, sockets: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        states.append((server.should_exit, server.signals))
        with server.capture_signals():
            signal.raise_signal(signal.SIGTERM)
            states.append((server.should_exit, server.signals))
        server.started = True

    monkeypatch.setattr(ApiServer, "run", run)
    assert serve.serve_api(api, lambda _: None) == 0
    assert states == [(True, 1), (True, 2)]


def test_the_worker_hurries_after_two_signals_whoever_took_them() -> None:
    hurry, signals, server = Mock(), Signals(), ApiServer(uvicorn.Config("an app"))
    signals.hurry = hurry
    signals.hand_over(server)
    signals.handle(signal.SIGTERM, None)
    hurry.assert_not_called()
    signals.handle(signal.SIGTERM, None)  # which uvicorn raises again at its end
    hurry.assert_called_once_with()
