"""Versions: list, name, show, compare, export, roll back."""

import time

import httpx
import pytest
from safetensors import safe_open
from scripted_worker import TENSOR, ScriptedWorker

from service.store import Store

WAIT = {"Prefer": "wait=20"}


def edit(http: httpx.Client, subject: str, name: str | None = None) -> dict:
    fact = {"subject": subject, "prompt": "{} is a city in", "target_new": "Italy"}
    answer = http.post("/edits", json={"facts": [fact], "snapshot_name": name}, headers=WAIT)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_tree_of_versions(http: httpx.Client, worker: ScriptedWorker) -> None:
    first = edit(http, "Lyon", "one")
    edit(http, "Nice")
    moved = http.post("/rollback/one", json={"why": "Nice was wrong"})
    assert moved.status_code == 200
    assert moved.headers["x-model-version"] == "v1"
    assert moved.json() == {
        "version": "v1",
        "previous": "v2",
        "weights_sha256": worker.store.version("v1").weights_sha256,
        "cancelled_jobs": [],
    }
    assert worker.store.reflog()[-1].why == "Nice was wrong"
    third = edit(http, "Caen")

    listed = http.get("/snapshots").json()["data"]
    assert [(s["id"], s["parent"], s["is_head"]) for s in listed] == [
        ("v3", "v1", True),
        ("v2", "v1", False),
        ("v1", "v0", False),
        ("v0", None, False),
    ]
    assert listed[2]["names"] == ["one"]
    assert listed[2]["edit_id"] == first["edit_id"]
    page = http.get("/snapshots?limit=2").json()
    assert (page["has_more"], page["next"]) == (True, "v2")
    assert [s["id"] for s in http.get("/snapshots?after=v2").json()["data"]] == ["v1", "v0"]

    diff = http.get("/snapshots/v2/diff/head").json()
    assert (diff["a"], diff["b"], diff["common_ancestor"]) == ("v2", "v3", "v1")
    assert diff["edits_added"] == [third["edit_id"]]
    assert [fact["subject"] for fact in diff["facts_removed"]] == ["Nice"]
    assert [fact["subject"] for fact in diff["facts_added"]] == ["Caen"]
    assert diff["tensors_changed"] == [TENSOR]
    same = http.get("/snapshots/one/diff/v1").json()
    assert (same["tensors_changed"], same["common_ancestor"]) == ([], "v1")


def test_names(http: httpx.Client, worker: ScriptedWorker) -> None:
    edit(http, "Lyon")
    answer = http.post("/snapshots", json={"name": "good"})
    assert answer.status_code == 201
    assert answer.headers["location"] == "/snapshots/good"
    assert (answer.json()["id"], answer.json()["names"]) == ("v1", ["good"])
    assert http.get("/snapshots/good").json()["id"] == "v1"
    assert http.post("/snapshots", json={"name": "good"}).status_code == 201
    taken = http.post("/snapshots", json={"name": "good", "version": "base"})
    assert (taken.status_code, taken.json()["code"]) == (409, "name_taken")


def test_export(http: httpx.Client, worker: ScriptedWorker, tmp_path) -> None:
    edit(http, "Lyon")
    answer = http.get("/snapshots/head/export?format=safetensors")
    assert answer.headers["x-model-version"] == "v1"
    assert answer.headers["content-disposition"] == 'attachment; filename="v1.safetensors"'
    path = tmp_path / "v1.safetensors"
    path.write_bytes(answer.content)
    with safe_open(path, framework="numpy") as file:
        assert list(file.keys()) == [TENSOR]
        assert file.get_tensor(TENSOR).tobytes() == b"v1".ljust(16, b"\0")
        metadata = file.metadata()
    manifest = worker.store.version("v1")
    assert metadata == {
        "format": "pt",
        "version": "v1",
        "weights_sha256": manifest.weights_sha256,
        "base_model_hash": "1" * 64,
        "base_model": "atlas-gptj",
    }
    base = tmp_path / "base.safetensors"
    base.write_bytes(http.get("/snapshots/base/export").content)
    with safe_open(base, framework="numpy") as file:
        assert list(file.keys()) == []


def test_a_damaged_tensor_is_never_exported_as_whole(
    http: httpx.Client, worker: ScriptedWorker
) -> None:
    edit(http, "Lyon")
    [ref] = worker.store.version("v1").tensors
    path = worker.store.tensor_file(ref.sha256)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(httpx.RemoteProtocolError):
        http.get("/snapshots/v1/export")
    path.unlink()
    answer = http.get("/snapshots/v1/export")
    assert (answer.status_code, answer.json()["code"]) == (500, "corrupt_version")
    assert TENSOR in answer.json()["detail"]


def test_rolling_back_while_an_edit_runs(http: httpx.Client, worker: ScriptedWorker) -> None:
    edit(http, "Lyon")
    worker.go.clear()
    fact = {"subject": "Nice", "prompt": "{} is a city in", "target_new": "Italy"}
    jobs = [http.post("/edits", json={"facts": [fact]}).json()["id"] for _ in range(3)]
    while http.get(f"/jobs/{jobs[0]}").json()["status"] != "running":
        time.sleep(0.02)
    answer = http.post("/rollback/base?queued=cancel")
    assert answer.status_code == 200
    assert answer.json()["cancelled_jobs"] == jobs[1:]
    worker.go.set()
    for _ in range(200):
        running = http.get(f"/jobs/{jobs[0]}").json()
        if running["finished_at"]:
            break
        time.sleep(0.05)
    assert (running["status"], running["error"]["code"]) == ("failed", "version_conflict")
    assert http.get("/snapshots/head").json()["id"] == "v0"
    assert http.get(f"/jobs/{jobs[2]}").json()["status"] == "cancelled"


def test_a_rollback_that_fails_cancels_nothing(http: httpx.Client, worker: ScriptedWorker) -> None:
    worker.go.clear()
    fact = {"subject": "Lyon", "prompt": "{} is a city in", "target_new": "Italy"}
    jobs = [http.post("/edits", json={"facts": [fact]}).json()["id"] for _ in range(2)]
    while http.get(f"/jobs/{jobs[0]}").json()["status"] != "running":
        time.sleep(0.02)
    answer = http.post("/rollback/base?queued=cancel", json={"why": "fail"})
    assert (answer.status_code, answer.json()["code"]) == (500, "corrupt_version")
    assert http.get(f"/jobs/{jobs[1]}").json()["status"] == "queued"


def test_before_any_model(http: httpx.Client, store: Store) -> None:
    assert http.get("/snapshots").json() == {"data": [], "has_more": False, "next": None}
    assert http.get("/snapshots/head").status_code == 404
