"""Jobs: their events, the end of the stream, cancelling."""

import json
import threading
import time
from typing import Any

import httpx
import pytest
from httpx_sse import connect_sse
from support.service.played_worker.worker import PlayedWorker

from service.queue import Keys, connect
from service.settings import Settings
from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}


def submit(http: httpx.Client) -> str:
    job_id: str = http.post("/edits", json={"facts": [FACT]}).json()["id"]
    return job_id


def events(http: httpx.Client, job_id: str, last_id: str = "") -> list[tuple[str, str, Any]]:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    with connect_sse(http, "GET", f"/jobs/{job_id}/events", headers=headers) as source:
        assert source.response.status_code == 200
        return [(e.id, e.event, json.loads(e.data)) for e in source.iter_sse()]


def test_a_stream_of_events_is_complete_and_ends(http: httpx.Client, worker: PlayedWorker) -> None:
    job_id = submit(http)
    story = events(http, job_id)
    statuses = [data["status"] for _, name, data in story if name == "status"]
    assert statuses == ["queued", "running", "succeeded"]
    progress = [data for _, name, data in story if name == "progress"]
    assert progress[0] == {"phase": "values", "done": 1, "total": 2, "eta_seconds": 0.1}
    assert story[-1][2]["result"]["version"] == "v1"
    assert http.get(f"/jobs/{job_id}").json()["status"] == "succeeded"

    assert events(http, job_id) == story
    middle = story[1][0]
    assert events(http, job_id, middle) == story[2:]
    [(_, name, data)] = events(http, job_id, story[-1][0])
    assert (name, data["status"]) == ("status", "succeeded")
    assert events(http, job_id, "no event id") == story


def test_a_job_that_redis_has_forgotten_is_shown_from_the_store(
    http: httpx.Client, worker: PlayedWorker, settings: Settings
) -> None:
    job_id = submit(http)
    events(http, job_id)
    redis = connect(str(settings.redis_url))
    keys = Keys(worker.store.id)
    assert redis.delete(keys.job(job_id), keys.events(job_id)) == 2
    redis.close()
    [(event_id, name, data)] = events(http, job_id, "1-1")
    assert (event_id, name, data["status"]) == ("", "status", "succeeded")
    assert data["result"]["version"] == "v1"


def test_events_arrive_as_they_happen(http: httpx.Client, worker: PlayedWorker) -> None:
    worker.go.clear()
    job_id = submit(http)
    threading.Timer(0.5, worker.go.set).start()
    with connect_sse(http, "GET", f"/jobs/{job_id}/events") as source:
        times = {
            (e.event, json.loads(e.data).get("status")): time.monotonic() for e in source.iter_sse()
        }
    assert times["status", "succeeded"] - times["status", "running"] > 0.2


def test_a_running_job_is_cancelled(http: httpx.Client, worker: PlayedWorker) -> None:
    worker.go.clear()
    job_id = submit(http)
    _until(http, job_id, "running")
    answer = http.post(f"/jobs/{job_id}/cancel")
    assert answer.status_code == 202
    assert answer.json()["status"] in ("cancelling", "cancelled")
    _until(http, job_id, "cancelled")
    assert http.post(f"/jobs/{job_id}/cancel").status_code == 202
    assert worker.store.head.read().version == "v0"


def test_a_queued_job_is_cancelled_at_once(http: httpx.Client, worker: PlayedWorker) -> None:
    worker.go.clear()
    first, second = submit(http), submit(http)
    _until(http, first, "running")
    answer = http.post(f"/jobs/{second}/cancel").json()
    assert answer["status"] == "cancelled"
    assert answer["finished_at"]
    assert events(http, second)[-1][2]["status"] == "cancelled"
    listed = http.get("/jobs", params={"status": ["cancelled"]}).json()["data"]
    assert [job["id"] for job in listed] == [second]
    listed = http.get("/jobs", params={"status": ["running", "queued"]}).json()["data"]
    assert [(job["id"], job["base_version"]) for job in listed] == [(first, "v0")]


def test_without_a_worker_a_queued_job_is_cancelled(http: httpx.Client, model: Store) -> None:
    job_id = submit(http)
    assert http.post(f"/jobs/{job_id}/cancel").json()["status"] == "cancelled"
    assert model.journal.read(job_id).status == "cancelled"


def test_a_finished_job_is_not_cancelled(http: httpx.Client, worker: PlayedWorker) -> None:
    job_id = submit(http)
    _until(http, job_id, "succeeded")
    answer = http.post(f"/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_finished")


def test_the_list_leaves_results_out(http: httpx.Client, worker: PlayedWorker) -> None:
    job_id = submit(http)
    _until(http, job_id, "succeeded")
    [listed] = http.get("/jobs").json()["data"]
    assert listed["status"] == "succeeded"
    assert listed["result"] is None
    assert http.get(f"/jobs/{job_id}").json()["result"]["version"] == "v1"


def _until(http: httpx.Client, job_id: str, status: str) -> None:
    deadline = time.monotonic() + 20
    seen = ""
    while time.monotonic() < deadline:
        seen = http.get(f"/jobs/{job_id}").json()["status"]
        if seen == status:
            return
        time.sleep(0.02)
    pytest.fail(f"{job_id} is {seen}, not {status}")


def test_an_unreadable_record_is_reported_alone(http: httpx.Client, model: Store) -> None:
    first, second = submit(http), submit(http)
    (model.root / "jobs" / f"{first}.json").write_text("{")
    for path in ("/jobs", "/edits"):
        answer = http.get(path)
        assert answer.status_code == 200
        ids = [item.get("job_id", item["id"]) for item in answer.json()["data"]]
        assert ids == [second]
    answer = http.get(f"/jobs/{first}")
    assert (answer.status_code, answer.json()["code"]) == (500, "corrupt_file")
