"""Drift over HTTP: what is queued, shown and refused; and the command that asks for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from rich.console import Console
from support.service.finished_jobs import interval
from typer.testing import CliRunner

from service.cli import app
from service.cli.commands.effects import drifts
from service.client import Client
from service.contracts.jobs import JobKind, JobStatus, Progress, now
from service.contracts.schemas import Manifest
from service.contracts.schemas.base import MetricProtocol
from service.contracts.schemas.effects.drift import (
    Drift,
    DriftFact,
    DriftFigures,
    DriftPayload,
    DriftPlace,
    DriftResult,
    LikelyToken,
)
from service.store import Store


def result(drift_id: str) -> DriftResult:
    figures = DriftFigures(
        kind="text", passages=2, tokens=9, kl=interval(5), changed=interval(10),
        perplexity_before=20.0, perplexity=21.5,
    )  # fmt: skip
    fact = DriftFact(
        version="v1", edit_id="edit_1", index=0, prompt="Lyon is in", share=0.75, kl_without=0.1
    )
    place = DriftPlace(
        kind="text", passage=0, context=f"{'x' * 30} Marseille is in", kl=2.5,
        before=[LikelyToken(text=" France", probability=0.9)],
        after=[LikelyToken(text=" Japan", probability=0.8)], facts=[fact],
    )  # fmt: skip
    protocol = MetricProtocol(asked="a text", how="read", judged="KL", comparable="the same text")
    return DriftResult(
        drift_id=drift_id, version="v1", against="v0", texts="a", prompts="b", figures=[figures],
        worst=[place], not_explained="v1 has an editor", protocol=protocol, seconds=0.5,
    )  # fmt: skip


def test_a_comparison_is_queued_with_its_versions_resolved(
    http: httpx.Client, model: Store
) -> None:
    model.versions.write(Manifest(id="v1", parent="v0", weights_sha256="1" * 64, created_at=now()))
    model.names.give("named", "v1")
    body = {"version": "named", "texts": [{"text": "One."}], "prompts": ["a"], "worst": 3}
    answer = http.post("/drifts", json=body)
    assert answer.status_code == 202, answer.text
    job = model.journal.read(answer.json()["id"])
    asked = DriftPayload.model_validate(job.payload)
    assert job.kind is JobKind.DRIFT
    assert (asked.version, asked.against, asked.worst, asked.explained) == ("v1", "v0", 3, 5)
    assert [(one.text, one.kind) for one in asked.texts or []] == [("One.", "text")]
    place = answer.headers["location"]
    assert place == f"/drifts/{answer.json()['resource_id']}"
    shown = http.get(place).json()
    assert (shown["status"], shown["version"], shown["result"]) == ("queued", "v1", None)
    assert [one["id"] for one in http.get("/drifts").json()["data"]] == [shown["id"]]


@pytest.mark.parametrize("kind", ["prompts", "all texts"])
def test_kinds_that_have_figures_of_their_own_are_no_kinds_of_texts(
    kind: str, http: httpx.Client, model: Store
) -> None:
    texts = [{"text": "One."}, {"text": "Two.", "kind": kind}]
    answer = http.post("/drifts", json={"texts": texts})
    [error] = answer.json()["errors"]
    assert (answer.status_code, error["pointer"]) == (422, "/texts/1/kind")
    said = f"'{kind}' names figures of its own: call this kind of text otherwise"
    assert error["message"] == said


def test_a_result_is_shown(client: Client, model: Store) -> None:
    job_id = client.drift("head", idempotency_key="once", max_tokens=50).id
    assert client.drift("head", idempotency_key="once", max_tokens=50).id == job_id
    job = model.journal.read(job_id)
    drift_id = job_id.replace("job_", "drift_")
    values = result(drift_id).model_dump(mode="json")
    ended = {"status": JobStatus.SUCCEEDED, "finished_at": now(), "result": values}
    model.journal.save(job.model_copy(update=ended))
    assert client.drift_result(drift_id).result == result(drift_id)
    assert [one.id for one in client.drifts()] == [drift_id]


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({"version": "v9"}, 422, "/version"),
        ({"against": "v9"}, 422, "/against"),
        ({"texts": [], "prompts": []}, 422, "/texts"),
        ({"texts": [{"text": ""}]}, 422, "/texts/0/text"),
        ({"texts": [{"kind": "a"}]}, 422, "/texts/0/text"),
        ({"texts": [{"text": "a", "kind": ""}]}, 422, "/texts/0/kind"),
        ({"texts": [{"text": "x" * 20_000}]}, 413, "/texts/0/text"),
        ({"prompts": ["a", "x" * 20_000]}, 413, "/prompts/1"),
        ({"prompts": ["a", ""]}, 422, "/prompts/1"),
        ({"max_tokens": 1}, 422, "/max_tokens"),
        ({"worst": 201}, 422, "/worst"),
        ({"explain": 1}, 422, "/explain"),
    ],
)
def test_a_wrong_request_is_refused_by_its_field(
    body: dict[str, Any], status: int, pointer: str, refusing: httpx.Client
) -> None:
    answer = refusing.post("/drifts", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_an_unknown_one_is_not_found(refusing: httpx.Client) -> None:
    answer = refusing.get("/drifts/drift_01J")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_drift")


class TestCommand:
    def run(self, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
        asked: list[Any] = []

        def drift(self: Client, version: str, against: str, **options: Any) -> Any:
            asked.append({"version": version, "against": against, **options})
            return SimpleNamespace(id="job_1", resource_id="drift_1")

        monkeypatch.setattr(Client, "drift", drift)
        monkeypatch.setattr(drifts, "finish", lambda *_: None)
        shown = CliRunner().invoke(app, ["versions", "drift", *words])
        assert shown.exit_code == 0, shown.output
        [found] = asked
        return dict(found)

    def test_files_become_texts_and_prompts(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        texts, prompts = tmp_path / "texts.jsonl", tmp_path / "prompts.txt"
        texts.write_text('{"Corpus": "C4", "Text": "One."}\n{"text": "Two."}\n')
        prompts.write_text("Paris is in\n\nRome is in\n")
        files = ("--texts", str(texts), "--prompts", str(prompts))
        found = self.run(monkeypatch, "v3", "--against", "v2", *files, "--worst", "4")
        assert found == {
            "version": "v3", "against": "v2", "worst": 4, "prompts": ["Paris is in", "Rome is in"],
            "texts": [{"text": "One.", "kind": "C4"}, {"text": "Two."}],
        }  # fmt: skip
        assert self.run(monkeypatch) == {"version": "head", "against": "base"}
        texts.write_text('{"Text": "Alone."}\n')
        assert self.run(monkeypatch, "--texts", str(texts))["texts"] == [{"text": "Alone."}]

    def test_neither_texts_nor_prompts_need_be_those_that_ship(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        heads = {"version": "head", "against": "base"}
        for words, said in (
            (("--no-texts", "--seed", "7"), {"texts": [], "seed": 7}),
            (("--no-prompts", "--seed", "0"), {"prompts": [], "seed": 0}),
        ):
            assert self.run(monkeypatch, *words) == heads | said

    @pytest.mark.parametrize("what", ["texts", "prompts"])
    def test_a_file_and_none_exclude_each_other(self, what: str) -> None:
        words = ["versions", "drift", f"--{what}", "a file", f"--no-{what}"]
        shown = CliRunner().invoke(app, [*words, "--url", "http://127.0.0.1:9"])
        assert shown.exit_code == 2
        assert f"--{what} and --no-{what} exclude each other" in " ".join(shown.output.split())

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ('{"kind": "a"}', "every record needs a field text"),
            ('{"text": 3}', "every record needs a field text"),
            ("[1]", "texts must be JSON objects"),
        ],
    )
    def test_a_wrong_file_is_named(self, content: str, said: str, tmp_path: Path) -> None:
        file = tmp_path / "texts.jsonl"
        file.write_text(content)
        words = ["versions", "drift", "--texts", str(file), "--url", "http://127.0.0.1:9"]
        shown = CliRunner().invoke(app, words)
        assert shown.exit_code == 2
        assert "--texts" in shown.output
        assert said in " ".join(shown.output.split())

    def test_a_place_at_the_beginning_of_a_text_is_shown_as_it_is(self) -> None:
        made = result("drift_1")
        made.worst[0].context = "Marseille is in"
        answer = Drift(
            id="drift_1", job_id="job_1", status=JobStatus.SUCCEEDED, version="v1", against="v0",
            created_at=now(), progress=Progress(), result=made,
        )  # fmt: skip
        console = Console(width=200, record=True)
        console.print(drifts.drift_table(answer))
        said = console.export_text()
        assert "Marseille is in" in said
        assert "…" not in said

    def test_an_argument_that_is_no_utf_8_is_said_to_be_none(self) -> None:
        words = ["explain", "Lyon \udcff is", "--url", "http://127.0.0.1:9"]
        shown = CliRunner().invoke(app, words)
        assert shown.exit_code == 2
        assert "must be text in UTF-8" in shown.output
        assert "'\\udcff'" in shown.output

    def test_figures_places_and_protocol_are_shown(self) -> None:
        answer = Drift(
            id="drift_1", job_id="job_1", status=JobStatus.SUCCEEDED, version="v1", against="v0",
            created_at=now(), progress=Progress(), result=result("drift_1"),
        )  # fmt: skip
        console = Console(width=200, record=True)
        console.print(drifts.drift_table(answer))
        said = console.export_text()
        for words in (
            "drift_1: v1 against v0", "5.0000 (4.0000 to 7.0000)", "20.00 → 21.50",
            f"…{'x' * 24} Marseille is in", "' Japan' 0.80", "Lyon is in (+75%; without it 0.1)",
            "Asked: a text; read.", "Not explained: v1 has an editor.",
        ):  # fmt: skip
            assert words in said
