"""A real api over HTTP with a real Valkey and a real store; a worker where an answer needs one."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.client import Client
from service.ops.embedded_server import EmbeddedValkey
from service.queue import connect
from service.settings import Settings
from service.store import Store
from support.service.bundled_model import publish
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import make_settings, running


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture
def settings(tmp_path: Path, valkey: str) -> Settings:
    client = connect(valkey)
    client.flushall()
    client.close()
    return make_settings(tmp_path / "store", valkey)


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store.open(settings.store)


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    with running(settings) as address:
        yield address


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=20) as client:
        yield client


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as made:
        yield made


@pytest.fixture
def model(store: Store) -> Store:
    """A store in which a worker, now dead, has published its model."""
    publish(store)
    return store


@pytest.fixture
def worker(settings: Settings) -> Iterator[PlayedWorker]:
    with PlayedWorker.of_api(settings) as made:
        yield made


@pytest.fixture(scope="module")
def shared_api(
    tmp_path_factory: pytest.TempPathFactory, valkey: str
) -> Iterator[tuple[httpx.Client, Store]]:
    """One api for a file, of the model that a worker, now dead, has published."""
    settings = make_settings(tmp_path_factory.mktemp("shared", numbered=True) / "store", valkey)
    store = Store.open(settings.store)
    publish(store)
    with running(settings) as url, httpx.Client(base_url=url, timeout=20) as made:
        yield made, store


@pytest.fixture
def refusing(shared_api: tuple[httpx.Client, Store]) -> Iterator[httpx.Client]:
    """The shared api, for a test whose requests may change nothing: in the end no job is there."""
    made, store = shared_api
    yield made
    assert list(store.journal.all()) == []
    assert [version.id for version in store.versions.all()] == ["v0"]
    assert store.names.all() == {}
