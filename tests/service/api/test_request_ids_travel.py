"""A request's id is on every line about it, in the api and in the worker that does the job."""

import io
import json
import logging
from collections.abc import Iterator

import httpx
import pytest
from support.service.bundled_model import BASE_WEIGHTS
from support.service.played_worker.worker import PlayedWorker

from service.ops import logs
from service.queue import connect
from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the service logs, as JSON lines."""
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logs.formatter("json", "api"))
    logger = logging.getLogger("service")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield handler.stream
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_request_id_follows_its_job_to_the_end(
    http: httpx.Client, model: Store, valkey: str, lines: io.StringIO
) -> None:
    headers = {"X-Request-Id": "mine"}
    job = http.post("/edits", json={"facts": [FACT]}, headers=headers).json()
    assert job["request_id"] == "mine"
    http.post("/edits", json={"facts": [FACT]}, headers={"X-Request-Id": "other"})
    client = connect(valkey)
    PlayedWorker(client, model.root, weights=BASE_WEIGHTS).work()
    client.close()
    assert http.get(f"/jobs/{job['id']}").json()["status"] == "succeeded"
    records = [json.loads(line) for line in lines.getvalue().splitlines()]
    of_job = [record for record in records if record.get("job_id") == job["id"]]
    assert {record["request_id"] for record in of_job} == {"mine"}
    assert [record["logger"] for record in of_job] == [
        "service.api.reconcile",  # queued
        "service.worker.lanes.lane",  # begun
        "service.worker.lanes.lane",  # ended
    ]
    assert all(job["id"] not in r["message"] for r in records if r not in of_job)


def test_a_job_that_reaches_the_queue_later_keeps_its_id(
    http: httpx.Client, model: Store, valkey: str, lines: io.StringIO
) -> None:
    job = http.post("/edits", json={"facts": [FACT]}, headers={"X-Request-Id": "mine"}).json()
    client = connect(valkey)
    client.flushall()  # the worker fills it again from the store
    PlayedWorker(client, model.root, weights=BASE_WEIGHTS).work()
    client.close()
    ended = json.loads(lines.getvalue().splitlines()[-1])
    assert (ended["job_id"], ended["request_id"]) == (job["id"], "mine")
