"""An api that accepts connections and says nothing: a follower that is stopped ends at once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from service.client import Client
from service.settings import Settings
from service.store import NotFetched
from service.worker.fetching import elsewhere as module
from service.worker.fetching.elsewhere import Elsewhere
from service.worker.fetching.link import Link
from service.worker.fetching.mirror import Mirror
from service.worker.fetching.source import ApiSource
from service.worker.fetching.waiting import unless
from service.worker.members.follower import Follower

BOUND_S = 20
"""The waits below are longer, unless they are ended."""


class Hanging:
    """A server that answers nothing; ``reached`` is set by the first connection."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.reached = threading.Event()
        self._held: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self._held.append(self._socket.accept()[0])
                self.reached.set()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        for one in (self._socket, *self._held):
            one.close()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 600.0)


@pytest.fixture
def api() -> Iterator[Hanging]:
    made = Hanging()
    yield made
    made.close()


def settings(api: Hanging, folder: Path) -> Settings:
    given: dict[str, Any] = {
        "store": folder, "role": "follower", "store_url": api.url, "store_key": "jeep_k",
        "redis_url": "redis://127.0.0.1:9",
    }  # fmt: skip
    return Settings.model_validate(given)


def begun(work: Callable[[], Any], api: Hanging) -> tuple[threading.Thread, list[Any]]:
    """Work on a thread that waits for the api now, and what it will have returned or raised."""
    found: list[Any] = []

    def body() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    assert api.reached.wait(BOUND_S)
    return thread, found


def test_a_follower_that_has_not_joined_ends(api: Hanging, tmp_path: Path) -> None:
    follower = Follower(settings(api, tmp_path / "own"))
    thread, found = begun(follower.run, api)
    follower.stop.set()
    thread.join(BOUND_S)
    assert found == [0]


def test_head_is_not_waited_for(api: Hanging, tmp_path: Path) -> None:
    with ExitStack() as stack:
        elsewhere = Elsewhere(settings(api, tmp_path / "own"), stack)
        followed = Mirror(
            elsewhere._asking, elsewhere.link, tmp_path, "", pytest.fail, elsewhere.stop
        )
        thread, found = begun(followed.run, api)
        elsewhere.stop.set()
        thread.join(BOUND_S)
        assert found == [None]


def test_a_version_is_waited_for_as_long_as_somebody_is_owed_an_answer(
    api: Hanging, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        elsewhere = Elsewhere(settings(api, tmp_path / "own"), stack)
        owed = threading.Event()
        owed.set()
        elsewhere.owed = owed.is_set
        source = ApiSource(elsewhere._fetching, elsewhere.link, elsewhere._fetches_end)
        thread, found = begun(lambda: source.line("v1", 1), api)
        elsewhere.stop.set()
        thread.join(0.3)
        assert found == []
        owed.clear()
        thread.join(BOUND_S)
        [error] = found
        assert isinstance(error, NotFetched)
        assert "this follower ends" in str(error)
        assert elsewhere.link.away_s is None


def test_nothing_is_begun_once_it_is_ended(api: Hanging) -> None:
    with Client(api.url, 600.0) as client:
        source = ApiSource(client, Link(api.url), lambda: True)
        with pytest.raises(NotFetched, match="this follower ends"):
            source.line("v1", 1)
    assert not api.reached.is_set()


def test_what_is_waited_for_is_returned_or_raised() -> None:
    assert unless(lambda: False, lambda: 3) == 3
    with pytest.raises(KeyError):
        unless(lambda: False, lambda: {}["x"])
