"""Apis that ask workers which a test plays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis import Redis
from support.service.builders import KEYS
from support.service.played_worker.by_hand import Played

from service.queue import AsyncQueue, connect_async


@pytest.fixture
def played(client: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The api looks ten times as often whether a worker is still there.

    Before the client is closed, all hearts stop.
    """
    monkeypatch.setattr("service.queue.asking.POLL_MS", 100)
    yield
    for one in [*Played.living]:
        one.die()


@pytest.fixture
async def hasty(valkey_url: str, client: Redis) -> AsyncIterator[AsyncQueue]:
    """An api that gives up a silent worker after a moment."""
    queue = AsyncQueue(connect_async(valkey_url), KEYS, stall_s=1.0)
    yield queue
    await queue.close()
