"""A lane that cannot continue ends the others: a worker that hangs would look alive forever."""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis

from service.queue import Keys, QueueFailure, RequestQueue
from service.settings import EXIT_CONFIG
from service.store import Store
from service.worker.gate import Gate
from service.worker.lanes.generation_lane import GenerationLane
from service.worker.lanes.request_lane import RequestLane
from service.worker.members.common import Lanes
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


def test_a_lane_that_is_denied_a_file_ends_the_process_for_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def denied() -> None:
        path = str(tmp_path / "jobs" / ".job_1.json.0af3.tmp")
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)

    def wrong() -> None:
        raise RuntimeError("nobody has foreseen it")

    for body, code in ((denied, EXIT_CONFIG), (wrong, 1), (lambda: None, 0)):
        lanes = Lanes(threading.Event(), tmp_path)
        with caplog.at_level(logging.ERROR):
            lanes.start([("jobs", body, 1)])
            lanes.join()
        assert (lanes.exit_code, lanes.stop.is_set()) == (code, True)
    first, second = caplog.records
    assert first.message.startswith("jobs/job_1.json of the store: Permission denied for")
    assert (first.exc_info, second.message) == (None, "a lane died")
