"""The containers' health checks: 0 while a part works, 1 and a reason when it does not."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from redis import Redis

from service.contracts.jobs import now
from service.ops import health
from service.queue import Heartbeat, Keys, WorkerBeat
from service.store import Store


@pytest.fixture
def configured(
    store: Store, valkey_url: str, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> Store:
    """A store and a queue that the environment names; nothing runs."""
    monkeypatch.setenv("JEEP_STORE", str(store.root))
    monkeypatch.setenv("JEEP_REDIS_URL", valkey_url)
    return store


@pytest.fixture
def heartbeat(configured: Store, client: Redis) -> Iterator[Heartbeat]:
    beat = WorkerBeat(instance="one", pid=1, model="m", started_at=now())
    heart = Heartbeat(client, Keys(configured.id), lambda: beat)
    heart.start()
    yield heart
    heart.stop()


def test_a_worker_that_is_heard_of_is_healthy(heartbeat: Heartbeat) -> None:
    assert health.main(["worker"]) == 0


def test_a_worker_that_has_stopped_is_not(
    heartbeat: Heartbeat, capsys: pytest.CaptureFixture[str]
) -> None:
    heartbeat.stop()
    assert health.main(["worker"]) == 1
    assert "no worker" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["api", "worker"])
def test_what_cannot_be_reached_is_not_healthy(
    configured: Store, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JEEP_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("JEEP_PORT", "1")
    assert health.main([part]) == 1


def test_a_follower_is_looked_for_on_this_host(
    configured: Store,
    client: Redis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("JEEP_ROLE", "follower")
    assert health.main(["worker"]) == 1
    assert "no follower on this host" in capsys.readouterr().err
    beat = WorkerBeat(
        instance="one", pid=1, model="m", started_at=now(), role="follower", host="elsewhere"
    )
    heart = Heartbeat(client, Keys(configured.id), lambda: beat)
    heart.beat()
    assert health.main(["worker"]) == 1
    beat = beat.model_copy(update={"host": socket.gethostname()})
    heart.beat()
    assert health.main(["worker"]) == 0
    beat = beat.model_copy(update={"state": "stuck"})
    heart.beat()
    assert health.main(["worker"]) == 1
    heart.stop()


def test_an_unknown_part_is_a_usage_error() -> None:
    assert health.main(["valkey"]) == 2
