"""Probes over HTTP, and ``hparams: "auto"``: what is queued, refused, shown and downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import ROOT
from support.service.finished_jobs import finished_probe
from typer.testing import CliRunner

from jeep_core.probe.defaults.rule import RULE
from service.cli import app
from service.client import ApiError, Client
from service.contracts.jobs import JobKind, JobStatus, now
from service.contracts.schemas import EditPayload, EditResult, Manifest, ProbePayload
from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}
FACTS = [{**FACT, "subject": f"Lyon {i}"} for i in range(8)]
HPARAMS = {"low": {"layers": [1, 2]}, "high": {"layers": [7]}}


def submit(http: httpx.Client, **body: Any) -> httpx.Response:
    return http.post("/probes", json=body)


def payload(store: Store, answer: httpx.Response) -> ProbePayload:
    assert answer.status_code == 202, answer.text
    return ProbePayload.model_validate(store.journal.read(answer.json()["id"]).payload)


def test_a_probe_is_queued(http: httpx.Client, model: Store) -> None:
    answer = submit(http, suite="atlas-counterfact", version="base", limit=16, seed=3, quick=True)
    found = payload(model, answer)
    assert (found.suite, found.facts, found.version) == ("atlas-counterfact", None, "v0")
    assert (found.limit, found.seed, found.quick) == (16, 3, True)
    job = model.journal.read(answer.json()["id"])
    assert (job.kind, job.status) == (JobKind.PROBE, JobStatus.QUEUED)
    assert answer.json()["probe_id"] == found.probe_id
    assert answer.headers["location"] == f"/probes/{found.probe_id}"


def test_facts_are_validated_and_stored_as_templates(http: httpx.Client, model: Store) -> None:
    triples = [{"subject": f"Lyon {i}", "relation": "city_country", "object": "Italy"}
               for i in range(8)]  # fmt: skip
    facts = payload(model, submit(http, facts=triples)).facts
    assert facts is not None
    assert [fact.subject for fact in facts] == [fact["subject"] for fact in triples]
    assert all(fact.prompt.count("{}") == 1 for fact in facts)
    assert payload(model, submit(http)).suite is None  # the bundled one


@pytest.mark.parametrize(
    ("body", "status", "code", "where"),
    [
        ({"suite": "none"}, 404, "unknown_suite", None),
        ({"suite": "atlas-zsre", "facts": FACTS}, 422, "invalid_request", ""),
        ({"facts": FACTS[:7]}, 422, "invalid_request", "/facts"),
        ({"facts": [*FACTS, {"subject": "x"}]}, 422, "invalid_facts", "/facts/8/prompt"),
        ({"version": "v9"}, 422, "invalid_request", "/version"),
        ({"limit": 1}, 422, "invalid_request", "/limit"),
        ({"layers": [1]}, 422, "invalid_request", "/layers"),
        ({"table": [{"subject": "x"}]}, 422, "invalid_request", "/table/0/relation"),
    ],
)
def test_a_wrong_probe_is_refused_by_its_field(
    body: dict[str, Any], status: int, code: str, where: str | None,
    refusing: httpx.Client,
) -> None:  # fmt: skip
    answer = submit(refusing, **body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    if where is not None:
        assert answer.json()["errors"][0]["pointer"] == where


def test_before_any_worker_there_is_nothing_to_probe(http: httpx.Client) -> None:
    answer = submit(http)
    assert (answer.status_code, answer.json()["code"]) == (503, "no_model")


def test_probes_are_listed_and_cancelled(http: httpx.Client, model: Store) -> None:
    jobs = [submit(http).json() for _ in range(3)]
    assert http.post(f"/jobs/{jobs[0]['id']}/cancel").json()["status"] == "cancelled"
    first = http.get("/probes", params={"limit": 2}).json()
    ids = [job["probe_id"] for job in jobs]
    assert [one["id"] for one in first["data"]] == ids[:0:-1]
    rest = http.get("/probes", params={"after": first["next"]}).json()
    assert [(one["id"], one["status"]) for one in rest["data"]] == [(ids[0], "cancelled")]
    shown = http.get(f"/probes/{ids[1]}").json()
    assert (shown["status"], shown["result"], shown["record"]) == ("queued", None, None)


@pytest.mark.parametrize("path", ["", "/files/probe.json"])
def test_unknown_probes_are_not_found(path: str, refusing: httpx.Client) -> None:
    for name in ("probe_01J", "job_01J", "x", "../x"):
        assert refusing.get(f"/probes/{name}{path}").status_code == 404


@pytest.fixture
def done(http: httpx.Client, model: Store) -> tuple[str, Path]:
    return finished_probe(http, model)


def test_a_finished_probe_has_figures_and_plots(
    done: tuple[str, Path], client: Client, http: httpx.Client, tmp_path: Path
) -> None:
    probe_id, _ = done
    found = client.probe_result(probe_id)
    assert found.record == {"format": 1, "n_layers": 9}
    assert found.result is not None
    assert (found.result.low, found.result.high) == ([1, 2], [7])
    assert [(one.id, one.low) for one in client.probes()] == [(probe_id, [1, 2])]
    paths = client.probe_files(probe_id, tmp_path / "out")
    assert [path.name for path in paths] == ["probe.json", "answers.png"]
    assert paths[1].read_bytes() == b"\x89PNG"
    assert http.get(f"/probes/{probe_id}/files/answers.png").headers["content-type"] == "image/png"


@pytest.mark.parametrize("name", ["notes.txt", "answers.svg", "..%2F..%2Fid.json"])
def test_only_files_of_the_result_are_given_out(
    done: tuple[str, Path], http: httpx.Client, name: str
) -> None:
    assert http.get(f"/probes/{done[0]}/files/{name}").status_code == 404


def test_a_missing_plot_is_reported_as_damage(done: tuple[str, Path], http: httpx.Client) -> None:
    probe_id, folder = done
    (folder / "answers.png").unlink()
    answer = http.get(f"/probes/{probe_id}/files/answers.png")
    assert (answer.status_code, answer.json()["code"]) == (500, "corrupt_file")


def test_files_of_an_unfinished_probe_are_not_there(
    client: Client, http: httpx.Client, model: Store, tmp_path: Path
) -> None:
    probe_id = submit(http).json()["probe_id"]
    with pytest.raises(ApiError, match="unknown_file"):
        client.probe_files(probe_id, tmp_path / "out")


def test_the_command_line_shows_a_probe(done: tuple[str, Path], url: str) -> None:
    command = ["probes", "show", done[0], "--url", url]
    shown = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "low [1, 2], high [7]" in shown.output
    assert "6 same_first_token" in " ".join(shown.output.split())
    assert "edits go by this probe with --hparams auto" in shown.output.replace("\n", " ")


def test_a_probe_of_another_rule_is_shown_with_what_its_figures_mean_today(
    done: tuple[str, Path], client: Client, model: Store, url: str
) -> None:
    """What was measured and said then stays; edits go by the rule of this version."""
    probe_id, folder = done
    record = json.loads((ROOT / "docs/figures/probe-atlas-gptj/probe.json").read_text())
    then = record["hparams"]["low"]["moment_weight"]
    record["hparams"]["low"]["moment_weight"] = 10 * then
    (folder / "probe.json").write_text(json.dumps(record))
    found = client.probe_result(probe_id)
    assert found.record == record
    assert found.today is not None
    assert found.today.rule == RULE
    assert found.today.hparams is not None
    # this model's subjects do not carry an answer alone, so λ is a fifth of d_ff
    info = model.base.info()
    assert info is not None
    low = found.today.hparams["low"]
    assert low["moment_weight"] == pytest.approx(0.2 * info.mlp_size, rel=0.05)
    shown = CliRunner().invoke(app, ["probes", "show", probe_id, "--url", url])
    said = " ".join(shown.output.split())
    assert f"made before rules had numbers; by rule {RULE}, which edits go by today" in said
    (folder / "probe.json").write_text(json.dumps({**record, "rule": RULE}))
    assert client.probe_result(probe_id).today is None
    (folder / "probe.json").write_text(json.dumps({"format": 1}))
    lacking = client.probe_result(probe_id).today
    assert lacking is not None
    assert "made by another version" in str(lacking.why_no_proposal)


# ---------------------------------------------------------------- automatic hyper-parameters


def test_automatic_hyper_parameters_are_left_to_the_worker(
    http: httpx.Client, model: Store
) -> None:
    for editor in ("jeep", "memit", "pmet"):
        body = {"facts": [FACT], "hparams": "auto", "editor": editor}
        answer = http.post("/edits", json=body)
        assert answer.status_code == 202, answer.text
        found = EditPayload.model_validate(model.journal.read(answer.json()["id"]).payload)
        assert (found.hparams, found.preset) == ("auto", None)
    assert http.get(f"/edits/{answer.json()['edit_id']}").json()["hparams"] == "auto"
    plan = http.post("/edits?dry_run=true", json={"facts": [FACT], "hparams": "auto"}).json()
    assert plan["hparams"] == "auto"


def test_automatic_hyper_parameters_can_be_asked_for_by_line(
    http: httpx.Client, model: Store
) -> None:
    answer = http.post(
        "/edits", params={"hparams": "auto"}, content=json.dumps(FACT),
        headers={"Content-Type": "application/x-ndjson"},
    )  # fmt: skip
    assert answer.status_code == 202, answer.text
    assert model.journal.read(answer.json()["id"]).payload["hparams"] == "auto"


@pytest.mark.parametrize(
    ("body", "code", "where"),
    [
        ({"hparams": "auto", "editor": "mend"}, "invalid_hparams", "/hparams"),
        ({"hparams": "auto", "editor": "nope"}, "invalid_hparams", "/editor"),
        ({"hparams": "auto", "preset": "jeep-atlas-gptj"}, "invalid_hparams", "/preset"),
        ({"hparams": "best"}, "invalid_request", "/hparams"),
        ({"hparams": 3}, "invalid_request", "/hparams"),
    ],
)
def test_automatic_hyper_parameters_that_cannot_be_found_are_refused(
    body: dict[str, Any], code: str, where: str, refusing: httpx.Client
) -> None:
    answer = refusing.post("/edits", json={"facts": [FACT], **body})
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert [where] == [error["pointer"] for error in answer.json()["errors"]]


def test_a_finished_edit_shows_its_automatic_hyper_parameters(
    http: httpx.Client, model: Store
) -> None:
    submitted = http.post("/edits", json={"facts": [FACT], "hparams": "auto"}).json()
    job = model.journal.read(submitted["id"])
    result = EditResult(
        edit_id=submitted["edit_id"], version="v1", parent="v0", facts=[], efficacy=1.0,
        greedy_success=1.0, layers=[], seconds={},
    )  # fmt: skip
    model.versions.write(
        Manifest(id="v1", parent="v0", hparams=HPARAMS, weights_sha256="1" * 64, created_at=now())
    )
    update = {"status": JobStatus.SUCCEEDED, "finished_at": now(), "result": result.model_dump()}
    model.journal.save(job.model_copy(update=update))
    assert http.get(f"/edits/{submitted['edit_id']}").json()["hparams"] == HPARAMS
