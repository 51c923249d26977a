"""Evaluations over HTTP: what is queued, what is refused, and queries of a result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.service.finished_jobs import (
    HELD_OUT,
    SCORE,
    SUITE,
    finished_evaluation,
    interval,
)

from service.client import ApiError, Client
from service.contracts.jobs import JobKind, JobStatus, now
from service.contracts.schemas import (
    EvaluationPayload,
    EvaluationResult,
    Manifest,
)
from service.settings import Settings
from service.store import Store


def submit(http: httpx.Client, **body: Any) -> httpx.Response:
    return http.post("/evaluations", json={"suite": SUITE, **body})


def payload(store: Store, answer: httpx.Response) -> EvaluationPayload:
    assert answer.status_code == 202, answer.text
    return EvaluationPayload.model_validate(store.journal.read(answer.json()["id"]).payload)


def test_versions_are_resolved_when_they_are_submitted(http: httpx.Client, model: Store) -> None:
    model.versions.write(Manifest(id="v1", parent="v0", weights_sha256="1" * 64, created_at=now()))
    model.names.give("named", "v1")
    answer = submit(http, versions=["base", "named"], limit=8, seed=3, fluency_texts=2)
    found = payload(model, answer)
    assert [(t.label, t.version, t.n_edits) for t in found.targets] == [
        ("base", "v0", None), ("named", "v1", None),
    ]  # fmt: skip
    assert (found.limit, found.seed, found.fluency_texts) == (8, 3, 2)
    job = model.journal.read(answer.json()["id"])
    assert (job.kind, job.status) == (JobKind.EVALUATION, JobStatus.QUEUED)
    assert answer.headers["location"] == f"/evaluations/{answer.json()['evaluation_id']}"


def test_head_is_measured_if_nothing_else_is_said(http: httpx.Client, model: Store) -> None:
    assert [target.label for target in payload(model, submit(http)).targets] == ["head"]


def test_a_trial_has_complete_hyper_parameters(http: httpx.Client, model: Store) -> None:
    answer = submit(http, editor="memit", hparams={"n_steps": 3}, n_edits=[0, 4, 16, 4])
    found = payload(model, answer)
    assert [(t.label, t.n_edits) for t in found.targets] == [
        ("unedited", 0), ("memit-4", 4), ("memit-16", 16),
    ]  # fmt: skip
    assert (found.preset, found.hparams["n_steps"]) == ("memit-atlas-gptj", 3)
    assert "low" in found.hparams


@pytest.mark.parametrize(
    ("body", "status", "code", "where"),
    [
        ({"suite": "none"}, 404, "unknown_suite", None),
        ({"versions": ["base", "v9", "no"]}, 422, "invalid_request", "/versions/1"),
        ({"versions": ["base", "base"]}, 422, "invalid_request", "/versions/1"),
        ({"versions": []}, 422, "invalid_request", "/versions"),
        ({"editor": "jeep"}, 422, "invalid_request", "/n_edits"),
        ({"n_edits": [1]}, 422, "invalid_request", ""),
        ({"editor": "jeep", "n_edits": [1], "versions": ["base"]}, 422, "invalid_request", ""),
        ({"editor": "jeep", "n_edits": [0]}, 422, "invalid_request", "/n_edits"),
        ({"editor": "jeep", "n_edits": [1], "limit": 3}, 422, "invalid_request", "/limit"),
        ({"editor": "jeep", "n_edits": [-1]}, 422, "invalid_request", "/n_edits/0"),
        ({"editor": "jeep", "n_edits": [5000]}, 422, "invalid_request", "/n_edits"),
        ({"editor": "jepp", "n_edits": [1]}, 422, "invalid_hparams", "/editor"),
        ({"editor": "jeep", "n_edits": [1], "preset": "x"}, 422, "invalid_hparams", "/preset"),
        ({"editor": "jeep", "n_edits": [1], "hparams": {"n_steps": 0}}, 422, "invalid_hparams",
         "/hparams/n_steps"),
        ({"limit": 0}, 422, "invalid_request", "/limit"),
        ({"seeds": 1}, 422, "invalid_request", "/seeds"),
        ({"free": {"max_new_tokens": 0}}, 422, "invalid_request", "/free/max_new_tokens"),
        ({"free": {"judge": {"key": "x"}}}, 422, "invalid_request", "/free/judge/key"),
        ({"free": {"judge": {}}}, 422, "invalid_request", "/free/judge/model"),
        ({"free": {"judge": {"model": "m"}}}, 422, "invalid_request", "/free/judge/address"),
        ({"free": {"judge": {"model": "m", "address": "http://10.1.2.3/v1"}}}, 422,
         "address_refused", "/free/judge/address"),
        ({"free": {"judge": {"model": "m", "address": "file:///etc/passwd"}}}, 422,
         "invalid_request", "/free/judge/address"),
        ({"free": {"judge": {"model": "m", "address": "http://me@127.0.0.1/v1"}}}, 422,
         "invalid_request", "/free/judge/address"),
    ],
)  # fmt: skip
def test_a_wrong_evaluation_is_refused_by_its_field(
    body: dict[str, Any], status: int, code: str, where: str | None,
    refusing: httpx.Client,
) -> None:  # fmt: skip
    answer = submit(refusing, **body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    if where is not None:
        assert answer.json()["errors"][0]["pointer"] == where


def test_the_name_of_a_suite_that_may_have_been_meant(refusing: httpx.Client) -> None:
    said = submit(refusing, suite="atlas-zrse").json()["detail"]
    assert said.startswith("there is no suite 'atlas-zrse'; did you mean 'atlas-zsre'")


def test_an_address_of_another_form_is_refused_by_words_not_by_a_pattern(
    refusing: httpx.Client,
) -> None:
    judge = {"model": "m", "address": "ftp://127.0.0.1"}
    [error] = submit(refusing, free={"judge": judge}).json()["errors"]
    said = "must have the form that is meant here: An OpenAI-compatible server, such as http://"
    assert error["message"].startswith(said)
    assert "^" not in error["message"]


def test_an_address_may_have_a_query(http: httpx.Client, model: Store) -> None:
    address = "http://127.0.0.1:8001/openai/deployments/g?api-version=2025-01-01"
    answer = submit(http, free={"judge": {"model": "m", "address": address}})
    assert answer.status_code == 202, answer.text
    asked = payload(model, answer).free
    assert asked is not None
    assert asked.judge is not None
    assert asked.judge.address == address


JUDGE = {"model": "gpt-x", "address": "http://127.0.0.1:8001/v1"}


def test_free_answers_and_their_judge_are_queued(http: httpx.Client, model: Store) -> None:
    assert payload(model, submit(http)).free is None
    plain = payload(model, submit(http, free={})).free
    assert plain is not None
    assert (plain.max_new_tokens, plain.judge) == (32, None)
    answer = submit(http, free={"max_new_tokens": 8, "judge": JUDGE})
    asked = payload(model, answer).free
    assert asked is not None
    assert asked.judge is not None
    assert (asked.max_new_tokens, asked.judge.model_dump()) == (8, {**JUDGE, "timeout_s": 60.0})
    shown = http.get(f"/evaluations/{answer.json()['evaluation_id']}").json()
    assert shown["free"]["judge"]["model"] == "gpt-x"


def test_a_judge_of_the_settings_fills_what_is_left_out(
    http: httpx.Client, model: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "judge_address", "http://localhost:9/v1")
    monkeypatch.setattr(settings, "judge_model", "own")
    asked = payload(model, submit(http, free={"judge": {"timeout_s": 5}})).free
    assert asked is not None
    assert asked.judge is not None
    assert asked.judge.model_dump() == {
        "model": "own", "address": "http://localhost:9/v1", "timeout_s": 5.0,
    }  # fmt: skip


def test_before_any_worker_there_is_nothing_to_measure(http: httpx.Client) -> None:
    answer = submit(http)
    assert (answer.status_code, answer.json()["code"]) == (503, "no_model")


def test_an_evaluation_is_shown_and_can_be_cancelled(http: httpx.Client, model: Store) -> None:
    job = submit(http, versions=["base"]).json()
    shown = http.get(f"/evaluations/{job['evaluation_id']}").json()
    assert (shown["status"], shown["job_id"], shown["suite"]) == ("queued", job["id"], SUITE)
    assert shown["result"] is None
    for path in ("cases", "compare?a=base&b=head"):
        answer = http.get(f"/evaluations/{job['evaluation_id']}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (409, "no_result")
    assert http.post(f"/jobs/{job['id']}/cancel").json()["status"] == "cancelled"
    listed = http.get("/evaluations").json()["data"]
    assert [(one["id"], one["status"]) for one in listed] == [(job["evaluation_id"], "cancelled")]


def test_evaluations_are_listed_in_pages(http: httpx.Client, model: Store) -> None:
    ids = [submit(http).json()["evaluation_id"] for _ in range(3)]
    first = http.get("/evaluations", params={"limit": 2}).json()
    assert [one["id"] for one in first["data"]] == ids[:0:-1]
    rest = http.get("/evaluations", params={"after": first["next"]}).json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (ids[:1], False)


@pytest.mark.parametrize("path", ["", "/cases", "/compare?a=x&b=y"])
def test_unknown_evaluations_are_not_found(path: str, refusing: httpx.Client) -> None:
    for name in ("eval_01J", "job_01J", "x", "../x"):
        answer = refusing.get(f"/evaluations/{name}{path}")
        assert answer.status_code == 404


@pytest.fixture
def done(http: httpx.Client, model: Store) -> tuple[str, Path]:
    return finished_evaluation(http, model)


def test_case_records_are_sent_as_lines(
    done: tuple[str, Path], client: Client, tmp_path: Path
) -> None:
    evaluation_id, _ = done
    path = tmp_path / "cases.jsonl"
    client.evaluation_cases(evaluation_id, path)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["target"], row["id"]) for row in found] == [
        ("base", "0"), ("base", "1"), ("head", "0"), ("head", "1"),
    ]  # fmt: skip
    client.evaluation_cases(evaluation_id, path, target="head")
    assert len(path.read_text().splitlines()) == 2
    with pytest.raises(ApiError, match="unknown_target"):
        client.evaluation_cases(evaluation_id, tmp_path / "x", target="v7")
    assert not (tmp_path / "x").exists()


def test_a_comparison_can_be_read_both_ways(done: tuple[str, Path], client: Client) -> None:
    evaluation_id, _ = done
    forth, back = client.compare(evaluation_id, "base", "head"), client.compare(
        evaluation_id, "head", "base"
    )  # fmt: skip
    assert [change.id for change in forth.better] == ["1"] == [c.id for c in back.broken]
    assert back.broken[0].metrics == {"efficacy": (1.0, 0.0)}
    difference = back.differences["score"]
    assert (difference.value, difference.low, difference.high) == (-5, -7, -4)
    with pytest.raises(ApiError, match="same_target"):
        client.compare(evaluation_id, "base", "base")


def test_a_missing_report_is_reported_as_damage(done: tuple[str, Path], http: httpx.Client) -> None:
    evaluation_id, folder = done
    (folder / "cases-0.jsonl").unlink()
    answer = http.get(f"/evaluations/{evaluation_id}/cases")
    assert (answer.status_code, answer.json()["code"]) == (500, "corrupt_file")


def test_the_result_comes_with_intervals(done: tuple[str, Path], client: Client) -> None:
    found = client.evaluation(done[0])
    assert found.result is not None
    score = found.result.points[0].metrics["score"]
    assert (score.low, score.value, score.high) == (89, 90, 92)
    assert [item.id for item in client.evaluations()] == [done[0]]


def test_a_comparison_says_how_its_figures_came_about(
    done: tuple[str, Path], client: Client, model: Store
) -> None:
    found = client.compare(done[0], "base", "head")
    assert found.protocols == {"score": SCORE}
    assert found.notes == []
    assert client.compare(done[0], "head", "base").protocols == {"score": SCORE}
    result = client.evaluation(done[0]).result
    assert result is not None
    assert result.suite_sha256 == "5" * 64
    assert result.protocols["perplexity"].how == "read: held.txt"


def test_a_comparison_says_where_two_targets_were_not_measured_alike(
    done: tuple[str, Path], client: Client, model: Store
) -> None:
    job = model.journal.read(done[1].name)
    result = EvaluationResult.model_validate(job.result)
    other = HELD_OUT.model_copy(update={"tokens": 100})
    result.points[1].perplexity_text = other
    result.points[1].cases = 3
    result.points[0].metrics["fluency"] = interval(1)
    model.journal.save(job.model_copy(update={"result": result.model_dump(mode="json")}))
    cases, fluency, text = client.compare(done[0], "base", "head").notes
    assert cases.startswith("base was measured on 2 cases, head on 3 cases; compared are the 2")
    assert fluency == "only base has figures of fluency"
    assert text.startswith("the perplexities are of different texts")
    assert "head: 100 tokens of held.txt (SHA-256 777777777777…)" in text


KEYED = {
    "/evaluations": {"suite": SUITE, "versions": ["head"]},
    "/probes": {"suite": SUITE},
    "/hypernetworks": {"editor": "mend", "steps": 30},
}


@pytest.mark.parametrize("path", KEYED)
def test_an_idempotency_key_gives_the_same_job(path: str, http: httpx.Client, model: Store) -> None:
    headers, body = {"Idempotency-Key": "once"}, KEYED[path]
    first, again = (http.post(path, json=body, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["location"] == first.headers["location"]
    replayed = [answer.headers.get("idempotency-replayed") for answer in (first, again)]
    assert replayed == [None, "true"]
    assert len(list(model.journal.all())) == 1
    other = http.post(path, json={**body, "seed": 7}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    bad = http.post(path, json=body, headers={"Idempotency-Key": ""})
    assert (bad.status_code, bad.json()["errors"][0]["code"]) == (422, "bad_key")


def test_a_refused_request_leaves_its_key_free(http: httpx.Client, model: Store) -> None:
    model.versions.write(Manifest(id="v1", parent="v0", weights_sha256="1" * 64, created_at=now()))
    headers, body = {"Idempotency-Key": "k"}, {"suite": SUITE, "versions": ["v1"]}
    first = http.post("/evaluations", json=body, headers=headers)
    refused = http.post(
        "/evaluations", json={**body, "versions": ["v9"]}, headers={"Idempotency-Key": "free"}
    )
    assert refused.status_code == 422
    freed = http.post("/evaluations", json=body, headers={"Idempotency-Key": "free"})
    assert freed.json()["id"] != first.json()["id"]
