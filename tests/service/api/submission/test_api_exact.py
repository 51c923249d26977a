"""``exact`` in requests for edits: what is queued, planned and refused."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from support.service.bundled_model import info

from jeep_core.editing import resolve_hparams
from service.contracts.schemas import EditPayload
from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}
EXACT = {"exact": True}


def send(http: httpx.Client, query: str = "", **more: Any) -> httpx.Response:
    return http.post(f"/edits{query}", json={"facts": [FACT], **more})


def payload(model: Store, answer: httpx.Response) -> EditPayload:
    assert answer.status_code == 202, answer.text
    job = model.journal.read(answer.json()["id"])
    return EditPayload.model_validate(job.payload)


def errors(answer: httpx.Response) -> list[tuple[str, str]]:
    assert answer.status_code == 422, answer.text
    return [(one["pointer"], one["code"]) for one in answer.json()["errors"]]


def without_preset(model: Store) -> None:
    """The worker has a model for which nothing ships."""
    tokenizer = model.base.published("tokenizer.json").read_bytes()
    made = info().model_copy(update={"presets": {}, "preset_values": {}})
    model.base.publish(made, {"tokenizer.json": tokenizer})


def test_what_is_queued_has_complete_hyper_parameters(http: httpx.Client, model: Store) -> None:
    found = payload(model, send(http, hparams=EXACT))
    paper = resolve_hparams("atlas-gptj", "jeep", "jeep-atlas-gptj-paper", EXACT, 9)
    assert (found.preset, found.hparams) == ("jeep-atlas-gptj-paper", paper.model_dump(mode="json"))


def test_a_dry_run_shows_it(http: httpx.Client, model: Store) -> None:
    quick, exact = (send(http, "?dry_run=true", hparams=given).json() for given in ({}, EXACT))
    assert (quick["exact"], quick["hparams"]["exact"]) == (False, False)
    assert (exact["exact"], exact["hparams"]["optimizer"]) == (True, "adam")
    assert exact["preset"] == "jeep-atlas-gptj-paper"


def test_a_model_without_presets_is_probed_and_edited_so(http: httpx.Client, model: Store) -> None:
    without_preset(model)
    plan = send(http, "?dry_run=true", hparams=EXACT).json()
    assert (plan["hparams"], plan["exact"]) == ("auto", True)
    found = payload(model, send(http, hparams=EXACT))
    assert (found.hparams, found.changes) == ("auto", EXACT)
    contradicting = send(http, hparams=EXACT | {"optimizer": "newton"})
    assert errors(contradicting) == [("/hparams/optimizer", "not_exact")]


@pytest.mark.parametrize(
    ("editor", "changes", "expected"),
    [
        ("jeep", {"optimizer": "newton"}, ("/hparams/optimizer", "not_exact")),
        ("memit", {"early_prefixes": 2}, ("/hparams/early_prefixes", "not_exact")),
        ("rome", {"n_prefixes": 6}, ("/hparams/n_prefixes", "not_exact")),
        ("ultraedit", {}, ("/hparams/exact", "no_value_search")),
        ("ft-wd", {}, ("/hparams/exact", "no_value_search")),
    ],
)
def test_what_it_cannot_be_beside_is_refused(
    http: httpx.Client, model: Store, editor: str, changes: dict[str, Any], expected: Any
) -> None:
    assert errors(send(http, editor=editor, hparams=EXACT | changes)) == [expected]


@pytest.mark.parametrize("editor", ["jeep", "memit", "rome", "pmet", "alphaedit"])
def test_chosen_for_the_model_and_exact(http: httpx.Client, model: Store, editor: str) -> None:
    """Although there are presets, as the record of the probe that is made for it will say."""
    asked = {"editor": editor, "preset": "auto", "hparams": EXACT}
    plan = send(http, "?dry_run=true", **asked).json()
    assert (plan["source"], plan["hparams"], plan["preset"]) == ("probe now", "auto", None)
    assert plan["exact"]
    found = payload(model, send(http, **asked))
    assert (found.preset, found.hparams, found.changes) == (None, "auto", EXACT)


def test_auto_means_the_same_as_preset_and_in_place_of_hyper_parameters(
    http: httpx.Client, model: Store
) -> None:
    for said in ({"preset": "auto"}, {"hparams": "auto"}, {"preset": "auto", "hparams": "auto"}):
        found = payload(model, send(http, **said))
        assert (found.preset, found.hparams, found.changes) == (None, "auto", {})
    line, kind = json.dumps(FACT), {"Content-Type": "application/x-ndjson"}
    query = {"preset": "auto", "hparams": '{"n_steps": 3}'}
    by_line = http.post("/edits", params=query, content=line, headers=kind)
    assert payload(model, by_line).changes == {"n_steps": 3}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"preset": "auto", "hparams": {"n_steps": 0}}, ("/hparams/n_steps", "greater_than_equal")),
        ({"preset": "auto", "hparams": EXACT | {"early_prefixes": 2}},
         ("/hparams/early_prefixes", "not_exact")),
        ({"preset": "auto", "hparams": EXACT, "editor": "ft-wd"},
         ("/hparams/exact", "no_value_search")),
        ({"preset": "auto", "editor": "mend"}, ("/preset", "no_automatic")),
        ({"preset": "auto", "hparams": EXACT, "editor": "auto"},
         ("/hparams", "with_auto_editor")),
        ({"preset": "jeep-atlas-gptj", "hparams": "auto"}, ("/preset", "with_auto")),
    ],
)  # fmt: skip
def test_contradictions_beside_auto_are_named(
    http: httpx.Client, model: Store, said: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert errors(send(http, **said)) == [expected]


def test_an_editor_is_chosen_with_its_hyper_parameters(http: httpx.Client, model: Store) -> None:
    plans = [
        send(http, "?dry_run=true", editor="auto", **said).json()
        for said in ({"preset": "auto"}, {"hparams": "auto"})
    ]
    assert plans[0] == plans[1]
    assert plans[0]["hparams"] == "auto"


def test_trials_take_it_too(http: httpx.Client, model: Store) -> None:
    body = {"suite": "atlas-counterfact", "editor": "memit", "n_edits": [1]}
    answer = http.post("/evaluations", json=body | {"preset": "auto", "hparams": EXACT})
    assert answer.status_code == 202, answer.text
    found = model.journal.read(answer.json()["id"]).payload
    assert (found["preset"], found["hparams"], found["changes"]) == (None, "auto", EXACT)


TRIAL = {"suite": "atlas-counterfact", "editor": "memit", "n_edits": [1]}


@pytest.mark.parametrize(
    ("path", "body", "pointer", "said"),
    [
        ("/edits", {"facts": [FACT], "exact": True}, "/exact", '"hparams": {"exact": true}'),
        ("/edits", {"facts": [FACT], "n_steps": 9}, "/n_steps", '"hparams": {"n_steps": 9}'),
        ("/edits", {"facts": [FACT], "hparams": "auto", "exact": True}, "/exact",
         '"preset": "auto", "hparams": {"exact": true}'),
        ("/edits", {"facts": [FACT | {"exact": True}]}, "/facts/0/exact",
         'beside them: send it as "hparams": {"exact": true}'),
        ("/edits", {"facts": [FACT | {"target": {"new": "Chad"}}], "exact": True}, "/exact",
         '"hparams": {"exact": true}'),
        ("/evaluations", TRIAL | {"exact": True}, "/exact", '"hparams": {"exact": true}'),
        ("/evaluations", TRIAL | {"hparams": "auto", "contexts": "plain"}, "/contexts",
         '"preset": "auto", "hparams": {"contexts": "plain"}'),
    ],
)  # fmt: skip
def test_beside_the_editor_it_is_told_where_it_belongs(
    http: httpx.Client, model: Store, path: str, body: dict[str, Any], pointer: str, said: str
) -> None:
    answer = http.post(path, json=body)
    assert (pointer, "misplaced") in errors(answer)
    assert said in answer.json()["detail"]


RECORD = FACT | {"ground_truth": "France"}
CALL = {"prompts": ["Lyon lies in"], "subject": ["Lyon"], "target_new": ["Italy"]}


@pytest.mark.parametrize("body", [RECORD, {"data": [RECORD]}, CALL])
def test_beside_records_it_is_not_passed_over(
    http: httpx.Client, model: Store, body: dict[str, Any]
) -> None:
    """Other projects have fields of their own there, but none of that name."""
    plan = http.post("/edits?dry_run=true", json=body | {"hparams": EXACT})
    assert plan.json()["exact"]
    refused = http.post("/edits?dry_run=true", json=body | {"exact": True})
    assert errors(refused) == [("/exact", "misplaced")]
    assert '"hparams": {"exact": true}' in refused.json()["detail"]


def test_own_fields_beside_columns_are_told_where_they_belong(
    http: httpx.Client, model: Store
) -> None:
    several = http.post("/edits?dry_run=true", json=CALL | {"n_steps": 3})
    assert errors(several) == [("/n_steps", "misplaced")]
    unsafe = http.post("/edits", json=CALL | {"dry_run": True})
    assert errors(unsafe) == [("/dry_run", "misplaced")]
    assert "?dry_run=" in unsafe.json()["detail"]
    other = http.post("/edits", json=CALL | {"dates": ["1900"]})
    assert errors(other) == [("/dates", "unknown_field")]


def test_by_line_it_is_told_too(http: httpx.Client, model: Store) -> None:
    kind = {"Content-Type": "application/x-ndjson"}
    line = json.dumps(FACT | {"exact": True})
    answer = http.post("/edits?hparams=auto", content=line, headers=kind)
    assert errors(answer) == [("/lines/1/exact", "misplaced")]
    assert 'as ?preset=auto&hparams={"exact": true}' in answer.json()["detail"]
    [error] = http.post("/edits?exact=true", content=line, headers=kind).json()["errors"]
    assert (error["parameter"], error["code"]) == ("exact", "misplaced")
    assert "within hparams" in error["message"]


def test_it_is_described(http: httpx.Client) -> None:
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    described = [name for name, one in schemas.items() if "exact" in one.get("properties", {})]
    assert {"EditPlan", "JeepHParams", "MemitHParams"} <= set(described)
