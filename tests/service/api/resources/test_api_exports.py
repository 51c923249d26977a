"""Exports over HTTP: what is queued, refused, shown, downloaded in parts, and removed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.service.bundled_model import info
from support.service.finished_jobs import finished_export
from support.service.serving import running

from service.client import Client
from service.contracts.exports import FORMATS
from service.contracts.jobs import JobKind, JobStatus, now
from service.contracts.schemas.exports import ExportPayload
from service.contracts.schemas.versions import Manifest
from service.settings import Settings
from service.store import Store
from service.store.maintenance.room import MB, Room

WEIGHTS = bytes(range(256)) * 100
Finished = tuple[str, Path]


def submit(http: httpx.Client, version: str = "base", **body: Any) -> httpx.Response:
    return http.post(f"/snapshots/{version}/export", json=body)


@pytest.fixture
def done(http: httpx.Client, model: Store) -> Finished:
    return finished_export(http, model, WEIGHTS)


def get(http: httpx.Client, export_id: str, path: str, **headers: str) -> httpx.Response:
    return http.get(f"/exports/{export_id}/files/{path}", headers=headers)


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ({"format": "merged"}, {"dtype": None}),
        (
            {"format": "peft", "max_rank": 8, "dtype": "bfloat16"},
            {"max_rank": 8, "max_error": None, "dtype": "bfloat16"},
        ),
        ({"format": "safetensors", "include_facts": True}, {}),
        ({"format": "gguf"}, {"type": None, "edited": "same"}),
        (
            {"format": "gguf", "type": "Q4_K_M", "edited": "F16"},
            {"type": "Q4_K_M", "edited": "F16"},
        ),
    ],
)
def test_an_export_is_queued(
    http: httpx.Client, model: Store, body: dict[str, Any], options: dict[str, Any]
) -> None:
    answer = submit(http, **body)
    assert answer.status_code == 202, answer.text
    job = model.journal.read(answer.json()["id"])
    payload = ExportPayload.model_validate(job.payload)
    assert (job.kind, job.status) == (JobKind.EXPORT, JobStatus.QUEUED)
    assert (payload.version, payload.format) == ("v0", body["format"])
    common = {"format": body["format"], "include_facts": body.get("include_facts", False)}
    assert payload.options == {**common, **options}
    assert answer.headers["location"] == f"/exports/{payload.export_id}"
    assert answer.json()["resource_id"] == payload.export_id
    shown = http.get(answer.headers["location"]).json()
    assert (shown["status"], shown["available"], shown["result"]) == ("queued", False, None)


def test_a_repeated_request_finds_its_job(http: httpx.Client, model: Store) -> None:
    key = {"Idempotency-Key": "once"}
    first, second = (
        http.post("/snapshots/base/export", json={"format": "peft"}, headers=key) for _ in range(2)
    )
    assert first.json()["id"] == second.json()["id"]
    other = http.post("/snapshots/base/export", json={"format": "merged"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("body", "pointer", "said"),
    [
        ({}, "/format", "missing"),
        ([], "", "object"),
        ({"format": "zip"}, "/format", "must be 'peft', 'merged', 'gguf' or 'safetensors'"),
        ({"format": ["peft"]}, "/format", "must be 'peft'"),
        ({"format": "merged", "max_rank": 4}, "/max_rank", "no such field"),
        ({"format": "peft", "max_rank": 0}, "/max_rank", "1"),
        ({"format": "peft", "max_error": 1}, "/max_error", "1"),
        ({"format": "peft", "dtype": "int8"}, "/dtype", "float32"),
        ({"format": "safetensors", "dtype": "float32"}, "/dtype", "no such field"),
        ({"format": "gguf", "type": "Q2_K"}, "/type", "'Q8_0' or 'Q4_K_M'"),
        ({"format": "gguf", "edited": "Q4_0"}, "/edited", "'same', 'Q8_0' or 'F16'"),
        ({"format": "gguf", "dtype": "float16"}, "/dtype", "no such field"),
    ],
)
def test_a_wrong_export_is_refused_by_its_field(
    refusing: httpx.Client, body: Any, pointer: str, said: str
) -> None:
    answer = refusing.post("/snapshots/base/export", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.text
    [error] = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert said in error["message"]


def test_an_unknown_version_is_not_found(refusing: httpx.Client) -> None:
    answer = submit(refusing, "v9", format="peft")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_version")


def test_before_any_worker_there_is_nothing_to_export(http: httpx.Client) -> None:
    answer = submit(http, format="peft")
    assert (answer.status_code, answer.json()["code"]) == (503, "no_model")


def test_what_cannot_fit_is_refused_before_anything_is_written(
    settings: Settings, model: Store
) -> None:
    """The whole model does not fit; the changed matrices alone may."""
    model.base.publish(info().model_copy(update={"checkpoint_bytes": 2**50}), {})
    small = settings.model_copy(update={"max_store_mb": 1000})
    with running(small) as url, httpx.Client(base_url=url, timeout=20) as http:
        refused = submit(http, format="merged")
        assert (refused.status_code, refused.json()["code"]) in {
            (507, "store_full"), (507, "disk_full"),
        }  # fmt: skip
        assert "are to be written" in refused.json()["detail"]
        assert submit(http, format="peft").status_code == 202


def test_the_wanted_type_decides_what_fits(settings: Settings, model: Store) -> None:
    """The files of a bfloat16 model fit as they are; in float32 they do not."""
    sizes = {"float32": 2**31, "bfloat16": 2**30, "float16": 2**30}
    changes = {"checkpoint_bytes": 2**30, "checkpoint_bytes_as": sizes}
    model.base.publish(info().model_copy(update=changes), {})
    small = settings.model_copy(update={"max_store_mb": 1500, "min_free_mb": 0})
    with running(small) as url, httpx.Client(base_url=url, timeout=20) as http:
        for dtype, status in ((None, 202), ("bfloat16", 202), ("float16", 202), ("float32", 507)):
            answer = submit(http, format="merged", dtype=dtype)
            assert answer.status_code == status, (dtype, answer.text)
        assert answer.json()["code"] == "store_full"
        assert "2048 MB are to be written" in answer.json()["detail"]


def test_changed_matrices_are_measured_when_they_are_asked_for(
    settings: Settings, model: Store
) -> None:
    ref = model.tensors.put("w", "BF16", [1024, 1536], bytes(3 * MB))
    model.versions.write(
        Manifest(
            id=model.versions.new_id(), parent="v0", edit_id="edit_1", editor="memit",
            tensors=[ref], weights_sha256="2" * 64, created_at=now(),
        )
    )  # fmt: skip
    room = Room(model.root, None, 0).used() // MB + 3
    small = settings.model_copy(update={"max_store_mb": room, "min_free_mb": 0})
    with running(small) as url, httpx.Client(base_url=url, timeout=20) as http:
        refused = submit(http, "v1", format="safetensors")
        assert (refused.status_code, refused.json()["code"]) == (507, "store_full")
        assert "3 MB are to be written" in refused.json()["detail"]
        assert submit(http, "base", format="safetensors").status_code == 202


def test_formats_are_described_as_the_registry_has_them(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    operation = document["paths"]["/snapshots/{id}/export"]["post"]
    [body] = operation["requestBody"]["content"].values()
    names = [one["$ref"].rpartition("/")[2] for one in body["schema"]["oneOf"]]
    formats = [document["components"]["schemas"][name]["properties"]["format"] for name in names]
    assert [one["const"] for one in formats] == [*FORMATS]
    assert all(f"`{name}`" in operation["description"] for name in FORMATS)


def test_exports_are_listed_newest_first(http: httpx.Client, done: Finished) -> None:
    later = submit(http, format="merged").json()["resource_id"]
    listed = http.get("/exports", params={"limit": 1}).json()
    assert [one["id"] for one in listed["data"]] == [later]
    [old] = http.get("/exports", params={"after": listed["next"]}).json()["data"]
    assert (old["id"], old["available"], old["facts"], old["hold"]) == (done[0], True, 2, 1)


def test_an_export_has_its_files_and_its_proof(http: httpx.Client, done: Finished) -> None:
    shown = http.get(f"/exports/{done[0]}").json()
    assert [one["path"] for one in shown["result"]["files"]] == [
        "inner/empty.txt", "weights.bin", "export.json",
    ]  # fmt: skip
    assert shown["result"]["proof"]["n_lost"] == 1
    sheet = http.get(f"/exports/{done[0]}/proof")
    assert sheet.headers["content-type"] == "application/json"
    assert sheet.json()["asked"] == []


def test_a_file_is_given_whole_with_its_hash(http: httpx.Client, done: Finished) -> None:
    answer = get(http, done[0], "weights.bin")
    assert (answer.status_code, answer.content) == (200, WEIGHTS)
    assert answer.headers["etag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-disposition"] == 'attachment; filename="weights.bin"'
    again = get(http, done[0], "weights.bin", **{"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert get(http, done[0], "inner/empty.txt").content == b""


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=25599-99999", 206, slice(25599, None)),
        ("bytes=9-3", 200, slice(None)),
        ("bytes=a-b", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
        ("bytes=0-1,5-6", 200, slice(None)),
    ],
)
def test_a_part_of_a_file(
    http: httpx.Client, done: Finished, asked: str, status: int, part: slice
) -> None:
    answer = get(http, done[0], "weights.bin", Range=asked)
    assert (answer.status_code, answer.content) == (status, WEIGHTS[part])


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("weights.bin", {}, 200),
        ("inner/empty.txt", {}, 200),
        ("weights.bin", {"Range": "bytes=100-"}, 206),
        ("weights.bin", {"Range": "bytes=25600-"}, 416),
        ("weights.bin", {"If-None-Match": f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'}, 304),
        ("x", {}, 404),
    ],
)
def test_head_answers_like_get_without_a_body(
    http: httpx.Client, done: Finished, path: str, headers: dict[str, str], status: int
) -> None:
    whole = get(http, done[0], path, **headers)
    head = http.head(f"/exports/{done[0]}/files/{path}", headers=headers)
    assert (whole.status_code, head.status_code, head.content) == (status, status, b"")
    changing = {"date", "x-request-id", "last-modified"}
    told = [{k: v for k, v in a.headers.items() if k not in changing} for a in (whole, head)]
    assert told[0] == told[1]


@pytest.mark.parametrize("asked", ["bytes=25600-", "bytes=99999-100000", "bytes=-0"])
def test_a_part_after_the_end_is_refused(http: httpx.Client, done: Finished, asked: str) -> None:
    answer = get(http, done[0], "weights.bin", Range=asked)
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(WEIGHTS)}"


def test_a_part_of_another_content_is_not_given(http: httpx.Client, done: Finished) -> None:
    """A download goes on only with the same file; else it begins again."""
    etag = f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    same = get(http, done[0], "weights.bin", Range="bytes=9-", **{"If-Range": etag})
    other = get(http, done[0], "weights.bin", Range="bytes=9-", **{"If-Range": '"0"'})
    assert (same.status_code, other.status_code, other.content) == (206, 200, WEIGHTS)


@pytest.mark.parametrize(
    "path", ["x", "inner", "..%2F..%2Fid.json", "inner%2F..%2Fweights.bin", "export.json%00", "%2E"]
)
def test_only_files_of_the_result_are_given_out(
    http: httpx.Client, done: Finished, path: str
) -> None:
    answer = get(http, done[0], path)
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_file")


def test_a_file_of_another_size_is_damage(http: httpx.Client, done: Finished) -> None:
    (done[1] / "weights.bin").write_bytes(b"short")
    answer = get(http, done[0], "weights.bin")
    assert (answer.status_code, answer.json()["code"]) == (500, "corrupt_file")


def test_removed_files_are_gone_and_the_proof_stays(
    http: httpx.Client, model: Store, done: Finished
) -> None:
    assert http.delete(f"/exports/{done[0]}").status_code == 204
    assert list((model.root / "exports").iterdir()) == []
    assert http.get(f"/exports/{done[0]}").json()["available"] is False
    gone = get(http, done[0], "weights.bin")
    assert (gone.status_code, gone.json()["code"]) == (409, "export_gone")
    assert http.get(f"/exports/{done[0]}/proof").status_code == 200
    assert http.delete(f"/exports/{done[0]}").status_code == 204


def test_files_in_use_are_not_removed(http: httpx.Client, model: Store, done: Finished) -> None:
    job_id = done[1].name
    assert model.exports.keep(job_id, "target-vllm") == done[1]
    refused = http.delete(f"/exports/{done[0]}")
    assert (refused.status_code, refused.json()["code"]) == (409, "export_in_use")
    assert "target-vllm" in refused.json()["detail"]
    assert http.get(f"/exports/{done[0]}").json()["kept_by"] == ["target-vllm"]
    model.exports.release(job_id, "target-vllm")
    assert http.delete(f"/exports/{done[0]}").status_code == 204


def test_an_unfinished_export_has_no_files(http: httpx.Client, model: Store) -> None:
    export_id = submit(http, format="peft").json()["resource_id"]
    for path in ("files/export.json", "proof"):
        answer = http.get(f"/exports/{export_id}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (409, "no_result")
    refused = http.delete(f"/exports/{export_id}")
    assert (refused.status_code, refused.json()["code"]) == (409, "export_in_use")


@pytest.mark.parametrize("path", ["", "/proof", "/files/export.json"])
def test_unknown_exports_are_not_found(refusing: httpx.Client, path: str) -> None:
    for name in ("export_01J", "job_01J", "x", "..%2Fx"):
        assert refusing.get(f"/exports/{name}{path}").status_code == 404


def test_the_client_submits_and_lists(client: Client, model: Store) -> None:
    job = client.submit_export("base", format="peft", max_rank=4, dtype=None)
    payload = ExportPayload.model_validate(model.journal.read(job.id).payload)
    assert (payload.options["max_rank"], payload.options["dtype"]) == (4, "float32")
    assert [one.id for one in client.exports()] == [job.resource_id]
    assert client.export_result(job.resource_id).status is JobStatus.QUEUED
