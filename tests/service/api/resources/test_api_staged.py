"""Staged versions over HTTP: written without moving head, activated later or never."""

import json

import httpx
from support.service.played_worker.worker import PlayedWorker

from service.store import Store

WAIT = {"Prefer": "wait=20"}


def edit(http: httpx.Client, subject: str, **more: object) -> dict:
    fact = {"subject": subject, "prompt": "{} is a city in", "target_new": "Italy"}
    answer = http.post("/edits", json={"facts": [fact], **more}, headers=WAIT)
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


def stage(http: httpx.Client, subject: str) -> str:
    result = edit(http, subject, activate=False)
    assert result["activated"] is False
    return str(result["version"])


def states(http: httpx.Client) -> dict[str, str]:
    return {one["id"]: one["state"] for one in http.get("/snapshots").json()["data"]}


def test_a_staged_version_is_not_head_until_it_is_activated(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    edit(http, "Lyon")
    staged = stage(http, "Nice")
    assert states(http) == {"v2": "staged", "v1": "head", "v0": "committed"}
    assert http.get(f"/snapshots/{staged}").json()["parent"] == "v1"
    for _ in range(2):  # the second time it is head already
        answer = http.post(f"/snapshots/{staged}/activate", json={"why": "looks good"})
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-model-version"] == "v2"
        weights = worker.store.versions.read("v2").weights_sha256
        assert answer.json() == {"version": "v2", "previous": "v1", "weights_sha256": weights}
    assert states(http) == {"v2": "head", "v1": "committed", "v0": "committed"}
    assert [move.why for move in worker.store.head.reflog()][-1] == "looks good"
    http.post("/rollback/v1")
    assert states(http)["v2"] == "committed"


def test_only_one_of_two_siblings_can_be_activated(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    first, second = stage(http, "Lyon"), stage(http, "Nice")
    assert http.post(f"/snapshots/{second}/activate").status_code == 200
    refused = http.post(f"/snapshots/{first}/activate")
    assert (refused.status_code, refused.json()["code"]) == (409, "version_conflict")
    assert refused.json()["detail"].startswith("v1 was made on v0, but head is v2: ")
    assert states(http) == {"v2": "head", "v1": "staged", "v0": "committed"}


def test_a_move_of_head_that_only_the_worker_sees_is_a_conflict_too(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    staged = stage(http, "Lyon")
    answer = http.post(f"/snapshots/{staged}/activate", json={"why": "overtaken"})
    assert (answer.status_code, answer.json()["code"]) == (409, "version_conflict")


def test_what_was_not_staged_is_not_activated(http: httpx.Client, worker: PlayedWorker) -> None:
    edit(http, "Lyon")
    http.post("/rollback/base")
    refused = http.post("/snapshots/v1/activate")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_staged")
    assert http.post("/snapshots/v9/activate").status_code == 404
    assert http.post("/snapshots/v1/activate", json={"force": True}).status_code == 422


def test_activating_needs_a_worker(http: httpx.Client, model: Store) -> None:
    version = model.versions.new_id()
    manifest = model.versions.read("v0").model_copy(
        update={"id": version, "parent": "v0", "staged": True}
    )
    model.versions.write(manifest)
    answer = http.post(f"/snapshots/{version}/activate")
    assert (answer.status_code, answer.json()["code"]) == (503, "no_worker")


def test_facts_by_line_can_be_staged(http: httpx.Client, worker: PlayedWorker) -> None:
    line = json.dumps({"subject": "Lyon", "prompt": "{} is in", "target_new": "Italy"})
    headers = {"Content-Type": "application/jsonl", **WAIT}
    answer = http.post("/edits?activate=false", content=line, headers=headers)
    assert answer.json()["result"]["activated"] is False
    assert http.get("/snapshots/head").json()["id"] == "v0"
