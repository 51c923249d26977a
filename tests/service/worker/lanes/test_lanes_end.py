"""A lane that cannot continue ends the others: a worker that hangs would look alive forever."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis

from service.queue import Keys, QueueFailure, RequestQueue
from service.store import Store
from service.worker.lanes.gate import Gate
from service.worker.lanes.generation_lane import GenerationLane


def test_decoding_ends_when_requests_cannot_be_taken(client: Redis, based: Store) -> None:
    nothing: Any = SimpleNamespace()
    keys = Keys(based.id)
    client.set(keys.requests, "no stream")
    lane = GenerationLane(RequestQueue(client, keys), based, nothing, nothing, Gate(0.5))
    decoding = threading.Thread(target=lane.decode, daemon=True)
    decoding.start()
    with pytest.raises(QueueFailure):
        lane.take()
    decoding.join(10)
    assert not decoding.is_alive()
