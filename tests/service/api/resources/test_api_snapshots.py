"""Versions: list, name, show, compare, export, roll back."""

import time
from io import StringIO
from pathlib import Path

import httpx
import pytest
from rich.console import Console
from safetensors import safe_open
from support.service.played_worker.computing import TENSOR
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import running

from service.api.exports.format import Export, ExportFormat
from service.api.exports.formats import FORMATS
from service.api.exports.stored import make_whole
from service.api.state import ApiState
from service.cli import tables
from service.client import Client
from service.contracts.schemas import Snapshot
from service.settings import Settings
from service.store import Store

WAIT = {"Prefer": "wait=20"}
FACT = {"subject": "Metz", "prompt": "{} is a city in", "target_new": "Italy"}


def edit(http: httpx.Client, subject: str, name: str | None = None) -> dict:
    fact = {"subject": subject, "prompt": "{} is a city in", "target_new": "Italy"}
    answer = http.post("/edits", json={"facts": [fact], "snapshot_name": name}, headers=WAIT)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_snapshots_show_the_tree_of_versions(http: httpx.Client, worker: PlayedWorker) -> None:
    first = edit(http, "Lyon", "one")
    edit(http, "Nice")
    moved = http.post("/rollback/one", json={"why": "Nice was wrong"})
    assert moved.status_code == 200
    assert moved.headers["x-model-version"] == "v1"
    assert moved.json() == {
        "version": "v1",
        "previous": "v2",
        "weights_sha256": worker.store.versions.read("v1").weights_sha256,
        "cancelled_jobs": [],
    }
    assert worker.store.head.reflog()[-1].why == "Nice was wrong"
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


def test_a_version_can_be_named(http: httpx.Client, worker: PlayedWorker) -> None:
    edit(http, "Lyon")
    answer = http.post("/snapshots", json={"name": "good"})
    assert answer.status_code == 201
    assert answer.headers["location"] == "/snapshots/good"
    assert (answer.json()["id"], answer.json()["names"]) == ("v1", ["good"])
    assert http.get("/snapshots/good").json()["id"] == "v1"
    assert http.post("/snapshots", json={"name": "good"}).status_code == 201
    taken = http.post("/snapshots", json={"name": "good", "version": "base"})
    assert (taken.status_code, taken.json()["code"]) == (409, "name_taken")


def test_a_version_is_exported_as_safetensors(
    http: httpx.Client, worker: PlayedWorker, tmp_path
) -> None:
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
    manifest = worker.store.versions.read("v1")
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


def test_an_exported_file_names_no_path_of_the_machine(
    http: httpx.Client, worker: PlayedWorker, tmp_path: Path
) -> None:
    info = worker.store.base.info()
    assert info is not None
    worker.store.base.publish(info.model_copy(update={"model": "/srv/secret/mine"}), {})
    path = tmp_path / "base.safetensors"
    path.write_bytes(http.get("/snapshots/base/export").content)
    with safe_open(path, framework="numpy") as file:
        assert file.metadata()["base_model"] == "mine"


def test_a_damaged_tensor_is_never_exported_as_whole(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    edit(http, "Lyon")
    [ref] = worker.store.versions.read("v1").tensors
    path = worker.store.tensors.path(ref.sha256)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(httpx.RemoteProtocolError):
        http.get("/snapshots/v1/export")
    path.unlink()
    answer = http.get("/snapshots/v1/export")
    assert (answer.status_code, answer.json()["code"]) == (500, "corrupt_version")
    assert TENSOR in answer.json()["detail"]


def test_a_rollback_while_an_edit_runs_cancels_queued_edits(
    http: httpx.Client, worker: PlayedWorker
) -> None:
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


def test_a_rollback_that_fails_cancels_nothing(http: httpx.Client, worker: PlayedWorker) -> None:
    worker.go.clear()
    fact = {"subject": "Lyon", "prompt": "{} is a city in", "target_new": "Italy"}
    jobs = [http.post("/edits", json={"facts": [fact]}).json()["id"] for _ in range(2)]
    while http.get(f"/jobs/{jobs[0]}").json()["status"] != "running":
        time.sleep(0.02)
    answer = http.post("/rollback/base?queued=cancel", json={"why": "fail"})
    assert (answer.status_code, answer.json()["code"]) == (500, "corrupt_version")
    assert http.get(f"/jobs/{jobs[1]}").json()["status"] == "queued"


def test_snapshots_before_any_model_are_empty(http: httpx.Client, store: Store) -> None:
    assert http.get("/snapshots").json() == {"data": [], "has_more": False, "next": None}
    assert http.get("/snapshots/head").status_code == 404


def test_a_damaged_version_takes_no_list_down(
    http: httpx.Client, worker: PlayedWorker, settings: Settings
) -> None:
    """Another api, as this one may have read the manifest before."""
    edit(http, "Lyon", "one")
    edit(http, "Nice")
    http.post("/rollback/one")
    last = edit(http, "Caen")
    path = settings.store / "versions" / "v2" / "manifest.json"
    path.write_bytes(path.read_bytes()[:-9])
    with running(settings) as url, httpx.Client(base_url=url, timeout=20) as again:
        listed = again.get("/snapshots").json()["data"]
        assert [(s["id"], s["state"]) for s in listed] == [
            ("v3", "head"), ("v2", "damaged"), ("v1", "committed"), ("v0", "committed"),
        ]  # fmt: skip
        assert str(path) in listed[1]["damage"]
        assert (listed[1]["weights_sha256"], listed[1]["created_at"]) == (None, None)
        assert listed[0]["damage"] is None
        page = again.get("/snapshots?limit=1&after=v3").json()
        assert (page["next"], page["data"][0]["state"]) == ("v2", "damaged")
        shown = again.get("/snapshots/v2")
        assert (shown.status_code, shown.json()["code"]) == (500, "corrupt_file")
        for call in ("/edits", f"/edits/{last['edit_id']}", "/facts", "/jobs", "/metrics"):
            assert again.get(call).status_code == 200, call
        [fact, _] = again.get("/facts").json()["data"]
        assert (fact["subject"], fact["version"]) == ("Caen", "v3")
        answer = again.post("/edits", json={"facts": [FACT]}, headers=WAIT)
        assert answer.json()["result"]["version"] == "v4"
        again.post("/rollback/base")
        with Client(url) as client:
            [*_, damaged, _, _] = client.snapshots()
            assert "damaged" in shown_as_text(list(client.snapshots()))
            assert damaged.state == "damaged"


def shown_as_text(versions: list[Snapshot]) -> str:
    console = Console(width=200, record=True, file=StringIO())
    console.print(tables.snapshots(versions))
    return console.export_text()


def test_an_edit_of_a_damaged_version_is_shown(
    http: httpx.Client, worker: PlayedWorker, settings: Settings
) -> None:
    """Head's history is shown as far back as it can be read."""
    first, second = edit(http, "Lyon"), edit(http, "Nice")
    (settings.store / "versions" / "v1" / "manifest.json").unlink()
    with running(settings) as url, httpx.Client(base_url=url, timeout=20) as again:
        found = [again.get(f"/edits/{one['edit_id']}").json() for one in (first, second)]
        assert [one["applied_in"] for one in found] == [None, "v2"]
        assert found[0]["result"]["version"] == "v1"
        # the index still knows what it was taught; without it nobody does
        listed = again.get("/facts").json()["data"]
        assert [one["version"] for one in listed] == ["v2", "v1"]
        for path in (settings.store / "index").glob("catalogue*"):
            path.unlink()
        facts = again.get("/facts")
        assert facts.json()["code"] == "corrupt_file"
        assert "v1/manifest.json is missing: v2 is built on v1" in facts.json()["detail"]


def test_formats_are_described_as_the_registry_has_them(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()["paths"]["/snapshots/{id}/export"]["get"]
    media_types = {one.media_type for one in FORMATS.values()}
    assert set(described["responses"]["200"]["content"]) == media_types
    [parameter] = [one for one in described["parameters"] if one["name"] == "format"]
    assert parameter["schema"]["enum"] == [*FORMATS]
    assert parameter["schema"]["default"] in FORMATS


def test_a_format_is_one_entry_of_the_registry(
    http: httpx.Client, worker: PlayedWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size need not be known before it is sent."""

    async def opened(state: ApiState, version: str) -> Export:
        await make_whole(state, version)
        manifest = state.store.versions.read(version)
        return Export(version, (f"{ref.name} {ref.sha256}\n".encode() for ref in manifest.tensors))

    hashes = ExportFormat("hashes", ".txt", opened, "text/plain")
    edit(http, "Lyon")
    refused = http.get("/snapshots/head/export?format=hashes").json()
    assert refused["errors"] == [
        {"parameter": "format", "code": "literal_error", "message": "must be 'safetensors'"}
    ]
    monkeypatch.setitem(FORMATS, hashes.name, hashes)
    answer = http.get("/snapshots/head/export?format=hashes")
    assert answer.headers["content-disposition"] == 'attachment; filename="v1.txt"'
    assert answer.headers["content-type"].startswith("text/plain")
    assert "content-length" not in answer.headers
    [ref] = worker.store.versions.read("v1").tensors
    assert answer.text == f"{TENSOR} {ref.sha256}\n"
    with Client(str(http.base_url)) as client:
        assert client.export("head", tmp_path / "v1.txt", "hashes") == len(answer.content)
        assert (tmp_path / "v1.txt").read_text() == answer.text
        whole = client.export("head", tmp_path / "v1.safetensors")
        assert whole == int(http.get("/snapshots/head/export").headers["content-length"])
    wrong = http.get("/snapshots/nothing/export?format=zip").json()
    assert (wrong["status"], wrong["errors"][0]["message"]) == (
        422,
        "must be 'safetensors' or 'hashes'",
    )
