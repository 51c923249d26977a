"""Real parts for the service's tests: a store on disk and an embedded Valkey."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from support.service.builders import KEYS

from service.contracts.jobs import Job, JobKind, new_id, now
from service.ops.embedded_server import EmbeddedValkey
from service.queue import AsyncQueue, JobQueue, connect, connect_async
from service.store import Store


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running server; its content is not cleared between tests (see ``client``)."""
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture
def client(valkey_url: str) -> Iterator[Redis]:
    """A client of an emptied server."""
    client = connect(valkey_url, retries=3)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def make_job() -> Callable[..., Job]:
    """Makes queued jobs; fields may be given."""

    def make(**fields: object) -> Job:
        given = {"id": new_id("job"), "kind": JobKind.EDIT, "payload": {}, "created_at": now()}
        return Job.model_validate(given | fields)

    return make


@pytest.fixture
def based(store: Store) -> Store:
    """A store with v0 as head."""
    store.create_base("weights-0")
    return store


@pytest.fixture
def queue(client: Redis) -> JobQueue:
    return JobQueue(client, KEYS)


@pytest.fixture
async def api(valkey_url: str, client: Redis) -> AsyncIterator[AsyncQueue]:
    """The api's side of the queue, on an emptied server."""
    queue = AsyncQueue(connect_async(valkey_url), KEYS)
    yield queue
    await queue.close()


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether garbage was collected at each call of `gc.freeze`, which does nothing here."""
    calls: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: calls.append(gc.isenabled()))
    assert gc.isenabled()
    yield calls
    gc.enable()
