"""Checks of facts over HTTP: what is queued, shown, listed and refused; and the command."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from rich.console import Console
from support.service.played_worker.worker import PlayedWorker
from support.service.trees import PROTOCOL, add_check
from typer.testing import CliRunner

from service.cli import app
from service.cli.commands.effects import checks
from service.client import ApiError, Client
from service.contracts.jobs import JobKind, JobStatus, Progress, now
from service.contracts.schemas.effects.checks import (
    Check,
    CheckPayload,
    CheckResult,
    MissingFact,
    UnaskedFact,
)
from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in", "target_new": "Italy"}
EDITED = {"facts": [FACT, {**FACT, "subject": "Nice", "target_true": "France"}]}
WAIT = {"Prefer": "wait=20"}


@pytest.fixture
def edited(http: httpx.Client, worker: PlayedWorker) -> str:
    """The edit of v1, which is head."""
    answer = http.post("/edits", json=EDITED, headers=WAIT)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["edit_id"])


def test_a_check_is_queued_with_its_version_resolved(
    http: httpx.Client, model: Store, edited: str
) -> None:
    body = {"version": "v1", "facts": 3, "seed": 4, "edit_id": edited}
    answer = http.post("/checks", json=body, headers={"Idempotency-Key": "once"})
    assert answer.status_code == 202, answer.text
    job = model.journal.read(answer.json()["id"])
    asked = CheckPayload.model_validate(job.payload)
    assert (job.kind, job.shared) == (JobKind.CHECK, True)
    assert (asked.version, asked.facts, asked.seed, asked.edit_id) == ("v1", 3, 4, edited)
    place = answer.headers["location"]
    assert place == f"/checks/{answer.json()['resource_id']}" == f"/checks/{asked.check_id}"
    shown = http.get(place).json()
    assert (shown["version"], shown["facts"], shown["edit_id"]) == ("v1", 3, edited)
    again = http.post("/checks", json=body, headers={"Idempotency-Key": "once"})
    assert again.json()["id"] == job.id
    assert again.headers["idempotency-replayed"] == "true"
    assert [one["id"] for one in http.get("/checks").json()["data"]] == [shown["id"]]
    lines = http.get("/audit").json()["data"]
    assert lines[0]["job_id"] == job.id, "the audit log says which job was queued"


def test_without_a_body_all_facts_of_head_are_asked(
    http: httpx.Client, model: Store, edited: str
) -> None:
    answer = http.post("/checks")
    assert answer.status_code == 202, answer.text
    payload = model.journal.read(answer.json()["id"]).payload
    assert (payload["version"], payload["facts"]) == ("v1", "all")


def test_it_can_be_waited_for(http: httpx.Client, worker: PlayedWorker, edited: str) -> None:
    worker.refuse_reads()
    answer = http.post("/checks", headers=WAIT)
    assert answer.headers["preference-applied"] == "wait=20"
    assert (answer.status_code, answer.json()["status"]) == (200, "failed")
    assert answer.headers["location"].startswith("/checks/check_")


def test_a_queued_check_can_be_cancelled(client: Client, model: Store) -> None:
    job = client.check("base")
    assert client.cancel(job.id).status in (JobStatus.CANCELLED, JobStatus.CANCELLING)


class TestOneThatHasEnded:
    def test_is_shown_with_what_it_has_found(
        self, client: Client, model: Store, edited: str
    ) -> None:
        job = add_check(model, "v1", {"v1": [1]}, {"v1": [0]})
        check_id = job.payload["check_id"]
        found = client.check_result(check_id)
        assert found.result is not None
        assert (found.result.held, found.result.missing) == (1, 1)
        [summary] = client.checks()
        assert (summary.id, summary.asked, summary.missing) == (check_id, 2, 1)

    def test_is_in_the_list_of_facts(self, client: Client, model: Store, edited: str) -> None:
        assert list(client.facts(holds=False)) == []
        job = add_check(model, "v1", {"v1": [1]}, {"v1": [0]})
        [found] = client.facts(holds=False)
        assert (found.subject, found.checked_in) == ("Lyon", "v1")
        assert found.check_id == job.payload["check_id"]

    def test_gives_facts_that_can_be_edited_again(
        self, client: Client, model: Store, edited: str, tmp_path: Path
    ) -> None:
        job = add_check(model, "v1", {}, {"v1": [0]})
        path = tmp_path / "missing.jsonl"
        assert client.missing_facts(job.payload["check_id"], path) == path.stat().st_size
        facts = [json.loads(line) for line in path.read_text().splitlines()]
        assert facts[0]["subject"] == "Lyon"
        done = client.wait(client.edit(facts).id)
        assert done.status is JobStatus.SUCCEEDED, done.error
        [now_taught] = [one for one in client.facts() if one.subject == "Lyon"]
        assert (now_taught.version, now_taught.holds) == ("v2", True)

    def test_has_none_before_its_end(self, client: Client, model: Store, tmp_path: Path) -> None:
        job = client.check("base")
        with pytest.raises(ApiError) as refused:
            client.missing_facts(str(job.resource_id), tmp_path / "missing.jsonl")
        assert refused.value.problem.code == "no_result"
        assert list(tmp_path.glob("missing*")) == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"version": "v9"}, "/version"),
        ({"facts": 0}, "/facts"),
        ({"facts": "some"}, "/facts"),
        ({"seed": -1}, "/seed"),
        ({"subject": ""}, "/subject"),
        ({"subject": " "}, "/subject"),
        ({"subject": "Nobody"}, "/subject"),
        ({"edit_id": "edit_9"}, "/edit_id"),
        ({"edit_id": ""}, "/edit_id"),
        ({"holds": True}, "/holds"),
    ],
)
def test_a_wrong_request_is_refused_by_its_field(
    body: dict[str, Any], pointer: str, refusing: httpx.Client
) -> None:
    answer = refusing.post("/checks", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_a_subject_and_a_batch_without_facts_are_named(refusing: httpx.Client) -> None:
    answer = refusing.post("/checks", json={"subject": "Nobody", "edit_id": "edit_9"})
    shows = "GET /facts?version=v0 shows what it has"
    assert [(one["code"], one["message"]) for one in answer.json()["errors"]] == [
        ("not_applied", f"v0 has no fact about 'Nobody': {shows}"),
        ("not_applied", f"v0 has no batch 'edit_9': {shows}"),
    ]


def test_one_subject_is_asked_however_it_is_written(
    http: httpx.Client, model: Store, edited: str
) -> None:
    answer = http.post("/checks", json={"subject": " Lyon "})
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize("path", ["/checks/check_01J", "/checks/check_01J/missing"])
def test_an_unknown_one_is_not_found(path: str, refusing: httpx.Client) -> None:
    answer = refusing.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_check")


def a_check(**more: Any) -> Check:
    lost = MissingFact(
        version="v1", index=0, prompt="Lyon is in", target_new="Italy", contexts="plain",
        answer=" France",
    )  # fmt: skip
    odd = UnaskedFact(
        version="v1", index=1, prompt="Nice is in", target_new="Peru", contexts="both",
        code="numerical_error", why="not finite",
    )  # fmt: skip
    result = CheckResult(
        check_id="check_1", version="v1", **{
            "live": 9, "asked": 4, "held": 1, "missing": 2, "unasked": 1, "seed": 3,
            "missing_facts": [lost], "unasked_facts": [odd], **more,
        },
        protocol=PROTOCOL, seconds=0.5,
    )  # fmt: skip
    return Check(
        id="check_1", job_id="job_1", status=JobStatus.SUCCEEDED, version="v1", facts=4, seed=3,
        created_at=now(), progress=Progress(), result=result,
    )  # fmt: skip


class TestCommand:
    def run(self, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
        asked: list[Any] = []

        def check(self: Client, version: str, **options: Any) -> Any:
            asked.append({"version": version, **options})
            return SimpleNamespace(id="job_1", resource_id="check_1")

        monkeypatch.setattr(Client, "check", check)
        monkeypatch.setattr(checks, "finish", lambda *_: a_check())
        shown = CliRunner().invoke(app, ["versions", "check", *words])
        assert shown.exit_code == 0, shown.output
        [found] = asked
        return dict(found)

    def test_options_become_the_request(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.run(monkeypatch) == {"version": "head"}
        words = ("v3", "--facts", "20", "--seed", "0", "--subject", "Lyon", "--edit", "edit_1")
        assert self.run(monkeypatch, *words) == {
            "version": "v3", "facts": 20, "seed": 0, "subject": "Lyon", "edit_id": "edit_1",
        }  # fmt: skip
        assert self.run(monkeypatch, "--facts", "all")["facts"] == "all"

    def test_a_wrong_number_is_named(self) -> None:
        words = ["versions", "check", "--facts", "many", "--url", "http://127.0.0.1:9"]
        shown = CliRunner().invoke(app, words)
        assert shown.exit_code == 2
        assert "must be a number or all, not 'many'" in " ".join(shown.output.split())

    def test_missing_facts_are_written(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def missing_facts(self: Client, check_id: str, path: Path) -> int:
            path.write_text(check_id)
            return 7

        monkeypatch.setattr(Client, "missing_facts", missing_facts)
        monkeypatch.setattr(Client, "check_result", lambda self, one: a_check())
        file = tmp_path / "lost.jsonl"
        self.run(monkeypatch, "--missing", str(file))
        assert file.read_text() == "check_1"
        file.unlink()
        words = ["versions", "check", "--show", "check_1", "--missing", str(file)]
        shown = CliRunner().invoke(app, words)
        assert shown.exit_code == 0, shown.output
        assert file.read_text() == "check_1"

    def shown(self, answer: Check) -> str:
        console = Console(width=200, record=True)
        console.print(checks.check_table(answer))
        return " ".join(console.export_text().split())

    def test_what_was_found_is_shown(self) -> None:
        text = self.shown(a_check())
        assert (
            "check_1: v1 was asked 4 of 9 live facts, drawn with seed 3: "
            "held 1, lost or never taken 2, not asked 1" in text
        )
        assert "Lyon is in Italy France v1" in text
        assert "and 1 more: jeep versions facts --missing --version v1 lists them" in text
        assert "jeep versions check --show check_1 --missing FILE, then jeep edit FILE" in text
        assert "Nice is in Peru not finite" in text
        whole = a_check(asked=9, held=9, missing=0, unasked=0, missing_facts=[], unasked_facts=[])
        assert (
            self.shown(whole) == "check_1: v1 was asked 9 live facts: held 9, lost or never taken 0"
        )

    def test_one_without_a_result_says_why(self) -> None:
        waiting = a_check().model_copy(update={"result": None, "status": JobStatus.CANCELLED})
        assert self.shown(waiting) == "check_1 cancelled"
