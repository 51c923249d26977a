"""Properties of every route: ids, problems, health, the description."""

import errno
import os
import re
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import make_settings, running

from jeep_core.editors import EDITORS, hparams_class
from service.api import create_app
from service.queue import Heartbeat
from service.queue.members import FRESH_S
from service.settings import Settings, SettingsError
from service.store import Store


def test_a_complete_service_is_ready(http: httpx.Client, worker: PlayedWorker) -> None:
    assert http.get("/livez").json() == {"status": "ok"}
    ready = http.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["head"] == "v0"


def test_a_service_without_a_worker_is_alive_but_not_ready(
    http: httpx.Client, model: Store
) -> None:
    assert http.get("/livez").status_code == 200
    ready = http.get("/readyz")
    assert (ready.status_code, ready.json()["code"]) == (503, "no_worker")
    assert ready.headers["retry-after"]
    assert [error["part"] for error in ready.json()["errors"]] == ["worker"]


def test_readiness_names_all_that_is_missing(http: httpx.Client, store: Store) -> None:
    fresh = http.get("/readyz").json()
    assert [error["part"] for error in fresh["errors"]] == ["worker", "model", "head"]
    assert fresh["code"] == "no_worker"
    assert "no worker is running now; no worker has loaded a model yet" in fresh["detail"]


def test_readiness_names_a_head_that_cannot_be_read(
    http: httpx.Client, worker: PlayedWorker
) -> None:
    (worker.store.root / "head.json").write_text("{")
    assert http.get("/readyz").status_code == 200, "the reflog says what head is"
    (worker.store.root / "reflog.jsonl").write_text("{}\n")
    ready = http.get("/readyz")
    assert ready.status_code == 503
    assert [(e["part"], e["code"]) for e in ready.json()["errors"]] == [("head", "corrupt_file")]


def test_a_file_that_may_not_be_read_is_named_with_who_needs_which_right(
    http: httpx.Client, worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = errno.EACCES
    read_bytes = Path.read_bytes

    def denied(path: Path) -> bytes:
        if path.name == "head.json":
            raise OSError(number, os.strerror(number), str(path))
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", denied)
        patch.setattr(os, "geteuid", lambda: 1234)
        patch.setattr(os, "getegid", lambda: 567)
        ready, shown = http.get("/readyz"), http.get("/snapshots/head")
    [missing] = ready.json()["errors"]
    assert (ready.status_code, missing["part"], missing["code"]) == (
        503, "head", "permission_denied",
    )  # fmt: skip
    problem = shown.json()
    assert (shown.status_code, problem["code"]) == (500, "permission_denied")
    assert problem["message"] == missing["message"]
    said = (
        f"head.json of the store: {os.strerror(number)} for the service's user (uid 1234, gid 567)"
    )
    assert problem["message"].startswith(said)
    assert "chown -R 1234:567 the store (JEEP_STORE)" in problem["message"]
    assert shown.headers["x-should-retry"] == "false"
    assert "retry-after" not in shown.headers
    assert str(worker.store.root) not in shown.text


def test_a_store_that_cannot_be_read_now_is_not_damaged(
    http: httpx.Client, worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_bytes = Path.read_bytes

    def hindered(path: Path) -> bytes:
        if path.name == "head.json":
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", hindered)
        ready, shown = http.get("/readyz"), http.get("/snapshots/head")
    [missing] = ready.json()["errors"]
    assert (ready.status_code, missing["part"]) == (503, "head")
    assert missing["code"] == "temporarily_unavailable"
    assert "cannot be read now: Too many open files" in missing["message"]
    assert (shown.status_code, shown.json()["code"]) == (503, "temporarily_unavailable")
    assert shown.headers["retry-after"]
    assert str(worker.store.root) not in shown.text
    assert http.get("/readyz").status_code == 200


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's heart beats often."""
    monkeypatch.setattr(Heartbeat, "PERIOD_S", 0.1)


def test_readiness_names_a_head_that_cannot_be_served(
    often: None, http: httpx.Client, worker: PlayedWorker
) -> None:
    seen = FRESH_S + 2 * Heartbeat.PERIOD_S
    worker.damaged.append("v7")
    time.sleep(seen)
    assert http.get("/readyz").status_code == 200, "it is not head"
    worker.damaged.append("v0")
    time.sleep(seen)
    ready = http.get("/readyz")
    assert ready.status_code == 503
    assert [(e["part"], e["code"]) for e in ready.json()["errors"]] == [("head", "corrupt_version")]
    assert "roll back to another version" in ready.json()["detail"]


def test_the_api_answers_without_redis_and_without_a_model(tmp_path) -> None:
    settings = make_settings(tmp_path / "store", "redis://127.0.0.1:1/0")
    with running(settings) as url, httpx.Client(base_url=url, timeout=20) as http:
        assert http.get("/livez").status_code == 200
        ready = http.get("/readyz").json()
        assert ready["code"] == "no_queue"
        assert [error["part"] for error in ready["errors"]] == ["queue", "model", "head"]
        assert http.get("/snapshots").json()["data"] == []
        assert http.get("/jobs").json()["data"] == []
        fact = {"subject": "a", "prompt": "{} b", "target_new": "c"}
        for path, body in (("/edits", {"facts": [fact]}), ("/generate", {"prompt": "a"})):
            answer = http.post(path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (503, "no_model")
            assert answer.headers["retry-after"]


def test_the_api_does_not_start_without_a_queue_address(tmp_path) -> None:
    with pytest.raises(SettingsError, match="JEEP_REDIS_URL"):
        create_app(Settings(store=tmp_path / "store"))


def test_every_answer_has_its_request_id(http: httpx.Client, model: Store) -> None:
    given = http.get("/livez", headers={"X-Request-Id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    made = http.get("/nothing", headers={"X-Request-Id": "not ok!"})
    assert re.fullmatch(r"req_[0-9A-Z]{26}", made.headers["x-request-id"])
    assert made.json()["request_id"] == made.headers["x-request-id"]


def test_an_unexpected_error_is_a_problem_too(
    http: httpx.Client, model: Store, settings: Settings
) -> None:
    (settings.store / "names.json").write_text("{")
    answer = http.get("/snapshots")
    assert (answer.status_code, answer.json()["code"]) == (500, "corrupt_file")
    (settings.store / "versions").rename(settings.store / "gone")
    answer = http.get("/snapshots")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


def test_the_connection_outlives_an_unexpected_error(
    url: str, model: Store, settings: Settings
) -> None:
    (settings.store / "versions").rename(settings.store / "gone")
    connection = HTTPConnection(url.removeprefix("http://"), timeout=10)
    connection.connect()
    first = connection.sock
    for path, status in (("/snapshots", 500), ("/livez", 200)):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, connection.sock) == (status, first)
    connection.close()


def test_a_405_says_which_methods_are_allowed(http: httpx.Client, model: Store) -> None:
    answer = http.put("/livez")
    assert answer.headers["allow"] == "GET"


def test_the_description_is_complete_and_consistent(http: httpx.Client, model: Store) -> None:
    description = http.get("/openapi.json").json()
    schemas = description["components"]["schemas"]
    editors = {hparams_class(name).__name__ for name in EDITORS}
    assert {*editors, "Problem", "EditRequest", "FactIn"} <= schemas.keys()
    assert "HTTPValidationError" not in schemas
    references = set(re.findall(r"#/components/schemas/([\w.-]+)", str(description)))
    assert references <= schemas.keys()
    assert schemas.keys() - references <= {"GeneratedToken", *editors}
    pairs = [(p, o) for p, known in description["paths"].items() for o in known.values()]
    operations = [operation for _, operation in pairs]
    assert len({o["operationId"] for o in operations}) == len(operations)
    for path, operation in pairs:
        foreign = path.startswith("/v1/")  # whose errors have another shape
        for status, answer in operation["responses"].items():
            wrong = "application/json" if foreign else "application/problem+json"
            expected = wrong if int(status) >= 400 else None
            assert expected is None or list(answer["content"]) == [expected]
        assert operation.get("description")
    body = description["paths"]["/edits"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "application/x-ndjson"}
    assert "JeepHParams" in schemas["EditRequest"]["properties"]["hparams"]["description"]
    assert http.get("/docs").status_code == 200


def test_the_api_needs_no_torch() -> None:
    code = (
        "import sys, service.api, service.client, service.cli, service.serve;"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
