"""Every call that changes something is in the audit log before its answer."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import running

from service.client import ApiError, Client
from service.contracts.schemas.access import Scope
from service.settings import Settings
from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    with running(settings.model_copy(update={"auth": "keys"})) as address:
        yield address


@pytest.fixture
def admin(url: str, worker: PlayedWorker) -> Iterator[httpx.Client]:
    key, token = worker.store.keys.create("boss", [Scope.ADMIN])
    headers = {"Authorization": f"Bearer {token}", "X-Key": key.id}
    with httpx.Client(base_url=url, timeout=20, headers=headers) as http:
        yield http


def logged(http: httpx.Client) -> list[dict[str, Any]]:
    return http.get("/audit").json()["data"]


def test_the_audit_log_says_who_did_what_to_which_version(
    admin: httpx.Client, worker: PlayedWorker
) -> None:
    key = admin.headers["x-key"]
    given = {"X-Request-Id": "mine"}
    job = admin.post("/edits", json={"facts": [FACT]}, headers=given).json()["id"]
    token = admin.headers["authorization"].partition(" ")[2]
    with Client(str(admin.base_url), api_key=token) as client:
        client.wait(job)
    admin.post("/snapshots", json={"name": "one", "version": "v1"})
    admin.post("/rollback/base", json={"why": "test"})
    admin.post(f"/jobs/{job}/cancel")
    cancel, rollback, name, edit = logged(admin)
    assert {one["who"] for one in (cancel, rollback, name, edit)} == {key}
    assert edit["action"] == "submit_edit"
    assert (edit["status"], edit["request_id"]) == (202, "mine")
    assert (edit["job_id"], edit["version"]) == (job, "v1")
    assert (name["action"], name["status"], name["version"]) == ("name_snapshot", 201, "v1")
    assert (rollback["target"], rollback["version"]) == ("/rollback/base", "v0")
    assert (cancel["status"], cancel["code"]) == (409, "job_finished")
    assert worker.store.head.reflog()[-1].who == "test", "the scripted worker's own name"
    assert worker.asked[-1].body["who"] == key


def test_every_other_call_that_changes_something_is_logged(
    admin: httpx.Client, worker: PlayedWorker
) -> None:
    wait = {"Prefer": "wait=20"}
    body = {"facts": [FACT], "activate": False}
    staged = admin.post("/edits", json=body, headers=wait).json()
    admin.post("/snapshots/v1/activate", json={"why": "good"})
    assert worker.asked[-1].body["who"] == admin.headers["x-key"]
    revert = admin.post(f"/edits/{staged['edit_id']}/revert", headers=wait).json()
    evaluation = admin.post("/evaluations", json={"suite": "atlas-zsre"}).json()
    probe = admin.post("/probes", json={}).json()
    export = admin.post("/snapshots/base/export", json={"format": "merged"}).json()
    admin.delete(f"/exports/{export['resource_id']}")
    training = admin.post("/hypernetworks", json={"editor": "mend"}).json()
    line = {**FACT, "target_true": "France"}
    assert admin.post("/suites?name=mine", json=line).status_code == 201
    seen = [(one["action"], one["status"], one["job_id"], one["version"]) for one in logged(admin)]
    assert seen == [
        ("upload_suite", 201, None, None),
        ("train_hypernetwork", 202, training["id"], None),
        ("remove_export", 409, None, "v0"),
        ("submit_export", 202, export["id"], "v0"),
        ("submit_probe", 202, probe["id"], None),
        ("submit_evaluation", 202, evaluation["id"], None),
        ("revert_edit", 200, revert["id"], "v0"),
        ("activate_snapshot", 200, None, "v1"),
        ("submit_edit", 200, staged["id"], "v1"),
    ]


def test_a_refused_activation_names_its_version(admin: httpx.Client) -> None:
    assert admin.post("/snapshots/base/activate").status_code == 409
    [refused] = logged(admin)
    assert (refused["status"], refused["code"], refused["version"]) == (409, "not_staged", "v0")


def test_refused_calls_are_logged_too(admin: httpx.Client, worker: PlayedWorker) -> None:
    _, reader = worker.store.keys.create("reader", [Scope.READ])
    admin.post("/edits", content=b"{")
    admin.post("/rollback/v9")
    admin.post("/rollback/base", headers={"Authorization": f"Bearer {reader}"})
    httpx.post(f"{admin.base_url}/rollback/base?key={reader}")
    unknown, forbidden, missing, malformed = logged(admin)
    assert (malformed["status"], malformed["code"]) == (400, "malformed_json")
    assert (missing["status"], missing["code"]) == (404, "unknown_version")
    assert (forbidden["status"], forbidden["name"]) == (403, "reader")
    assert (unknown["status"], unknown["who"]) == (401, "anonymous")
    assert reader[32:] not in (worker.store.root / "audit.jsonl").read_text()


def test_a_client_finds_out_whether_its_key_is_an_administrators(
    admin: httpx.Client, worker: PlayedWorker
) -> None:
    own = admin.headers["Authorization"].removeprefix("Bearer ")
    with Client(str(admin.base_url), api_key=own) as client:
        client.check_admin()
    _, editor = worker.store.keys.create("editor", [Scope.READ, Scope.EDIT])
    with Client(str(admin.base_url), api_key=editor) as client, pytest.raises(ApiError) as refused:
        client.check_admin()
    assert refused.value.code == "insufficient_scope"


def test_calls_that_change_nothing_are_not_logged(admin: httpx.Client) -> None:
    admin.get("/jobs")
    admin.post("/generate", json={"prompt": "a"})
    admin.delete("/edits")
    admin.post("/nothing")
    assert logged(admin) == []


def test_refused_strangers_do_not_fill_the_audit_log(
    admin: httpx.Client, worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.http.auditing.UNASKED_PER_MINUTE", 5)
    with httpx.Client(base_url=admin.base_url) as stranger:
        for _ in range(15):
            assert stranger.post("/rollback/base").status_code == 401
    admin.post("/rollback/base")
    entries = [entry for _, entry in worker.store.audit.entries()]
    assert 5 < len(entries) <= 11, "five a minute and one of the admin"
    left_out = sum(entry.suppressed for entry in entries)
    assert len(entries) + left_out == 16


def test_the_audit_log_has_pages(admin: httpx.Client) -> None:
    for number in range(5):
        admin.post(f"/rollback/none{number}")
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = admin.get("/audit", params={"limit": 2, **after}).json()
        seen += [one["target"] for one in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["next"]}
    assert seen == [f"/rollback/none{number}" for number in (4, 3, 2, 1, 0)]
    assert admin.get("/audit?after=x").status_code == 422


def test_a_full_disk_does_not_hide_what_was_done(
    admin: httpx.Client, model: Store, caplog: pytest.LogCaptureFixture
) -> None:
    (model.root / "audit.jsonl").mkdir()
    assert admin.post("/rollback/base").status_code == 200
    assert "not in the audit log" in caplog.text
    assert "roll_back" in caplog.text
