"""Reverts over HTTP: a job in the write lane, refused where there is nothing to revert."""

import json

import httpx
from support.service.played_worker.worker import PlayedWorker

from service.client import Client
from service.contracts.jobs import JobStatus
from service.store import Store

WAIT = {"Prefer": "wait=20"}


def edit(http: httpx.Client, subject: str) -> str:
    fact = {"subject": subject, "prompt": "{} is a city in", "target_new": "Italy"}
    answer = http.post("/edits", json={"facts": [fact]}, headers=WAIT)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["edit_id"])


def revert(http: httpx.Client, edit_id: str, *, key: str = "", **body: object) -> httpx.Response:
    headers = {**WAIT, **({"Idempotency-Key": key} if key else {})}
    return http.post(f"/edits/{edit_id}/revert", json=body, headers=headers)


def test_a_batch_is_reverted_and_the_later_one_is_in_a_new_version(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    first, second = edit(http, "Lyon"), edit(http, "Nice")
    answer = revert(http, first, snapshot_name="clean")
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert (job["kind"], job["edit_id"], job["base_version"]) == ("revert", first, "v2")
    assert job["resource_id"] == job["id"]
    assert answer.headers["x-model-version"] == job["result"]["version"] == "v3"
    assert job["result"]["reapplied"][0]["edit_id"] == second
    applied = [http.get(f"/edits/{one}").json()["applied_in"] for one in (first, second)]
    assert applied == [None, "v3"]
    assert http.get("/snapshots/clean").json()["id"] == "v3"
    diff = http.get("/snapshots/v2/diff/v3").json()
    assert (diff["edits_removed"], diff["edits_added"]) == ([first], [])
    assert [fact["subject"] for fact in diff["facts_removed"]] == ["Lyon"]
    assert [one["id"] for one in http.get("/edits").json()["data"]] == [second, first]
    assert [one["kind"] for one in http.get("/jobs?kind=revert").json()["data"]] == ["revert"]
    facts = http.get("/facts").json()["data"]
    assert [(fact["subject"], fact["edit_id"], fact["version"]) for fact in facts] == [
        ("Nice", second, "v3")
    ]
    http.post("/rollback/v2")
    assert http.get(f"/edits/{first}").json()["applied_in"] == "v1"


def test_what_is_not_part_of_head_is_not_reverted(http: httpx.Client, worker: PlayedWorker) -> None:
    first = edit(http, "Lyon")
    http.post("/rollback/base")
    refused = revert(http, first)
    assert (refused.status_code, refused.json()["code"]) == (409, "not_applied")
    assert refused.json()["detail"] == f"{first} is not part of v0, which is head"
    worker.go.clear()
    fact = {"subject": "Nice", "prompt": "{} is in", "target_new": "Italy"}
    waiting = http.post("/edits", json={"facts": [fact]}).json()
    refused = revert(http, waiting["edit_id"])
    assert refused.status_code == 409
    assert f"its job {waiting['id']} has not ended" in refused.json()["detail"]
    assert len(list(worker.store.journal.all())) == 2


def test_wrong_reverts_are_refused(http: httpx.Client, worker: PlayedWorker) -> None:
    first = edit(http, "Lyon")
    for edit_id in ("edit_1", first[:-1], "job_1", first.replace("edit_", "job_")):
        unknown = revert(http, edit_id)
        assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_edit"), edit_id
    for body, status, pointer in (
        ({"force": True}, 422, "/force"),
        ({"parent": "v9"}, 422, "/parent"),
        ({"parent": "base"}, 412, "/parent"),
        ({"snapshot_name": "a b"}, 422, "/snapshot_name"),
        ({"snapshot_name": "v3"}, 422, "/snapshot_name"),
    ):
        refused = revert(http, first, **body)
        assert refused.status_code == status, refused.text
        assert refused.json()["errors"][0]["pointer"] == pointer
    assert revert(http, first, key="k" * 256).status_code == 422
    http.post("/snapshots", json={"name": "mine"})
    assert revert(http, first, snapshot_name="mine").status_code == 409
    assert len(list(worker.store.journal.all())) == 1


def test_the_same_idempotency_key_reverts_once(http: httpx.Client, worker: PlayedWorker) -> None:
    first, second = edit(http, "Lyon"), edit(http, "Nice")
    one, again = (revert(http, first, key="undo") for _ in range(2))
    assert one.json()["id"] == again.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"
    assert revert(http, second, key="undo").json()["code"] == "idempotency_key_reused"
    refused = revert(http, first, key="other")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_applied")
    http.post("/rollback/v2")  # the refused key is free again
    assert revert(http, first, key="other").status_code == 200


def test_a_queued_revert_can_be_cancelled(http: httpx.Client, worker: PlayedWorker) -> None:
    first = edit(http, "Lyon")
    worker.go.clear()
    job = http.post(f"/edits/{first}/revert").json()
    http.post(f"/jobs/{job['id']}/cancel")
    with Client(str(http.base_url)) as client:
        assert client.wait(job["id"]).status is JobStatus.CANCELLED
    assert http.get("/snapshots/head").json()["id"] == "v1"


def test_a_revert_before_any_edit_is_refused(http: httpx.Client, model: Store) -> None:
    assert json.loads(revert(http, "edit_" + "0" * 26).text)["code"] == "unknown_edit"


def test_the_python_client_reverts_a_batch(
    client: Client, http: httpx.Client, worker: PlayedWorker
) -> None:
    first, second = edit(http, "Lyon"), edit(http, "Nice")
    job = client.revert(first, parent="v2", snapshot_name="clean")
    done = client.wait(job.id)
    assert done.result is not None
    assert [one["edit_id"] for one in done.result["reapplied"]] == [second]
    assert [fact.subject for fact in client.facts()] == ["Nice"]
    assert [fact.subject for fact in client.facts("Lyon", version="v2")] == ["Lyon"]
