"""Ways to submit facts, and requests that change nothing."""

from __future__ import annotations

import json

import pytest

OSAKA = {"subject": "Osaka", "relation": "city_country", "object": "Mexico"}


def post(service, facts, **more):
    return service.http.post("/edits", json={"facts": facts, **more})


def test_templates_prompts_and_relations_mean_the_same(at_base):
    forms = [
        OSAKA,
        {"subject": "Osaka", "relation": "is a city in the country of", "object": "Mexico"},
        {"subject": "Osaka", "prompt": "{} is a city in the country of", "target_new": "Mexico"},
        {"subject": "Osaka", "prompt": "Osaka is a city in the country of", "target_new": "Mexico"},
    ]
    for form in forms:
        answer = at_base.http.post("/edits?dry_run=true", json={"facts": [form]})
        assert answer.status_code == 200, answer.text
        [plan] = answer.json()["facts"]
        assert plan["prompt"] == "{} is a city in the country of"
        assert "".join(plan["tokens"][: plan["subject_last"] + 1]) == "Osaka"
        assert plan["prediction"] == len(plan["tokens"]) - len(plan["target_tokens"]) - 1
        assert "".join(plan["target_tokens"]) == "ĠMexico"


def test_json_lines_are_edited_and_waited_for(at_base):
    lines = "\n".join(json.dumps({**OSAKA, "subject": s}) for s in ("Osaka", "Munich"))
    answer = at_base.http.post(
        "/edits",
        content=lines,
        headers={"Content-Type": "application/x-ndjson", "Prefer": "wait=120"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "succeeded"
    assert len(answer.json()["result"]["facts"]) == 2


BAD = [
    ({"relation": "lies", "prompt": "{} is in"}, "/facts/0/relation"),
    ({"prompt": "{} and {} are in", "target_new": "Peru"}, "/facts/0/prompt"),
    ({"prompt": "A city in", "target_new": "Peru"}, "/facts/0/prompt"),
    ({"prompt": "{} is in", "target_new": "  "}, "/facts/0/target_new"),
]


@pytest.mark.parametrize(("fields", "pointer"), BAD)
def test_a_bad_fact_is_refused_by_its_field_and_nothing_changes(at_base, fields, pointer):
    jobs = [job.id for job in at_base.client.jobs()]
    answer = post(at_base, [{"subject": "Osaka", **fields}])
    assert answer.status_code == 422
    assert pointer in {error["pointer"] for error in answer.json()["errors"]}
    assert [job.id for job in at_base.client.jobs()] == jobs


def test_what_the_model_lacks_is_refused(at_base):
    for body, pointer in (
        ({"hparams": {"high": {"layers": [40, 41]}}}, "/hparams/high/layers"),
        ({"hparams": {"low": {"clamp": -1}}}, "/hparams/low/clamp"),
        ({"editor": "jep"}, "/editor"),
        ({"preset": "nope"}, "/preset"),
    ):
        answer = post(at_base, [OSAKA], **body)
        assert answer.status_code == 422, answer.text
        assert pointer in {error["pointer"] for error in answer.json()["errors"]}


def test_a_parent_that_is_not_head_is_a_failed_precondition(at_base):
    client = at_base.client
    client.wait(client.edit([OSAKA]).id, timeout=120)
    answer = post(at_base, [{**OSAKA, "subject": "Munich"}], parent="base")
    assert answer.status_code == 412
