"""Edits in the forms of other projects: accepted if clear, else refused with advice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.service.played_worker.worker import PlayedWorker
from typer.testing import CliRunner

from service.api.submission.foreign_forms import FORMS
from service.cli import app
from service.client import Client
from service.settings import Settings
from service.store import Store

LYON = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Japan"}
REWRITE = {**LYON, "target_new": {"str": "Japan"}, "target_true": {"str": "France"}}
FLAT = {
    "subject": "Lyon",
    "prompt": "Lyon is a city in the country of",
    "target_new": "Japan",
    "ground_truth": "France",
    "rephrase_prompt": "The state of Lyon is",
    "locality_prompt": "Nice is in",
    "locality_ground_truth": "France",
}
COLUMNS = {
    "prompts": ["Lyon is a city in the country of", "Nice is in"],
    "subject": ["Lyon", "Nice"],
    "target_new": ["Japan", "Peru"],
    "ground_truth": ["France", "France"],
    "rephrase_prompts": ["The state of Lyon is", "The state of Nice is"],
    "locality_inputs": {"near": {"prompt": ["Caen is in", None], "ground_truth": ["France", None]}},
}


def plan(http: httpx.Client, body: Any, **params: Any) -> dict[str, Any]:
    answer = http.post("/edits", json=body, params={"dry_run": True, **params})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def wrong(http: httpx.Client, body: Any, **params: Any) -> list[dict[str, str]]:
    answer = http.post("/edits", json=body, params={"dry_run": True, **params})
    assert answer.status_code == 422, answer.text
    found: list[dict[str, str]] = answer.json()["errors"]
    return found


def facts(answer: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(one["subject"], one["prompt"], one["target_new"]) for one in answer["facts"]]


@pytest.mark.parametrize(
    ("body", "format"),
    [
        ([{"requested_rewrite": REWRITE}], "counterfact"),
        ({"facts": [{"requested_rewrite": REWRITE}]}, "counterfact"),
        ({"requested_rewrite": REWRITE}, "counterfact"),
        ({"facts": [{**LYON, "target_new": {"str": "Japan"}}]}, "rome"),
        ({**LYON, "target_new": {"str": "Japan"}}, "rome"),
        ([REWRITE], "rome"),
        ({"facts": [FLAT]}, "easyedit"),
        ([FLAT], "easyedit"),
        (FLAT, "easyedit"),
        ({"data": [FLAT]}, "easyedit"),
        ({"rows": [{"row_idx": 0, "row": FLAT}]}, "easyedit"),
        ({key: [value] for key, value in FLAT.items()}, "easyedit"),
        ({"prompts": FLAT["prompt"], "subject": "Lyon", "target_new": "Japan"}, "knowedit"),
    ],
)
def test_records_of_other_projects_are_edited(
    body: Any, format: str, http: httpx.Client, model: Store
) -> None:
    found = plan(http, body)
    assert facts(found) == [("Lyon", "{} is a city in the country of", "Japan")]
    counts = [found["imported"][name] for name in ("format", "records", "facts", "dropped")]
    assert counts[1:] == [1, 1, {}]
    assert counts[0] == format or "prompts" in body


def test_the_arguments_of_an_easyedit_call_are_edited(http: httpx.Client, model: Store) -> None:
    """One record per prompt; what only measures is counted, other fields of an edit are kept."""
    answer = http.post("/edits", json={**COLUMNS, "editor": "memit", "snapshot_name": "named"})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    edit = http.get(f"/edits/{job['edit_id']}").json()
    assert (edit["editor"], edit["imported"]) == ("memit", job["imported"])
    assert [one["subject"] for one in edit["facts"]] == ["Lyon", "Nice"]
    first = edit["facts"][0]
    assert first["target_true"] == "France"
    assert first["paraphrase_prompts"] == ["The state of Lyon is"]
    assert first["neighborhood_prompts"] == ["Caen is in"]
    assert model.journal.read(job["id"]).payload["snapshot_name"] == "named"


@pytest.mark.parametrize(
    ("change", "pointer", "said"),
    [
        ({"subject": ["Lyon"]}, "/subject", "1 entry for 2 prompts"),
        ({"subject": "Lyon"}, "/subject", "has no entries for 2 prompts"),
        ({"subject": None}, "/subject", "subject is missing: give one for every prompt"),
        ({"target_new": ["Japan", ""]}, "/target_new/1", "record 1: target_new is empty"),
        ({"keep_original_weight": True}, "/keep_original_weight", "neither of an edit nor"),
        ({"locality_inputs": {"near": {"prompt": ["a"]}}}, "/locality_inputs/near/prompt", "1 ent"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    change: dict[str, Any], pointer: str, said: str, refusing: httpx.Client
) -> None:
    [error] = wrong(refusing, {**COLUMNS, **change})
    assert error["pointer"] == pointer
    assert said in error["message"]


@pytest.mark.parametrize("body", [[], [LYON], "Lyon", 3])
def test_a_body_of_another_shape_is_shown_the_forms(body: Any, refusing: httpx.Client) -> None:
    [error] = wrong(refusing, body)
    assert (error["pointer"], error["code"], error["message"]) == ("", "wrong_shape", FORMS)


@pytest.mark.parametrize("body", [{}, LYON, {"editor": "memit"}, {"data": [LYON]}])
def test_a_body_without_facts_is_shown_the_forms(body: Any, refusing: httpx.Client) -> None:
    [error] = wrong(refusing, body)
    assert (error["pointer"], error["code"], error["message"]) == ("/facts", "missing", FORMS)


def test_a_wrong_fact_is_answered_with_an_example(refusing: httpx.Client) -> None:
    [error] = wrong(refusing, {"facts": [LYON, "Lyon"]})
    assert error["pointer"] == "/facts/1"
    assert error["message"].startswith('a fact must be an object: {"subject": "Lyon"')


def test_records_that_are_wrong_are_named(http: httpx.Client, model: Store) -> None:
    bad = {key: value for key, value in FLAT.items() if key != "subject"}
    [error] = wrong(http, {"facts": [FLAT, bad]})
    assert error["pointer"] == "/facts/1/subject"
    assert error["message"] == "record 1: subject or concept is missing"
    [error] = wrong(http, [FLAT, bad])
    assert error["pointer"] == "/1/subject"
    found = plan(http, [FLAT, bad], drop_bad=True)["imported"]
    assert (found["facts"], found["dropped"]) == (1, {"missing": 1})
    assert found["problems"][0] == {
        "line": None, "record": 1, "field": "subject", "code": "missing",
        "message": "subject or concept is missing",
    }  # fmt: skip


# ---------------------------------------------------------------- files


def upload(http: httpx.Client, body: str, kind: str = "", **params: Any) -> httpx.Response:
    headers = {"Content-Type": kind} if kind else {}
    return http.post("/edits", content=body, headers=headers, params={"dry_run": True, **params})


LINES = "\n".join(
    json.dumps(FLAT | {"subject": s, "prompt": f"{s} is in"}) for s in ("Lyon", "Nice")
)
TABLE = "subject,prompt,target_new,ground_truth,rephrase_prompt\n" + "".join(
    f"{s},{s} is in,Japan,France,Where is {s}?\n" for s in ("Lyon", "Nice")
)


@pytest.mark.parametrize(
    ("body", "kind", "params"),
    [
        (LINES, "application/x-ndjson", {}),
        (LINES, "application/x-ndjson", {"format": "easyedit"}),
        (LINES, "application/json", {"format": "auto"}),
        (LINES, "", {"format": "auto"}),
        (TABLE, "text/csv", {"format": "auto"}),
        (TABLE, "text/csv", {"format": "auto", "limit": 9, "editor": "memit"}),
        (json.dumps({"data": [json.loads(line) for line in LINES.split("\n")]}), "text/plain",
         {"format": "auto"}),
    ],
)  # fmt: skip
def test_files_of_records_are_edited(
    body: str, kind: str, params: dict[str, Any], http: httpx.Client, model: Store
) -> None:
    answer = upload(http, body, kind, **params)
    assert answer.status_code == 200, answer.text
    assert [one["subject"] for one in answer.json()["facts"]] == ["Lyon", "Nice"]
    assert answer.json()["imported"]["format"] == "easyedit"
    assert answer.json()["editor"] == params.get("editor", "jeep")


def test_a_limit_reads_the_first_records_only(http: httpx.Client, model: Store) -> None:
    found = upload(http, LINES + "\n{", limit=1).json()
    assert (found["imported"]["records"], found["imported"]["facts"]) == (1, 1)
    plain = {"facts": [LYON, {**LYON, "subject": "Nice"}], "editor": "memit"}
    found = plan(http, plain, limit=1)
    assert ([one["subject"] for one in found["facts"]], found["editor"]) == (["Lyon"], "memit")


def test_every_lost_record_is_counted(http: httpx.Client, model: Store, settings: Settings) -> None:
    """No subject; another answer to a question; longer than the model; too many prompts."""
    records = [
        FLAT,
        FLAT | {"prompt": "It is in"},
        FLAT | {"target_new": "Peru"},
        FLAT | {"prompt": "Lyon " + "is " * 600 + "in"},
        FLAT | {"prompt": "Lyon is", "rephrase_prompt": ["x"] * (settings.max_prompts + 1)},
        FLAT | {"subject": "Nice", "prompt": "Nice is in"},
    ]
    found = upload(http, "\n".join(map(json.dumps, records)), "application/x-ndjson").json()
    assert [one["subject"] for one in found["facts"]] == ["Lyon", "Nice"]
    imported = found["imported"]
    assert (imported["records"], imported["facts"]) == (6, 2)
    assert imported["dropped"] == {
        "no_subject": 1, "contradiction": 1, "over_limit": 1, "too_long": 1,
    }  # fmt: skip
    assert sorted(one["line"] for one in imported["problems"]) == [2, 3, 4, 5]


def test_if_no_record_is_left_the_edit_is_refused(refusing: httpx.Client) -> None:
    answer = upload(refusing, json.dumps(FLAT | {"prompt": "It is in"}), format="auto")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_facts")
    assert "no record can be used (1 no_subject)" in answer.json()["detail"]
    long = FLAT | {"prompt": "Lyon " + "is " * 600 + "in"}
    answer = upload(refusing, json.dumps(long), "application/x-ndjson")
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/lines/1"]


@pytest.mark.parametrize(
    ("params", "where"),
    [({"format": "xml"}, "format"), ({"limit": 0}, "limit"), ({"drop_bad": "x"}, "drop_bad")],
)
def test_wrong_parameters_of_an_upload_are_refused(
    params: dict[str, Any], where: str, refusing: httpx.Client
) -> None:
    answer = upload(refusing, LINES, **params)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == where


def test_an_option_in_the_wrong_place_is_refused(refusing: httpx.Client) -> None:
    [error] = wrong(refusing, {"facts": [LYON]}, editor="memit")
    assert (error["parameter"], error["code"]) == ("editor", "misplaced")


def test_more_records_than_allowed_at_once_are_refused(
    http: httpx.Client, model: Store, settings: Settings
) -> None:
    many = "\n".join(
        json.dumps(FLAT | {"subject": f"S{i}", "prompt": f"S{i} is in"}) for i in range(60)
    )
    answer = upload(http, many, format="auto")
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_facts")
    assert len(upload(http, many, limit=settings.max_facts).json()["facts"]) == settings.max_facts


def test_client_and_command_send_records(url: str, worker: PlayedWorker, tmp_path: Path) -> None:
    file = tmp_path / "flat.json"
    file.write_text(json.dumps({"data": [FLAT, FLAT | {"prompt": "It is in"}]}, indent=1))
    with Client(url) as client:
        job = client.edit_file(file, limit=5, editor="memit")
        assert job.imported is not None
        assert (job.imported.facts, job.imported.dropped) == (1, {"no_subject": 1})
        assert client.wait(job.id).status.value == "succeeded"
    for options in (["--limit", "1"], ["--format", "easyedit"], []):
        shown = CliRunner().invoke(
            app, ["edit", str(file), *options, "--url", url], env={"COLUMNS": "200"}
        )
        assert shown.exit_code == 0, shown.output
        assert "Lyon is a city in the country of" in shown.output
        assert ("dropped: 1 no_subject" in shown.output) == ("--limit" not in options)
    table = tmp_path / "flat.csv"
    table.write_text(TABLE)
    arguments = ["edit", str(table), "--format", "auto", "--dry-run", "--url", url]
    assert "N ic e" in CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}).output
