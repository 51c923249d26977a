"""An edit that failed: why, in words, and the form as it was, to change it and send it again."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import httpx
import pytest
from support.service.bundled_model import info
from support.service.console import HTML, seen

from service.api.console.pages.editing.form import flat
from service.contracts.jobs import JobError, JobStatus, now
from service.store import Store

LYON = {"subject": "Lyon", "prompt": "{} is in", "target_new": "Japan"}
SENT = {
    "facts": [LYON], "editor": "jeep", "preset": "jeep-atlas-gptj", "activate": False,
    "hparams": {"n_steps": 7, "low": {"layers": [1]}}, "snapshot_name": "mine",
    "guards": {"max_drift": 0.001}, "check_earlier": "all", "repair": True,
}  # fmt: skip


def failed(store: Store, job_id: str, *messages: str) -> None:
    errors = [{"pointer": "/guards/max_drift", "code": "max_drift", "message": one, "limit": 0.001}
              for one in messages]  # fmt: skip
    error = JobError(code="guard_failed", message="; ".join(messages), errors=errors)
    job = store.journal.read(job_id)
    changes = {"status": JobStatus.FAILED, "error": error, "finished_at": now()}
    store.journal.save(job.model_copy(update=changes))


def settings(page: httpx.Response) -> dict[str, Any]:
    found = re.search(r'data-settings="([^"]*)"', page.text)
    assert found
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("messages", [("the drift is 0.2",), ("the drift is 0.2", "it is slow")])
def test_a_failed_edit_says_why_and_is_filled_in_again(
    messages: tuple[str, ...], http: httpx.Client, model: Store
) -> None:
    job = http.post("/edits", json=SENT).json()
    failed(model, job["id"], *messages)
    outcome = http.get(f"/console/edit/{job['resource_id']}", headers=HTML)
    text = seen(outcome)
    assert "The drift is 0.2" in text
    assert "pointer" not in text
    assert text.count("It is slow.") == len(messages) - 1
    found = settings(http.get(f"/console/edit?again={job['resource_id']}", headers=HTML))
    assert found == {
        "fields": {
            "editor": "jeep", "preset": "jeep-atlas-gptj", "staged": True, "repair": True,
            "max_drift": "0.001", "check_earlier": "all", "snapshot_name": "mine",
        },
        "hparams": {"n_steps": "7", "low.layers": "[1]"},
    }  # fmt: skip
    assert settings(http.get("/console/edit", headers=HTML)) == {}


def test_changes_to_what_a_probe_chooses_are_filled_in_again(
    http: httpx.Client, model: Store
) -> None:
    """A model without presets: what the request changes is all that is known of them before."""
    without_presets(model)
    job = http.post("/edits", json={"facts": [LYON], "hparams": {"exact": True}}).json()
    failed(model, job["id"], "the drift is 0.2")
    found = settings(http.get(f"/console/edit?again={job['resource_id']}", headers=HTML))
    assert found["hparams"] == {"exact": "true"}


def without_presets(model: Store) -> None:
    tokenizer = model.base.published("tokenizer.json").read_bytes()
    bare = info().model_copy(update={"presets": {}, "preset_values": {}})
    model.base.publish(bare, {"tokenizer.json": tokenizer})


def sent_again(http: httpx.Client, model: Store, **said: Any) -> tuple[dict[str, str], Any]:
    """Editor, preset and hyper-parameters of the form, and the job that failed."""
    answer = http.post("/edits", json={"facts": [LYON], **said})
    assert answer.status_code == 202, answer.text
    failed(model, answer.json()["id"], "the drift is 0.2")
    address = f"/console/edit?again={answer.json()['resource_id']}"
    found = settings(http.get(address, headers=HTML))
    fields = {name: found["fields"][name] for name in ("editor", "preset")}
    return fields | found["hparams"], model.journal.read(answer.json()["id"]).payload


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"hparams": "auto"}, {"editor": "jeep", "preset": "auto"}),
        ({"preset": "auto", "hparams": {"n_steps": 3}},
         {"editor": "jeep", "preset": "auto", "n_steps": "3"}),
        ({"editor": "auto", "hparams": "auto"}, {"editor": "auto", "preset": "auto"}),
        ({"editor": "auto"}, {"editor": "auto", "preset": ""}),
        ({"hparams": {"exact": True}},
         {"editor": "jeep", "preset": "jeep-atlas-gptj-paper", "exact": "true"}),
    ],
)  # fmt: skip
def test_what_was_left_to_choose_is_left_to_choose_again(
    http: httpx.Client, model: Store, said: dict[str, Any], expected: dict[str, str]
) -> None:
    assert sent_again(http, model, **said)[0] == expected
    page = http.get("/console/edit", headers=HTML).text
    presets = json.loads(html.unescape(re.findall(r'data-presets="([^"]*)"', page)[0]))
    assert expected["preset"] in ["", *presets[expected["editor"]]]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"hparams": "auto"}, {"editor": "auto", "preset": "auto"}),
        ({"preset": "auto"}, {"editor": "auto", "preset": "auto"}),
        ({}, {"editor": "auto", "preset": ""}),
    ],
)
def test_auto_beside_an_editor_that_has_no_preset_is_sent_again(
    http: httpx.Client, model: Store, said: dict[str, Any], expected: dict[str, str]
) -> None:
    assert usual_preset(http) == "the editor's, else auto"
    without_presets(model)
    assert sent_again(http, model, editor="auto", **said)[0] == expected
    assert usual_preset(http) == "auto", "no editor has one"


def test_an_edit_of_an_earlier_release_is_sent_again_as_far_as_is_known(
    http: httpx.Client, model: Store
) -> None:
    answer = http.post("/edits", json={"facts": [LYON], "editor": "auto", "preset": "auto"}).json()
    job = model.journal.read(answer["id"])
    older = {name: value for name, value in job.payload.items() if name != "automatic"}
    model.journal.save(job.model_copy(update={"payload": older}))
    found = settings(http.get(f"/console/edit?again={answer['resource_id']}", headers=HTML))
    assert found["fields"]["preset"] == "auto"


def usual_preset(http: httpx.Client) -> str:
    page = http.get("/console/edit", headers=HTML).text
    return html.unescape(re.findall(r'data-usual-preset="([^"]*)"', page)[0])


def test_hyper_parameters_that_were_given_without_a_preset_are_filled_in_again(
    http: httpx.Client, model: Store
) -> None:
    without_presets(model)
    region = {"layers": [1], "clamp": 1.5, "moment_weight": 10}
    given = {"low": region, "high": region | {"layers": [5]}}
    found, payload = sent_again(http, model, hparams=given)
    assert (found["preset"], found["low.layers"], found["n_steps"]) == ("", "[1]", "30")
    said = {
        path: json.loads(one) for path, one in found.items() if path not in ("editor", "preset")
    }
    assert said == dict(flat(payload["hparams"]))
