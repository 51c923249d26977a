"""A lane that cannot continue ends the others: a worker that hangs would look alive forever."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis

from service.queue import Keys, QueueFailure, RequestQueue
from service.store import Store
from service.worker.gate import Gate
from service.worker.lanes.generation_lane import GenerationLane
from service.worker.lanes.request_lane import RequestLane
from service.worker.versions.requests import VersionRequests


def test_decoding_ends_when_requests_cannot_be_taken(client: Redis, based: Store) -> None:
    nothing: Any = SimpleNamespace()
    keys = Keys(based.id)
    client.set(keys.requests, "no stream")
    requests = RequestQueue(client, keys)
    generation = GenerationLane(requests, nothing, Gate(0.5))
    lane = RequestLane(requests, generation, VersionRequests(based, nothing, nothing), nothing)
    decoding = threading.Thread(target=generation.decode, daemon=True)
    decoding.start()
    with pytest.raises(QueueFailure):
        lane.run()
    decoding.join(10)
    assert not decoding.is_alive()
