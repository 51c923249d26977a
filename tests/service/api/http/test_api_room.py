"""A store without room refuses jobs; a version without tensors is exported all the same."""

from collections.abc import Iterator

import httpx
import pytest
from support.service.played_worker.computing import TENSOR
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import running

from service.settings import Settings
from service.store import Store
from service.store.maintenance.retention import drop_tensors, plan_retention
from service.store.versions import Thin

FACT = {"subject": "Lyon", "prompt": "{} is a city in", "target_new": "Italy"}
LIMIT = 2**20


@pytest.fixture
def limited(settings: Settings) -> Iterator[httpx.Client]:
    """An api whose store is allowed one MiB."""
    chosen = settings.model_copy(update={"max_store_mb": 1})
    with running(chosen) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


def fill(store: Store) -> None:
    (store.root / "training" / "big").write_bytes(bytes(LIMIT))


def test_no_job_is_accepted_beyond_the_limit(limited: httpx.Client, model: Store) -> None:
    fill(model)
    answers = [
        limited.post("/edits", json={"facts": [FACT]}),
        limited.post("/suites?name=own", content=b"{}"),
    ]
    for answer in answers:
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (507, "store_full"), answer.text
        assert int(answer.headers["Retry-After"]) > 0
        assert "JEEP_MAX_STORE_MB" in problem["detail"]
    assert model.journal.unfinished() == []
    assert limited.get("/snapshots").status_code == 200


def test_a_refused_request_can_be_repeated_with_its_key_when_there_is_room(
    limited: httpx.Client, model: Store
) -> None:
    fill(model)
    key = {"Idempotency-Key": "once"}
    assert limited.post("/edits", json={"facts": [FACT]}, headers=key).status_code == 507
    assert list((model.root / "idempotency").iterdir()) == []


def test_too_little_free_space_refuses_jobs(settings: Settings, model: Store) -> None:
    chosen = settings.model_copy(update={"min_free_mb": 2**40})
    with running(chosen) as url, httpx.Client(base_url=url, timeout=20) as client:
        answer = client.post("/edits", json={"facts": [FACT]})
    assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
    assert int(answer.headers["Retry-After"]) > 0
    assert "JEEP_MIN_FREE_MB" in answer.json()["detail"]


def thinned(http: httpx.Client, store: Store) -> None:
    """v1, written and thin; v2 is head."""
    for _ in range(2):
        headers = {"Prefer": "wait=20"}
        assert http.post("/edits", json={"facts": [FACT]}, headers=headers).status_code == 200
    assert drop_tensors(store, store.versions.read("v1"), Thin(), newest=1) == 16


def test_a_thin_version_is_rebuilt_by_the_worker_for_its_export(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    thinned(http, worker.store)
    answer = http.get("/snapshots/v1/export")
    assert answer.status_code == 200
    assert answer.content.endswith(b"v1".ljust(16, b"\0"))
    assert [asked.kind for asked in worker.asked] == ["restore"]
    assert http.get("/snapshots/v1/export").status_code == 200
    assert len(worker.asked) == 1
    plan = plan_retention(worker.store, newest=1)
    assert plan.kept["v1"] == "asked for"


def test_without_a_worker_its_export_is_refused_and_all_else_works(
    http: httpx.Client, settings: Settings, store: Store
) -> None:
    with PlayedWorker.of_api(settings):
        thinned(http, store)
    answer = http.get("/snapshots/v1/export")
    assert (answer.status_code, answer.json()["code"]) == (503, "no_worker")
    assert http.get("/snapshots/v1").json()["tensors"][0]["name"] == TENSOR
    assert http.get("/snapshots/v1/diff/v2").json()["tensors_changed"] == [TENSOR]
    assert http.get("/snapshots/v2/export").status_code == 200
